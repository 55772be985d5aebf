"""Views joined as LLaVA and LaViDa join them: pooled one by one, tiles as one grid, empty borders cut, rows ended.

    global  tile 0,0  tile 0,1  tile 1,0  tile 1,1        items in
    global  joined                                        items out ("spatial", "unpad")

    joined  a a a b b b n      a, b: rows of tiles next to each other;  n: the newline, a learned row
            a a a b b b n      it stands in a column of its own behind the last one, (0, h, w) = (0, row, columns)

A newline shows nothing, so its cell lies beyond the content of its item: it has a place, is never selected, and
`tubelet.place` counts it like any row. Views out of which rows were chosen are joined on their whole canvas: nothing
more is cut, because no blank row was chosen, and newlines end the rows of the grid that have any left.
Source: rkawamura0483/LaViDa_mod:llava/model/llava_arch.py@cff2211 (get_2dPool, unpad_image,
prepare_inputs_labels_for_multimodal), where a picture is one list of rows without places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed import Packed, concat
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.views_plan import ViewRule
from tubelet.reduce.merge import pool
from tubelet.shapes import Float, Int64


def pooled_views(p: Packed, rule: ViewRule) -> Packed:
    """Every view, or those of clips alone, pooled as the rule says: LaViDa's 27 x 27 rows to 14 x 14. p itself without
    a pool.

    Here after the projector, as in LaViDa's code; before it gives other rows. Raises ShapeError as
    `tubelet.pool` does, also for views that have lost rows: selecting takes the place of pooling.
    """
    clips = [item.grid.t > 1 for item in p.items]
    if rule.pool is None or (rule.pooled_are == "clips" and not any(clips)):
        return p
    if rule.pooled_are == "all" or all(clips):
        return pool(p, size=rule.stride, mode=rule.pool)
    each = zip(p.split([1] * len(p)), clips, strict=True)
    return concat([pool(x, size=rule.stride, mode=rule.pool) if clip else x for x, clip in each], renumber=False)


def join_views(p: Packed, rule: ViewRule, newline: Float[Tensor, " D"] | None = None) -> Packed:
    """The views of every picture as the rule joins them, and after each row of a joined grid the newline.

    p: what `tubelet.patchify(..., views=rule)` became: whole, or with rows dropped. newline: the learned row, for
    "unpad" only; None ends no row, for features that are only compared. A clip, and a picture of one view, keeps its
    item and gets one newline at its end. Where the rule samples down (`most`), rows of tiles are blends. Rows of a
    joined grid are in raster order. Cost: one copy. Differentiable. Syncs with the device: places are looked at on the
    host.
    Raises ShapeError naming the item where views are not those of the rule, or the newline is of another width.

        >>> clip = tubelet.Clip(np.zeros((1, 600, 1000, 3), np.uint8), (0.0,))
        >>> p = tubelet.patchify([clip], tubelet.PixelRecipe(14), views=tubelet.pixels.views.LAVIDA)
        >>> rows = pooled_views(p.with_x(torch.zeros(len(p.x), 8)), tubelet.pixels.views.LAVIDA)
        >>> join_views(rows, tubelet.pixels.views.LAVIDA, torch.ones(8))
        Packed(T=660, D=8, float32, cpu, 2 items: [1x14x14, 1x16x29])
    """
    if newline is not None and newline.shape != p.x.shape[1:]:
        raise ShapeError(
            f"the newline is {tuple(newline.shape)} and rows are {p.x.shape[1]} wide",
            expected=p.x.shape[1],
            got=tuple(newline.shape),
        )
    if rule.join == "flat" or not len(p):
        return p
    ends = rule.join == "unpad" and newline is not None
    pos = p.pos.cpu().long()
    parts: list[_Part] = []
    made: list[Tensor] = []  # rows of grids that were sampled down, numbered behind those of p and the newline
    behind = len(p.x) + (newline is not None)
    for views in _pictures(p, rule):
        whole = slice(p.starts[views.start], p.starts[views.start + 1])
        first = _Part(p.items[views.start], torch.arange(whole.start, whole.stop), pos[whole])
        if len(views) == 1:
            parts.append(_ended(first) if ends and p.lengths[views.start] else first)
        else:
            parts += [first, *_joined(p, pos, views, rule, ends, (behind, made))]
    source = torch.cat([part.source for part in parts]).to(p.device)
    rows = torch.cat([p.x, *([] if newline is None else [newline.to(p.x)[None]]), *made])
    source = source.where(source >= 0, len(p.x))
    return Packed(
        rows.index_select(0, source),
        torch.cat([part.pos for part in parts]).to(p.device, p.pos.dtype),
        tuple(part.item for part in parts),
        tuple(len(part.source) for part in parts),
    )


class _Part(NamedTuple):
    """An item that comes out: which row of the pack stands in each place of it, -1 for the newline."""

    item: Item
    source: Int64[Tensor, " n"]
    pos: Int64[Tensor, "n 3"]


def _pictures(p: Packed, rule: ViewRule) -> Iterator[range]:
    """Items of each picture, checked to be a clip's one view or a global view and tiles of one grid."""
    start = 0
    for _, members in groupby(p.items, key=lambda item: item.picture):
        views = list(members)
        item = views[0]
        if item.content is None:
            raise ShapeError("not a view: only patchify(..., views=rule) says what of a picture it shows", item=start)
        one = item.grid.t > 1 or len(views) == 1
        tiling = rule.tiling(round(item.content[3]), round(item.content[2]))
        expected = 1 if one else len(tiling.names)
        if len(views) != expected or any(v.grid != item.grid or v.content != item.content for v in views):
            raise ShapeError(
                f"{len(views)} views of a picture where the rule makes {expected} of one grid",
                item=start,
                expected=expected,
                got=len(views),
            )
        yield range(start, start + len(views))
        start += len(views)


