"""Folded tubelets equal frames given twice; plans are one value for pixels, features and times."""

import pytest
import torch

import tubelet
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, KeyMismatch, ShapeError
from tubelet.geometry.fuse import Connector, connector_tensors, fuse, gather_tubelets, load_connector
from tubelet.geometry.tubelets import TubeletPlan, fold_encoder, pair_by_view, paired, singles, tubelet_pixels
from tubelet.packed import Grid, Item, Packed, pack
from tubelet.pixels.recipe import PixelRecipe


def frames(*grids: tuple[int, int, int], channels: int = 5, dtype: torch.dtype = torch.float64) -> Packed:
    g = torch.Generator().manual_seed(1)
    rows = [torch.randn(t * h * w, channels, generator=g, dtype=torch.float64).to(dtype) for t, h, w in grids]
    return pack(rows, [Item.of(*grid) for grid in grids])


def plan_of(n: int) -> TubeletPlan:
    return paired([float(i) for i in range(n)])


def gathered_plainly(x: torch.Tensor, grid: Grid, plan: TubeletPlan) -> torch.Tensor:
    """Row by row, as the drawing says."""
    x = x.view(*grid, -1)
    return torch.stack([
        torch.cat([x[f, 2 * i + dy, 2 * j + dx] for f in pair for dy in (0, 1) for dx in (0, 1)])
        for pair in plan.pairs for i in range(grid.h // 2) for j in range(grid.w // 2)
    ])  # fmt: skip


@pytest.mark.parametrize(
    "plans",
    [
        [plan_of(4), plan_of(3), plan_of(1)],  # even, odd, a still
        [singles([0.0, 1, 2, 3]), TubeletPlan(((0,), (1, 2)), (0.0, 1, 2)), singles([0.0])],
        [TubeletPlan(((3, 0), (1,)), (0.0, 1, 2, 3)), plan_of(3), plan_of(1)],
    ],
)
def test_gathered_rows_are_those_of_the_drawing(plans: list[TubeletPlan]):
    p = frames((4, 2, 6), (3, 4, 2), (1, 2, 2))
    got = gather_tubelets(p, plans)
    want = [gathered_plainly(x, i.grid, plan) for x, i, plan in zip(p.unpack(), p.items, plans, strict=True)]
    assert torch.equal(got.x, torch.cat(want))
    assert [i.grid for i in got.items] == [
        (len(plan), i.grid.h // 2, i.grid.w // 2) for plan, i in zip(plans, p.items, strict=True)
    ]
    assert [i.times_s for i in got.items] == [plan.times_s for plan in plans]


def test_gradients_go_back_to_every_frame():
    p = frames((4, 2, 2), (3, 2, 2))
    x = p.x.clone().requires_grad_()
    weights = torch.randn(4, 40, dtype=torch.float64)
    (gather_tubelets(p.with_x(x), [plan_of(4), plan_of(3)]).x * weights).sum().backward()
    got = x.grad
    y = p.x.clone().requires_grad_()
    rows = [gathered_plainly(r, i.grid, plan_of(i.grid.t)) for r, i in zip(y.split(p.lengths), p.items, strict=True)]
    (torch.cat(rows) * weights).sum().backward()
    assert y.grad is not None
    assert got is not None
    assert torch.allclose(got, y.grad)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_folded_connector_reads_single_frames_at_half_the_cost(version: str):
    torch.manual_seed(0)
    connector = Connector(5, 12, version).double()  # pyright: ignore
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    p = frames((3, 4, 4))
    plan = singles([0.0, 1.0, 2.0])
    twice = connector(gather_tubelets(p, [plan]))
    once = connector.folded()(gather_tubelets(p, [plan], frames=1))
    assert torch.allclose(once.x, twice.x, atol=1e-12)
    assert connector.folded().fc1.in_features * 2 == connector.fc1.in_features
    with pytest.raises(ConfigError):
        connector.folded().folded()
    with pytest.raises(ShapeError):
        connector.folded()(gather_tubelets(p, [plan]))
    with pytest.raises(ConfigError):
        connector_tensors(connector.folded())
    with pytest.raises(ShapeError):
        gather_tubelets(p, [plan_of(3)], frames=1)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_weights_keep_their_names_and_order(version: str):
    stored = {k: torch.randn_like(v) for k, v in connector_tensors(Connector(3, 8, version)).items()}  # pyright: ignore
    connector = load_connector(stored)
    assert connector.version == version
    assert all(torch.equal(v, stored[k]) for k, v in connector_tensors(connector).items())
    x = torch.randn(4, 24)
    theirs = x if version == "1.0" else x.view(4, 2, 4, 3).permute(0, 2, 3, 1).flatten(1)
    norm, first = ("token_merge_ln_q", "token_merge_mlp") if version == "1.0" else ("ln_q", "mlp")
    want = theirs * torch.rsqrt(theirs.square().mean(-1, keepdim=True) + 1e-6) * stored[f"{norm}.weight"]
    want = want @ stored[f"{first}.0.weight"].T + stored[f"{first}.0.bias"]
    got = connector.fc1(connector.norm(x))
    assert torch.allclose(got, want, atol=1e-5)


def test_a_connector_of_the_other_version_is_told():
    stored = connector_tensors(Connector(3, 8, "1.1"))
    with pytest.raises(ConfigError, match=r"1\.1, not 1\.0"):
        load_connector(stored, version="1.0")
    with pytest.raises(KeyMismatch):
        load_connector({"a": torch.zeros(1)})
    with pytest.raises(KeyMismatch) as raised:
        load_connector({**{k: v for k, v in stored.items() if k != "mlp.0.bias"}, "mlp.9.bias": torch.zeros(1)})
    assert raised.value.missing == ("mlp.0.bias",)
    assert raised.value.unexpected == ("mlp.9.bias",)
    with pytest.raises(KeyMismatch) as raised:
        load_connector({**stored, "mlp.0.bias": torch.zeros(3)})
    assert raised.value.misshaped == (("mlp.0.bias", (24,), (3,)),)


def test_bad_plans_and_grids_are_told():
    p = frames((4, 2, 2), (2, 3, 2))
    with pytest.raises(ShapeError) as raised:
        gather_tubelets(p, [plan_of(4), plan_of(2)])
    assert raised.value.item == 1
    for plans in ([plan_of(4)], [plan_of(3), plan_of(2)]):
        with pytest.raises(ShapeError):
            gather_tubelets(p, plans)
    whole = frames((2, 2, 2))
    with pytest.raises(ShapeError):
        gather_tubelets(whole.keep(torch.tensor([0, 1])), [plan_of(2)])
    for tubelets in ((), ((0, 1, 2),), ((5,),), ((),)):
        with pytest.raises(ShapeError):
            TubeletPlan(tubelets, (0.0, 1.0, 2.0))
    merged = gather_tubelets(whole, [plan_of(2)])
    with pytest.raises(ShapeError):
        fuse(merged, gather_tubelets(whole, [singles([0.0, 1.0])]))
    with pytest.raises(ShapeError):
        fuse(merged, gather_tubelets(whole, [plan_of(2)]).with_x(torch.zeros(1, 3)))


# ---- pixels and encoders


def tiny() -> EncoderConfig:
    pixels = PixelRecipe(4, temporal=2, merge=2, order="block")
    return EncoderConfig(hidden=32, layers=2, heads=2, mlp=48, pixels=pixels, rope=None, pool=False)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_folded_encoder_sees_what_the_frame_twice_shows(dtype: torch.dtype):
    encoder = tubelet.untrained(tiny())
    recipe = encoder.config.pixels
    g = torch.Generator().manual_seed(0)
    n = 3 * 4 * 6
    rows = torch.randint(0, 256, (n, 48), generator=g).to(dtype) / (1 if dtype == torch.uint8 else 255)
    item = Item.of(3, 4, 6)
    p = Packed(rows.to(dtype), tubelet.packed.all_positions([item], merge=recipe.merge), (item,), (n,))
    plan = singles([0.0, 1.0, 2.0])
    twice = encoder(tubelet_pixels(p, [plan]))
    folded = fold_encoder(encoder)
    once = folded(p)
    assert once.items[0].grid == twice.items[0].grid
    assert torch.allclose(once.x, twice.x, atol=2e-5)
    assert folded.layers[0].qkv.weight is encoder.layers[0].qkv.weight
    with pytest.raises(ConfigError):
        fold_encoder(folded)


def test_pixels_of_pairs_are_what_patchify_cuts():
    g = torch.Generator().manual_seed(0)
    video = torch.rand(4, 3, 8, 12, generator=g)
    both = video.view(2, 2, 3, 2, 4, 3, 4).permute(0, 3, 5, 2, 1, 4, 6).reshape(12, 96)
    alone = video.view(4, 1, 3, 2, 4, 3, 4).permute(0, 3, 5, 2, 1, 4, 6).reshape(24, 48)
    got = tubelet_pixels(pack([alone], [Item.of(4, 2, 3)]), [plan_of(4)])
    assert torch.equal(got.x, both)
    assert torch.equal(got.pos, pack([both], [Item.of(2, 2, 3)]).pos)


def test_frames_pair_where_the_view_stays():
    poses = torch.eye(4).repeat(6, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 0.01, 5.0, 5.01, 9.0, 10.0])
    plan = pair_by_view(poses, [0.0, 0.1, 3.0, 3.1, 7.0, 8.0], limit=0.05)
    assert plan.tubelets == ((0, 1), (2, 3), (4,), (5,))
    assert plan.times_s == pytest.approx((0.05, 3.05, 7.0, 8.0))
    assert not plan.in_pairs
    assert plan_of(4).in_pairs
    assert pair_by_view(poses[:1], [0.0]).tubelets == ((0,),)
    with pytest.raises(ShapeError):
        pair_by_view(poses, [0.0])
