"""Memory of encoder and projector together against what torch's allocator gave out."""

import random

import pytest
import torch
from tests.inspect.budget.budget_cases import allocated, build, random_config, random_grids, rows_of, weights_bytes

from tubelet.encoder.options import RunOptions
from tubelet.families.onevision import VARIANTS
from tubelet.inspect.budget.memory import Mode, memory
from tubelet.inspect.budget.plan import plan
from tubelet.inspect.budget.projector import Projection, with_projector
from tubelet.inspect.budget.values import Downstream
from tubelet.language.project.projector import build_projector


def ratio(rng: random.Random, mode: Mode, dtype: torch.dtype = torch.float32) -> float:
    """plan / peak, with weights and rows."""
    training = mode != "inference"
    config = random_config(rng)
    grids = random_grids(rng, config.pixels.merge, rng.choice((100, 300, 800) if training else (100, 600, 1500)))
    encoder, p = build(config, dtype), rows_of(config, grids)
    kind, out = rng.choice(("linear", "mlp1x_gelu", "mlp2x_gelu", "mlp3x_gelu")), rng.choice((64, 500, 1500, 2048))
    rows = sum(g.rows for g in grids) // (config.merger.merge**2 if config.merger else 1)
    projector = build_projector(kind, config.out, out).to(dtype)
    name = str(dtype).removeprefix("torch.")
    after = Projection(kind, rows, config.out, rows, config.out, out, copied=False)
    alone = memory(config, grids, mode=mode, dtype=name, threads=torch.get_num_threads())  # pyright: ignore
    found = with_projector(alone, after, name, mode)  # pyright: ignore[reportArgumentType]
    encoder.set_run_options(RunOptions(gradient_checkpointing=mode == "checkpointed"))

    def work() -> None:
        y = projector(encoder(p))
        if training:
            y.x.square().mean().backward()

    with torch.set_grad_enabled(training):
        peak = allocated(work)
    fixed = sum(q.numel() * q.element_size() for q in projector.parameters()) + weights_bytes(encoder)
    fixed += p.x.numel() + p.pos.numel() * p.pos.element_size()
    assert found.weights_bytes + found.rows_bytes == fixed
    return (fixed + found.work_bytes) / (fixed + peak)


@pytest.mark.parametrize("mode", ["inference", "training", "checkpointed"])
def test_a_plan_is_never_too_small_and_hardly_too_large(mode: Mode):
    found = sorted(ratio(random.Random(seed), mode) for seed in range(10))
    assert found[0] >= 1.0, found
    assert found[-1] <= 1.25, found


def test_half_types():
    found = [ratio(random.Random(seed), "inference", torch.bfloat16) for seed in range(5)]
    assert min(found) >= 1.0 and max(found) <= 1.25, found


def test_a_plan_counts_its_projector():
    config = VARIANTS["llava_vit_packing_small"]
    alone, both = plan((448, 448), config), plan((448, 448), config, Downstream(llm_width=3584))
    weights = both.projector_bytes()
    assert weights == 4 * (384 * 3584 + 3584 + 3584 * 3584 + 3584)
    assert both.memory().weights_bytes == alone.memory().weights_bytes + weights
    assert both.memory().total_bytes > alone.memory().total_bytes + weights  # its moment is the highest
    assert both.memory().where == "projector"
    trained = both.memory(mode="training").total_bytes - alone.memory(mode="training").total_bytes
    assert trained > 4 * weights  # itself, its gradient, and two moments
    assert alone.projection is None and alone.projector_bytes() == 0


def test_merged_and_selected_copies_are_counted():
    config = VARIANTS["llava_vit_packing_small"]
    p = plan((448, 448), config, Downstream(select=100, llm_width=64))
    assert p.projection == Projection("mlp2x_gelu", 784, 384, 100, 384, 64, copied=True)
    assert p.memory().moments_bytes["projector"] == 4 * (784 * 384 + 100 * 384 + 2 * 100 * 64)
