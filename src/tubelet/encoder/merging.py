"""Blocks of neighbouring tokens through a merger, with the grids and places of what comes out."""

from dataclasses import replace

from tubelet.encoder import cpu
from tubelet.encoder.layers import MergerMLP
from tubelet.errors import ShapeError
from tubelet.packed import Grid, Packed
from tubelet.packed.order import check_blocks, check_order


def tokens_merged(tokens: Packed, merger: MergerMLP, *, in_place: bool = False) -> Packed:
    """Rows in block order through the merger: merge x merge neighbours become one row of a grid that much smaller.

    Blocks may have been dropped, but only whole ones. Raises ShapeError when a row of a block is missing or rows are
    not in block order (on CUDA the order is checked by a device assertion, so that nothing waits).
    """
    merge = round(merger.group**0.5)
    for i, item in enumerate(tokens.items):
        if item.grid.h % merge or item.grid.w % merge:
            raise ShapeError(
                f"a {item.grid.h} x {item.grid.w} grid has no {merge} x {merge} blocks",
                item=i,
                expected=merge,
                got=tuple(item.grid),
            )
    if tokens.whole:
        check_order(tokens, merge)
    else:
        check_blocks(tokens, merge)
    group = merger.group
    pos = tokens.pos[::group].clone()
    pos[:, 1:] //= merge
    items = tuple(replace(i, grid=Grid(i.grid.t, i.grid.h // merge, i.grid.w // merge)) for i in tokens.items)
    x = cpu.merged(merger, tokens.x) if in_place and cpu.is_unmodified(merger) else merger(tokens.x)
    return Packed(x, pos, items, tuple(n // group for n in tokens.lengths))
