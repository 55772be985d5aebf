"""Packs that are wrong, odd, sick, empty or large, by seed: a typed error or the right rows, and never another item's.

Cases: C1 sizes that do not divide, C2 parts that contradict each other, C3 rows out of order, C4 nothing at all, C5
what is not finite, C6 any company in any order. As many seeds as `--torture N` says where one costs little.
"""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tubelet import Clip, Item, Packed, concat, pack
from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.encoder.model import Encoder
from tubelet.errors import NotFinite, ShapeError
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe

WIDTH = 12  # values in a row of 2 x 2 pixels
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def cut(frames: int | None) -> dict[str, object]:
    """Layers that see so many rows of time, or the whole item for None."""
    return {"spans": ("item",) if frames is None else ("frame",), "span_frames": frames or 1}


def an_encoder(seed: int = 0, **changes: object) -> Encoder:
    fields: dict = {
        "hidden": 64,
        "layers": 2,
        "heads": 2,
        "mlp": 80,
        "pixels": PixelRecipe(patch=2),
        **changes,
    }
    encoder = Encoder(EncoderConfig(**fields)).eval()
    generator = torch.Generator().manual_seed(seed)
    for weight in encoder.parameters():
        spread = 0.3 if weight.ndim == 1 else 1.5 / weight.shape[1] ** 0.5
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * spread)
    return encoder


def a_pack(rng: random.Random, items: int, side: int = 4, merge: int = 1) -> Packed:
    grids = [(rng.randint(1, 3), rng.randint(1, side) * merge, rng.randint(1, side) * merge) for _ in range(items)]
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    shapes = [Item.of(*grid, picture=i) for i, grid in enumerate(grids)]
    return pack([torch.randn(i.grid.rows, WIDTH, generator=generator) for i in shapes], shapes, merge=merge)


def thinned(p: Packed, rng: random.Random) -> Packed:
    share = rng.choice((0.2, 0.6, 1.0))
    return p.keep(torch.tensor([rng.random() < share for _ in range(p.x.shape[0])], dtype=torch.bool))


def alone(p: Packed) -> list[Packed]:
    return p.split([1] * len(p))


# ---- C1 sizes that do not divide


@pytest.mark.parametrize("merge", [2, 3, 4])
def test_c1_a_grid_without_whole_blocks_is_refused_and_named(merge: int):
    recipe = PixelRecipe(patch=2, merge=merge, order="block")
    encoder = an_encoder(pixels=recipe, pool=False, merger=Merger(merge=merge, out=8))
    rng = random.Random(merge)
    for _ in range(40):
        good = a_pack(rng, rng.randint(0, 3), merge=merge)
        h, w = rng.randint(1, 9), rng.randint(1, 9)
        if h % merge == 0 and w % merge == 0:
            h += 1
        odd = pack([torch.zeros(h * w, WIDTH)], [Item.of(1, h, w)])
        with torch.no_grad(), pytest.raises(ShapeError, match=f"{h} x {w} grid has no {merge} x {merge}") as caught:
            encoder(concat([good, odd]))
        assert caught.value.item == len(good)
        with pytest.raises(ShapeError, match=f"no {merge} x {merge} blocks"):
            pack([torch.zeros(h * w, WIDTH)], [Item.of(1, h, w)], merge=merge)


@pytest.mark.parametrize("temporal", [1, 2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8])
def test_c1_missing_frames_repeat_the_last_and_the_times_stay_true(temporal: int, frames: int):
    rng = np.random.default_rng(frames)
    pictures = rng.integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8)
    clip = Clip(pictures, tuple(0.1 * i for i in range(frames)), is_video=True)
    p = patchify([clip], PixelRecipe(patch=2, temporal=temporal)).check()
    assert p.items[0].grid == (math.ceil(frames / temporal), 2, 2)
    assert p.items[0].times_s == clip.times_s[::temporal]
    # the first patch of each row of time, back as pixels (c, frame, row, column)
    tubelets = p.x[p.pos[:, 1:].sum(dim=1) == 0].reshape(-1, 3, temporal, 2, 2)
    found = tubelets.permute(0, 2, 3, 4, 1).reshape(-1, 2, 2, 3).numpy()
    wanted = [pictures[min(i, frames - 1), :2, :2] for i in range(len(found))]
    assert np.array_equal(found, np.stack(wanted))


# ---- C2 parts that contradict each other


def _another_length(p: Packed, rng: random.Random) -> Packed:
    lengths = list(p.lengths)
    lengths[rng.randrange(len(lengths))] += rng.choice((-1, 1, 2**31))
    return Packed(p.x, p.pos, p.items, tuple(lengths))


def _two_lengths_exchanged(p: Packed, rng: random.Random) -> Packed:
    """The sum stays right: only a grid that is too small, or a place that is not in it, can tell."""
    lengths = [*p.lengths[1:], p.lengths[0]]
    if tuple(lengths) == p.lengths:
        raise ShapeError("the same lengths again")
    return Packed(p.x, p.pos, p.items, tuple(lengths)).check()


