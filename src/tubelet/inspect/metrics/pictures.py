"""What was there and what is left, picture by picture: which rows belong together, and where they stand in it.

`whole` is the pack before choosing, `kept` after it. Where both have the same grids, kept rows are known by their
places; pooled and made-smaller packs have grids of their own over the same boxes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed import Packed
from tubelet.reduce.blank import blank_rows, has_blank
from tubelet.shapes import Float, Int64


@dataclass(frozen=True)
class Pair:
    """One picture: its rows in `whole` and in `kept`."""

    picture: int
    whole: Int64[Tensor, " n"]
    kept: Int64[Tensor, " k"]


def pairs(whole: Packed, kept: Packed) -> Iterator[Pair]:
    """The pictures of `whole` that have rows, in the order of their numbers.

    Raises ShapeError for rows kept of a picture that was not there.
    """
    before, after = rows_by_picture(whole), rows_by_picture(kept)
    for picture in sorted(after):
        if len(after[picture]) and picture not in before:
            raise ShapeError(f"rows of picture {picture} are kept and there was no such picture", got=picture)
    nothing = torch.zeros(0, dtype=torch.long, device="cpu")
    for picture in sorted(before):
        if len(before[picture]):
            yield Pair(picture, before[picture], after.get(picture, nothing))


def shown(whole: Packed) -> Packed:
    """The rows that show something: cells on the black border of a view count nowhere."""
    return whole.keep(~blank_rows(whole)) if has_blank(whole) else whole


def rows_by_picture(p: Packed) -> dict[int, Int64[Tensor, " n"]]:
    """The rows of each picture, on the host."""
    out: dict[int, list[Tensor]] = {}
    for i, item in enumerate(p.items):
        out.setdefault(item.picture, []).append(torch.arange(p.starts[i], p.starts[i + 1], device="cpu"))
    return {picture: torch.cat(parts) for picture, parts in out.items()}


def cells(p: Packed) -> Float[Tensor, "T 5"]:
    """Seconds, left, top, right, bottom of each row in its picture's pixels, float64 on the host. Syncs."""
    pos = p.pos.cpu().double()
    parts = [pos.new_zeros(0, 5)]
    for item, rows in zip(p.items, pos.split(p.lengths) if len(p) else (), strict=True):
        wide, high = item.cell
        left, top = item.box[0] + rows[:, 2] * wide, item.box[1] + rows[:, 1] * high
        times = torch.tensor(item.times_s, dtype=torch.float64, device="cpu")[rows[:, 0].long()]
        parts.append(torch.stack([times, left, top, left + wide, top + high], dim=1))
    return torch.cat(parts)


def centres(cell: Float[Tensor, "T 5"]) -> Float[Tensor, "T 2"]:
    """x, y of the middle of each cell."""
    return (cell[:, 1:3] + cell[:, 3:5]) / 2
