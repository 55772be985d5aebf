"""The grid cells of all items end to end: which row stands in each, and who stands next to whom.

Rows may be missing and stand in any order; a place's neighbour is found by its place. Cost: O(cells) integers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tubelet.errors import InputError
from tubelet.packed import Packed
from tubelet.packed.grid import all_positions
from tubelet.reduce.groups import item_values
from tubelet.shapes import Bool, Float, Int64


@dataclass(frozen=True)
class Cells:
    """cell: that of each row. row: that in each cell, -1 where none is left. h, w: place of each cell in its frame;
    height, width: of the frame it is in."""

    cell: Int64[Tensor, " T"]
    row: Int64[Tensor, " C"]
    h: Int64[Tensor, " C"]
    w: Int64[Tensor, " C"]
    height: Int64[Tensor, " C"]
    width: Int64[Tensor, " C"]

    def inside(self, dh: int, dw: int) -> Bool[Tensor, " C"]:
        """Where the cell dh below and dw to the right is in the same frame."""
        h, w = self.h + dh, self.w + dw
        return (h >= 0) & (h < self.height) & (w >= 0) & (w < self.width)

    def beside(self, dh: int, dw: int) -> Int64[Tensor, " C"]:
        """The cell dh below and dw to the right; where there is none, the cell itself (see `inside`)."""
        own = torch.arange(len(self.row), device=self.row.device)
        return torch.where(self.inside(dh, dw), own + dh * self.width + dw, own)

    def neighbour(self, dh: int, dw: int) -> Int64[Tensor, " T"]:
        """The row dh below and dw to the right of each row, -1 where there is none."""
        there = torch.where(self.inside(dh, dw), self.row[self.beside(dh, dw)], -1)
        return there[self.cell]


def cells_of(p: Packed) -> Cells:
    """The cells of a pack. No sync; places are trusted to lie in their grids (`Packed.check`)."""
    device = p.device
    grids = [item.grid for item in p.items]
    cells = torch.tensor([g.rows for g in grids], dtype=torch.long, device="cpu")
    first = item_values(p, tuple((cells.cumsum(0) - cells).tolist()))
    h, w = item_values(p, tuple(g.h for g in grids)), item_values(p, tuple(g.w for g in grids))
    pos = p.pos.long()
    cell = first + (pos[:, 0] * h + pos[:, 1]) * w + pos[:, 2]
    total = int(cells.sum())
    row = torch.full((total,), -1, dtype=torch.long, device=device)
    row[cell] = torch.arange(p.x.shape[0], device=device)
    places = all_positions(p.items).to(device).long()
    sides = torch.tensor([(g.h, g.w) for g in grids], dtype=torch.long, device="cpu").reshape(-1, 2)
    sides = sides.repeat_interleave(cells, dim=0, output_size=total).to(device)
    return Cells(cell, row, places[:, 1], places[:, 2], sides[:, 0], sides[:, 1])


def dilate(p: Packed, scores: Float[Tensor, " T"], *, radius: int = 1, falloff: float = 0.0) -> Float[Tensor, " T"]:
    """Each row's score, or that of a row near it less `falloff` for each step, whichever is the greatest.

        s'_i = max over j within `radius` of i of  s_j - falloff * d(i, j),    d = max(|dh|, |dw|), same frame

    For answers that stand next to the words that were asked for. Cells without a row are stepped over.
    Cost: 4 radius maxima over the cells. Raises InputError for a negative radius or falloff.

        >>> p = tubelet.pack([torch.zeros(5, 1)], [tubelet.Item.of(1, 1, 5)])
        >>> dilate(p, torch.tensor([0.0, 0.0, 8.0, 0.0, 0.0]), radius=2, falloff=3.0).tolist()
        [2.0, 5.0, 8.0, 5.0, 2.0]
    """
    if radius < 0 or falloff < 0:
        raise InputError(f"radius and falloff are 0 or more, got {radius} and {falloff}", limit=0)
    if radius == 0:
        return scores
    cells = cells_of(p)
    steps = [(cells.beside(dh, dw), cells.inside(dh, dw)) for dh, dw in ((0, -1), (0, 1), (-1, 0), (1, 0))]
    nothing = scores.new_tensor(-torch.inf)
    value = scores.new_full((len(cells.row),), -torch.inf).index_copy(0, cells.cell, scores)
    for _ in range(radius):
        wide = value
        for pair in (steps[:2], steps[2:]):
            around = [torch.where(inside, wide[beside], nothing) for beside, inside in pair]
            wide = torch.maximum(wide, torch.maximum(*around))
        value = torch.maximum(value, wide - falloff)
    return value[cells.cell]
