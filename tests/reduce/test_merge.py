"""Merging and pooling: laws over generated packs, against einops and torch's own pooling."""

import math
from typing import Any

import einops
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import in_block_order, items_of, packs, shuffled, values
from torch import Tensor

import tubelet
from tubelet.errors import InputError, ShapeError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.packed.order import rows_by_place
from tubelet.reduce.merge import ODD, Mode, Odd, merge, pool

LAWS = settings(deadline=None)
steps = st.integers(1, 3)
policies = st.sampled_from(ODD)


def by_einops(p: Packed, time: int, space: int) -> list[Tensor]:
    """Each item of a raster pack merged alone, in one line."""
    return [
        einops.rearrange(x.view(*item.grid, -1), "(t a) (h b) (w c) d -> (t h w) (a b c d)", a=time, b=space, c=space)
        for item, x in zip(p.items, p.unpack(), strict=True)
    ]


def fitted(x: Tensor, side: int, axis: int, odd: Odd) -> Tensor:
    """One axis cropped or padded to a multiple of `side`, by the book."""
    n = x.shape[axis]
    if odd == "crop":
        return x.narrow(axis, 0, n - n % side)
    last = x.narrow(axis, n - 1, 1)
    return torch.cat([x, *[last] * (-n % side)], dim=axis)


# ---- merge


