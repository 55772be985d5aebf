"""Where a row belongs: the grid of patches an item was cut into, and the place of each patch in it. Host data only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING, Literal, NamedTuple

from tubelet.doors import door
from tubelet.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.shapes import Int32

Odd = Literal["error", "pad_edge", "crop"]  # what a grid becomes whose sides a block does not divide
ODD: tuple[Odd, ...] = ("error", "pad_edge", "crop")
MAX_ROWS = 2**31 - 1  # cu_seqlens is int32 in every varlen kernel
_SHARED_ROWS = 16_384  # tables up to this size are made once and shared: at most 256 x 192 KiB


class Grid(NamedTuple):
    """Patch counts of one item. Host integers, hashable: a key for cached tables.

    >>> Grid(2, 3, 4).rows
    24
    """

    t: int
    h: int
    w: int

    @property
    def rows(self) -> int:
        """t x h x w."""
        return self.t * self.h * self.w


@dataclass(frozen=True)
class Item:
    """One image, video or view, as it was cut: host data only.

    grid: before any row was dropped. times_s: start time in seconds of each of the grid's t rows, (0.0,) for a picture.
    picture: index of the input it was cut from; views of one picture share it. box: left, top, right, bottom in that
    picture's upright pixels; a tile of a letterboxed canvas reaches beyond the picture. content: what its cells can
    show of the picture, another box; cells beyond it are blank (`seen`). None where every cell shows something.
    Raises ShapeError where these contradict each other.

        >>> Item(Grid(2, 18, 32), times_s=(0.0, 0.5), picture=0, box=(0, 0, 512, 288)).box
        (0.0, 0.0, 512.0, 288.0)
    """

    grid: Grid
    times_s: tuple[float, ...]
    picture: int
    box: tuple[float, float, float, float]
    content: tuple[float, float, float, float] | None = None

    @door
    def __post_init__(self) -> None:
        try:
            grid = Grid(*(index(n) for n in self.grid))
            picture = index(self.picture)
            times_s = tuple(self.times_s)
            finite = all(math.isfinite(v) for v in (*times_s, *self.box))
            left, top, right, bottom = (float(b) for b in self.box)
            content = None if self.content is None else tuple(float(b) for b in self.content)
        except (TypeError, ValueError, OverflowError) as e:
            raise ShapeError(
                "an item takes three integers as grid, numbers as times_s, an integer as picture, four numbers as box, "
                "four numbers or None as content",
                got=(self.grid, self.times_s, self.picture, self.box, self.content),
            ) from e
        if min(grid) < 1:
            raise ShapeError(f"a grid needs at least one patch on each axis, got {tuple(grid)}", limit=1, got=grid)
        if grid.rows > MAX_ROWS:
            raise ShapeError(f"the {grid.rows:,} rows of grid {tuple(grid)} do not fit int32", limit=MAX_ROWS, got=grid)
        if len(times_s) != grid.t:
            raise ShapeError(f"{len(times_s)} times for {grid.t} rows of time", expected=grid.t, got=len(times_s))
        if not finite:
            raise ShapeError(f"times and box must be finite, got {times_s} and {self.box}", got=(times_s, self.box))
        if not (left < right and top < bottom):
            raise ShapeError(f"a box is left, top, right, bottom with some area, got {tuple(self.box)}", got=self.box)
        if picture < 0:
            raise ShapeError(f"picture counts from 0, got {picture}", limit=0, got=picture)
        if content is not None and not (
            len(content) == 4
            and all(math.isfinite(v) for v in content)
            and content[0] < content[2]
            and content[1] < content[3]
        ):
            raise ShapeError(f"content is left, top, right, bottom with some area, got {content}", got=content)
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "times_s", tuple(float(s) for s in times_s))
        object.__setattr__(self, "picture", picture)
        object.__setattr__(self, "box", (left, top, right, bottom))
        object.__setattr__(self, "content", content)

    @property
    def seen(self) -> tuple[range, range]:
        """Rows and columns of the grid whose cells show some of the content, be it a line of pixels; the others are
        blank. All of them where `content` is None.

            >>> Item(Grid(1, 4, 4), (0.0,), 0, box=(0, -2, 8, 6), content=(0, 0, 8, 4)).seen
            (range(1, 3), range(0, 4))
        """
        if self.content is None:
            return range(self.grid.h), range(self.grid.w)
        (left, top, right, bottom), grid = self.box, self.grid
        x0, y0, x1, y1 = self.content
        return _inside(top, bottom, grid.h, y0, y1), _inside(left, right, grid.w, x0, x1)

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of one cell of the grid, in the picture's pixels."""
        left, top, right, bottom = self.box
        return (right - left) / self.grid.w, (bottom - top) / self.grid.h

    @property
    def shown(self) -> tuple[float, float, float, float]:
        """The part of the picture that the item shows: its box without the border beyond `content`, or its whole box
        where none of the content lies in it."""
        (a, b, c, d), (left, top, right, bottom) = self.box, self.content or self.box
        part = max(a, left), max(b, top), min(c, right), min(d, bottom)
        return part if part[0] < part[2] and part[1] < part[3] else self.box

    @classmethod
    @door
    def of(cls, t: int, h: int, w: int, picture: int = 0) -> "Item":
        """An item known by its grid alone: a t-row clip gets times 0, 1, 2 ... and a box of h x w units."""
        if t > MAX_ROWS:
            raise ShapeError(f"{t} rows in time do not fit int32", limit=MAX_ROWS, got=t)
        return cls(Grid(t, h, w), tuple(float(i) for i in range(t)), picture, (0.0, 0.0, float(w), float(h)))


