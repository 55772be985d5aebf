"""benchmarks/pipeline.py: every way gives as many tokens of the same files, equal to transformers', and is kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["siglip2", "qwen2_5_vl"])
def test_every_way_gives_the_same_tokens(case: str, benchmark_of: Callable[[str], ModuleType], files: Path):
    pipeline, threads = benchmark_of("pipeline"), torch.get_num_threads()
    paths, toy = pipeline.Kept(files, toys=True).paths, pipeline.TOYS[case]
    assert [path.endswith(".mp4") for path in paths].count(True) == 1 and len(paths) == 7
    assert pipeline.apart(toy, paths) <= 3e-5
    with torch.inference_mode():
        found = {name: make()(paths) for name, make in pipeline.ways_of(toy).items()}
    torch.set_num_threads(threads)
    counts = {name: count for name, count in found.items() if "reading alone" not in name}
    ours = {count for name, count in counts.items() if not name.startswith("timm")}
    assert len(ours) == 1 and len(counts) >= 7, counts
    assert len({count for name, count in counts.items() if name.startswith("timm")}) <= 1
    assert found["tubelet, reading alone"] == ours.pop() * (4 if case == "qwen2_5_vl" else 1)


@pytest.mark.slow
def test_a_slice_is_kept_and_counted(files: Path):
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "pipeline.py"), "--quick", "--keep", str(files)]
    turn = ["--case", "siglip2", "--turn", "tubelet", "transformers, 1 process", "--rounds", "2"]
    subprocess.run([*command, *turn], check=True, timeout=300)
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["siglip2"]["times"]["tubelet"]["rounds"] == 2
    assert found["siglip2"]["times"]["transformers, 1 process"]["peak_extra_mib"] > 0
    assert set(found["siglip2"]["ratios"]) == {"transformers, 1 process"}
    assert "tubelet" in found["siglip2"]["control"]
