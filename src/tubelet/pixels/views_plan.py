"""Any-resolution views: how one picture becomes a global view and tiles, and what is left of their tokens, in integers.

    1000 x 600                    global 384 x 384   the whole picture, its ratio lost
      -> best pinpoint 768 x 768  tile 0,0 tile 0,1  cut row by row out of a canvas
      -> 1000 x 600 fitted in,    tile 1,0 tile 1,1  with the fitted picture in its middle
         768 x 461, centred

    5 views of 27 x 27 tokens   ->   pooled to 14 x 14   ->   joined: 14 x 14, then (16 + newline) rows of the tiles

Nothing is decoded or cut here: `tubelet.pixels.views` cuts what `views` says. All pairs are (height, width).
Source: rkawamura0483/LaViDa_mod:llava/mm_utils.py and llava/model/llava_arch.py@cff2211.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, NamedTuple

from tubelet.errors import ConfigError
from tubelet.pixels.canvases import longest_even, nearest_ratio, whole_tiles
from tubelet.pixels.fit import check_resized
from tubelet.pixels.sizes import Pad, anyres, check_sides
from tubelet.reading.limits import Limits

Pool = Literal["bilinear", "average", "max"]
Joining = Literal["flat", "spatial", "unpad"]
JOININGS: tuple[Joining, ...] = ("flat", "spatial", "unpad")
Compat = Literal["transformers-5"]
Pooled = Literal["all", "clips"]
Canvas = Literal["inside", "filled", "multiple"]
CANVASES: tuple[Canvas, ...] = ("inside", "filled", "multiple")
POOLS: tuple[Pool, ...] = ("bilinear", "average", "max")


class View(NamedTuple):
    """A rectangle, in pixels, of a canvas on which the whole picture lies as `pad` says; what is left is black."""

    name: str
    pad: Pad
    top: int
    left: int
    height: int
    width: int
    through: tuple[tuple[int, int], ...] = ()  # sides the picture is resized to before, one after the other

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in the pixels of the upright picture; beyond it where the canvas is.

        >>> [view.box(192, 768) for view in LAVIDA.views(192, 768)[:2]]
        [(0.0, 0.0, 768.0, 192.0), (0.0, -96.0, 384.0, 288.0)]
        """
        x, y = width / self.pad.resize_w, height / self.pad.resize_h
        left, top = self.left - self.pad.left, self.top - self.pad.top
        return left * x, top * y, (left + self.width) * x, (top + self.height) * y


def whole_view(name: str, side: int) -> View:
    """The whole picture squashed to a square, its ratio lost."""
    return View(name, Pad(side, side, 0, 0, side, side), 0, 0, side, side)


@dataclass(frozen=True)
class Tiling:
    """How one picture is cut. Views are the global one, then the tiles row by row.

    >>> from tubelet.pixels.views_plan import LAVIDA
    >>> LAVIDA.tiling(600, 1000).names
    ('global', 'tile 0,0', 'tile 0,1', 'tile 1,0', 'tile 1,1')
    """

    pad: Pad  # where it lies on the canvas
    rows: int  # of tiles
    cols: int

    @property
    def names(self) -> tuple[str, ...]:
        return ("global", *(f"tile {r},{c}" for r in range(self.rows) for c in range(self.cols)))


