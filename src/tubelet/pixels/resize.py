"""The size of what is cut into patches, and the resampling to it.

    native_floor    each side floored to a unit                                       OneVision's packing models
    native_crop     not resized: what fills no unit at the right and bottom is left   AIMv2 native
    smart           each side rounded to a unit, inside min_pixels .. max_pixels      the corrected rule
    smart_compat    the same as transformers' Qwen2-VL computes it, lapses included   weights trained with it
    smart_clip_compat   as transformers' Qwen3-VL: min_pixels .. max_video_pixels are a whole clip's
    shortest_crop   shorter side to `shortest`, centre crop of `size` x `size`        CLIP, DINOv2, OneVision
    square          stretched to `size` x `size`                                      SigLIP, DINOv3, OneVision (frames)
    naflex          the largest of its ratio inside max_pixels, sides rounded up      SigLIP2 NaFlex
    longest_side    longer side at most `size`, each side rounded up to a unit        Pixtral

A unit is patch x merge pixels. Resampling is antialiased, bicubic or bilinear, on uint8, bit-equal to torchvision's
(resampler "torch") or to Pillow's (resampler "pillow"); the two differ by a few grey levels where pictures grow.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tubelet.errors import LimitError, ShapeError
from tubelet.packed import Grid
from tubelet.pixels.recipe import INTERPOLATIONS, RESAMPLERS, PixelRecipe
from tubelet.pixels.sizes import (
    QWEN_MAX_PIXELS,
    QWEN_MIN_PIXELS,
    Pad,
    anyres,
    best_pinpoint,
    check_sides,
    frame_budget_compat,
    longest_side,
    naflex,
    native_floor,
    native_round,
    ov2_smart_resize,
    shortest_side,
    smart_clip_compat,
    smart_resize,
    smart_resize_compat,
)
from tubelet.reading.limits import Limits

__all__ = [
    "Fit",
    "Pad",
    "ResizeBuffers",
    "anyres",
    "best_pinpoint",
    "box_of",
    "fit",
    "frame_budget_compat",
    "grid_of",
    "longest_side",
    "naflex",
    "native_floor",
    "native_round",
    "ov2_smart_resize",
    "pad_frames",
    "resize_frames",
    "shortest_side",
    "smart_clip_compat",
    "smart_resize",
    "smart_resize_compat",
]


@dataclass(frozen=True)
class Fit:
    """What is done to one picture, in host integers."""

    resize_h: int  # the sides it is resized to, in pixels
    resize_w: int
    crop: tuple[int, int, int, int] | None  # left, top, right, bottom of what is kept of that; None: all
    height: int  # the sides after both, multiples of the recipe's unit
    width: int


class ResizeBuffers:
    """Memory for what one thread resamples, used again for the next picture: fresh memory costs about a tenth more."""

    def __init__(self) -> None:
        self._bytes = {"between": np.empty(0, np.uint8), "after": np.empty(0, np.uint8)}

    def take(self, name: str, frames: int, height: int, width: int, channels: int) -> Tensor:
        """(F, H, W, C) uint8 in the part of that name, not cleared."""
        need = frames * height * width * channels
        if self._bytes[name].size < need:
            self._bytes[name] = np.empty(need, np.uint8)
        return torch.from_numpy(self._bytes[name][:need].reshape(frames, height, width, channels))


def fit(height: int, width: int, recipe: PixelRecipe, frames: int = 1, limits: Limits = Limits()) -> Fit:  # noqa: B008
    """The size that `recipe` gives an upright picture or clip of `frames` frames. No pixel is touched.

    max_video_pixels, where the recipe has one, is shared out over the clip's temporal rows: under `smart` and
    `native_floor` the clip as a whole never passes it, under `smart_compat` as transformers shares it; other rules do
    not read it. A picture smaller than a unit is enlarged to one, except under `native_crop`. Raises ShapeError for an
    empty picture, one that native_crop leaves nothing of, or a size of zero (smart_compat without min_pixels can ask
    for that), LimitError where a budget is below one unit, a ratio above 200, or the
    resized frames above `limits`: what a file says of sizes lifts no ceiling.

        >>> fit(480, 640, PixelRecipe(patch=14, rule="smart", merge=2))
        Fit(resize_h=476, resize_w=644, crop=None, height=476, width=644)
    """
    check_sides(height, width)
    if frames < 1:
        raise ShapeError("a clip needs at least one frame", limit=1, got=frames)
    size = _fit(height, width, recipe, frames)
    check_resized(size.resize_h, size.resize_w, frames, limits)
    return size


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


def box_of(height: int, width: int, size: Fit) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what `size` keeps, in the pixels of the upright picture it was computed for."""
    if size.crop is None:
        return 0.0, 0.0, float(width), float(height)
    left, top, right, bottom = size.crop
    x, y = width / size.resize_w, height / size.resize_h
    return left * x, top * y, right * x, bottom * y


