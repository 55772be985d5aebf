"""Pixels to rows and back.

One row is one tubelet: `temporal` frames of one patch, its values in the order (channel, frame, row, column). The rows
of an item go through time first, then through the picture in raster order or merge block by merge block:

    frames  (F, h, w, 3)          rows  (t x h/p x w/p, 3 x pt x p x p)

        +--+--+--+--+             raster   0 1 2 3 4 5 6 7
        |0 |1 |2 |3 |
        +--+--+--+--+             block, merge=2
        |4 |5 |6 |7 |                      0 1 4 5 2 3 6 7
        +--+--+--+--+

Rows stay uint8; the encoder folds 1/255, mean and std into its first matrix. `normalise` is the plain form of that.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, ShapeError
from tubelet.packed import Grid, Item, Packed, all_positions
from tubelet.pixels.budget import clip_within, is_clip
from tubelet.pixels.fit import Fit, fit, item_of
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import resize_frames
from tubelet.pixels.views import View, Views, cut_views, view_items
from tubelet.reading.clip import Clip
from tubelet.shapes import UInt8

NORMALISED = 150_000  # values worked on at a time: 0.6 MB as float32, which a core's cache holds
AXES = (0, 2, 5, 3, 6, 8, 1, 4, 7)  # t pt bh m p bw m p c  ->  t bh bw m m c pt p p


@door
def patchify(clips: Sequence[Clip], recipe: PixelRecipe, *, views: Views | None = None) -> Packed:
    """uint8 rows of every clip, resized as `recipe` says: one item a clip, `picture` its index in `clips`.

    x is (T, 3 x pt x p x p) in the order of the module's head. Frames are filled up to a multiple of `temporal` by
    repeating the last one. Where a clip has more than its budget of tokens, frames are taken and sizes chosen as
    `tubelet.pixels.budget` says. views: a rule that makes several items of a picture (tubelet.pixels.views), one after
    the other, all with its `picture`. Their sizes are the rule's and not the recipe's, their black borders are known
    (`Item.seen`), and a clip of several frames has one view. Runs on the calling thread; cost: one resize and one
    strided copy a clip, with views one resize for each canvas.
    Raises ShapeError or LimitError naming the item (see `fit`, `view_items`).

        >>> clip = Clip(np.zeros((1, 480, 640, 3), np.uint8), (0.0,))
        >>> patchify([clip], PixelRecipe(patch=14))
        Packed(T=1530, D=588, uint8, cpu, 1 items: [1x34x45])
        >>> patchify([clip], PixelRecipe(patch=14), views=tubelet.pixels.views.LAVIDA).lengths
        (729, 729, 729, 729, 729)
    """
    taken: list[Clip] = []
    parts: list[list[tuple[View | Fit, Item]]] = []
    for i, given in enumerate(clips):
        try:
            clip = given if views is not None else clip_within(given, recipe)
            size = clip.height, clip.width, clip.times_s
            own = recipe.of(is_clip(len(given), given.is_video))
            if views is None:
                parts.append([(fit(clip.height, clip.width, own, len(clip)), item_of(*size, i, own))])
            else:
                parts.append([*view_items(*size, i, recipe, views)])
        except InputError as e:
            raise e.placed(item=i, source=given.source) from None
        taken.append(clip)
    items = [item for part in parts for _, item in part]
    out = empty_rows(sum(item.grid.rows for item in items), recipe)
    start = 0
    for clip, part in zip(taken, parts, strict=True):
        cut = _resized(as_tensor(clip.frames), [how for how, _ in part], recipe)
        for (_, item), frames in zip(part, cut, strict=True):
            write_frames(out[start : start + item.grid.rows], item.grid, frames.numpy(), recipe)
            start += item.grid.rows
    return packed_of(out, items, recipe)


def _resized(frames: Tensor, how: Sequence[View | Fit], recipe: PixelRecipe) -> list[Tensor]:
    """The frames as a whole, or each of their views."""
    views = [one for one in how if isinstance(one, View)]
    if views:
        return cut_views(frames, views, recipe)
    return [
        resize_frames(frames, one, resampler=recipe.resampler, interpolation=recipe.interpolation)
        for one in how
        if isinstance(one, Fit)
    ]


def packed_of(rows: UInt8[np.ndarray, "T D"], items: Sequence[Item], recipe: PixelRecipe) -> Packed:
    """Rows of whole items in the recipe's order, with their places."""
    lengths = tuple(item.grid.rows for item in items)
    return Packed(torch.from_numpy(rows), all_positions(items, merge=_block(recipe)), tuple(items), lengths)


