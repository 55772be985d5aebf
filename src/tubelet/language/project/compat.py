"""Grids guessed from token counts, as callers of older code do it; only asked for by name."""

import math
from dataclasses import replace

from tubelet.errors import ShapeError
from tubelet.packed import Grid, Item, Packed
from tubelet.packed.packed import whole


def infer_hw(rows: int, merge: int = 2) -> tuple[int, int]:
    """The h <= w with h w = rows that upstream assumes where it is not told: nearly square multiples of `merge`.

    Of all such pairs the one with the smallest difference: wrong for every picture that is not nearly square, or is
    higher than wide. For compat="infer_hw" alone.

    Raises ShapeError where there is no such pair.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/model/multimodal_projector/builder.py@c2cd3e0.

        >>> infer_hw(18 * 32), infer_hw(4 * 16)
        ((24, 24), (8, 8))
    """
    if merge < 1:
        raise ShapeError(f"merge starts at 1, got {merge}", limit=1, got=merge)
    blocks, rest = divmod(max(rows, 0), merge * merge)
    if not blocks or rest:
        raise ShapeError(f"{rows} rows are no grid of {merge} x {merge} blocks", expected=merge * merge, got=rows)
    h = next(h for h in range(math.isqrt(blocks), 0, -1) if blocks % h == 0)
    return h * merge, blocks // h * merge


def with_inferred_grids(p: Packed, merge: int = 2) -> Packed:
    """The same rows, in the order they stand, under the grids of `infer_hw`: one picture an item, also for a video.

    Raises ShapeError naming the item that has no such grid.
    """
    items: list[Item] = []
    for i, (item, length) in enumerate(zip(p.items, p.lengths, strict=True)):
        try:
            grid = Grid(1, *infer_hw(length, merge))
        except ShapeError as e:
            raise e.placed(item=i) from None
        items.append(replace(item, grid=grid, times_s=item.times_s[:1]))
    return whole(p.x, tuple(items))


def in_runs(item: Item, length: int, group: int, i: int) -> Item:
    """An item whose every `group` rows became one; runs that cross picture rows or frames leave it a shorter line."""
    grid = item.grid
    if length % group:
        raise ShapeError(f"{length} rows are no whole number of runs of {group}", item=i, expected=group, got=length)
    if length == grid.rows and grid.w % group == 0:
        return replace(item, grid=Grid(grid.t, grid.h, grid.w // group))
    if length == grid.rows and grid.h * grid.w % group == 0:
        return replace(item, grid=Grid(grid.t, 1, grid.h * grid.w // group))
    return replace(item, grid=Grid(1, 1, length // group), times_s=item.times_s[:1])