@LAWS
@given(st.data(), steps, steps)
def test_merging_is_einops(data: st.DataObject, time: int, space: int):
    p = data.draw(packs(time, space))
    merged = merge(p, space=space, time=time).check()
    assert merged.x.shape[1] == p.x.shape[1] * time * space**2
    for rows, expected, new, old in zip(merged.unpack(), by_einops(p, time, space), merged.items, p.items, strict=True):
        assert torch.equal(rows, expected)
        assert new.grid == Grid(old.grid.t // time, old.grid.h // space, old.grid.w // space)
        assert new.times_s == old.times_s[::time]
        assert (new.picture, new.box) == (old.picture, old.box)
    assert merged.whole


@LAWS
@given(st.data(), steps, steps, st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(data: st.DataObject, time: int, space: int, seed: int):
    p = data.draw(packs(time, space))
    expected = merge(p, space=space, time=time)
    if time * space > 1:
        assert merge(in_block_order(p, space), space=space, time=time).equal(expected)
        assert merge(shuffled(p, seed), space=space, time=time).equal(expected)


@LAWS
@given(st.data(), steps, st.integers(2, 3), policies)
def test_items_do_not_see_each_other(data: st.DataObject, time: int, space: int, odd: Odd):
    p = data.draw(packs(time, space, min_items=1))
    order = data.draw(st.permutations(range(len(p))))
    merged = merge(p, space=space, time=time, odd=odd)
    assert merge(p.reorder(order), space=space, time=time, odd=odd).equal(merged.reorder(order))
    one_by_one = [merge(one, space=space, time=time, odd=odd) for one in p.split([1] * len(p))]
    assert concat(one_by_one, renumber=False).equal(merged)


@LAWS
@given(st.data(), steps, st.integers(2, 3))
def test_space_and_time_one_after_the_other(data: st.DataObject, time: int, space: int):
    """First space, then time gives the same channels, because time comes first in them."""
    p = data.draw(packs(time, space))
    assert merge(merge(p, space=space), time=time).equal(merge(p, space=space, time=time))


@LAWS
@given(st.data(), st.sampled_from(("pad_edge", "crop")), steps, st.integers(2, 3))
def test_odd_sides_are_padded_with_the_edge_or_cropped(data: st.DataObject, odd: Odd, time: int, space: int):
    items = data.draw(st.lists(items_of(most=5), min_size=1, max_size=3))
    p = pack([values(i.grid.rows, 2, seed=n) for n, i in enumerate(items)], items)
    if odd == "crop" and any(i.grid.t < time or min(i.grid.h, i.grid.w) < space for i in items):
        with pytest.raises(ShapeError, match="less than one"):
            merge(p, space=space, time=time, odd=odd)
        return
    merged = merge(shuffled(p, 1), space=space, time=time, odd=odd).check()
    for rows, x, new, old in zip(merged.unpack(), p.unpack(), merged.items, items, strict=True):
        cube = x.view(*old.grid, -1)
        for axis, side in enumerate((time, space, space)):
            cube = fitted(cube, side, axis, odd)
        whole = pack([cube.flatten(0, 2)], [Item.of(*cube.shape[:3])])
        assert torch.equal(rows, merge(whole, space=space, time=time).x)
        # a patch is as large as before, so a place means the same part of the picture
        assert new.box[:2] == old.box[:2]
        assert math.isclose((new.box[2] - new.box[0]) / new.grid.w, 14.0 * space)
        assert math.isclose((new.box[3] - new.box[1]) / new.grid.h, 14.0 * space)
        assert new.times_s == old.times_s[::time][: new.grid.t]


@LAWS
@given(st.data(), policies, steps, st.integers(2, 3))
def test_where_sides_divide_the_policies_agree(data: st.DataObject, odd: Odd, time: int, space: int):
    p = data.draw(packs(time, space))
    assert merge(p, space=space, time=time, odd=odd).equal(merge(p, space=space, time=time))


@LAWS
@given(st.data(), steps, st.integers(2, 3))
def test_gradients_go_back_to_the_rows_they_came_from(data: st.DataObject, time: int, space: int):
    p = data.draw(packs(time, space, min_items=1))
    p = in_block_order(p, space)
    x = p.x.clone().requires_grad_()
    merged = merge(p.with_x(x), space=space, time=time)
    cotangent = values(*merged.x.shape, seed=7)
    (merged.x * cotangent).sum().backward()
    # the derivative of a rearrangement is the same rearrangement backwards: merging the gradient gives the cotangent
    assert x.grad is not None
    assert torch.equal(merge(p.with_x(x.grad), space=space, time=time).x, cotangent)


def test_the_gradient_of_a_repeated_edge_is_the_sum():
    x = torch.arange(3.0)[:, None].requires_grad_()
    padded = merge(pack([x], [Item.of(1, 1, 3)]), space=2, odd="pad_edge")
    assert padded.x.tolist() == [[0, 1, 0, 1], [2, 2, 2, 2]]
    padded.x.sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [2, 2, 4]


def test_merging_has_the_right_derivatives():
    p = pack([values(12, 2).double()], [Item.of(2, 3, 2)])
    x = p.x.clone().requires_grad_()
    odd: Odd
    for odd in ("pad_edge", "crop"):
        assert torch.autograd.gradcheck(lambda x, odd=odd: merge(p.with_x(x), space=2, time=2, odd=odd).x, (x,))


def test_the_channel_order_is_that_of_qwen_and_llava():
    names = torch.tensor([[t * 100 + h * 10 + w] for t in range(2) for h in range(2) for w in range(4)])
    p = pack([names], [Item.of(2, 2, 4)])
    assert merge(p, space=2).x.tolist() == [[0, 1, 10, 11], [2, 3, 12, 13], [100, 101, 110, 111], [102, 103, 112, 113]]
    assert merge(p, time=2).x[0].tolist() == [0, 100]
    assert merge(p, space=2, time=2).x[0].tolist() == [0, 1, 10, 11, 100, 101, 110, 111]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64, torch.bool])
def test_any_type_of_rows(dtype: torch.dtype):
    p = pack([values(16, 3).mul(9).abs().to(dtype)], [Item.of(1, 4, 4)])
    merged = merge(p, space=2)
    assert merged.dtype == dtype
    assert torch.equal(merged.x, by_einops(p, 1, 2)[0])


def test_merging_by_one_is_the_identity_and_nothing_stays_nothing():
    p = pack([values(6, 2)], [Item.of(1, 2, 3)]).keep(torch.tensor([4, 0]))
    assert merge(p) is p
    assert pool(p, size=1) is p
    empty = pack([], [])
    assert len(merge(empty, space=2)) == 0
    assert merge(pack([values(4, 2)], [Item.of(1, 2, 2)]).split([0, 1])[0], space=2).x.shape == (0, 8)
    for mode in ("average", "max", "bilinear"):
        assert len(pool(empty, mode=mode)) == 0


