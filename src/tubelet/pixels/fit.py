"""The size of what is cut into patches: which rule gives it, and the budget of tokens that holds above every rule.

    native_floor    each side floored to a unit                                       OneVision's packing models
    native_crop     not resized: what fills no unit at the right and bottom is left   AIMv2 native
    smart           each side rounded to a unit, inside min_pixels .. max_pixels      the corrected rule
    smart_compat    the same as transformers' Qwen2-VL computes it, lapses included   weights trained with it
    smart_clip_compat   as transformers' Qwen3-VL: min_pixels .. max_video_pixels are a whole clip's
    shortest_crop   shorter side to `shortest`, centre crop of `size` x `size`        CLIP, DINOv2, OneVision
    square          stretched to `size` x `size`                                      SigLIP, DINOv3, OneVision (frames)
    naflex          the largest of its ratio inside max_pixels, sides rounded up      SigLIP2 NaFlex
    longest_side    longer side at most `size`, each side rounded up to a unit        Pixtral

A unit is patch x merge pixels, and what one token covers. Plain arithmetic on host integers: nothing heavy is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tubelet.errors import LimitError, ShapeError
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.recipe import FIXED, PixelRecipe
from tubelet.pixels.sizes import (
    QWEN_MAX_PIXELS,
    QWEN_MIN_PIXELS,
    check_sides,
    frame_budget_compat,
    longest_side,
    naflex,
    native_floor,
    shortest_side,
    smart_clip_compat,
    smart_resize,
    smart_resize_compat,
    within,
)
from tubelet.reading.limits import Limits


@dataclass(frozen=True)
class Fit:
    """What is done to one picture, in host integers."""

    resize_h: int  # the sides it is resized to, in pixels
    resize_w: int
    crop: tuple[int, int, int, int] | None  # left, top, right, bottom of what is kept of that; None: all
    height: int  # the sides after both, multiples of the recipe's unit
    width: int


def fit(height: int, width: int, recipe: PixelRecipe, frames: int = 1, limits: Limits = Limits()) -> Fit:  # noqa: B008
    """The size that `recipe` gives an upright picture or clip of `frames` frames. No pixel is touched.

    max_tokens and max_clip_tokens hold above what the rule gives; which frames of a clip are taken, and whether
    `recipe.clips` counts, is for `tubelet.pixels.budget` to say before.
    max_video_pixels, where the recipe has one, is shared out over the clip's temporal rows: under `smart` and
    `native_floor` the clip as a whole never passes it, under `smart_compat` as transformers shares it; other rules do
    not read it. A picture smaller than a unit is enlarged to one, except under `native_crop`. Raises ShapeError for an
    empty picture, one that native_crop leaves nothing of, or a size of zero (smart_compat without min_pixels can ask
    for that), LimitError where a budget is below one unit, a ratio above 200, or the
    resized frames above `limits`: what a file says of sizes lifts no ceiling.

        >>> fit(480, 640, PixelRecipe(patch=14, rule="smart", merge=2))
        Fit(resize_h=476, resize_w=644, crop=None, height=476, width=644)
    """
    size = sized(height, width, recipe, frames)
    check_resized(size.resize_h, size.resize_w, frames, limits)
    return size


def sized(height: int, width: int, recipe: PixelRecipe, frames: int = 1) -> Fit:
    """As `fit`, whatever the limits of reading."""
    check_sides(height, width)
    if frames < 1:
        raise ShapeError("a clip needs at least one frame", limit=1, got=frames)
    size = _fit(height, width, recipe, frames)
    room = row_room(recipe, frames)
    if room is None or size.height * size.width <= room * recipe.unit**2:
        return size
    return _shrunk(height, width, size, recipe, room)


def row_room(recipe: PixelRecipe, frames: int) -> int | None:
    """Most tokens of a picture, or of each row of time of a clip of so many frames; None without a budget.

    Raises LimitError where a row of time would have none: `tubelet.pixels.budget` takes fewer frames before.
    """
    rows = -(-frames // recipe.temporal)
    if rows == 1 or recipe.max_clip_tokens is None:
        return recipe.max_tokens
    share = recipe.max_clip_tokens // rows
    if share < 1:
        most = recipe.max_clip_tokens
        raise LimitError(f"{rows} rows of time are above max_clip_tokens = {most}", limit=most, got=rows)
    return share if recipe.max_tokens is None else min(share, recipe.max_tokens)


def _shrunk(height: int, width: int, size: Fit, recipe: PixelRecipe, room: int) -> Fit:
    """The whole picture at the largest sides that have at most `room` tokens."""
    tokens = size.height * size.width // recipe.unit**2
    if recipe.rule in FIXED:
        raise LimitError(
            f"{recipe.rule} gives every picture {tokens:,} tokens, above the {room:,} there is room for",
            limit=room,
            got=tokens,
        )
    h, w = within(height, width, recipe.unit, room)
    return Fit(h, w, None, h, w)


def check_resized(height: int, width: int, frames: int, limits: Limits) -> None:
    """Raise LimitError where frames of this size, after resizing, are above what frames may have."""
    try:
        limits.check_picture(width, height)
        limits.check_clip(frames, width, height)
    except LimitError as e:
        raise LimitError(f"after resizing: {e.message}", limit=e.limit, got=e.got) from None


def _fit(height: int, width: int, recipe: PixelRecipe, frames: int) -> Fit:
    if recipe.rule == "shortest_crop":
        return _crop(*shortest_side(height, width, recipe.shortest or recipe.size or 0), recipe, centre=True)
    if recipe.rule == "native_crop":
        return _cut(height, width, recipe)
    if recipe.rule == "square":
        return _crop(recipe.size or 0, recipe.size or 0, recipe, centre=False)
    if recipe.rule == "naflex":
        h, w = naflex(height, width, recipe.unit, recipe.max_pixels or 0)
    elif recipe.rule == "longest_side":
        h, w = longest_side(height, width, recipe.unit, recipe.size or 0)
    elif recipe.rule == "smart_compat":
        h, w = _compat(height, width, recipe, frames)
    elif recipe.rule == "smart_clip_compat":
        low, high = recipe.min_pixels or 0, recipe.max_video_pixels or 0
        h, w = smart_clip_compat(frames, height, width, recipe.unit, recipe.temporal, low, high, recipe.max_pixels)
    else:
        rule = smart_resize if recipe.rule == "smart" else native_floor
        h, w = rule(height, width, recipe.unit, recipe.min_pixels, _row_budget(recipe, frames))
    if h < 1 or w < 1:
        raise ShapeError(f"{recipe.rule} gives {width} x {height} a size of {w} x {h}", limit=recipe.unit, got=(w, h))
    return Fit(h, w, None, h, w)


def _compat(height: int, width: int, recipe: PixelRecipe, frames: int) -> tuple[int, int]:
    low = QWEN_MIN_PIXELS if recipe.min_pixels is None else recipe.min_pixels
    high = QWEN_MAX_PIXELS if recipe.max_pixels is None else recipe.max_pixels
    if recipe.max_video_pixels is not None:
        high = frame_budget_compat(frames, recipe.temporal, recipe.max_video_pixels, low, high)
    return smart_resize_compat(height, width, recipe.unit, low, high)


def _row_budget(recipe: PixelRecipe, frames: int) -> int | None:
    """The most pixels one temporal row may have."""
    if recipe.max_video_pixels is None:
        return recipe.max_pixels
    rows = -(-frames // recipe.temporal)
    share = recipe.max_video_pixels // rows
    if share < recipe.unit**2:
        raise LimitError(
            f"max_video_pixels = {recipe.max_video_pixels} leaves {share} pixels for each of {rows} rows of time, "
            f"below one unit of {recipe.unit} x {recipe.unit}",
            limit=recipe.max_video_pixels,
            got=rows * recipe.unit**2,
        )
    return share if recipe.max_pixels is None else min(share, recipe.max_pixels)


def _crop(resize_h: int, resize_w: int, recipe: PixelRecipe, *, centre: bool) -> Fit:
    """A size x size crop, from the middle or the top left corner, less what does not fill a unit at its right and
    bottom: a convolution of that stride would not see it either."""
    size = recipe.size or 0
    side = size // recipe.unit * recipe.unit
    top, left = ((resize_h - size) // 2, (resize_w - size) // 2) if centre else (0, 0)
    whole = (top, left, side, side) == (0, 0, resize_h, resize_w)
    return Fit(resize_h, resize_w, None if whole else (left, top, left + side, top + side), side, side)


def _cut(height: int, width: int, recipe: PixelRecipe) -> Fit:
    """The picture itself, less what does not fill a unit at its right and bottom."""
    h, w = height // recipe.unit * recipe.unit, width // recipe.unit * recipe.unit
    if h < 1 or w < 1:
        raise ShapeError(
            f"{width} x {height} does not fill one unit of {recipe.unit} x {recipe.unit}; native_crop enlarges nothing",
            limit=recipe.unit,
            got=min(height, width),
        )
    return Fit(height, width, None if (h, w) == (height, width) else (0, 0, w, h), h, w)


def grid_of(height: int, width: int, frames: int, recipe: PixelRecipe) -> Grid:
    """Patch counts of an upright picture or clip, from its header alone. Raises as `fit`."""
    size = fit(height, width, recipe, frames)
    return Grid(-(-frames // recipe.temporal), size.height // recipe.patch, size.width // recipe.patch)


def item_of(
    height: int,
    width: int,
    times_s: Sequence[float],
    picture: int,
    recipe: PixelRecipe,
    limits: Limits = Limits(),  # noqa: B008
) -> Item:
    """The item that a picture or clip with this upright size and these frame times becomes under the recipe that sizes
    it; a row of time starts with its first frame."""
    size = fit(height, width, recipe, len(times_s), limits)
    grid = Grid(-(-len(times_s) // recipe.temporal), size.height // recipe.patch, size.width // recipe.patch)
    return Item(grid, tuple(times_s[:: recipe.temporal]), picture, box_of(height, width, size))


def box_of(height: int, width: int, size: Fit) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what `size` keeps, in the pixels of the upright picture it was computed for."""
    if size.crop is None:
        return 0.0, 0.0, float(width), float(height)
    left, top, right, bottom = size.crop
    x, y = width / size.resize_w, height / size.resize_h
    return left * x, top * y, right * x, bottom * y
