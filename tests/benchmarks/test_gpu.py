"""benchmarks/gpu.py runs whole at toy sizes on a CPU, so that a GPU's minutes are not spent on its mistakes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu(benchmark_of: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_of("gpu")


@pytest.mark.slow
def test_every_part_that_a_cpu_has():
    """In a fresh interpreter: checked annotations are nothing that torch.compile can trace."""
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu.py"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for said in ("products, bfloat16", "attention, ", "siglip2, 2,048 tokens", "qwen2_5_vl, 2,048 tokens", "late []"):
        assert said in done.stdout
    for peer in ("transformers SigLIP2 NaFlex", "timm NaFlexViT", "tubelet compiled", "transformers Qwen2.5-VL"):
        assert peer in done.stdout


def test_attention_agrees_before_it_is_timed(gpu: ModuleType):
    found = gpu.run(gpu.TOY, ["ceilings", "attention"], kept=False)
    assert found["products, bfloat16"]["tflops"] > 0
    [name] = [name for name in found if name.startswith("attention")]
    assert "padded sdpa" in found[name]["ratios"]


@pytest.mark.filterwarnings("ignore")
def test_what_there_is_no_time_for_is_told(gpu: ModuleType):
    assert gpu.run(gpu.TOY, ["ceilings", "qwen"], minutes=0, kept=False) == {"late": ["ceilings", "qwen"]}


def test_a_pack_has_as_many_tokens_at_most(gpu: ModuleType):
    for tokens in (1, 300, 2_048, 65_536):
        grids = gpu.grids_of(tokens)
        assert len(grids) == 1 or 0 < sum(h * w for _, h, w in grids) <= tokens
