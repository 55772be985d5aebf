"""What a notebook shows of a pack: a row for each item. Nothing is read off the device."""

from collections.abc import Sequence

from torch import Tensor

from tubelet.packed.grid import Item
from tubelet.tables import html_table

MOST_ROWS = 20  # items that are listed


def packed_html(x: Tensor, items: Sequence[Item], lengths: Sequence[int]) -> str:
    """A table of the items: picture, times, grid, rows, box. All are counts of the host."""
    rows = []
    for i, (item, n) in enumerate(zip(items[:MOST_ROWS], lengths[:MOST_ROWS], strict=True)):
        times = f"{item.times_s[0]:.2f} .. {item.times_s[-1]:.2f} s" if item.grid.t > 1 else ""
        share = "" if n == item.grid.rows else f" of {item.grid.rows:,}"
        box = ", ".join(f"{v:g}" for v in item.box)
        rows.append([str(i), str(item.picture), times, " x ".join(map(str, item.grid)), f"{n:,}{share}", box])
    more = len(items) - MOST_ROWS
    if more > 0:
        rows.append([f"... {more:,} more", *[""] * 5])
    t, d = x.shape
    about = f"{t:,} rows of {d:,} values, {str(x.dtype).removeprefix('torch.')}, {x.device}; {len(items)} items"
    return html_table(["item", "picture", "times", "grid t x h x w", "rows", "box"], rows, f"Packed: {about}")
