"""Rows that show nothing: cells of a view that lie wholly on the black border around its picture.

    letterboxed tile      .  .  .  .        . blank: never chosen, never merged into another row, counted in no budget
                          .  .  .  .        # shows some of the picture, be it a line of pixels
                          #  #  #  #

What an encoder does with them is another matter: it was trained with the border and sees it.
"""

import torch
from torch import Tensor

from tubelet.packed import Item, Packed
from tubelet.reduce.groups import Groups, item_values
from tubelet.shapes import Bool, Int64


def blank_rows(p: Packed) -> Bool[Tensor, " T"]:
    """True for the rows of cells beyond their picture (`Item.seen`). No sync.

    >>> tile = tubelet.Item(tubelet.Grid(1, 2, 2), (0.0,), 0, box=(0, -4, 8, 4), content=(0, 0, 8, 4))
    >>> blank_rows(tubelet.pack([torch.zeros(4, 1)], [tile])).tolist()
    [True, True, False, False]
    """
    if not has_blank(p):
        return torch.zeros(p.x.shape[0], dtype=torch.bool, device=p.device)
    seen = [item.seen for item in p.items]
    top, bottom = (item_values(p, tuple(getattr(rows, end) for rows, _ in seen)) for end in ("start", "stop"))
    left, right = (item_values(p, tuple(getattr(cols, end) for _, cols in seen)) for end in ("start", "stop"))
    h, w = p.pos[:, 1], p.pos[:, 2]
    return (h < top) | (h >= bottom) | (w < left) | (w >= right)


def has_blank(p: Packed) -> bool:
    """Whether any cell of the grids is blank; from host data alone."""
    return any(_shown(item) != (item.grid.h, item.grid.w) for item in p.items)


def seen_rows(p: Packed, groups: Groups) -> tuple[Int64[Tensor, " n"], ...]:
    """The rows of each group that are not blank, ascending. Syncs with the device where there are blank cells."""
    order = groups.of_row.argsort(stable=True).split(groups.sizes) if len(groups) else ()
    if not has_blank(p):
        return tuple(order)
    blank = blank_rows(p)
    return tuple(own[~blank[own]] for own in order)


def _shown(item: Item) -> tuple[int, int]:
    rows, cols = item.seen
    return len(rows), len(cols)
