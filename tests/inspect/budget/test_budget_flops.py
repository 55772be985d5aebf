"""FLOPs by formula against torch's own counter, on the real encoder."""

import random

import pytest
import torch
from tests.inspect.budget.budget_cases import build, counted, random_config, random_grids, rows_of
from torch import nn

from tubelet.encoder import cpu
from tubelet.encoder.layout import layout_of
from tubelet.encoder.options import RunOptions
from tubelet.inspect.budget.flops import encoder_flop, projector_flop, segments_of_layers, training_flop

CASES = range(24)


def total(flop: dict[str, int]) -> int:
    return sum(flop.values())


def within(ours: int, theirs: int) -> None:
    assert abs(ours - theirs) <= 0.01 * theirs, (ours, theirs)


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("path", ["in place", "plain"])
def test_inference(seed: int, path: str):
    rng = random.Random(seed)
    config = random_config(rng)
    grids = random_grids(rng, config.pixels.merge, 300)
    encoder, p = build(config), rows_of(config, grids)
    if path == "plain":
        encoder.layers[0].register_forward_hook(lambda *args: None)
    with torch.no_grad():
        assert cpu.can_run(p.x, encoder.layers, encoder.options) is (path == "in place")
        within(total(encoder_flop(config, grids)), counted(lambda: encoder(p)))
        if config.pool and config.merger is None:
            tokens = encoder(p)
            with_pool = encoder_flop(config, grids, pool=True)["pool"]
            within(with_pool, counted(lambda: encoder.pooled(tokens)))


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training(seed: int, checkpointing: bool):
    rng = random.Random(100 + seed)
    config = random_config(rng, pool=False)
    grids = random_grids(rng, config.pixels.merge, 200)
    encoder, p = build(config), rows_of(config, grids)
    encoder.set_run_options(RunOptions(gradient_checkpointing=checkpointing))
    ours = total(training_flop(config, grids, checkpointing=checkpointing))
    within(ours, counted(lambda: encoder(p).x.square().mean().backward()))


@pytest.mark.parametrize("act", ["gelu_tanh", "quick_gelu"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_with_other_activations(act: str, checkpointing: bool):
    """What backward runs again and what it needs is the same for every activation."""
    for seed in range(300, 306):
        rng = random.Random(seed)
        config = random_config(rng, pool=False, act=act)
        grids = random_grids(rng, config.pixels.merge, 200)
        encoder, p = build(config), rows_of(config, grids)
        encoder.set_run_options(RunOptions(gradient_checkpointing=checkpointing))
        ours = total(training_flop(config, grids, checkpointing=checkpointing))
        within(ours, counted(lambda: encoder(p).x.square().mean().backward()))  # noqa: B023


@pytest.mark.parametrize("seed", CASES)
def test_segments_are_those_of_the_encoder(seed: int):
    rng = random.Random(seed)
    config = random_config(rng)
    grids = random_grids(rng, config.pixels.merge, 200)
    p = rows_of(config, grids)
    for span, segments in layout_of(p, config).spans.items():
        assert segments_of_layers(config, grids)[span] == segments.lengths


def test_projector():
    layers = nn.Sequential(nn.Linear(24, 56), nn.GELU(), nn.Linear(56, 56))
    x = torch.randn(10, 24)
    assert counted(lambda: layers(x)) == projector_flop("mlp2x_gelu", 10, 24, 56)
