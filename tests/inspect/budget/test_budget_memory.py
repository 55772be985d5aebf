"""Memory by plan against what torch's allocator gave out: plan / peak in [1, 1.25], and never below 1.

Counted on both sides: weights, input rows with their places, and every tensor that is alive at the highest moment,
those inside operators too. Training: forward and backward with the mean square of the tokens as loss, gradients
included, no optimizer. The system's own count of a process's pages stands beside the allocator's in one test.
"""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.inspect.budget.budget_cases import allocated, build, cut, random_config, random_grids, rows_of, weights_bytes

from tubelet.encoder import attention_sigmoid, cpu
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.families.catalogue import variants
from tubelet.families.onevision import SOURCES, VARIANTS
from tubelet.inspect.budget.alive import parameter_count
from tubelet.inspect.budget.memory import Mode, memory
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import PixelRecipe

WAYS = ("in place", "plain", "training", "checkpointed")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTS = ("gelu", "gelu_tanh", "quick_gelu")
PIXELS = PixelRecipe(14)
PATIENCE = 120  # rows at most where a CPU without arithmetic of float16 trains in it: 100 times slower than float32


def each(way: str, dtype: torch.dtype, seed: int, most: int, **fixed: object) -> tuple[float, float]:
    """plan / peak with weights and rows, and of the work alone, for one random encoder and pack."""
    rng = random.Random(seed)
    config = random_config(rng, **{"act": rng.choice(ACTS), **fixed})
    if way in ("training", "checkpointed") and dtype == torch.float16:
        most = min(most, PATIENCE)
    return ratios(config, random_grids(rng, config.pixels.merge, most), way, dtype)


def ratios(config: EncoderConfig, grids: list[Grid], way: str, dtype: torch.dtype) -> tuple[float, float]:
    """The same for this encoder and these items."""
    training = way in ("training", "checkpointed")
    encoder, p = build(config, dtype), rows_of(config, grids)
    mode: Mode = way if training else "inference"  # pyright: ignore[reportAssignmentType]
    name = str(dtype).removeprefix("torch.")
    plan = memory(config, grids, mode=mode, dtype=name, plain=way == "plain")  # pyright: ignore[reportArgumentType]
    encoder.set_run_options(RunOptions(gradient_checkpointing=way == "checkpointed"))
    if way == "plain":
        encoder.layers[0].register_forward_hook(lambda *args: None)

    def work() -> None:
        tokens = encoder(p)
        if training:
            tokens.x.square().mean().backward()

    with torch.set_grad_enabled(training):
        peak = allocated(work)
    fixed = weights_bytes(encoder) + p.x.numel() + p.pos.numel() * p.pos.element_size()
    assert plan.weights_bytes + plan.rows_bytes == fixed
    return (fixed + plan.work_bytes) / (fixed + peak), plan.work_bytes / peak


def hold(found: list[tuple[float, float]]) -> None:
    """Never too small, with the weights or without; hardly ever more than a quarter too large."""
    whole, work = zip(*found, strict=True)
    assert min(whole) >= 1.0 and min(work) >= 1.0, (min(whole), min(work))
    assert sum(r <= 1.25 for r in whole) >= 0.95 * len(whole), sorted(whole)[-5:]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_plan_is_never_too_small_and_hardly_too_large(way: str, dtype: torch.dtype):
    hold([each(way, dtype, seed, (60, 200, 600)[seed % 3]) for seed in range(6)])


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("way", WAYS)
def test_every_activation_and_norm(way: str, norm: str, act: str):
    dtype = DTYPES[(ACTS.index(act) + (norm == "rms")) % 2]  # in turn; all of them in test_many_more_packs
    hold([each(way, dtype, 77, 300, norm=norm, act=act)])


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("way", WAYS)
def test_thousands_of_rows(way: str, window: int | None):
    """Tensors that leave nothing to what no formula lists: the plan is within a hundredth."""
    config = random_config(
        random.Random(5), hidden=192, heads=3, mlp=768, layers=2, merger=None, pixels=PIXELS, **cut(window)
    )
    _, work = ratios(config, [Grid(2, 24, 36), Grid(1, 24, 30)], way, torch.float32)
    assert 1.0 <= work <= 1.01, work


def test_more_rows_than_one_block():
    """Inference in place works on blocks of 8,192 rows; the last may be shorter."""
    config = random_config(random.Random(8), hidden=32, heads=1, mlp=64, **cut(1))
    hold([ratios(config, [Grid(6, 12, 12)] * 12, "in place", dtype) for dtype in DTYPES])


@pytest.mark.skipif(
    not (attention_sigmoid.able(torch.bfloat16) or cpu.has_arithmetic(torch.bfloat16)),
    reason="this CPU multiplies no bfloat16",
)
@pytest.mark.parametrize("window", [None, 1])
def test_attention_of_long_segments_by_the_sigmoid(window: int | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu, "resolve_attention", lambda *_: 384)
    monkeypatch.setattr(cpu, "work_dtype", lambda dtype: dtype)
    config = random_config(random.Random(9), hidden=128, heads=2, mlp=256, merger=None, pixels=PIXELS, **cut(window))
    hold([ratios(config, grids, "in place", torch.bfloat16) for grids in LONG])