@dataclass(frozen=True)
class ViewRule:
    """LLaVA's any-resolution rule: the whole picture on one square, then its tiles on the canvas that fits it best.

    join: "flat" puts the views' tokens one after the other; "spatial" joins the tiles to one grid; "unpad" (LLaVA's
    spatial_unpad) joins them, drops what lies on the canvas's empty borders, and ends each row of the grid with a
    newline token. A clip has the global view of each frame and no tiles, and under "unpad" one newline at its end.
    Without pinpoints a picture is seen whole and has no tiles; under "unpad" one newline stands at its end then, too.
    Raises ConfigError for canvases that tiles do not fill.

    >>> LAVIDA.tiling(600, 1000).pad
    Pad(resize_h=461, resize_w=768, top=153, left=0, height=768, width=768)
    """

    tile: int  # side of every view, in pixels
    # Canvases (height, width) that tiles fill, in the order that decides ties; LLaVA's own lists have the width first.
    pinpoints: tuple[tuple[int, int], ...]
    pool: Pool | None = None  # how stride x stride tokens of a view become one, as in LLaVA's get_2dPool; None: not
    join: Joining = "flat"  # what becomes of the views' tokens
    stride: int = 2
    compat: Compat | None = None  # transformers-5: unpad by the numbers of its LlavaNext, which rounds before it cuts
    pooled_are: Pooled = "all"  # what is pooled: every view, or those of clips alone
    # LLaVA's anyres_max_N: joined tiles of over 1.21 x N views' tokens are sampled down to about N views' (bilinear)
    most: int | None = None
    # "filled" (InternVL): the canvas of the nearest ratio, filled with the picture, its ratio lost; the whole stands
    # behind its tiles, and alone where there is one tile
    # "multiple" (Idefics3): the same on a canvas of the next multiples of a tile, through which the whole is resized
    canvas: Canvas = "inside"
    longest: int | None = None  # the longer side that a picture is resized to first, the other even; None: not
    clip_longest: int | None = None  # the same of the frames of a clip

    @property
    def unpooled(self) -> "ViewRule":
        """The same views, neither pooled nor joined: what rows are chosen from."""
        return replace(self, pool=None, join="flat", most=None)

    def __post_init__(self) -> None:
        if min(self.tile, self.stride, 1 if self.most is None else self.most) < 1:
            raise ConfigError("tile, stride and most start at 1", limit=1, got=(self.tile, self.stride, self.most))
        if any(min(p) < self.tile or p[0] % self.tile or p[1] % self.tile for p in self.pinpoints):
            raise ConfigError(
                f"every pinpoint is (height, width) in whole tiles of {self.tile}",
                expected=self.tile,
                got=self.pinpoints,
            )
        if self.pool not in (None, *POOLS) or self.join not in JOININGS or self.compat not in (None, "transformers-5"):
            raise ConfigError(
                f"pool is {', '.join(POOLS)} or None, join {', '.join(JOININGS)}, compat transformers-5 or None",
                got=(self.pool, self.join, self.compat),
            )
        if self.canvas not in CANVASES or (self.canvas != "inside" and self.join != "flat"):
            raise ConfigError("a canvas is inside, or filled or multiple and joined flat", got=(self.canvas, self.join))
        if (self.canvas == "multiple" and self.pinpoints) or 0 in (self.longest, self.clip_longest):
            raise ConfigError("multiples of a tile are no pinpoints, and sides start at 1", got=self)
        if self.pooled_are not in ("all", "clips") or (self.most is not None and self.join != "unpad"):
            raise ConfigError(
                "all views are pooled or those of clips; tiles sampled down to a number are joined by unpad",
                expected=("all", "clips"),
                got=(self.pooled_are, self.most, self.join),
            )

    @property
    def cuts(self) -> bool:
        """Whether pictures are cut into tiles."""
        return bool(self.pinpoints) or self.canvas == "multiple"

    def tiling(self, height: int, width: int) -> Tiling:
        """Canvas, place and tiles of a picture. Raises ShapeError for one without content.

        >>> LAVIDA.tiling(900, 400).rows, LAVIDA.tiling(900, 400).cols
        (3, 1)
        """
        if self.canvas == "filled":
            full = nearest_ratio(height, width, self.pinpoints, self.tile)
            pad = Pad(*full, 0, 0, *full)
        elif self.canvas == "multiple":
            [*_, first] = ((height, width), *_first(height, width, self.longest))
            full = whole_tiles(*first, self.tile)
            pad = Pad(*full, 0, 0, *full)
        else:
            pad = anyres(height, width, self.pinpoints)
        check_resized(pad.height, pad.width, 1, Limits())
        return Tiling(pad, pad.height // self.tile, pad.width // self.tile)

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """The views of a picture: the whole of it squashed to one tile, then the tiles. Raises ShapeError.

        >>> [(view.name, view.top, view.left) for view in LAVIDA.views(400, 900)[1:]]
        [('tile 0,0', 0, 0), ('tile 0,1', 0, 384), ('tile 0,2', 0, 768)]
        """
        through = _first(height, width, self.longest)
        whole = whole_view("global", self.tile)._replace(through=through)
        if not self.cuts:
            return (whole,)
        tiling, side = self.tiling(height, width), self.tile
        corners = [(r * side, c * side) for r in range(tiling.rows) for c in range(tiling.cols)]
        tiles = (
            View(name, tiling.pad, *corner, side, side, through)
            for name, corner in zip(tiling.names[1:], corners, strict=True)
        )
        if self.canvas == "inside":
            return whole, *tiles
        if tiling.rows * tiling.cols == 1:
            return (whole,)
        if self.canvas == "multiple":
            whole = whole._replace(through=(*through, tiling.pad[:2]))
        return *tiles, whole

    def glance(self, height: int, width: int) -> View:
        """The one view that frames of a clip have."""
        return whole_view("global", self.tile)._replace(through=_first(height, width, self.clip_longest))

    def pooled(self, grid: tuple[int, int], *, clip: bool = False) -> tuple[int, int]:
        """A view's (rows, columns) of tokens after its pool: bilinear rounds up, the others drop what is left over.

        >>> LAVIDA.pooled((27, 27))
        (14, 14)
        """
        if self.pool is None or (self.pooled_are == "clips" and not clip):
            return grid
        h, w = grid
        s = self.stride
        return (-(-h // s), -(-w // s)) if self.pool == "bilinear" else (h // s, w // s)

    def tokens(self, height: int, width: int, grid: tuple[int, int]) -> tuple[int, ...]:
        """Tokens that each view of a picture leaves after pool and join, newlines with the tile they stand behind.

        grid: (rows, columns) of every view before the pool. The sum is the picture's length in a prompt.

        >>> LAVIDA.tokens(600, 1000, (27, 27)), sum(LAVIDA.tokens(600, 1000, (27, 27)))
        ((196, 112, 120, 112, 120), 660)
        """
        h, w = self.pooled(grid)
        if not self.cuts:
            return (h * w + (self.join == "unpad"),)
        tiling = self.tiling(height, width)
        if self.join != "unpad":
            return (h * w,) * len(self.views(height, width))
        top, left = self.unpadded(height, width, tiling.rows * h, tiling.cols * w)
        kept_rows, kept_cols = _kept(tiling.rows, h, top), _kept(tiling.cols, w, left)
        rows, cols = self.sampled(sum(kept_rows), sum(kept_cols), h)
        kept_rows, kept_cols = _shared(kept_rows, rows), _shared(kept_cols, cols)
        last = tiling.cols - 1
        return (h * w, *(r * (c + (j == last)) for r in kept_rows for j, c in enumerate(kept_cols)))

    def clip_tokens(self, t: int, grid: tuple[int, int]) -> int:
        """Tokens that a clip of t rows of time leaves after pool and join.

        >>> LAVIDA.clip_tokens(8, (27, 27))
        1569
        """
        h, w = self.pooled(grid, clip=True)
        return t * h * w + (self.join == "unpad")

    def sampled(self, rows: int, cols: int, side: int) -> tuple[int, int]:
        """Rows and columns of a joined grid after `most`; side: rows of one view.

        >>> ViewRule(384, ((768, 768),), join="unpad", most=1).sampled(54, 54, 27)
        (27, 27)
        """
        if self.most is None:
            return rows, cols
        ratio = math.sqrt(rows * cols / (self.most * side**2))
        return (max(1, int(rows // ratio)), max(1, int(cols // ratio))) if ratio > 1.1 else (rows, cols)

    def unpadded(self, height: int, width: int, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of tokens to drop at (top and bottom, left and right): those on empty borders, counted as
        LLaVA counts them, from the picture's sides and not from where its pixels lie.

        >>> LAVIDA.unpadded(600, 1000, 28, 28)
        (6, 0)
        """
        check_sides(height, width)
        if width / height > cols / rows:
            return (rows - self._cut(height * (cols / width))) // 2, 0
        return 0, (cols - self._cut(width * (rows / height))) // 2

    def _cut(self, length: float) -> int:
        return int(length if self.compat is None else round(length, 7))


def _first(height: int, width: int, longest: int | None) -> tuple[tuple[int, int], ...]:
    """The sides that a picture of this size is resized to first, if it is. Raises ShapeError."""
    check_sides(height, width)
    return () if longest is None else (longest_even(height, width, longest),)


def _kept(tiles: int, each: int, dropped: int) -> list[int]:
    """Of `each` lines in each of `tiles`, those left when `dropped` go at either end of all."""
    low, high = dropped, tiles * each - dropped
    return [max(0, min(high, (i + 1) * each) - max(low, i * each)) for i in range(tiles)]


def _shared(kept: list[int], lines: int) -> list[int]:
    """`lines` lines, spread evenly over those that are kept of each tile, counted where their middles lie."""
    ends, total = list(accumulate(kept)), sum(kept)
    if total == lines:
        return kept
    found = [bisect_right(ends, (2 * i + 1) * total / (2 * lines)) for i in range(lines)]
    return [found.count(tile) for tile in range(len(kept))]


LAVIDA = ViewRule(384, ((768, 384), (384, 768), (768, 768), (384, 1152), (1152, 384)), pool="bilinear", join="unpad")
"""LaViDa's: at most 5 views, 27 x 27 tokens each with patches of 14, and 196 + at most 812 after pool and join."""