def _ended(part: _Part) -> _Part:
    """A clip with one newline behind its last row."""
    grid = part.item.grid
    wide = (part.item.box[2] - part.item.box[0]) / grid.w
    left, top, right, bottom = part.item.box
    item = replace(part.item, grid=Grid(grid.t, grid.h, grid.w + 1), box=(left, top, right + wide, bottom))
    item = replace(item, content=_until(item, right))
    place = torch.tensor([[grid.t - 1, grid.h - 1, grid.w]])
    return _Part(item, torch.cat([part.source, torch.tensor([-1])]), torch.cat([part.pos, place]))


def _joined(
    p: Packed, pos: Tensor, views: range, rule: ViewRule, ends: bool, more: tuple[int, list[Tensor]]
) -> list[_Part]:
    """The tiles of one picture as one grid, without its empty borders where the rule unpads. Nothing for a picture so
    thin that they are all there is. more: the number of the first row that is made here, and where to put them."""
    item = p.items[views.start]
    assert item.content is not None
    height, width = round(item.content[3]), round(item.content[2])
    tiling, h, w = rule.tiling(height, width), item.grid.h, item.grid.w
    rows, cols = tiling.rows * h, tiling.cols * w
    whole = all(p.lengths[i] == item.grid.rows for i in views[1:])
    top, left = rule.unpadded(height, width, rows, cols) if whole and rule.join == "unpad" else (0, 0)
    own = slice(p.starts[views.start + 1], p.starts[views.stop])
    tile = torch.arange(len(views) - 1).repeat_interleave(torch.tensor(p.lengths[views.start + 1 : views.stop]))
    y = tile // tiling.cols * h + pos[own, 1] - top
    x = tile % tiling.cols * w + pos[own, 2] - left
    source = torch.arange(own.start, own.stop)
    rows, cols = rows - 2 * top, cols - 2 * left
    if not rows or not cols + ends:
        return []
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < cols)
    y, x, source = y[inside], x[inside], source[inside]
    seen, (behind, made) = (rows, cols), more
    if whole and cols and rule.sampled(rows, cols, h) != seen:
        raster = source[(y * cols + x).argsort()].to(p.device)
        rows, cols = rule.sampled(rows, cols, h)
        grid = p.x.index_select(0, raster).view(1, *seen, -1).permute(0, 3, 1, 2)
        y, x = torch.arange(rows).repeat_interleave(cols), torch.arange(cols).repeat(rows)
        source = torch.arange(rows * cols) + behind + sum(map(len, made))
        made.append(F.interpolate(grid, size=(rows, cols), mode="bilinear")[0].flatten(1).T)
    if ends:
        lines = torch.arange(rows) if whole else y.unique()
        y, x = torch.cat([y, lines]), torch.cat([x, torch.full_like(lines, cols)])
        source = torch.cat([source, torch.full_like(lines, -1)])
    order = (y * (cols + 1) + x).argsort(stable=True)
    cell = (rule.tile / h * (seen[0] / rows), rule.tile / w * (seen[1] / cols if cols else 1))
    joined = _joined_item(
        item, tiling.pad, cell, (top * rule.tile / h, left * rule.tile / w), (rows, cols + ends), cols
    )
    return [_Part(joined, source[order], torch.stack([torch.zeros_like(y), y, x], dim=1)[order])]


def _joined_item(
    item: Item, pad: "Sequence[int]", cell: tuple[float, float], cut: tuple[float, float], grid: tuple[int, int],
    seen: int,
) -> Item:  # fmt: skip
    """The joined grid as an item. cell: height and width in pixels of the canvas; cut: those above and left of all."""
    resize_h, resize_w, pad_top, pad_left, _, _ = pad
    assert item.content is not None
    x, y = item.content[2] / resize_w, item.content[3] / resize_h
    high, wide = cell
    left, top = (cut[1] - pad_left) * x, (cut[0] - pad_top) * y
    box = (left, top, left + grid[1] * wide * x, top + grid[0] * high * y)
    made = replace(item, grid=Grid(1, *grid), box=box)
    return replace(made, content=_until(made, left + seen * wide * x))


def _until(item: Item, right: float) -> tuple[float, float, float, float]:
    """The item's content as far as `right`, so that what stands beyond it counts as blank."""
    assert item.content is not None
    x0, y0, x1, y1 = item.content
    return (x0, y0, min(x1, right), y1) if x0 < right else (right - 1.0, y0, right, y1)