def resize_frames(
    frames: Tensor,
    size: Fit | Pad,
    *,
    resampler: str = "torch",
    interpolation: str = "bicubic",
    buffers: ResizeBuffers | None = None,
) -> Tensor:
    """(F, H, W, C) uint8 frames, resized and cropped as `size` says: (F, height, width, C) uint8, C = 3 or 4.

    A view of the resized frames where a crop is taken; the input itself where nothing has to change. "torch" runs on
    one thread, on channels-last bytes: with other strides torch takes a path five times as slow. "pillow" gives C = 3.
    buffers: where torch's result lies until they are used again; None gives memory of its own. Raises ShapeError.
    """
    if frames.ndim != 4 or frames.shape[3] not in (3, 4) or frames.dtype != torch.uint8:
        raise ShapeError(f"frames must be (F, H, W, 3) uint8, got {frames.dtype} {tuple(frames.shape)}")
    if resampler not in RESAMPLERS:
        raise ShapeError("resampler is torch or pillow", expected=RESAMPLERS, got=resampler)
    if interpolation not in INTERPOLATIONS:
        raise ShapeError("interpolation is bicubic or bilinear", expected=INTERPOLATIONS, got=interpolation)
    out = frames
    if tuple(frames.shape[1:3]) != (size.resize_h, size.resize_w):
        if resampler == "pillow":
            out = _by_pillow(frames, size.resize_h, size.resize_w, interpolation)
        else:
            out = _by_torch(frames, size.resize_h, size.resize_w, interpolation, buffers)
    if isinstance(size, Fit) and size.crop is not None:
        left, top, right, bottom = size.crop
        out = out[:, top:bottom, left:right]
    return out


def _by_torch(frames: Tensor, height: int, width: int, interpolation: str, buffers: ResizeBuffers | None) -> Tensor:
    # An F = 1 batch must keep channels-last strides: index a batch axis first and permute after, never the reverse.
    planes = frames.contiguous().permute(0, 3, 1, 2)
    if buffers is None:
        return F.interpolate(planes, size=(height, width), mode=interpolation, antialias=True).permute(0, 2, 3, 1)
    # The same two passes, rows first, as the one call makes; but what lies between them is memory used before.
    count, high, _, channels = frames.shape
    between = buffers.take("between", count, high, width, channels)
    after = buffers.take("after", count, height, width, channels)
    aten = torch.ops.aten
    resample = aten._upsample_bicubic2d_aa.out if interpolation == "bicubic" else aten._upsample_bilinear2d_aa.out
    resample(planes, [high, width], False, None, None, out=between.permute(0, 3, 1, 2))
    resample(between.permute(0, 3, 1, 2), [height, width], False, None, None, out=after.permute(0, 3, 1, 2))
    return after


def _by_pillow(frames: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    kind = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = [np.asarray(Image.fromarray(f).resize((width, height), kind)) for f in frames[..., :3].numpy()]
    return torch.from_numpy(np.stack(resized))


def pad_frames(frames: Tensor, pad: Pad, *, resampler: str = "torch") -> Tensor:
    """(F, H, W, 3) uint8 frames, resized and laid in the middle of a black canvas as `pad` says. Raises ShapeError."""
    small = resize_frames(frames, pad, resampler=resampler)
    canvas = small.new_zeros(small.shape[0], pad.height, pad.width, small.shape[3])
    canvas[:, pad.top : pad.top + pad.resize_h, pad.left : pad.left + pad.resize_w] = small
    return canvas
