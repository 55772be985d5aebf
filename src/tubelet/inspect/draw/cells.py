"""Cells on pixels: kept ones as they are and outlined, the others under a veil, scores as heat, views at their boxes.

    one view            tiles, in place         pooled
    +-----------+       +-----+-----+           +---+---+---+
    | ####      |       |##   |     |           |   |   |   |
    |    ##   # |       +-----+-----+           +---+---+---+
    |         # |       |   # |   ##|           |   |   |   |
    +-----------+       +-----+-----+           +---+---+---+

Pillow and numpy alone; places and scores are read once, on the host.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from tubelet.errors import LimitError, ShapeError
from tubelet.inspect.draw.frames import FRAME
from tubelet.inspect.draw.grid_lines import draw_lines
from tubelet.inspect.draw.lettering import Colour
from tubelet.inspect.draw.shades import shades
from tubelet.inspect.draw.veil import is_page, luminance, veiled
from tubelet.packed import Packed
from tubelet.packed.grid import Item
from tubelet.shapes import Bool, Float, UInt8

OUTLINE: Colour = (255, 170, 0)
VIEW_EDGE: Colour = (120, 190, 255)
AROUND: Colour = (24, 24, 26)  # of the white outline on heat
HEAT = np.array([(72, 30, 112), (118, 34, 116), (190, 55, 84), (249, 142, 10), (252, 240, 140)], np.float64)
RELIEF = 0.3  # of the picture's light and shade that heat keeps; their mean is left out, so the scale holds
MOST_CELLS = 1 << 26  # of the views of one picture: a drawing has fewer pixels, and a file may say anything
SAME = 1e-5  # scores that differ by less of their size differ by rounding, and have one colour
Show = Literal["kept", "heat"]


@dataclass(frozen=True)
class ViewLayer:
    """One view of one picture, with what is to be drawn of each of its cells."""

    item: Item
    kept: Bool[np.ndarray, "t h w"]
    heat: Float[np.ndarray, "t h w"] | None = None  # scores scaled to 0..1, NaN for none
    scale: tuple[float, float] | None = None  # the scores that 0 and 1 stand for

    @property
    def counts(self) -> list[int]:
        """Kept cells of each frame."""
        return [int(frame.sum()) for frame in self.kept]


def layers_of(
    whole: Packed, kept: Packed, picture: int, scores: Float[torch.Tensor, " T"] | None = None
) -> list[ViewLayer]:
    """The views of one picture with what is kept of each. Packs with grids of their own (pooled) are their own views.

    scores: one for each row of `whole`; they are scaled from the least to the greatest of the picture. Syncs.
    Raises ShapeError for a picture there is not, LimitError for one with more cells than a drawing can have.
    """
    if kept.items != whole.items:
        whole, scores = kept, None
    chosen = [i for i, item in enumerate(whole.items) if item.picture == picture]
    if not chosen:
        raise ShapeError(f"there is no picture {picture}", got=picture)
    if (cells := sum(whole.items[i].grid.rows for i in chosen)) > MOST_CELLS:
        raise LimitError(f"{cells:,} cells are too many to draw", item=chosen[0], limit=MOST_CELLS, got=cells)
    spread, scale = (None, None) if scores is None else _scaled(whole, chosen, scores)
    out = []
    for i in chosen:
        item = whole.items[i]
        mask = np.zeros(item.grid, dtype=bool)
        mask[tuple(kept.pos[kept.starts[i] : kept.starts[i + 1]].cpu().long().numpy().T)] = True
        heat = None
        if spread is not None:
            heat = np.full(item.grid, np.nan)
            rows = slice(whole.starts[i], whole.starts[i + 1])
            heat[tuple(whole.pos[rows].cpu().long().numpy().T)] = spread[rows]
        out.append(ViewLayer(item, mask, heat, scale))
    return out


def _scaled(
    whole: Packed, chosen: Sequence[int], scores: torch.Tensor
) -> tuple[Float[np.ndarray, " T"], tuple[float, float]]:
    """Scores as 0..1 and which 0 and 1 are."""
    s = scores.detach().cpu().double().numpy().copy()
    s[~np.isfinite(s)] = np.nan
    own = np.concatenate([s[whole.starts[i] : whole.starts[i + 1]] for i in chosen])
    known = own[~np.isnan(own)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    differ = high - low > SAME * max(abs(low), abs(high))
    return (s - low) / (high - low) if differ else np.where(np.isnan(s), np.nan, 0.5), (low, high)


# ---- one panel


def panels_of(layers: Sequence[ViewLayer]) -> list[list[ViewLayer]]:
    """Views that do not lie over each other together, finest first: tiles before the whole they were cut from."""
    out: list[list[ViewLayer]] = []
    for layer in sorted(layers, key=lambda one: math.prod(one.item.cell)):
        for panel in out:
            if not any(_overlap(layer.item.box, other.item.box) for other in panel):
                panel.append(layer)
                break
        else:
            out.append([layer])
    return out


def extent(panel: Sequence[ViewLayer]) -> tuple[float, float, float, float]:
    """The box that holds what all its views show of the picture; the black border around it is left out."""
    boxes = [layer.item.shown for layer in panel]
    low, high = (tuple(f(b[i] for b in boxes) for i in at) for f, at in ((min, (0, 1)), (max, (2, 3))))
    return low[0], low[1], high[0], high[1]


def overlay(
    frame: UInt8[np.ndarray, "H W 3"],
    panel: Sequence[ViewLayer],
    size: tuple[int, int],
    *,
    t: int = 0,
    show: Show = "kept",
) -> Image.Image:
    """One frame with the cells of its views, (width, height) pixels: kept as they are and the others under a veil, or
    scores as heat with kept outlined.

    Where a view reaches beyond the frame there is grey.
    """
    box = extent(panel)
    pixels = part_of(frame, box, size)
    out = veiled(pixels, is_page(frame))
    for layer in panel:
        rows, columns = cells_at(layer.item, box, size)
        if not (len(rows) and len(columns)):
            continue
        here = slice(rows[0][0], rows[-1][0] + 1), slice(columns[0][0], columns[-1][0] + 1)
        cell = np.ix_([i for _, i in rows], [j for _, j in columns])
        part, light, mask = out[here], pixels[here], layer.kept[t][cell]
        if show == "heat" and layer.heat is not None:
            part[:] = _heated(light, part, layer.heat[t][cell])
        elif show == "kept":
            part[mask] = light[mask]
            _inner_lines(part, mask, *cell)
        fine = len(rows) < 12 * len({i for _, i in rows})
        if show == "heat":
            outline(part, ~mask, AROUND, 1)
        outline(part, mask, (255, 255, 255) if show == "heat" else OUTLINE, 1 if fine else 2)
        if len(panel) > 1:
            _edge(part)
    return Image.fromarray(out)


def resized_view(
    frame: UInt8[np.ndarray, "H W 3"], panel: Sequence[ViewLayer], size: tuple[int, int], *, pixels: int = 1
) -> Image.Image:
    """One frame as a pooled or smaller pack holds it, with its grid: each cell is one row. pixels: of a side of a cell;
    1 where rows are averages, and so each cell has one colour."""
    box = extent(panel)
    out = part_of(frame, box, size).copy()
    down, up = (
        (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
        if pixels > 1
        else (Image.Resampling.BOX, Image.Resampling.NEAREST)
    )
    for item in (layer.item for layer in panel):
        left, top, right, bottom = (max(v, 0) for v in _inside(item.box, box, size))
        part = out[top:bottom, left:right]
        if not part.size:
            continue
        small = part_of(frame, item.box, (item.grid.w * pixels, item.grid.h * pixels), down)
        part[:] = np.asarray(Image.fromarray(small).resize((part.shape[1], part.shape[0]), up))
        part[:] = draw_lines(part, item.grid)
        if len(panel) > 1:
            _edge(part)
    return Image.fromarray(out)


def part_of(
    frame: UInt8[np.ndarray, "H W 3"],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    how: Image.Resampling | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """What lies in `box`, resized; grey where that is beyond the frame. how: None enlarges as squares and reduces
    smoothly."""
    height, width = frame.shape[:2]
    cut = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
    out = np.full((size[1], size[0], 3), FRAME, dtype=np.uint8)
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        return out
    left, top, right, bottom = _inside(cut, box, size)
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    enlarged = right - left >= 3 * (cut[2] - cut[0])
    how = how or (Image.Resampling.NEAREST if enlarged else Image.Resampling.BICUBIC)
    gap = 3.0 if how is Image.Resampling.BICUBIC else None
    small = Image.fromarray(frame).resize((right - left, bottom - top), how, box=cut, reducing_gap=gap)
    out[top:bottom, left:right] = np.asarray(small)[: size[1] - top, : size[0] - left]
    return out


def _inside(
    box: tuple[float, float, float, float], outer: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Where `box` lies in a drawing of `outer`, in whole pixels."""
    across, down = size[0] / (outer[2] - outer[0]), size[1] / (outer[3] - outer[1])
    left, right = (round((x - outer[0]) * across) for x in (box[0], box[2]))
    top, bottom = (round((y - outer[1]) * down) for y in (box[1], box[3]))
    return left, top, right, bottom


