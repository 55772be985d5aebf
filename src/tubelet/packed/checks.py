"""What the places of rows must be, looked at value by value."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed.grid import Item
from tubelet.shapes import Int64


def check_places(pos: Int64[Tensor, "T 3"], items: Sequence[Item], lengths: Sequence[int]) -> None:
    """Raises ShapeError, naming the item, for a place outside its grid or one that two rows have. On the host."""
    grids = torch.tensor([i.grid for i in items], dtype=torch.long, device="cpu").reshape(-1, 3)
    owner = torch.arange(len(items), device="cpu").repeat_interleave(torch.tensor(lengths, dtype=torch.long))
    size = grids[owner]
    outside = ((pos < 0) | (pos >= size)).any(dim=1).nonzero()
    if len(outside):
        row = int(outside[0])
        i, place = int(owner[row]), tuple(pos[row].tolist())
        grid = items[i].grid
        raise ShapeError(f"place {place} is outside the grid {tuple(grid)}", item=i, limit=grid, got=place)
    number = (pos[:, 0] * size[:, 1] + pos[:, 1]) * size[:, 2] + pos[:, 2]
    number += (grids.prod(dim=1).cumsum(0) - grids.prod(dim=1))[owner]
    sorted_number, order = number.sort()
    twice = (sorted_number.diff() == 0).nonzero()
    if len(twice):
        row = int(order[twice[0]])
        raise ShapeError("the same place occurs in more than one row", item=int(owner[row]), got=pos[row].tolist())


def kept_lengths(rows: Int64[Tensor, " K"], starts: Sequence[int]) -> tuple[int, ...]:
    """How many of `rows` (on the host) each item owns, after checking that they are a choice of rows by item."""
    total = starts[-1]
    if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= total):
        outside = rows[(rows < 0) | (rows >= total)]
        raise ShapeError(f"row {int(outside[0])} is outside 0..{total - 1}", limit=total, got=int(outside[0]))
    owner = torch.bucketize(rows, torch.tensor(starts[1:], dtype=torch.long, device="cpu"), right=True)
    if bool((owner.diff() < 0).any()):
        raise ShapeError("rows of different items are interleaved; sort them by item first")
    times = torch.bincount(rows, minlength=total)
    if bool((times > 1).any()):
        row = int(times.argmax())
        raise ShapeError(f"row {row} is named more than once", got=row)
    return tuple(int(n) for n in torch.bincount(owner, minlength=len(starts) - 1).tolist())