def empty_rows(rows: int, recipe: PixelRecipe) -> UInt8[np.ndarray, "T D"]:
    """Room for `rows` rows, not yet written. numpy's memory, because large arrays of it come in huge pages."""
    return np.empty((rows, recipe.width), np.uint8)


def pad_time(clip: Clip, temporal: int) -> Clip:
    """The clip with its last frame, and its time, repeated until the frames are a multiple of `temporal`: -F % temporal
    times. The clip itself where nothing is missing. `patchify` does the same without the copy."""
    missing = -len(clip) % temporal
    if not missing:
        return clip
    frames = np.concatenate([clip.frames, np.repeat(clip.frames[-1:], missing, axis=0)])
    return replace(clip, frames=frames, times_s=(*clip.times_s, *clip.times_s[-1:] * missing))


# ---- the copy


def _block(recipe: PixelRecipe) -> int:
    return recipe.merge if recipe.order == "block" else 1


def slots(rows: np.ndarray, grid: Grid, recipe: PixelRecipe) -> np.ndarray:
    """The (grid.rows, 3 x pt x p x p) rows of one item as a view (t, h/p/m, w/p/m, m, m, 3, pt, p, p): where each pixel
    goes. Frame f of the clip is [f // pt, ..., f % pt, :, :]."""
    m, p = _block(recipe), recipe.patch
    return rows.reshape(grid.t, grid.h // m, grid.w // m, m, m, -1, recipe.temporal, p, p)


def write_frame(rows: np.ndarray, grid: Grid, index: int, frame: np.ndarray, recipe: PixelRecipe) -> None:
    """Write one resized (h, w, 3 or more) frame as frame `index` of the item whose rows these are. One strided copy, on
    the calling thread alone. Channels past the third are left out."""
    m, p, pt = _block(recipe), recipe.patch, recipe.temporal
    pixels = frame[..., :3].reshape(grid.h // m, m, p, grid.w // m, m, p, 3)
    np.copyto(slots(rows, grid, recipe)[index // pt, ..., index % pt, :, :], pixels.transpose(0, 3, 1, 4, 6, 2, 5))


def write_frames(rows: np.ndarray, grid: Grid, frames: np.ndarray, recipe: PixelRecipe) -> None:
    """Write all resized (F, h, w, 3 or more) frames of an item, and the last one again where the grid has more room."""
    m, p, pt = _block(recipe), recipe.patch, recipe.temporal
    whole = frames.shape[0] // pt
    where = slots(rows, grid, recipe)
    pixels = frames[: whole * pt, ..., :3].reshape(whole, pt, grid.h // m, m, p, grid.w // m, m, p, 3)
    np.copyto(where[:whole], pixels.transpose(AXES))
    for index in range(whole * pt, grid.t * pt):
        write_frame(rows, grid, index, frames[min(index, frames.shape[0] - 1)], recipe)


def as_tensor(frames: np.ndarray) -> Tensor:
    """The frames as a tensor: the same memory, or a copy of an array that may not be written to (torch has no such)."""
    return torch.from_numpy(frames if frames.flags.writeable else frames.copy())


# ---- other ways in and out


def from_pixels(x: Tensor, recipe: PixelRecipe) -> Packed:
    """Rows of pictures [B, 3, H, W] or clips [B, 3, T, H, W] that have their size already; one item each.

    The type stays: uint8 pixels, or floats that are already normalised with the recipe's mean and std. Nothing is
    resized: pixels at the right and bottom that do not fill a unit are left out, as a convolution leaves them out.
    Missing frames repeat the last one. Times are frame numbers. Stays on x's device; differentiable; one copy.
    Raises ShapeError.

        >>> from_pixels(torch.zeros(2, 3, 30, 50), PixelRecipe(patch=14))
        Packed(T=12, D=588, float32, cpu, 2 items: [1x2x3, 1x2x3])
    """
    if x.ndim not in (4, 5) or x.shape[1] != 3:
        raise ShapeError(f"expected [B, 3, H, W] or [B, 3, T, H, W], got {tuple(x.shape)}", got=tuple(x.shape))
    video = x if x.ndim == 5 else x.unsqueeze(2)
    batch, _, frames, height, width = video.shape
    m, p, pt = _block(recipe), recipe.patch, recipe.temporal
    h, w = height // recipe.unit * recipe.merge, width // recipe.unit * recipe.merge
    if min(h, w, frames) < 1:
        raise ShapeError(f"{frames} frames of {width} x {height} do not fill one unit", limit=recipe.unit)
    video = video[..., : h * p, : w * p]
    if missing := -frames % pt:
        video = torch.cat([video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
    t = video.shape[2] // pt
    cut = video.reshape(batch, 3, t, pt, h // m, m, p, w // m, m, p)
    rows = cut.permute(0, 2, 4, 7, 5, 8, 1, 3, 6, 9).reshape(-1, recipe.width)
    times = tuple(float(i * pt) for i in range(t))
    items = tuple(Item(Grid(t, h, w), times, i, (0.0, 0.0, float(w * p), float(h * p))) for i in range(batch))
    places = all_positions(items, merge=m).to(x.device)
    return Packed(rows, places, items, (t * h * w,) * batch)


def normalise(p: Packed, recipe: PixelRecipe) -> Packed:
    """Float32 rows, (value / 255 - mean) / std for each channel: elsewhere called `pixel_values`.

    The plain form of what the encoder folds into its first matrix. Four times the memory and nothing beside it: on a
    CPU each block of rows is worked on while it is in the cache, by as many threads as torch has. Raises ShapeError
    unless the rows are uint8 of the recipe's width.
    """
    if p.dtype != torch.uint8 or p.x.shape[1] != recipe.width:
        raise ShapeError(
            f"expected uint8 rows of {recipe.width}, got {p.dtype} rows of {p.x.shape[1]}",
            expected=recipe.width,
            got=p.x.shape[1],
        )
    if p.device.type == "cpu":
        return p.with_x(torch.from_numpy(_normalised(p.x.numpy(), recipe)))
    mean = torch.tensor(recipe.mean, dtype=torch.float32, device=p.device).view(1, 3, 1)
    std = torch.tensor(recipe.std, dtype=torch.float32, device=p.device).view(1, 3, 1)
    values = p.x.float().view(p.x.shape[0], 3, recipe.width // 3)
    return p.with_x((values / 255 - mean).div_(std).view(-1, recipe.width))


def _normalised(rows: np.ndarray, recipe: PixelRecipe) -> np.ndarray:
    """The same bits, in numpy's memory, because large arrays of it come in huge pages: fresh ones cost most here."""
    out = np.empty(rows.shape, np.float32)
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1) for each in (recipe.mean, recipe.std))
    block = max(1, NORMALISED // recipe.width)

    def part(first: int, last: int) -> None:
        for a in range(first, last, block):
            b = min(a + block, last)
            values = out[a:b].reshape(b - a, 3, -1)
            np.copyto(values, rows[a:b].reshape(values.shape))
            np.divide(values, np.float32(255), out=values)
            np.subtract(values, mean, out=values)
            np.divide(values, std, out=values)

    count = min(torch.get_num_threads(), len(rows) // block)
    if count < 2:
        part(0, len(rows))
        return out
    ends = [len(rows) * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count, thread_name_prefix="tubelet-normalise") as pool:
        list(pool.map(part, ends[:-1], ends[1:]))
    return out


def unpatchify(p: Packed, recipe: PixelRecipe, *, fill: float = 0.0) -> list[Tensor]:
    """The frames (F, h, w, 3) each item's rows show, in the rows' type: the inverse of `patchify` after its resize.

    Rows go where `pos` says, so their order does not matter; where rows were dropped the frames hold `fill`. A clip
    comes back with the frames that filled up its last tubelet. Raises ShapeError for rows of another width.
    """
    if p.x.shape[1] != recipe.width:
        raise ShapeError(f"expected rows of {recipe.width}", expected=recipe.width, got=p.x.shape[1])
    side, pt = recipe.patch, recipe.temporal
    pictures = []
    for item, rows, pos in zip(p.items, p.unpack(), p.pos.split(p.lengths), strict=True):
        t, h, w = item.grid
        place = pos.long()
        raster = rows.new_full((item.grid.rows, recipe.width), fill)
        raster[(place[:, 0] * h + place[:, 1]) * w + place[:, 2]] = rows
        cut = raster.view(t, h, w, 3, pt, side, side).permute(0, 4, 1, 5, 2, 6, 3)
        pictures.append(cut.reshape(t * pt, h * side, w * side, 3))
    return pictures
