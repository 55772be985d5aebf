"""The memory of every option, by plan, against what torch's allocator gave out, as tests/test_budget_memory.py."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.encoder.test_options import BLOCK, OPTIONS
from tests.encoder.test_spans import SPANS
from tests.inspect.budget.test_budget_memory import WAYS, hold, ratios

from tubelet.encoder.config import EncoderConfig, Rope, Table
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import PixelRecipe

DTYPES = (torch.float32, torch.bfloat16)
PACKS = (
    [Grid(1, 12, 20), Grid(3, 6, 8), Grid(1, 8, 8)],
    [Grid(1, 16, 16)],
    [Grid(1, 6, 6)] * 8,
    [Grid(8, 8, 6), Grid(1, 4, 10), Grid(1, 10, 4)],
)


def wide(name: str, **changes: Any) -> EncoderConfig:
    """The option at a width of 192: three heads, an MLP of 512, patches of 14."""
    fields = {
        "hidden": 192,
        "layers": 3,
        "heads": 3,
        "mlp": 512,
        "spans": ("frame",),
        "prefix_per": "frame",
        **OPTIONS[name],
        **changes,
    }
    block = fields.get("pixels") is BLOCK
    fields["pixels"] = PixelRecipe(14, merge=2, order="block") if block else PixelRecipe(14)
    return EncoderConfig(**fields)


def in_turn(name: str, way: str) -> tuple[torch.dtype, list[Grid]]:
    """One of the eight pairs: every option meets both types, and over the options every type meets every pack."""
    turn = list(OPTIONS).index(name) + WAYS.index(way)
    return DTYPES[turn % len(DTYPES)], PACKS[turn // len(DTYPES) % len(PACKS)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_plan_is_never_too_small_and_hardly_too_large(name: str, way: str) -> None:
    dtype, pack = in_turn(name, way)
    hold([ratios(wide(name), list(pack), way, dtype)])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_type_and_pack(name: str, way: str) -> None:
    hold([ratios(wide(name), list(pack), way, dtype) for dtype in DTYPES for pack in PACKS])


@pytest.mark.parametrize("name", SPANS)
def test_spans_of_their_own(name: str) -> None:
    """Frames and scenes in turn, norms of q and k, prefix tokens outside of narrow spans: nothing is told twice."""
    few = {"layers": len(SPANS[name]["spans"]) + 1, "eps": 1e-6}
    block = SPANS[name].get("pixels") is not None
    pixels = PixelRecipe(14, merge=2, order="block") if block else PixelRecipe(14)
    config = EncoderConfig(**{"hidden": 192, "heads": 3, "mlp": 512, **SPANS[name], **few, "pixels": pixels})
    hold([ratios(config, list(PACKS[0]), way, torch.float32) for way in WAYS])


RESIZES = ("bicubic", "bicubic_antialias", "bilinear_antialias", "corners", "buckets", "sincos")


@pytest.mark.parametrize("resize", RESIZES)
def test_a_large_table(resize: Any) -> None:
    """More places than rows: making them is the highest moment. Of the grid's own size nothing is resized."""
    config = replace(wide("siglip"), table=Table(32, 32, resize), layers=1, mlp=192)
    packs = ([Grid(1, 8, 12), Grid(1, 32, 32)], [Grid(1, 6, 10), Grid(1, 10, 6)], [Grid(1, 32, 32)])
    hold([ratios(config, pack, way, dtype) for way in WAYS for dtype in DTYPES for pack in packs[:2]])
    hold([ratios(config, packs[2], "plain", dtype) for dtype in DTYPES])


def cut(frames: int | None, spans: tuple[str, ...] | None) -> dict[str, Any]:
    """Layers that see `frames` rows of time, or whole items for None, where they see no windows."""
    whole = "item" if frames is None else "frame"
    turn = (whole,) if spans is None else tuple(s if s == "window" else whole for s in spans)
    return {"spans": turn, "span_frames": frames or 1, "prefix_per": whole}


def mixed(rng: random.Random) -> EncoderConfig:
    """Options that no family puts together."""
    name = rng.choice(sorted(OPTIONS))
    free = {
        "norm": rng.choice(("layer", "rms")),
        "act": rng.choice(("gelu", "gelu_tanh", "quick_gelu", "silu")),
        "mlp": rng.choice((96, 192, 512, 768)),
        **cut(rng.choice((None, 1, 2)), OPTIONS[name].get("spans")),
        **{key: rng.random() < 0.5 for key in ("gated", "scale", "embed_norm", "qkv_bias", "proj_bias", "mlp_bias")},
        "pre_norm": rng.random() < 0.5,
        "layers": rng.choice((2, 3)),
    }
    if OPTIONS[name].get("post_norm") is None and "spans" not in OPTIONS[name]:
        free["prefix"] = rng.choice((1, 4))
    config = wide(name, **free)
    if config.rope is None and rng.random() < 0.5:
        config = replace(config, rope=Rope("rotation", split=(0, 1, 1), layout=rng.choice(("pairs", "halves"))))
    return config


@pytest.mark.parametrize("count", [5, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
def test_options_that_no_family_has_together(way: str, count: int) -> None:
    rng = random.Random(3)
    hold([ratios(mixed(rng), list(rng.choice(PACKS)), way, rng.choice(DTYPES)) for _ in range(count)])
