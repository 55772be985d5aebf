"""Golden cases of OneVision: the committed choice always, and all of the fixtures beside the repository if any."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .cases import find_cases, load_case, run_case
from .runners import runner_for

HERE = Path(__file__).parent / "onevision"
ALL = Path(__file__).parents[3] / "shared" / "golden" / "onevision" / "open"
PREFIXES = (
    *("pack_", "std_", "head_", "ov2_", "convert_", "temporal_tables", "preprocess_", "projector_", "tower_"),
    "codec_",
)
COMMITTED = find_cases(HERE)
FURTHER = [p for p in find_cases(ALL) if p.stem.startswith(PREFIXES)] if ALL.is_dir() else []


def test_the_committed_choice_is_there():
    kinds = {path.stem.partition("_")[0] for path in COMMITTED}
    assert kinds == {"pack", "std", "head", "ov2", "convert", "temporal", "preprocess", "projector", "tower", "codec"}
    assert all(path.with_suffix(".safetensors").is_file() for path in COMMITTED)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_case(path: Path):
    result = run_case(path)
    assert result.passed, result.line


def test_all_cases_beside_the_repository(record_property: Callable[[str, object], None]):
    results = [run_case(path) for path in FURTHER]
    record_property("say", f"golden onevision: {len(COMMITTED)} committed cases, {len(results)} beside the repository")
    assert not [r.line for r in results if not r.passed]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_every_committed_case_has_a_runner(path: Path):
    assert runner_for(load_case(path)) is not None
