"""benchmarks/tables.py: from what benchmarks/harness.py stores to tables in documents."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """(harness, tables), imported as the benchmark scripts import them: from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    import harness
    import tables

    yield harness, tables
    sys.path.remove(str(BENCHMARKS))


def stored(harness: ModuleType, folder: Path, again: float = 1.0) -> dict[str, dict]:
    """A results file as a script would write it, read back: 2 s for us, 5 s and 30 s for the peers."""
    seconds = {"tubelet": 2.0, "tubelet (again)": 2.0 * again, "peer": 5.0, "slow peer": 30.0}
    mib = 2**20
    timings = {n: harness.Timing(n, (s, s, s), (2 * s, 2 * s, 2 * s), 100 * mib) for n, s in seconds.items()}
    two = {name: timings[name] for name in ("tubelet", "peer")}
    small = {"tokens": 5000, "share_of_gemm": {"tubelet": 0.812}, **harness.report(timings, ours="tubelet")}
    results = {"small, float32": small, "mixed": {"tokens": 9, "packed": harness.report(two, ours="tubelet")}}
    path = harness.save("encoder", results, folder=folder)
    return {path.stem: json.loads(path.read_text())}


def test_the_page_has_every_time_ratio_and_plain_value(modules: tuple[ModuleType, ModuleType], tmp_path: Path):
    harness, tables = modules
    results = stored(harness, tmp_path)
    text = tables.page(results)
    assert text.startswith("# Numbers\n")
    assert "## encoder" in text
    assert "### small, float32" in text
    assert "### mixed" in text
    assert "#### packed" in text
    assert "- tokens: 5,000\n" in text
    assert "- share of gemm: tubelet 0.812\n" in text
    assert "| **tubelet** | 2,000 ms | 2,000 ms | 0 ms | 4,000 ms | 100 MiB |  |  |" in text
    assert "| peer | 5,000 ms | 5,000 ms | 0 ms | 10.00 s | 100 MiB | 2.50 x | 2.50 x |" in text
    assert "| slow peer | 30.00 s | 30.00 s | 0 ms | 60.00 s | 100 MiB | 15.00 x | 15.00 x |" in text
    assert "| tubelet (again) | 2,000 ms | 2,000 ms | 0 ms | 4,000 ms | 100 MiB | 1.00 x | 1.00 x |" in text
    assert results["encoder"]["command"] in text
    assert results["encoder"]["machine"]["cpu"] in text
    assert "noisy:" not in text.split("## encoder")[1]


def test_a_curve_is_a_table_of_its_points(modules: tuple[ModuleType, ModuleType], tmp_path: Path):
    harness, tables = modules
    columns = {"tokens": [992, 2016], "tubelet": [0.08, 0.164], "peer": [0.3, None]}
    path = harness.save("growth", {"float32": {"padding": 2.54, "seconds": {"columns": columns}}}, folder=tmp_path)
    text = tables.page({"growth": json.loads(path.read_text())})
    assert "### float32\n\n- padding: 2.54\n\n#### seconds\n" in text
    assert "| tokens | tubelet | peer |\n|--:|--:|--:|\n| 992 | 0.08 | 0.3 |\n| 2,016 | 0.164 |  |\n" in text


def test_a_noisy_run_says_so_and_counts_by_cpu_time(modules: tuple[ModuleType, ModuleType], tmp_path: Path):
    harness, tables = modules
    results = stored(harness, tmp_path, again=1.3)
    assert "This run was noisy" in tables.page(results)
    assert "| encoder | peer | 2.50 x | 2 (1 by CPU time) |" in tables.summary(results)


def test_the_summary_gives_the_range_over_all_cases(modules: tuple[ModuleType, ModuleType], tmp_path: Path):
    harness, tables = modules
    results = stored(harness, tmp_path)
    results["encoder"]["results"]["mixed"]["packed"]["ratios"]["peer"]["wall"] = 1.25
    assert "| encoder | peer | 1.25 to 2.50 x | 2 |" in tables.summary(results)
    assert tables.summary({}) == "No result is stored yet.\n"


def test_the_readme_keeps_everything_outside_the_marks(modules: tuple[ModuleType, ModuleType]):
    _, tables = modules
    readme = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    assert tables.with_summary(readme, "new\n") == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    with pytest.raises(SystemExit, match="needs the two lines"):
        tables.with_summary("no marks", "new\n")
