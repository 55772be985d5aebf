"""A geometry network beside an encoder: FLOPs of every part against torch's counter, memory against its allocator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inspect.budget.budget_cases import allocated, build, counted, rows_of, weights_bytes
from tests.inspect.budget.test_budget_alive import Compared

from tubelet import plan
from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.errors import ConfigError, ShapeError
from tubelet.families.catalogue import variants
from tubelet.geometry.branch import SpatialBranch
from tubelet.geometry.fuse import Connector, fuse
from tubelet.geometry.heads import CameraConfig, DPTConfig
from tubelet.geometry.vggt import VGGT, VGGT_1B, VGGTConfig, untrained_vggt, vggt_config
from tubelet.inspect.budget.geometry import connector_flop, vggt_flop
from tubelet.inspect.budget.geometry_memory import fused_memory, vggt_memory
from tubelet.inspect.budget.networks import LANGUAGE
from tubelet.inspect.budget.values import Downstream
from tubelet.packed import Packed
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import PixelRecipe

ALL = ("camera", "depth", "points")
DPT: dict[str, Any] = {"layers": (0, 1, 2, 3), "channels": (24, 32, 48, 48), "features": 32}
TINY = [Grid(2, 4, 6), Grid(1, 6, 5)]
CLIP, MIXED = [Grid(6, 12, 16)], [Grid(3, 10, 14), Grid(5, 12, 8), Grid(1, 14, 14)]


def network(**how: Any) -> VGGTConfig:
    """Four levels of 128 channels with every head."""
    heads = {
        "camera": CameraConfig(256, 1, 2, 2),
        "depth": DPTConfig(256, **DPT),
        "points": DPTConfig(256, out=4, activation="inv_log", **DPT),
    }
    return vggt_config(**{"layers": 4, "width": 128, "heads": 2, "patch_layers": 3, "table": 8, **heads, **how})


def pixels(config: VGGTConfig, grids: list[Grid]) -> Packed:
    return rows_of(config.aggregator if config.patches is None else config.patches, grids)


def model_of(config: VGGTConfig, dtype: torch.dtype = torch.float32) -> VGGT:
    model = untrained_vggt(config)
    for part in (model.aggregator, *([model.patches] if config.patches is not None else [])):
        part.to(dtype)
    return model.requires_grad_(False)


# ---- FLOPs


@pytest.mark.parametrize(
    ("config", "grids"), [(network(), TINY), (network(patch_layers=None), CLIP)], ids=["dino", "matrix"]
)
def test_every_part_is_what_torch_counts(config: VGGTConfig, grids: list[Grid]):
    model, p = model_of(config), pixels(config, grids)
    with torch.no_grad():
        before = 0
        for heads in ((), ("camera",), ALL[:2], ALL) if config.patches is not None else ((),):
            ours = vggt_flop(config, grids, heads=heads)
            theirs = counted(lambda: model.run(p, keep=[-1], heads=heads))  # noqa: B023
            assert abs(sum(part.all for part in ours.values()) - theirs) <= 0.01 * theirs
            if heads:
                assert abs(ours[heads[-1]].all - (theirs - before)) <= 0.01 * (theirs - before), heads
            before = theirs


def test_scenes_and_levels_that_do_not_run_are_counted():
    config = network()
    grids = [Grid(1, 8, 8)] * 3 + [Grid(2, 8, 8)]
    model, p = model_of(config), pixels(config, grids)
    cases: list[tuple[int, tuple[int, ...] | None]] = [(-1, (3, 1)), (1, None), (-2, (1, 3))]
    for level, scenes in cases:
        with torch.no_grad():
            theirs = counted(lambda: model.run(p, keep=[level], heads=(), scenes=scenes))  # noqa: B023
        ours = sum(part.all for part in vggt_flop(config, grids, level=level, scenes=scenes).values())
        assert abs(ours - theirs) <= 0.01 * theirs, (level, scenes)


def test_the_published_network_at_8_16_and_32_frames():
    """10^12 multiply-adds at 644 x 476: DINOv2 9.5, frames 9.5, scenes 38.6, cameras 0.014; 21.1, 57.6, 177 in all."""

    def tera(frames: int) -> dict[str, float]:
        cost = vggt_flop(VGGT_1B, [Grid(frames, 34, 46)], heads=("camera",))
        return {name: part.all / 2e12 for name, part in cost.items()}

    sixteen = tera(16)
    assert [round(n, 1) for n in sixteen.values()] == [9.5, 9.5, 38.6, 0.0] and 0.012 < sixteen["camera"] < 0.015
    assert [round(sum(tera(n).values()), 1) for n in (8, 16, 32)] == [21.1, 57.6, 177.2]
    assert round(connector_flop(2048, 3128, 16384, 2048) / 2e12, 2) == 0.94


def test_the_guide_s_table_is_what_the_planner_says():
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "geometry.md").read_text(encoding="utf-8")
    bare = replace(VGGT_1B, camera=None, depth=None, points=None)
    after = Downstream(llm=LANGUAGE["qwen2.5-vl-3b"], projector="identity", geometry=bare)
    for frames in (8, 16, 32, 64):
        p = plan((644, 476, frames), variants()["qwen2_5_vl_3b_vision"][1], after)
        flop = {s.name: s.flop / 2e12 for s in p.stages}
        parts = [flop[f"geometry {name}"] for name in ("patches", "frame layers", "scene layers")]
        parts += [flop["patch embedding"] + flop["encoder layers"] + flop["merger"], flop["connector"], flop["prefill"]]
        assert sum(parts) == pytest.approx(p.flop / 2e12)
        memory = p.memory(dtype="bfloat16", device="cuda")
        beside = (memory.total_bytes - memory.weights_bytes) / 2**20
        numbers = " | ".join(f"{n:.1f}" for n in (*parts, sum(parts)))
        row = f"| {frames} | {p.tokens:,} | {numbers} | {parts[2] / sum(parts):.0%} | "
        assert row in guide, row
        told = guide.split(row)[1].split(" MiB")[0].replace(",", "")
        assert int(told) == pytest.approx(beside, abs=1)  # tables that are kept already are not counted again


# ---- memory


def hold(plan: Any, fixed: int, peak: int) -> None:
    """With the weights or without, never too small, and at most a quarter too large."""
    assert plan.weights_bytes + plan.rows_bytes == fixed
    assert 1.0 <= (fixed + plan.work_bytes) / (fixed + peak) <= 1.25, (plan, fixed, peak)
    assert 1.0 <= plan.work_bytes / peak <= 1.25, (plan, peak)


def input_bytes(p: Packed) -> int:
    return p.x.nbytes + p.pos.nbytes


@pytest.mark.parametrize(
    ("heads", "grids", "dtype"),
    [
        ((), MIXED, "float32"),
        ((), CLIP, "bfloat16"),
        (("camera",), MIXED, "bfloat16"),
        (ALL, MIXED, "float32"),
        (ALL, CLIP, "bfloat16"),
    ],
    ids=["bare, three scenes", "bare, halves", "camera", "all heads, three scenes", "all heads, halves"],
)
def test_a_network_takes_what_is_planned(heads: tuple[str, ...], grids: list[Grid], dtype: Any):
    config = network()
    config = replace(config, **{name: None for name in ALL if name not in heads})
    model, p = model_of(config, getattr(torch, dtype)), pixels(config, grids)
    plan = vggt_memory(config, grids, dtype=dtype, heads=heads)
    with torch.no_grad():
        peak = allocated(lambda: model.run(p, keep=[-1], heads=heads))
    hold(plan, weights_bytes(model) + input_bytes(p), peak)  # pyright: ignore[reportArgumentType]


def test_wide_maps_and_their_copies_are_counted():
    """Where convolutions of many channels take more than what they give."""
    wide: dict[str, Any] = {"layers": (0, 0, 1, 1), "channels": (64, 96, 128, 128), "features": 96}
    config = network(layers=2, camera=None, points=None, depth=DPTConfig(256, **wide))
    grids = [Grid(4, 8, 10)]
    model, p = model_of(config), pixels(config, grids)
    with torch.no_grad():
        peak = allocated(lambda: model.run(p, heads=("depth",)))
    hold(vggt_memory(config, grids, keep=(), heads=("depth",)), weights_bytes(model) + input_bytes(p), peak)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("dtype", "scenes"), [("float32", None), ("bfloat16", (2, 1))])
def test_a_fused_model_takes_what_is_planned(dtype: Any, scenes: tuple[int, ...] | None):
    """An encoder with windows and a merger, VGGT and the connector, on two stills and a clip in one pack."""
    recipe = PixelRecipe(14, temporal=2, merge=2, order="block", rule="smart")
    tower = EncoderConfig(
        160, 6, 2, 320, recipe, norm="rms", rope=Rope("rotation", split=(0, 1, 1)), gated=True, act="silu",
        spans=("window", "window", "frame"), span_side=8, pool=False, merger=Merger(2, 256),
    )  # fmt: skip
    config = network(camera=None, depth=None, points=None)
    grids = [Grid(1, 12, 16), Grid(1, 12, 16), Grid(3, 16, 20)]
    kind = getattr(torch, dtype)
    encoder, p = build(tower, kind), rows_of(tower, grids)
    branch = SpatialBranch(model_of(config, kind), Connector(256, 256).to(kind), recipe)
    plan = fused_memory(tower, config, grids, dtype=dtype, scenes=scenes)
    with torch.no_grad():
        peak = allocated(lambda: fuse(encoder(p), branch(p, scenes=scenes)))
    hold(plan, weights_bytes(encoder) + weights_bytes(branch) + input_bytes(p), peak)  # pyright: ignore[reportArgumentType]


def test_networks_that_do_not_fuse_run_one_after_the_other():
    """An encoder of single frames, and heads that run: the tokens stay while the network runs on rows of its own."""
    tower = EncoderConfig(96, 2, 3, 192, PixelRecipe(14), pool=False)
    config = network()
    p = plan([(196, 140, 4), (140, 140, 2)], tower, Downstream(geometry=config))
    grids = list(p.grids)
    assert grids == [Grid(4, 10, 14), Grid(2, 10, 10)]
    encoder, model = build(tower), model_of(config)
    rows, frames = rows_of(tower, grids), pixels(config, grids)

    def work() -> Any:
        tokens = encoder(rows)
        return tokens, model.run(frames, keep=[-1])

    with torch.no_grad():
        peak = allocated(work)
    fixed = weights_bytes(encoder) + weights_bytes(model) + input_bytes(rows) + input_bytes(frames)  # pyright: ignore[reportArgumentType]
    hold(p.memory(), fixed, peak)


def test_results_without_values_are_those_torch_gives():
    config = network()
    model, host = model_of(config).to("meta"), pixels(config, CLIP)
    p = Packed(host.x.to("meta"), host.pos.to("meta"), host.items, host.lengths)
    with Compared() as compared, torch.no_grad():
        model.run(p, keep=[-1])
    assert compared.seen["aten.convolution.default"] > 0 and compared.seen["aten.relu.default"] > 0


def test_what_cannot_be_planned_is_said():
    beside = Downstream(geometry=network())
    tower = EncoderConfig(96, 2, 3, 192, PixelRecipe(14), pool=False)
    with pytest.raises(ConfigError, match="training beside"):
        plan([(140, 140, 2)], tower, beside).memory(mode="training")
    with pytest.raises(ShapeError, match="patches of 16"):
        plan([(160, 160)], PixelRecipe(16), beside)
    assert plan([], PixelRecipe(14), beside).stages[-1].name == "patches"


def test_memory_grows_with_frames_as_rows_do_where_heads_see_a_few_at_once():
    heads = VGGT_1B.heads
    one, two = (vggt_memory(VGGT_1B, [Grid(n, 28, 37)], keep=(), heads=heads).work_bytes for n in (16, 32))
    assert 1.3 * one < two < 2 * one
    assert vggt_memory(VGGT_1B, [Grid(16, 28, 37)], dtype="bfloat16", keep=(), heads=heads).work_bytes < one