LONG = ([Grid(2, 20, 20)], [Grid(1, 5, 5), Grid(1, 30, 40)], [Grid(1, 60, 50)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_many_more_packs(way: str, dtype: torch.dtype):
    hold([each(way, dtype, 10_000 + seed, (60, 300, 900, 2000)[seed % 4]) for seed in range(40)])


PROCESS = """
import ctypes, gc, os, sys, torch
from dataclasses import replace
from pathlib import Path
from typing import get_args
from tests.inspect.budget.budget_cases import build, rows_of
from tests.inspect.budget.test_budget_memory import BIG, CLIP
from tubelet.encoder.config import Act
from tubelet.inspect.budget.memory import memory
from tubelet.packed.grid import Grid

def pages(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

def call(encoder, grids, training):
    with torch.set_grad_enabled(training):
        tokens = encoder(rows_of(BIG, grids))
        if training:
            tokens.x.square().mean().backward()

def added(training):
    call(build(BIG), [Grid(1, 2, 2)], training)  # what torch and its libraries keep from their first use
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = pages("VmRSS")
    encoder = build(BIG)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    call(encoder, CLIP, training)
    return pages("VmHWM") - before

for act in get_args(Act):
    memory(replace(BIG, act=act), CLIP, mode="training")
print("torch._dynamo" in sys.modules)
if os.access("/proc/self/clear_refs", os.W_OK):
    print(added(False), added(True))
"""
BIG = random_config(
    random.Random(5),
    hidden=192,
    heads=3,
    mlp=768,
    layers=2,
    merger=None,
    **cut(None),
    act="gelu",
    norm="layer",
    pixels=PIXELS,
)
CLIP = [Grid(2, 30, 30), Grid(1, 24, 30)]
LIBRARIES = 16 << 20  # bytes a process may add to the tensors: packed operands of products, threads, small objects


@pytest.fixture(scope="module")
def of_the_system() -> list[str]:
    """What a fresh process says: whether plans of training imported torch's compilers, and of its own pages."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed tensors leave the process at once, instead of its heap
    environment = {**os.environ, **given_back, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux keeps VmHWM, and resets it")
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_system_counts_the_same(mode: Mode, of_the_system: list[str]):
    """VmHWM of a fresh process is neither above the plan by more than libraries take, nor far below it."""
    plan = memory(BIG, CLIP, mode=mode, threads=1)
    planned = plan.weights_bytes + plan.rows_bytes + plan.work_bytes
    assert planned - LIBRARIES <= int(of_the_system[1 + (mode == "training")]) <= planned + LIBRARIES


def test_a_plan_asks_torch_for_no_shape_that_its_compilers_find(of_the_system: list[str]):
    """Importing them takes seconds."""
    assert of_the_system[0] == "False"


def test_what_a_layer_saves_by_hand():
    """Each layer: x, norm1 D each, qkv 3 D, turned q and k 2 D, attention, sum, norm2 D each; up and its GELU 2 M; and
    statistics of two norms and of attention."""
    config = random_config(
        random.Random(0), hidden=96, heads=1, mlp=384, norm="layer", act="gelu", merger=None, layers=5, **cut(None)
    )
    rows, heads = 50, 1
    deep, deeper = (
        memory(replace(config, layers=layers), [Grid(1, 5, 10)], mode="training").moments_bytes["loss"]
        for layers in (7, 8)
    )
    assert deeper - deep == 4 * rows * (10 * 96 + 2 * 384) + 4 * rows * (2 + 2 + heads)


@pytest.mark.parametrize("name", [*variants(), *SOURCES])
def test_weights_are_counted(name: str):
    config = SOURCES[name] if name in SOURCES else variants()[name][1]
    with torch.device("meta"):
        encoder = Encoder(config)
    assert parameter_count(config) == sum(p.numel() for p in encoder.parameters())


def test_the_parts_sum_up():
    m = memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 20, 30)], mode="training")
    assert m.optimizer_bytes == 2 * m.weights_bytes
    assert m.total_bytes == m.weights_bytes + m.rows_bytes + m.work_bytes + m.optimizer_bytes
    assert memory(VARIANTS["llava_vit_packing_small"], []).work_bytes < 2**20


def test_checkpointing_and_half_types_save_memory():
    config = VARIANTS["llava_vit_packing_small"]
    grids = [Grid(1, 40, 40)]
    kept = memory(config, grids, mode="training").work_bytes
    assert memory(config, grids, mode="checkpointed").work_bytes < kept / 2
    assert memory(config, grids, mode="training", dtype="bfloat16", device="cuda").work_bytes < 0.6 * kept
