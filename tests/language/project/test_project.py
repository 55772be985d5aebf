"""Projectors: upstream's keys and arithmetic, on packs of any mix."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tubelet.errors import ConfigError, ShapeError
from tubelet.language.project.compat import infer_hw, with_inferred_grids
from tubelet.language.project.projector import Projector, ProjectorConfig, build_projector
from tubelet.packed import Item, Packed, concat, pack
from tubelet.reduce.merge import ODD, Odd, merge, pool

LAWS = settings(deadline=None, max_examples=40)
IN, OUT = 6, 10
KEYS = {
    "linear": ["weight", "bias"],
    "mlp1x_gelu": ["0.weight", "0.bias"],
    "mlp3x_gelu": [f"{i}.{w}" for i in (0, 2, 4) for w in ("weight", "bias")],
    "mlp2x_res2x_gelu": [
        *(f"{i}.{w}" for i in (0, 2) for w in ("weight", "bias")),
        *(f"{i}.{part}.{w}" for i in (3, 4) for part in ("pre_norm", "proj.0", "proj.2") for w in ("weight", "bias")),
    ],
    "patch_merger": [f"{part}.{w}" for part in ("ln_q", "mlp.0", "mlp.2") for w in ("weight", "bias")],
    "spatial_merge": [f"{part}.{w}" for part in ("ln_q", "mlp.0", "mlp.2") for w in ("weight", "bias")],
    "pixel_shuffle": [f"{part}.{w}" for part in ("norm", "mlp.0", "mlp.2") for w in ("weight", "bias")],
    "merge_linear": ["weight"],
    "soft_tokens": ["norm.weight", "weight"],
    "pooler": [f"{part}.{w}" for part in ("conv_pool", "proj.1") for w in ("weight", "bias")],
    "identity": [],
}
SINGLE = ("linear", "mlp1x_gelu", "mlp3x_gelu", "mlp2x_res2x_gelu")  # row by row


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(kind: str, **options: Any) -> Projector:
    """A projector with values unlike any initialisation."""
    projector = build_projector(kind, IN, IN if kind == "identity" else OUT, **options)
    for i, (name, weight) in enumerate(projector.named_parameters()):
        weight.data = values(*weight.shape, seed=i) * 0.4 + (1.0 if "norm" in name or "ln_q" in name else 0.0)
    return projector


def rows(*grids: tuple[int, int, int], merge: int = 1) -> Packed:
    items = [Item.of(*grid, picture=i) for i, grid in enumerate(grids)]
    return pack([values(item.grid.rows, IN, seed=i) for i, item in enumerate(items)], items, merge=merge)


def by_hand(kind: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The arithmetic of one kind on (n, C) rows that are already the right ones: the slow twin."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}weight"], w[f"{name}bias"])

    if kind == "linear":
        return linear("", x)
    if kind in ("patch_merger", "spatial_merge"):  # x is (m, k^2, C)
        normed = F.layer_norm(x, (IN,), w["ln_q.weight"], w["ln_q.bias"], 1e-6)
        return linear("mlp.2.", F.gelu(linear("mlp.0.", normed.flatten(1))))
    x = linear("0.", x)
    for i in range(2, 6, 2):
        if f"{i}.weight" in w:
            x = linear(f"{i}.", F.gelu(x))
    for i in range(1, 6):
        if f"{i}.pre_norm.weight" in w:
            x = F.layer_norm(x, (OUT,), w[f"{i}.pre_norm.weight"], w[f"{i}.pre_norm.bias"], 1e-5)
            x = x + linear(f"{i}.proj.2.", F.gelu(linear(f"{i}.proj.0.", x)))
    return x


# ---- keys and arithmetic


@pytest.mark.parametrize(("kind", "keys"), KEYS.items())
def test_keys_are_those_of_upstream(kind: str, keys: list[str]):
    assert sorted(made(kind).state_dict()) == sorted(keys)


def test_pixel_shuffle_norms_what_it_merged():
    projector, p = made("pixel_shuffle", merge=2, eps=0.01), rows((1, 4, 6), (2, 2, 4))
    w = projector.state_dict()
    blocks = merge(p, space=2).x
    normed = F.layer_norm(blocks, (4 * IN,), w["norm.weight"], w["norm.bias"], 0.01)
    inner = F.gelu(F.linear(normed, w["mlp.0.weight"], w["mlp.0.bias"]))
    torch.testing.assert_close(projector(p).x, F.linear(inner, w["mlp.2.weight"], w["mlp.2.bias"]))


def test_merge_linear_is_one_matrix_over_neighbours():
    projector, p = made("merge_linear", merge=2), rows((1, 4, 6), (2, 2, 4))
    torch.testing.assert_close(projector(p).x, merge(p, space=2).x @ projector.state_dict()["weight"].T)


def test_soft_tokens_are_means_that_are_normed():
    projector, p = made("soft_tokens", merge=2, eps=0.01), rows((1, 4, 6), (2, 2, 5))  # a column is left out
    w = projector.state_dict()
    expected = []
    for x, item in zip(p.unpack(), p.items, strict=True):
        means = F.avg_pool2d(x.view(*item.grid, IN).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).reshape(-1, IN)
        normed = means / (means.square().mean(1, keepdim=True) + 0.01).sqrt() * (1 + w["norm.weight"])
        expected.append(normed @ w["weight"])
    torch.testing.assert_close(projector(p).x, torch.cat(expected))


@pytest.mark.parametrize("kind", SINGLE)
def test_row_by_row_kinds(kind: str):
    projector, p = made(kind), rows((1, 3, 5), (2, 2, 2))
    out = projector(p)
    torch.testing.assert_close(out.x, by_hand(kind, projector.state_dict(), p.x))
    assert (out.items, out.lengths) == (p.items, p.lengths)
    kept = p.keep(torch.tensor([0, 7, 14, 16]))
    torch.testing.assert_close(projector(kept).x, out.x[[0, 7, 14, 16]])


@pytest.mark.parametrize("side", [2, 3])
def test_spatial_merge(side: int):
    projector, p = made("spatial_merge", merge=side), rows((1, 6, 12), (2, 12, 6))
    out = projector(p).check()
    assert [tuple(i.grid) for i in out.items] == [(1, 6 // side, 12 // side), (2, 12 // side, 6 // side)]
    blocks = merge(p, space=side).x.unflatten(1, (side**2, IN))
    torch.testing.assert_close(out.x, by_hand("spatial_merge", projector.state_dict(), blocks))


def test_the_eps_of_the_norm_counts():
    tiny = rows((1, 2, 2)).with_x(values(4, IN) * 1e-4)
    usual, larger = made("spatial_merge"), made("spatial_merge", eps=1e-5)
    torch.testing.assert_close(
        usual(tiny).x, by_hand("spatial_merge", usual.state_dict(), tiny.x.view(1, 4, IN)), rtol=1e-5, atol=1e-6
    )
    assert float((usual(tiny).x - larger(tiny).x).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("grid", [(1, 4, 6), (3, 2, 8), (1, 5, 7)])
def test_pooler_is_its_convolution_on_any_grid(grid: tuple[int, int, int]):
    projector, p = made("pooler", odd="crop"), rows(grid)
    conv, last = projector.get_submodule("conv_pool"), projector.get_submodule("proj.1")
    frames = conv(p.x.view(*grid, IN).permute(0, 3, 1, 2))
    expected = last(F.gelu(frames.permute(0, 2, 3, 1).reshape(-1, OUT)))
    torch.testing.assert_close(projector(p).x, expected)


def test_identity():
    p = rows((1, 2, 3))
    assert made("identity")(p) is p


@pytest.mark.parametrize("kind", [k for k in KEYS if k != "identity"])
def test_gradients_reach_the_rows_and_every_weight(kind: str):
    projector = made(kind).double()
    p = rows((1, 2, 4), merge=2 if kind == "patch_merger" else 1)
    x = p.x.double().requires_grad_()
    projector(p.with_x(x)).x.sin().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    for name, weight in projector.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.abs().sum() > 0), name
    assert torch.autograd.gradcheck(lambda x: projector(p.with_x(x)).x, (x,))


# ---- packs of any mix


@LAWS
@given(
    st.sampled_from(("spatial_merge", "pooler")),
    st.sampled_from(ODD),
    st.lists(st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_a_mix_of_sizes_and_videos_is_one_by_one(kind: str, odd: Odd, grids: list[tuple[int, int, int]], random: Any):
    if odd == "error":
        grids = [(t, 2 * h, 2 * w) for t, h, w in grids]
    projector, p = made(kind, odd=odd).eval(), rows(*grids)
    with torch.no_grad():
        together = projector(p).check()
        alone = concat([projector(one) for one in p.split([1] * len(p))], renumber=False)
        assert together.items == alone.items
        torch.testing.assert_close(together.x, alone.x)
        order = list(range(len(p)))
        random.shuffle(order)
        torch.testing.assert_close(projector(p.reorder(order)).x, together.reorder(order).x)


@LAWS
@given(st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=4), st.integers(2, 3))
def test_raster_and_block_order_give_the_same_and_patch_merger_too(grids: list[tuple[int, int, int]], side: int):
    raster = rows(*((t, side * h, side * w) for t, h, w in grids))
    number = raster.with_x(torch.arange(len(raster.x))[:, None])
    in_blocks = raster.keep(merge(number, space=side).x.flatten())  # merging numbers says where block order goes
    spatial, consecutive = made("spatial_merge", merge=side), made("patch_merger", merge=side)
    consecutive.load_state_dict(spatial.state_dict())
    with torch.no_grad():
        expected = spatial(raster)
        assert spatial(in_blocks).equal(expected)
        assert consecutive(in_blocks).equal(expected)


def test_odd_sides_are_refused_unless_it_is_said_what_to_do():
    p = rows((1, 4, 4), (1, 4, 5))
    for kind in ("spatial_merge", "pooler"):
        with pytest.raises(ShapeError, match="pad_edge") as caught:
            made(kind)(p)
        assert caught.value.item == 1
        assert made(kind, odd="pad_edge")(p).lengths == (4, 6)
        assert made(kind, odd="crop")(p).lengths == (4, 4)


@pytest.mark.parametrize("kind", ["spatial_merge", "patch_merger", "pooler"])
def test_rows_must_all_be_there(kind: str):
    p = rows((1, 2, 2), (1, 2, 4), merge=2 if kind == "patch_merger" else 1)
    with pytest.raises(ShapeError, match="7 of 8") as caught:
        made(kind)(p.keep(torch.arange(11)))
    assert caught.value.item == 1


@pytest.mark.parametrize("kind", [k for k in KEYS if k != "identity"])
def test_nothing_in_nothing_out(kind: str):
    none = rows((1, 2, 2)).split([0, 1])[0]
    assert made(kind)(none).x.shape == (0, OUT)


@pytest.mark.parametrize("kind", KEYS)
def test_rows_take_the_type_of_the_weights(kind: str):
    p = rows((1, 2, 4), merge=2 if kind == "patch_merger" else 1)
    half = made(kind).to(torch.bfloat16)
    assert half(p).dtype == (torch.float32 if kind == "identity" else torch.bfloat16)
    torch.testing.assert_close(half(p).x.float(), made(kind)(p).x, rtol=0.1, atol=0.15)


@pytest.mark.parametrize("kind", KEYS)
def test_rows_of_another_width_or_kind_are_refused(kind: str):
    p = rows((1, 2, 2))
    with pytest.raises(ShapeError, match="rows of 6") as caught:
        made(kind)(p.with_x(values(4, 7)))
    assert (caught.value.expected, caught.value.got) == (6, 7)
    with pytest.raises(ShapeError, match="uint8"):
        made(kind)(p.with_x(torch.zeros(4, IN, dtype=torch.uint8)))


# ---- what upstream does in silence


def upstream_infer(n: int, merge: int) -> tuple[int, int] | None:
    """All pairs, in the order upstream finds them; the first of those with the smallest difference."""
    pairs = [(h, n // h) for h in range(1, math.isqrt(n) + 1) if n % h == 0]
    fits = [(h, w) for h, w in pairs if h % merge == 0 and w % merge == 0]
    return min(fits, key=lambda pair: abs(pair[0] - pair[1])) if fits else None


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_infer_hw_is_upstreams_rule(side: int):
    for n in range(1, 1500):
        expected = upstream_infer(n, side)
        if expected is not None:
            assert infer_hw(n, side) == expected
        else:
            with pytest.raises(ShapeError, match=f"{n} rows"):
                infer_hw(n, side)
    for wrong in (0, -4):
        with pytest.raises(ShapeError):
            infer_hw(wrong)
    with pytest.raises(ShapeError):
        infer_hw(4, 0)


def test_the_guess_is_wrong_where_upstream_is_and_only_on_request():
    p = rows((1, 18, 32), (1, 4, 4), (2, 2, 6))
    told, guessing = made("spatial_merge"), made("spatial_merge", compat="infer_hw")
    out = guessing(p)
    assert [tuple(i.grid) for i in out.items] == [(1, 12, 12), (1, 2, 2), (1, 2, 3)]
    squares = rows((1, 24, 24), (1, 4, 4), (1, 4, 6))
    assert torch.equal(out.x, told(squares).x)
    assert float((out.x[:144] - told(p).x[:144]).detach().abs().max()) > 0.1
    assert torch.equal(out.unpack()[1], told(p).unpack()[1])
    with pytest.raises(ShapeError, match="6 rows") as caught:
        guessing(rows((1, 2, 2), (1, 2, 3)))
    assert caught.value.item == 1


def test_inferred_grids_take_the_rows_as_they_stand():
    p = rows((2, 3, 8)).keep(torch.arange(40))
    seen = with_inferred_grids(p).check()
    assert (tuple(seen.items[0].grid), seen.items[0].times_s, seen.whole) == ((1, 4, 10), (0.0,), True)
    assert torch.equal(seen.x, p.x)


def test_patch_merger_refuses_rows_in_raster_order():
    with pytest.raises(ShapeError, match=r"spatial_merge.*consecutive"):
        made("patch_merger")(rows((1, 4, 4)))
    with pytest.raises(ShapeError, match="whole number"):
        made("patch_merger")(rows((1, 3, 4)))


@pytest.mark.parametrize(
    ("grid", "small"),
    [((2, 3, 8), (2, 3, 2)), ((2, 6, 6), (2, 1, 9)), ((2, 3, 2), (1, 1, 3)), ((1, 1, 4), (1, 1, 1))],
)
def test_patch_merger_as_upstream_uses_it(grid: tuple[int, int, int], small: tuple[int, int, int]):
    projector, p = made("patch_merger", compat="consecutive"), rows(grid)
    out = projector(p).check()
    expected = by_hand("patch_merger", projector.state_dict(), p.x.view(-1, 4, IN))
    torch.testing.assert_close(out.x, expected)
    assert tuple(out.items[0].grid) == small
    assert len(out.items[0].times_s) == small[0]


def test_patch_merger_as_upstream_uses_it_needs_whole_runs():
    projector = made("patch_merger", compat="consecutive")
    with pytest.raises(ShapeError, match="6 rows") as caught:
        projector(rows((1, 2, 2), (1, 2, 3)))
    assert caught.value.item == 1
    left = rows((1, 2, 4)).keep(torch.arange(4))
    assert tuple(projector(left).items[0].grid) == (1, 1, 1)


# ---- configurations


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("resampler", {}),
        ("mlp0x_gelu", {}),
        ("mlp2x_relu", {}),
        ("mlp2x_gelu\n", {}),
        ("mlp-2x_gelu", {}),
        ("mlp2x_resx_gelu", {}),
        ("mlpNx_gelu", {}),
        ("", {}),
        ("linear", {"merge": 2}),
        ("mlp2x_gelu", {"odd": "crop"}),
        ("mlp2x_gelu", {"eps": 1e-5}),
        ("patch_merger", {"odd": "crop"}),
        ("patch_merger", {"compat": "infer_hw"}),
        ("spatial_merge", {"compat": "consecutive"}),
        ("spatial_merge", {"merge": 0}),
        ("pooler", {"eps": 1e-5}),
        ("pooler", {"compat": "infer_hw"}),
        ("identity", {}),
    ],
)
def test_configurations_that_mean_nothing(kind: str, options: dict[str, Any]):
    with pytest.raises(ConfigError):
        build_projector(kind, IN, OUT, **options)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("options", [{"odd": "reflect"}, {"compat": "guess"}])
def test_unknown_options(options: dict[str, Any]):
    with pytest.raises(ConfigError):
        build_projector("spatial_merge", IN, OUT, **options)
    with pytest.raises(ConfigError):
        ProjectorConfig("spatial_merge", 0, OUT)


def test_a_projector_says_what_it_is():
    assert repr(made("spatial_merge")).startswith("SpatialMerge(\n  spatial_merge, 6 -> 10, merge=2")
    assert repr(made("linear")) == "Linear(linear, 6 -> 10)"
    assert made("mlp2x_res3x_gelu").config.mlp == (2, 3)
    with pytest.raises(ConfigError, match="not an mlp"):
        _ = made("linear").config.mlp
    assert isinstance(made("pooler"), nn.Module)


def test_the_whole_line():
    """Encoder, pool or merge, projector: each stage takes what the one before gives."""
    import tubelet
    from tubelet.encoder.config import EncoderConfig
    from tubelet.pixels.patchify import from_pixels
    from tubelet.pixels.recipe import PixelRecipe

    config = EncoderConfig(hidden=64, layers=1, heads=2, mlp=32, pixels=PixelRecipe(4))
    encoder = tubelet.untrained(config)
    pixels = from_pixels(torch.zeros(2, 3, 3, 16, 24), encoder.pixels)
    tokens = encoder(pixels)
    out = build_projector("spatial_merge", 64, 8)(tokens)
    assert [tuple(i.grid) for i in out.items] == [(3, 2, 3)] * 2
    assert [tuple(i.grid) for i in pool(tokens, mode="bilinear").items] == [(3, 2, 3)] * 2
    assert build_projector("mlp2x_gelu", 64 * 4, 8)(merge(tokens, space=2)).x.shape == (36, 8)
