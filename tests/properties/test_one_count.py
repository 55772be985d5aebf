"""One input has one count: a plan's, a loader's and `patchify`'s, for every family and kind of input, budgets kept."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tubelet.errors import LimitError
from tubelet.families.catalogue import families
from tubelet.families.family import Family
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.plan import plan
from tubelet.pixels.budget import clip_within, frames_within, is_clip, size_notes, spread
from tubelet.pixels.fit import fit
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import CLIP_TOKENS, FIXED, PICTURE_TOKENS, PixelRecipe
from tubelet.pixels.stream import plan_inputs
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits

ANY = Limits(max_pixels=1 << 40, max_clip_pixels=1 << 60, max_side=1 << 20)


def clip_of(width: int, height: int, frames: int, *, moves: bool) -> Clip:
    return Clip(np.zeros((frames, height, width, 3), np.uint8), tuple(i / 2 for i in range(frames)), is_video=moves)


def counted(clip: Clip, recipe: PixelRecipe) -> dict[str, tuple[int, ...]]:
    """The grid that each way of counting gives."""
    [loaded] = plan_inputs([clip], recipe)
    assert loaded.item is not None
    one = Input(clip.width, clip.height, len(clip), duration_s=0.0 if clip.is_video else None)
    [planned] = plan(one, recipe).items
    [item] = patchify([clip], recipe).items
    return {"plan": tuple(planned.grid), "load": tuple(loaded.item.grid), "patchify": tuple(item.grid)}


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
@pytest.mark.parametrize(("frames", "moves"), [(1, False), (1, True), (9, True), (9, False)])
def test_every_family_counts_an_input_once(family: Family, frames: int, moves: bool):
    for config in {config.pixels: config for config in family.variants.values()}.values():
        recipe = config.pixels
        least = None if recipe.rule in FIXED else 48
        for chosen in (recipe, recipe if least is None else recipe.budgeted(least)):
            grids = counted(clip_of(150, 90, frames, moves=moves), chosen)
            assert len(set(grids.values())) == 1, grids


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_family_has_a_limit_for_pictures_and_for_clips(family: Family):
    """Its publisher's where one is stated, else 4,096 and 16,384 tokens."""
    for name, config in family.variants.items():
        recipe = config.pixels
        [photo] = plan(Input(4032, 3024), recipe).items
        tokens = photo.grid.rows // recipe.merge**2
        stated = recipe.max_tokens is None
        assert tokens <= (16_384 if stated else PICTURE_TOKENS), name
        [clip] = plan(Input(576, 1024, 64, duration_s=32.0), recipe).items
        own = recipe.of(clip=True)
        assert own.max_clip_tokens in (CLIP_TOKENS, None)
        assert own.max_clip_tokens is not None or (own.max_pixels or own.max_video_pixels), name
        if own.max_clip_tokens is not None:
            tokens = clip.grid.rows // recipe.merge**2
            least = CLIP_TOKENS // 2 if any("fitted" in note for note in clip.notes) else 0
            assert least < tokens <= CLIP_TOKENS, name


RECIPES = st.builds(
    lambda rule, temporal, merge, most, clip: PixelRecipe(
        8,
        rule,
        temporal=temporal,
        merge=merge,
        order="block" if merge > 1 else "raster",
        size=48 if rule in ("longest_side", "square", "shortest_crop") else None,
        max_pixels=40_000 if rule == "naflex" else None,
        max_tokens=None if rule in ("square", "shortest_crop") else most,
        max_clip_tokens=clip,
    ),
    st.sampled_from(
        ["native_floor", "native_crop", "smart", "smart_compat", "naflex", "longest_side", "square", "shortest_crop"]
    ),
    st.integers(1, 3),
    st.integers(1, 2),
    st.none() | st.integers(1, 300),
    st.integers(40, 2000),
)


@settings(max_examples=150)
@given(RECIPES, st.integers(20, 4000), st.integers(20, 4000), st.integers(1, 5000))
@example(PixelRecipe(16, max_tokens=4096, max_clip_tokens=16_384), 1024, 576, 35)
def test_a_budget_is_never_passed_and_hardly_left_unused(recipe: PixelRecipe, height: int, width: int, frames: int):
    if max(height, width) > 150 * min(height, width):
        return
    kept = frames_within(height, width, frames, recipe)
    size = fit(height, width, recipe, kept, ANY)
    row = size.height * size.width // recipe.unit**2
    rows = -(-kept // recipe.temporal)
    assert 1 <= kept <= frames
    assert recipe.max_tokens is None or row <= recipe.max_tokens
    most = recipe.max_clip_tokens
    assert most is not None
    assert rows == 1 or rows * row <= most
    free = fit(height, width, replace(recipe, max_clip_tokens=None), recipe.temporal, ANY)
    alone = free.height * free.width // recipe.unit**2
    if rows > 1 and row < alone:  # made smaller: another whole row and column would not have gone in
        h, w = size.height // recipe.unit, size.width // recipe.unit
        assert rows * (h + 1) * (w + 1) > most
    if kept < frames:  # frames were left out: one more row of time would not have had its tokens
        assert (rows + 1) * min(alone, 128 if recipe.rule not in FIXED else alone) > most


def test_frames_are_left_out_evenly_and_once():
    recipe = PixelRecipe(8, "square", size=16, max_clip_tokens=24)
    clip = clip_of(20, 20, 50, moves=True)
    fitted = clip_within(clip, recipe)
    assert fitted.times_s == tuple(clip.times_s[i] for i in (4, 12, 20, 29, 37, 45))
    assert clip_within(fitted, recipe) is fitted
    [item] = patchify([clip], recipe).items
    assert item.times_s == fitted.times_s
    [planned] = plan_inputs([clip], recipe)
    assert planned.times_s == fitted.times_s
    assert planned.notes == ("fitted to 24 of 200 tokens, 6 of 50 frames",)
    assert spread(3, 3) == spread(3, 8) == [0, 1, 2]


def test_what_a_size_loses_is_told():
    crop = PixelRecipe(14, "shortest_crop", size=224, shortest=256)
    assert size_notes(2560, 1440, 1, crop) == ("the crop of 224 x 224 drops 57% of it",)
    assert size_notes(640, 600, 1, replace(crop, shortest=None)) == ()
    assert size_notes(2560, 1440, 1, PixelRecipe(16, max_tokens=4096)) == ("fitted to 4,080 of 14,400 tokens",)
    assert size_notes(2560, 1440, 1, PixelRecipe(16)) == ()
    assert size_notes(10, 200, 1, PixelRecipe(16)) == ("10 x 200 was enlarged: a side is below one unit of 16 pixels",)


def test_a_fixed_size_above_the_budget_is_an_error():
    with pytest.raises(LimitError, match="gives every picture 4 tokens, above the 3 there is room for"):
        fit(20, 20, PixelRecipe(8, "square", size=16, max_tokens=3))


def test_clips_are_cut_as_pictures_are():
    recipe = PixelRecipe(16, "smart", merge=2, order="block", clips=PixelRecipe(14, max_pixels=20_000, mean=(0, 0, 0)))
    assert recipe.clips is not None
    assert (recipe.clips.patch, recipe.clips.order, recipe.clips.mean) == (16, "block", recipe.mean)
    assert recipe.of(clip=True).max_pixels == 20_000 and recipe.of(clip=False) is recipe
    assert is_clip(1, True) and is_clip(2, False) and not is_clip(1, False)