def cells_at(
    item: Item, outer: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(pixel, row of the grid) and (pixel, column) of every line and column of a drawing of `outer` that a view has."""
    left, top, right, bottom = _inside(item.box, outer, size)

    def along(low: int, high: int, cells: int, end: int) -> list[tuple[int, int]]:
        return [(at, int((at - low + 0.5) * cells / (high - low))) for at in range(max(low, 0), min(high, end))]

    return along(top, bottom, item.grid.h, size[1]), along(left, right, item.grid.w, size[0])


def _heated(pixels: np.ndarray, none: np.ndarray, heat: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colours of the scores with the picture's light and shade; `none` where there is no score."""
    light = luminance(pixels)
    relief = RELIEF * (light - light.mean())
    mixed = np.clip(shades(HEAT, heat) + relief[..., None], 0, 255)
    return np.where(np.isnan(heat)[..., None], none, np.rint(mixed)).astype(np.uint8)


def outline(part: np.ndarray, mask: Bool[np.ndarray, "H W"], colour: Colour, thick: int) -> None:
    """A line along the inner side of every kept region, drawn into `part`."""
    outside = ~mask
    for _ in range(thick):
        wide = outside.copy()
        wide[1:] |= outside[:-1]
        wide[:-1] |= outside[1:]
        wide[:, 1:] |= outside[:, :-1]
        wide[:, :-1] |= outside[:, 1:]
        outside = wide
    part[outside & mask] = colour


def _inner_lines(part: np.ndarray, mask: Bool[np.ndarray, "H W"], rows: np.ndarray, columns: np.ndarray) -> None:
    """A faint line between kept neighbours, where cells are large enough to show it. rows, columns: that each line and
    column of pixels is in."""
    sides = len(rows) / len(np.unique(rows)), columns.size / len(np.unique(columns))
    if min(sides) < 10:
        return
    between = np.zeros_like(mask)
    between[1:] |= np.diff(rows, axis=0) != 0
    between[:, 1:] |= np.diff(columns, axis=1) != 0
    on = between & mask
    part[on] = np.rint(part[on] * 0.6 + np.array(OUTLINE) * 0.4).astype(np.uint8)


def _edge(part: np.ndarray) -> None:
    part[0], part[-1], part[:, 0], part[:, -1] = (VIEW_EDGE,) * 4


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5