def _fewer_places(p: Packed, rng: random.Random) -> Packed:
    return Packed(p.x, p.pos[:-1], p.items, p.lengths)


def _fewer_rows(p: Packed, rng: random.Random) -> Packed:
    return Packed(p.x[: rng.randrange(p.x.shape[0])], p.pos, p.items, p.lengths)


def _one_item_fewer(p: Packed, rng: random.Random) -> Packed:
    return Packed(p.x, p.pos, p.items[1:], p.lengths)


def _a_place_outside(p: Packed, rng: random.Random) -> Packed:
    pos = p.pos.clone()
    pos[rng.randrange(len(pos)), rng.randrange(3)] = rng.choice((-1, -(2**31), 2**31 - 1, 99))
    return Packed(p.x, pos, p.items, p.lengths).check()


def _a_place_twice(p: Packed, rng: random.Random) -> Packed:
    pos = p.pos.clone()
    i = max(range(len(p)), key=p.lengths.__getitem__)
    if p.lengths[i] < 2:
        raise ShapeError("every item has one row")
    pos[p.starts[i]] = pos[p.starts[i] + rng.randrange(1, p.lengths[i])]
    return Packed(p.x, pos, p.items, p.lengths).check()


def _values_of_another_pack(p: Packed, rng: random.Random) -> Packed:
    return p.with_x(p.x[: rng.randrange(p.x.shape[0])])


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    "spoil",
    [
        _another_length,
        _two_lengths_exchanged,
        _fewer_places,
        _fewer_rows,
        _one_item_fewer,
        _a_place_outside,
        _a_place_twice,
        _values_of_another_pack,
    ],
)
def test_c2_parts_that_contradict_each_other_are_refused(
    spoil: Callable[[Packed, random.Random], Packed], torture: int
):
    for seed in range(torture):
        rng = random.Random(seed)
        p = a_pack(rng, rng.randint(1, 6)).check()
        with pytest.raises(ShapeError):
            spoil(p, rng)


# ---- C3 rows out of order


