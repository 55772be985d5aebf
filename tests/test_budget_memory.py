"""Memory by formula against what torch's allocator gave out: plan / peak in [1, 1.25], and never below 1.

Counted on both sides: weights, input rows with their places, and every tensor that is alive at the highest moment,
those inside operators too. Training: forward and backward with the mean square of the tokens as loss, gradients
included, no optimizer.
"""

import random

import pytest
import torch

from budget_cases import allocated, build, random_config, random_grids, rows_of, weights_bytes
from tubelet.budget_memory import Mode, memory, parameter_count
from tubelet.encoder.model import Encoder
from tubelet.families.onevision import SOURCES, VARIANTS
from tubelet.grid import Grid

ROUNDS = 12


def ratio(rng: random.Random, what: str, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """plan / peak with weights and rows, and of the work alone."""
    training = what in ("training", "checkpointed")
    config = random_config(rng)
    grids = random_grids(rng, config.pixels.merge, rng.choice((100, 300, 800) if training else (100, 600, 1500)))
    encoder, p = build(config, dtype), rows_of(config, grids)
    mode: Mode = what if training else "inference"  # pyright: ignore[reportAssignmentType]
    name = str(dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    device = "cuda" if what == "plain" else "cpu"
    plan = memory(config, grids, mode=mode, dtype=name, device=device, threads=threads)  # pyright: ignore
    encoder.gradient_checkpointing = what == "checkpointed"
    if what == "plain":
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


@pytest.mark.parametrize("what", ["in place", "plain", "training", "checkpointed"])
def test_a_plan_is_never_too_small_and_hardly_too_large(what: str):
    found = [ratio(random.Random(seed), what) for seed in range(ROUNDS)]
    whole, work = zip(*found, strict=True)
    assert min(whole) >= 1.0 and min(work) >= 1.0, (min(whole), min(work))
    inside = sum(r <= 1.25 for r in whole) / len(whole)
    assert inside >= 0.95, sorted(whole)[-5:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_types_in_place(dtype: torch.dtype):
    found = [ratio(random.Random(500 + seed), "in place", dtype)[0] for seed in range(6)]
    assert min(found) >= 1.0, found
    assert sum(r <= 1.25 for r in found) >= 5, found


@pytest.mark.parametrize("name", [*VARIANTS, *SOURCES])
def test_weights_are_counted(name: str):
    config = {**VARIANTS, **SOURCES}[name]
    with torch.device("meta"):
        encoder = Encoder(config)
    assert parameter_count(config) == sum(p.numel() for p in encoder.parameters())


def test_the_parts_sum_up():
    m = memory(VARIANTS["llava_vit_packing_small"], [Grid(1, 20, 30)], mode="training")
    assert m.optimizer_bytes == 2 * m.weights_bytes
    assert m.total_bytes == m.weights_bytes + m.rows_bytes + m.work_bytes + m.optimizer_bytes
    assert memory(VARIANTS["llava_vit_packing_small"], []).work_bytes < 2**20