def test_items_that_lost_rows_are_refused_by_name():
    p = pack([values(4, 2), values(16, 2)], [Item.of(1, 2, 2), Item.of(1, 4, 4)])
    dropped = p.keep(torch.arange(19))
    for call in (lambda: merge(dropped, space=2), lambda: pool(dropped), lambda: pool(dropped, mode="bilinear")):
        with pytest.raises(ShapeError, match="15 of 16 rows are left") as caught:
            call()
        assert (caught.value.item, caught.value.expected, caught.value.got) == (1, 16, 15)


def test_sides_that_do_not_divide_are_refused_by_name():
    p = pack([values(4, 2), values(6, 2)], [Item.of(1, 2, 2), Item.of(1, 2, 3)])
    with pytest.raises(
        ShapeError, match=r"1 x 2 x 3 has no whole number of 1 x 2 x 2 blocks; odd='pad_edge'"
    ) as caught:
        merge(p, space=2)
    assert (caught.value.item, caught.value.got) == (1, (1, 2, 3))
    with pytest.raises(ShapeError, match=r"no whole number of 2 x 1 x 1"):
        merge(p, time=2)
    with pytest.raises(ShapeError, match="less than one") as caught:
        merge(p, time=2, odd="crop")
    assert caught.value.item == 0


@pytest.mark.parametrize(
    "pos",
    [
        [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]],  # twice
        [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 2, 0]],  # below the grid
        [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 3]],  # would be the right number, in the wrong place
        [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, -1]],
        [[0, 0, 0], [0, 0, 1], [0, 1, 0], [9, 9, 9]],
    ],
)
def test_places_that_are_not_those_of_the_grid_are_refused(pos: list[list[int]]):
    good = pack([values(4, 2)], [Item.of(1, 2, 2)])
    p = concat([good, Packed(good.x, torch.tensor(pos, dtype=torch.int32), good.items, good.lengths)])
    for call in (lambda: merge(p, space=2), lambda: pool(p), lambda: pool(p, mode="bilinear")):
        with pytest.raises(ShapeError) as caught:
            call()
        assert caught.value.item == 1


@pytest.mark.usefixtures("as_in_production")
def test_arguments_are_checked():
    p: Any = pack([values(4, 2)], [Item.of(1, 2, 2)])
    wrong: Any = "reflect"
    for call in (
        lambda: merge(p, space=0),
        lambda: merge(p, time=-1),
        lambda: merge(p, space=2, odd=wrong),
        lambda: pool(p, size=0),
        lambda: pool(p, mode=wrong),
        lambda: pool(p.with_x(p.x.to(torch.uint8))),
    ):
        with pytest.raises(InputError):
            call()


def test_tables_made_in_inference_mode_serve_training():
    item = Item.of(1, 10, 6)
    with torch.inference_mode():
        merge(pack([values(60, 2)], [item]), space=2)
    x = values(60, 2).requires_grad_()
    merge(pack([x], [item]), space=2).x.sum().backward()
    assert x.grad is not None


def test_grids_too_large_to_share_a_table():
    p = pack([torch.arange(160 * 120)[:, None]], [Item.of(1, 160, 120)])
    assert torch.equal(merge(p, space=2).x, by_einops(p, 1, 2)[0])


def test_rows_by_place_undoes_any_order():
    p = pack([values(12, 2), values(4, 2)], [Item.of(1, 3, 4), Item.of(1, 2, 2)])
    moved = shuffled(p, 5)
    assert torch.equal(moved.x[rows_by_place(moved)], p.x)


def test_sizes_are_known_without_values():
    p = pack([values(24, 2), values(4, 2)], [Item.of(1, 4, 6), Item.of(1, 2, 2)]).to("meta")
    merged = merge(p, space=2)
    assert (merged.x.shape, merged.lengths, merged.device.type) == ((7, 8), (6, 1), "meta")


# ---- pool


