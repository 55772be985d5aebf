"""What a notebook shows of a pack: a row for each item. Nothing is read off the device."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from tubelet.packed.grid import Item
from tubelet.tables import html_table

MOST_ROWS = 20  # items that are listed


class Rows(Protocol):
    """What is shown of a `Packed`, which imports this file."""

    @property
    def x(self) -> Tensor: ...
    @property
    def items(self) -> Sequence[Item]: ...
    @property
    def lengths(self) -> Sequence[int]: ...


def packed_html(p: Rows) -> str:
    """A table of the items: picture, times, grid, rows, box. All are counts of the host."""
    rows = []
    for i, (item, n) in enumerate(zip(p.items[:MOST_ROWS], p.lengths[:MOST_ROWS], strict=True)):
        times = f"{item.times_s[0]:.2f} .. {item.times_s[-1]:.2f} s" if item.grid.t > 1 else ""
        share = "" if n == item.grid.rows else f" of {item.grid.rows:,}"
        box = ", ".join(f"{v:g}" for v in item.box)
        rows.append([str(i), str(item.picture), times, " x ".join(map(str, item.grid)), f"{n:,}{share}", box])
    more = len(p.items) - MOST_ROWS
    if more > 0:
        rows.append([f"... {more:,} more", *[""] * 5])
    t, d = p.x.shape
    about = f"{t:,} rows of {d:,} values, {str(p.x.dtype).removeprefix('torch.')}, {p.x.device}; {len(p.items)} items"
    return html_table(["item", "picture", "times", "grid t x h x w", "rows", "box"], rows, f"Packed: {about}")