@pytest.mark.parametrize("merge", [2, 3])
def test_c3_a_merger_never_takes_rows_that_are_not_neighbours(merge: int):
    recipe = PixelRecipe(patch=2, merge=merge, order="block")
    encoder = an_encoder(pixels=recipe, pool=False, merger=Merger(merge=merge, out=8))
    rng = random.Random(merge)
    with torch.no_grad():
        for _ in range(30):
            p = a_pack(rng, 3, merge=merge)
            assert encoder(p).lengths == tuple(n // merge**2 for n in p.lengths)
            order = list(range(p.x.shape[0]))
            i = rng.randrange(len(p))
            swap = rng.sample(range(p.starts[i], p.starts[i + 1]), 2)
            order[swap[0]], order[swap[1]] = order[swap[1]], order[swap[0]]
            with pytest.raises(ShapeError, match="not in block order"):
                encoder(p.keep(torch.tensor(order)))
            with pytest.raises(ShapeError, match="before rows are dropped"):
                encoder(p.keep(torch.tensor(order[1:] if i else order[:-1]).sort().values))


@pytest.mark.parametrize("mode", ["inference", "grad"])
def test_c3_rows_in_another_order_give_the_same_features_in_that_order(mode: str):
    encoder, rng = an_encoder(), random.Random(3)
    with torch.set_grad_enabled(mode == "grad"):
        for _ in range(30):
            p = thinned(a_pack(rng, 4), rng)
            order = [i for a, b in zip(p.starts, p.starts[1:], strict=False) for i in rng.sample(range(a, b), b - a)]
            index = torch.tensor(order, dtype=torch.long)
            torch.testing.assert_close(encoder(p.keep(index)).x, encoder(p).x[index], **CLOSE)


# ---- C4 nothing at all


@pytest.mark.parametrize("grad", [False, True])
def test_c4_an_encoder_takes_an_empty_pack(grad: bool):
    encoder = an_encoder()
    empty = pack([], []).with_x(torch.zeros(0, WIDTH))
    with torch.set_grad_enabled(grad):
        tokens = encoder(empty)
        vectors = encoder.pooled(tokens)
        assert [s.x.shape for s in encoder.hidden_states(empty)] == [(0, 64)] * 3
    assert (tokens.x.shape, tokens.items, tokens.lengths, vectors.shape) == ((0, 64), (), (), (0, 64))
    if grad:
        (tokens.x.sum() + vectors.sum()).backward()
        # defined, and zero: a process whose batch holds no picture can still join the others' gradient exchange
        for name, weight in encoder.named_parameters():
            assert weight.grad is None or not weight.grad.any(), name
        assert encoder.patch.weight.grad is not None


@pytest.mark.parametrize("grad", [False, True])
def test_c4_items_without_rows_change_nothing_for_the_others(grad: bool):
    encoder, rng = an_encoder(), random.Random(4)
    with torch.set_grad_enabled(grad):
        for _ in range(20):
            p = a_pack(rng, 5)
            gone = set(rng.sample(range(5), rng.randint(1, 4)))
            mask = torch.cat([torch.full((n,), i not in gone) for i, n in enumerate(p.lengths)])
            rest = encoder(p.reorder([i for i in range(5) if i not in gone]))
            tokens = encoder(p.keep(mask))
            assert tokens.lengths == tuple(0 if i in gone else n for i, n in enumerate(p.lengths))
            torch.testing.assert_close(tokens.x, rest.x, **CLOSE)


# ---- C5 what is not finite


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("window", [None, 1])
def test_c5_one_sick_item_of_eight_leaves_the_other_seven_bit_equal(value: float, grad: bool, window: int | None):
    encoder, rng = an_encoder(**cut(window)), random.Random(5)
    with torch.set_grad_enabled(grad):
        for sick in range(8):
            p = a_pack(rng, 8)
            a, b = p.starts[sick], p.starts[sick + 1]
            x = p.x.clone()
            x[rng.randrange(a, b), rng.randrange(WIDTH)] = value
            with pytest.raises(NotFinite) as caught:
                p.with_x(x).check(finite=True)
            assert caught.value.item == sick
            well, ill = encoder(p), encoder(p.with_x(x))
            others = [i for i in range(8) if i != sick]
            assert well.reorder(others).equal(ill.reorder(others))
            assert not ill.unpack()[sick].isfinite().all()
            pooled_well, pooled_ill = encoder.pooled(well), encoder.pooled(ill)
            assert torch.equal(pooled_well[others], pooled_ill[others])


def test_c5_gradients_of_the_others_are_bit_equal_too():
    encoder, rng = an_encoder(), random.Random(6)
    p = a_pack(rng, 8)
    sick, grads = 3, []
    for value in (0.5, math.nan):
        x = p.x.clone()
        x[p.starts[sick]] = value
        x.requires_grad_()
        rows = encoder(p.with_x(x)).unpack()
        torch.cat([r for i, r in enumerate(rows) if i != sick]).square().sum().backward()
        assert x.grad is not None
        grads.append([g for i, g in enumerate(x.grad.split(p.lengths)) if i != sick])
    for well, ill in zip(*grads, strict=True):
        assert torch.equal(well, ill)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_c5_an_overflow_in_half_precision_stays_where_it_happened(dtype: torch.dtype):
    encoder, rng = an_encoder().to(dtype), random.Random(7)
    p = a_pack(rng, 8).to(dtype=dtype)
    x = p.x.clone()
    x[p.starts[2] : p.starts[3]] = torch.finfo(dtype).max
    others = [i for i in range(8) if i != 2]
    with torch.no_grad():
        assert encoder(p).reorder(others).equal(encoder(p.with_x(x)).reorder(others))


# ---- C6 any company in any order


@pytest.mark.parametrize("mode", ["inference", "grad"])
@pytest.mark.parametrize("window", [None, 1, 2])
def test_c6_packed_equals_one_by_one_in_any_order(mode: str, window: int | None):
    encoder, rng = an_encoder(**cut(window)), random.Random(8)
    with torch.set_grad_enabled(mode == "grad"):
        for _ in range(12):
            p = thinned(a_pack(rng, rng.randint(1, 9)), rng)
            tokens = encoder(p)
            single = concat([encoder(one) for one in alone(p)], renumber=False)
            torch.testing.assert_close(tokens.x, single.x, **CLOSE)
            torch.testing.assert_close(
                encoder.pooled(tokens), torch.cat([encoder.pooled(t) for t in alone(tokens)]), **CLOSE
            )
            order = rng.sample(range(len(p)), len(p))
            moved = encoder(p.reorder(order))
            assert (moved.items, moved.lengths) == (tokens.reorder(order).items, tokens.reorder(order).lengths)
            torch.testing.assert_close(moved.x, tokens.reorder(order).x, **CLOSE)


@pytest.mark.parametrize("mode", ["inference", "grad"])
def test_c6_four_thousand_items_of_one_to_four_rows(mode: str):
    encoder, rng = an_encoder(), random.Random(9)
    shapes = [Item.of(1, 1, rng.randint(1, 4), picture=i) for i in range(4096)]
    generator = torch.Generator().manual_seed(9)
    p = pack([torch.randn(i.grid.rows, WIDTH, generator=generator) for i in shapes], shapes)
    with torch.set_grad_enabled(mode == "grad"):
        tokens = encoder(p)
        vectors = encoder.pooled(tokens)
        assert vectors.shape == (4096, 64)
        rows = tokens.unpack()
        for i in rng.sample(range(4096), 64):
            one = encoder(p.reorder([i]))
            torch.testing.assert_close(rows[i], one.x, **CLOSE)
            torch.testing.assert_close(vectors[i : i + 1], encoder.pooled(one), **CLOSE)


def test_c6_one_item_of_a_million_rows_is_packed_kept_and_checked():
    item = Item.of(1, 1000, 1000)
    p = pack([torch.zeros(1_000_000, 1, dtype=torch.uint8)], [item]).check()
    kept = p.keep(torch.arange(0, 1_000_000, 1000)).check()
    assert kept.pos[:, 1].tolist() == list(range(1000))
    assert not kept.pos[:, 2].any()
