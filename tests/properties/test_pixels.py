"""Laws of sizes and rows, for pictures and recipes of every kind."""

import math

import einops
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tubelet.errors import LimitError
from tubelet.packed import positions
from tubelet.pixels.fit import box_of, fit, grid_of
from tubelet.pixels.patchify import from_pixels, patchify, unpatchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.sizes import native_floor, smart_resize, smart_resize_compat
from tubelet.reading.clip import Clip

sides = st.one_of(st.integers(1, 60), st.integers(1, 5000), st.integers(1, 65_535))
units = st.sampled_from([7, 14, 16, 28, 32, 42])
budgets = st.one_of(st.none(), st.integers(0, 200_000), st.integers(0, 10**8))


@settings(max_examples=600, deadline=None)
@given(height=sides, width=sides, unit=units, low=budgets, high=budgets)
@pytest.mark.parametrize("rule", [smart_resize, native_floor])
def test_a_size_keeps_its_promises(rule, height: int, width: int, unit: int, low: int | None, high: int | None) -> None:
    if high is not None and high < unit * unit:
        with pytest.raises(LimitError):
            rule(height, width, unit, low, high)
        return
    h, w = rule(height, width, unit, low, high)
    assert h >= unit
    assert w >= unit
    assert h % unit == w % unit == 0
    room = math.inf if high is None else high // unit**2
    assert h * w <= room * unit**2
    need = min(-(-(low or 0) // unit**2), room)
    a, b = h // unit, w // unit
    if a * b < need:  # only where neither neighbour fits between the two budgets
        assert (a + 1) * b > room or a * (b + 1) > room or (a + 1) * (b + 1) > room


@settings(max_examples=600, deadline=None)
@given(height=st.integers(14, 6000), width=st.integers(14, 6000), unit=units, room=st.integers(60, 9000))
def test_a_shrunk_size_is_next_to_the_exact_one(height: int, width: int, unit: int, room: int) -> None:
    """Each side is within one unit of the side that would keep the ratio exactly and use the budget fully."""
    high = room * unit**2
    h, w = smart_resize(height, width, unit, None, high)
    rounded = max(1, round(height / unit)) * max(1, round(width / unit))
    if rounded <= room:
        assert h * w == rounded * unit**2
        return
    exact_h, exact_w = math.sqrt(room * height / width), math.sqrt(room * width / height)
    if min(exact_h, exact_w) >= 1:
        assert abs(h / unit - exact_h) <= 1
        assert abs(w / unit - exact_w) <= 1
    if max(height, width) <= 200 * min(height, width):
        old_h, old_w = smart_resize_compat(height, width, unit, 0, high)
        if 0 < old_h * old_w <= high:
            wanted = math.log(height / width)
            assert abs(math.log(h / w) - wanted) <= abs(math.log(old_h / old_w) - wanted) + 1e-9


sized = st.builds(
    PixelRecipe,
    patch=st.sampled_from([2, 3, 7]),
    rule=st.sampled_from(["native_floor", "smart", "smart_compat", "square", "shortest_crop", "longest_side"]),
    temporal=st.integers(1, 4),
    merge=st.integers(1, 3),
    order=st.sampled_from(["raster", "block"]),
    size=st.just(43),
    min_pixels=st.sampled_from([None, 600]),
    max_pixels=st.sampled_from([None, 5000]),
    resampler=st.sampled_from(["torch", "pillow"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)


filling = st.builds(
    PixelRecipe,
    patch=st.sampled_from([2, 3, 7]),
    rule=st.just("naflex"),
    merge=st.integers(1, 2),
    max_pixels=st.integers(196, 5000),
    mean=st.just((0.5, 0.5, 0.5)),
)
uncut = st.builds(PixelRecipe, patch=st.just(1), rule=st.just("native_crop"), temporal=st.integers(1, 3))
recipes = st.one_of(sized, filling, uncut)


@st.composite
def clips(draw: st.DrawFn) -> Clip:
    f, h, w = draw(st.integers(1, 7)), draw(st.integers(1, 70)), draw(st.integers(1, 70))
    seed = draw(st.integers(0, 2**31))
    pixels = np.random.default_rng(seed).integers(0, 256, (f, h, w, 3), dtype=np.uint8)
    return Clip(pixels, tuple(float(i) for i in range(f)))


def einops_rows(frames: torch.Tensor, recipe: PixelRecipe) -> torch.Tensor:
    """The slow, obvious twin: frames (F, h, w, 3) that have their size and number."""
    m = recipe.merge if recipe.order == "block" else 1
    return einops.rearrange(
        frames,
        "(t pt) (h mh p1) (w mw p2) c -> (t h w mh mw) (c pt p1 p2)",
        pt=recipe.temporal,
        mh=m,
        mw=m,
        p1=recipe.patch,
        p2=recipe.patch,
    )


@settings(max_examples=150, deadline=None)
@given(clip=clips(), recipe=recipes)
def test_rows_are_those_of_the_einops_twin(clip: Clip, recipe: PixelRecipe) -> None:
    p = patchify([clip], recipe).check()
    grid = p.items[0].grid
    assert grid == grid_of(clip.height, clip.width, len(clip), recipe)
    shown = unpatchify(p, recipe)[0]
    assert torch.equal(einops_rows(shown, recipe), p.x)
    assert torch.equal(p.pos, positions(grid, merge=recipe.merge if recipe.order == "block" else 1))
    again = from_pixels(shown.permute(3, 0, 1, 2)[None], recipe)
    assert torch.equal(again.x, p.x)
    left, top, right, bottom = p.items[0].box
    assert 0 <= left < right <= clip.width + 1e-9
    assert 0 <= top < bottom <= clip.height + 1e-9


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(clips(), min_size=0, max_size=4), recipe=recipes)
def test_packed_is_one_by_one(batch: list[Clip], recipe: PixelRecipe) -> None:
    together = patchify(batch, recipe)
    assert len(together) == len(batch)
    for rows, clip, item in zip(together.unpack(), batch, together.items, strict=True):
        alone = patchify([clip], recipe)
        assert torch.equal(rows, alone.x)
        assert item.grid == alone.items[0].grid
        assert item.times_s == alone.items[0].times_s


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 4000), width=st.integers(1, 4000), size=st.integers(28, 500))
def test_a_crop_is_inside_and_central(height: int, width: int, size: int) -> None:
    assume(max(height, width) * size <= 65_000 * min(height, width))  # a longer side than the limits allow is refused
    cut = fit(height, width, PixelRecipe(patch=14, rule="shortest_crop", size=size))
    assert cut.height == cut.width == size // 14 * 14
    left, top, right, bottom = cut.crop or (0, 0, cut.resize_w, cut.resize_h)
    assert (right - left, bottom - top) == (cut.width, cut.height)
    assert 0 <= left <= right <= cut.resize_w
    assert 0 <= top <= bottom <= cut.resize_h
    box = box_of(height, width, cut)
    assert 0 <= box[0] < box[2] <= width * (1 + 1e-9)
    assert 0 <= box[1] < box[3] <= height * (1 + 1e-9)