def positions(grid: Grid, *, merge: int = 1) -> "Int32[Tensor, 'T 3']":
    """(t, h, w) of every patch of a grid, on the host; may be shared with other callers, so never write into it.

    Raster order (merge=1) goes time, then picture row, then column. Block order puts the merge x merge patches that a
    merger joins next to each other. A 2 x 4 grid, numbered in the order of its rows:

        raster   0 1 2 3      block, merge=2   0 1 4 5
                 4 5 6 7                       2 3 6 7

    Raises ShapeError when merge does not divide h and w.
    """
    if merge < 1 or grid.h % merge or grid.w % merge:
        raise ShapeError(f"a {grid.h} x {grid.w} grid has no {merge} x {merge} blocks", expected=merge, got=grid)
    return _shared_table(grid, merge) if grid.rows <= _SHARED_ROWS else _table(grid, merge)


def all_positions(items: Sequence[Item], *, merge: int = 1) -> "Int32[Tensor, 'T 3']":
    """`positions` of whole items, end to end, on the host; a tensor of its own."""
    import torch

    if not items:
        return torch.zeros(0, 3, dtype=torch.int32, device="cpu")
    return torch.cat([positions(i.grid, merge=merge) for i in items])


def _inside(low: float, high: float, cells: int, start: float, stop: float) -> range:
    """Which of `cells` equal parts of low..high have some of start..stop; a millionth of a cell is rounding."""
    cell = (high - low) / cells
    first = math.floor((start - low) / cell + 1e-6)
    end = math.ceil((stop - low) / cell - 1e-6)
    return range(min(max(first, 0), cells), min(max(end, 0), cells))


def _table(grid: Grid, merge: int) -> "Tensor":
    import torch  # counting does without

    # Outside inference mode and any default device, because a shared table outlives the call that made it.
    with torch.inference_mode(False):
        t, h, w = (torch.arange(n, dtype=torch.int32, device="cpu") for n in grid)
        rows = torch.stack(torch.meshgrid(t, h, w, indexing="ij"), dim=-1)
        if merge > 1:
            rows = rows.view(grid.t, grid.h // merge, merge, grid.w // merge, merge, 3).permute(0, 1, 3, 2, 4, 5)
        return rows.reshape(-1, 3)


_shared_table = lru_cache(maxsize=256)(_table)
