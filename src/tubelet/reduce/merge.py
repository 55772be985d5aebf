"""Fewer rows of whole items: neighbours become channels (`merge`), or their mean, maximum or blend (`pool`).

    a 2 x 4 grid of rows 0 .. 7, space=2          0 1 | 2 3        row 0 = [0 1 4 5]
                                                  4 5 | 6 7        row 1 = [2 3 6 7]

Where a row goes is read from its place, so raster order, block order and any other order give the same result, which is
in raster order of the smaller grid. Pure and differentiable. On CUDA nothing waits: sizes are known on the host.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, ShapeError
from tubelet.packed import Grid, Item, Packed, all_positions
from tubelet.packed.grid import ODD, Odd
from tubelet.packed.order import rows_by_place
from tubelet.shapes import Int32, Shaped

Mode = Literal["average", "max", "bilinear"]
MODES: tuple[Mode, ...] = ("average", "max", "bilinear")
_SHARED_ROWS = 16_384  # tables up to this size are made once and shared


class Block(NamedTuple):
    """How many neighbours become one row, along (t, h, w)."""

    t: int
    h: int
    w: int

    @property
    def rows(self) -> int:
        return self.t * self.h * self.w


@door
def merge(p: Packed, *, space: int = 1, time: int = 1, odd: Odd = "error") -> Packed:
    """Every block of time x space x space neighbours as one row, (T, D) -> (T / (time space^2), time space^2 D).

    Channels stand end to end in the order (dt, dy, dx): for space=2 (0,0) (0,1) (1,0) (1,1), which is the order of
    Qwen's and LLaVA's spatial mergers. Rows come out in raster order of the smaller grid; a merged row of time starts
    when its first frame does. merge(p) of 1 is p itself.

    odd: what happens to a side that the block does not divide. "error" refuses; "pad_edge" repeats the last row, column
    or frame, and the item's box grows with the grid; "crop" drops what is left over, and the box shrinks with it.
    Cost: one copy of the rows. Raises ShapeError naming the item that has lost rows, has a side that does not divide or
    is smaller than one block, or whose places are not those of its grid (on CUDA a device assertion).

        >>> p = tubelet.pack([torch.arange(8.0)[:, None]], [tubelet.Item.of(1, 2, 4)])
        >>> merge(p, space=2).x.tolist()
        [[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]
    """
    block = _block(space, time, odd)
    if block.rows == 1:
        return p
    rows, items = _gathered(p, block, odd)
    return _merged(rows.reshape(len(rows) // block.rows, block.rows * p.x.shape[1]), items)


@door
def pool(p: Packed, *, size: int = 2, mode: Mode = "average") -> Packed:
    """Every frame reduced size times a side, channels kept: one row in place of size x size.

    "average" and "max" pool blocks and leave out what does not fill one; "bilinear" samples a grid of h / size x
    w / size, rounded up, as `interpolate` without aligned corners does. Rows must be floating point.
    Raises ShapeError as `merge` does.

    Source: LLaVA-VL/LLaVA-NeXT:llava/model/llava_arch.py@6a192ce (get_2dPool), which does this for squares of one size.

        >>> p = tubelet.pack([torch.arange(8.0)[:, None]], [tubelet.Item.of(1, 2, 4)])
        >>> pool(p, mode="average").x.tolist()
        [[2.5], [4.5]]
    """
    if mode not in MODES:
        raise InputError(f"mode is one of {', '.join(MODES)}", expected=MODES, got=mode)
    block = _block(size, 1, "crop")
    if not p.dtype.is_floating_point:
        raise ShapeError(f"pooling needs floating point rows, got {p.dtype}", got=str(p.dtype))
    if size == 1:
        return p
    if mode == "bilinear":
        return _bilinear(p, size)
    rows, items = _gathered(p, block, "crop")
    blocks = rows.reshape(len(rows) // block.rows, block.rows, p.x.shape[1])
    return _merged(blocks.mean(dim=1) if mode == "average" else blocks.max(dim=1).values, items)


def merged_item(item: Item, block: Block, odd: Odd) -> Item:
    """What becomes of an item: a smaller grid, the times of the first frames, the part of the picture it covers.

    Raises ShapeError where the grid does not divide and `odd` is "error", or less than one block is left.
    """
    grid = item.grid
    if odd == "pad_edge":
        small = Grid(*(-(-n // b) for n, b in zip(grid, block, strict=True)))
    else:
        small = Grid(*(n // b for n, b in zip(grid, block, strict=True)))
    covered = Grid(*(n * b for n, b in zip(small, block, strict=True)))
    if covered != grid and (odd == "error" or min(small) < 1):
        word = "no whole number of" if odd == "error" else "less than one of"
        raise ShapeError(
            f"a grid of {grid.t} x {grid.h} x {grid.w} has {word} {block.t} x {block.h} x {block.w} blocks"
            + ("; odd='pad_edge' or 'crop' says what to do with the rest" if odd == "error" else ""),
            expected=tuple(block),
            got=tuple(grid),
        )
    left, top, right, bottom = item.box
    if covered.w != grid.w:
        right = left + (right - left) * covered.w / grid.w
    if covered.h != grid.h:
        bottom = top + (bottom - top) * covered.h / grid.h
    return replace(item, grid=small, times_s=item.times_s[:: block.t][: small.t], box=(left, top, right, bottom))


# ---- the steps


def _block(space: int, time: int, odd: str) -> Block:
    if space < 1 or time < 1:
        raise InputError(f"blocks have at least one row a side, got space={space}, time={time}", limit=1)
    if odd not in ODD:
        raise InputError(f"odd is one of {', '.join(ODD)}", expected=ODD, got=odd)
    return Block(time, space, space)


def _gathered(p: Packed, block: Block, odd: Odd) -> tuple[Shaped[Tensor, "R D"], tuple[Item, ...]]:
    """The rows of all blocks, block by block, and the items they become."""
    items: list[Item] = []
    for i, item in enumerate(p.items):
        try:
            items.append(merged_item(item, block, odd))
        except ShapeError as e:
            raise e.placed(item=i) from None
    by_place = rows_by_place(p)
    parts = [_sources(old.grid, new.grid, block) for old, new in zip(p.items, items, strict=True)]
    shifted = [part + start for part, start in zip(parts, p.starts, strict=False)]
    sources = torch.cat(shifted) if shifted else torch.zeros(0, dtype=torch.int32, device="cpu")
    return p.x.index_select(0, by_place[sources.to(p.device).long()]), tuple(items)


def _sources(grid: Grid, small: Grid, block: Block) -> Int32[Tensor, " R"]:
    """The raster numbers of each block's rows in `grid`, block by block in raster order of `small`; on the host."""
    shared = small.rows * block.rows <= _SHARED_ROWS
    return _shared_table(grid, small, block) if shared else _table(grid, small, block)


def _table(grid: Grid, small: Grid, block: Block) -> Tensor:
    # Outside inference mode, because a shared table outlives the call that made it.
    with torch.inference_mode(False):
        t, h, w = (
            torch.arange(n * b, dtype=torch.int32, device="cpu").clamp_(max=side - 1).view(n, b)
            for n, b, side in zip(small, block, grid, strict=True)
        )
        t, h, w = t[:, None, None, :, None, None], h[:, None, None, :, None], w[:, None, None, :]
        return ((t * grid.h + h) * grid.w + w).reshape(-1)


_shared_table = lru_cache(maxsize=256)(_table)


def _merged(x: Tensor, items: tuple[Item, ...]) -> Packed:
    return Packed(x, all_positions(items).to(x.device), items, tuple(i.grid.rows for i in items))


def _bilinear(p: Packed, size: int) -> Packed:
    """Frame by frame of each item; the items keep their boxes, because the samples cover all of it."""
    if not len(p):
        return p
    rows = p.x.index_select(0, rows_by_place(p))
    items, out = [], []
    for item, x in zip(p.items, rows.split(p.lengths), strict=True):
        t, h, w = item.grid
        small = Grid(t, -(-h // size), -(-w // size))
        frames = x.view(t, h, w, -1).permute(0, 3, 1, 2)
        sampled = F.interpolate(frames, size=(small.h, small.w), mode="bilinear")
        out.append(sampled.permute(0, 2, 3, 1).reshape(small.rows, -1))
        items.append(replace(item, grid=small))
    return _merged(torch.cat(out), tuple(items))