def llava_pool(x: Tensor, side: int, mode: str, stride: int) -> Tensor:
    """LLaVA's, in its own terms: [F, side^2, D] -> [F, M, D]; the slow twin."""
    frames = x.view(x.shape[0], side, side, -1).permute(0, 3, 1, 2).contiguous()
    if mode == "average":
        frames = F.avg_pool2d(frames, stride)
    elif mode == "max":
        frames = F.max_pool2d(frames, stride)
    else:
        frames = F.interpolate(frames, size=(math.ceil(side / stride),) * 2, mode="bilinear")
    return frames.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[-1])


@pytest.mark.parametrize(("mode", "tokens"), [("average", 169), ("max", 169), ("bilinear", 196)])
@pytest.mark.parametrize("frames", [1, 3])
def test_pooling_is_that_of_llava_on_its_27_by_27_squares(mode: Mode, tokens: int, frames: int):
    x = values(frames * 729, 8)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = pool(pack([a], [Item.of(frames, 27, 27)]), mode=mode)
    expected = llava_pool(b.view(frames, 729, 8), 27, mode, 2).flatten(0, 1)
    assert got.lengths == (frames * tokens,)
    torch.testing.assert_close(got.x, expected)
    cotangent = values(*expected.shape, seed=3)
    (got.x * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@LAWS
@given(st.data(), st.integers(2, 3), st.sampled_from(("average", "max", "bilinear")))
def test_pooling_any_grid_is_pooling_its_frames(data: st.DataObject, size: int, mode: Mode):
    items = data.draw(st.lists(items_of(most=6), min_size=1, max_size=4))
    p = pack([values(i.grid.rows, 3, seed=n) for n, i in enumerate(items)], items)
    if mode != "bilinear" and any(min(i.grid.h, i.grid.w) < size for i in items):
        with pytest.raises(ShapeError, match="less than one"):
            pool(p, size=size, mode=mode)
        return
    pooled = pool(shuffled(p, 2), size=size, mode=mode).check()
    for rows, x, new, old in zip(pooled.unpack(), p.unpack(), pooled.items, items, strict=True):
        frames = x.view(*old.grid, -1).permute(0, 3, 1, 2)
        if mode == "average":
            expected = F.avg_pool2d(frames, size)
        elif mode == "max":
            expected = F.max_pool2d(frames, size)
        else:
            h, w = math.ceil(old.grid.h / size), math.ceil(old.grid.w / size)
            expected = F.interpolate(frames, size=(h, w), mode="bilinear")
            assert new.box == old.box
        torch.testing.assert_close(rows, expected.permute(0, 2, 3, 1).reshape(-1, 3))
        assert new.grid == Grid(old.grid.t, *expected.shape[2:])
        assert new.times_s == old.times_s


@pytest.mark.parametrize("mode", ["average", "max", "bilinear"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pooling_keeps_the_type(mode: Mode, dtype: torch.dtype):
    p = pack([values(36, 4).to(dtype)], [Item.of(1, 6, 6)])
    pooled = pool(p, mode=mode)
    assert pooled.dtype == dtype
    expected = llava_pool(p.x.float().view(1, 36, 4), 6, mode, 2)[0]
    torch.testing.assert_close(pooled.x.float(), expected, rtol=1e-2, atol=1e-2)


def test_not_a_number_stays_in_its_block_and_item():
    x = values(32, 2)
    x[5] = math.nan
    p = pack([x[:16], x[16:]], [Item.of(1, 4, 4), Item.of(1, 4, 4)])
    assert merge(p, space=2).x.isnan().any(dim=1).nonzero().flatten().tolist() == [0]
    for mode in ("average", "max", "bilinear"):
        assert pool(p, mode=mode).x.isnan().any(dim=1).nonzero().flatten().tolist() == [0]


def test_the_public_names():
    p = tubelet.pack([values(16, 2)], [tubelet.Item.of(1, 4, 4)])
    assert tubelet.merge(p, space=2).equal(merge(p, space=2))
    assert tubelet.pool(p).equal(pool(p))
