"""Views of a picture as pixels: whole, in tiles, at several sizes, or along a page; each view becomes an item.

    ViewRule    LLaVA's and LaViDa's any-resolution tiling (tubelet.pixels.views_plan)    whole, tiles of one canvas
    Pyramid     the whole picture at several sizes, each cut into tiles                   672 in 4 of 336, 672 whole
    PageCrops   squares along the longer side, for pages and strips                       whole, crop after crop

A rule is plain arithmetic: `views(height, width)` names the rectangles of a still picture, `glance(height, width)` the
one view that the frames of a clip have. `tubelet.patchify(clips, recipe, views=rule)` cuts them. What a canvas shows
beyond the picture is black; the items know it (`Item.seen`), and no row of it is ever selected.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tubelet.errors import ConfigError, ShapeError
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.fit import check_resized
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.sizes import Pad, check_sides
from tubelet.pixels.views_plan import LAVIDA as LAVIDA
from tubelet.pixels.views_plan import View as View
from tubelet.pixels.views_plan import ViewRule as ViewRule
from tubelet.pixels.views_plan import whole_view
from tubelet.reading.limits import Limits

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.shapes import UInt8

Shape = Literal["keep", "squash"]
Sizes = tuple[tuple[int, int], ...]  # (height, width), one after the other


@dataclass(frozen=True)
class Pyramid:
    """The whole picture on square canvases, each cut into square tiles.

    Views are the levels in their order, tiles row by row. A clip has its frames whole on the smallest canvas. Raises
    ConfigError for a canvas that tiles do not fill. What the encoder was not trained at it meets with a resized table
    of positions.

        >>> two = Pyramid(((672, 336), (672, 672)))          # 4 tiles of 336 and one view of 672
        >>> [(view.name, view.width) for view in two.views(800, 600)][3:]
        [('672 tile 1,1', 336), ('672', 672)]
    """

    levels: tuple[tuple[int, int], ...]  # (canvas, tile): sides in pixels
    shape: Shape = "keep"  # its ratio, with black at two sides of each canvas; squash: to squares

    def __post_init__(self) -> None:
        if not self.levels or any(len(n) != 2 or n[1] < 1 or n[0] < n[1] or n[0] % n[1] for n in self.levels):
            raise ConfigError("every level is the side of a canvas and of the tiles that fill it", got=self.levels)
        if self.shape not in ("keep", "squash"):
            raise ConfigError("shape is keep or squash", expected=("keep", "squash"), got=self.shape)

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """All tiles of all levels. Raises ShapeError for a picture without content."""
        found: list[View] = []
        for canvas, tile in self.levels:
            whole = self._whole(height, width, canvas)
            corners = [(y, x) for y in range(0, canvas, tile) for x in range(0, canvas, tile)]
            for y, x in corners:
                name = whole.name if tile == canvas else f"{canvas} tile {y // tile},{x // tile}"
                found.append(View(name, whole.pad, y, x, tile, tile))
        return tuple(found)

    def glance(self, height: int, width: int) -> View:
        """The one view that frames of a clip have."""
        return self._whole(height, width, min(canvas for canvas, _ in self.levels))

    def _whole(self, height: int, width: int, canvas: int) -> View:
        check_sides(height, width)
        check_resized(canvas, canvas, 1, Limits())
        return fitted(str(canvas), height, width, canvas) if self.shape == "keep" else whole_view(str(canvas), canvas)


@dataclass(frozen=True)
class PageCrops:
    """Squares along the longer side of a page, each as wide as the page; first, where there is more than one, the whole
    page on one square with black beside it.

    Crops are spread evenly, so that the last one ends where the page does. A clip has its frames whole. Raises
    ConfigError.

        >>> [view.top for view in PageCrops(384, overlap=0.1).views(3000, 1000)]    # the whole page, then four crops
        [0, 0, 256, 512, 768]
    """

    tile: int  # side of every view in pixels
    overlap: float = 0.0  # the share of a crop, below 1, that the next one shows again at least
    most: int = 12  # crops; a longer page gets smaller in them, with black at both sides
    whole: bool = True  # False leaves the whole page out

    def __post_init__(self) -> None:
        if self.tile < 1 or self.most < 1 or not 0 <= self.overlap < 1:
            raise ConfigError(
                "tile and most start at 1, an overlap is 0 to below 1", got=(self.tile, self.most, self.overlap)
            )

    def views(self, height: int, width: int) -> tuple[View, ...]:
        """The whole page, then its crops from top to bottom or from left to right. Raises ShapeError."""
        check_sides(height, width)
        side, (short, long) = self.tile, sorted((height, width))
        step = max(1, math.floor(side * (1 - self.overlap)))
        length, across = max(side, round(long * side / short)), side
        count = 1 + -(-(length - side) // step)
        if count > self.most:
            count = self.most
            length = side + (count - 1) * step
            across = max(1, round(short * length / long))
        starts = [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
        beside = (side - across) // 2
        if height >= width:
            pad = Pad(length, across, 0, beside, length, side)
            crops = [View(f"crop {i}", pad, start, 0, side, side) for i, start in enumerate(starts)]
        else:
            pad = Pad(across, length, beside, 0, side, length)
            crops = [View(f"crop {i}", pad, 0, start, side, side) for i, start in enumerate(starts)]
        return (*([self.glance(height, width)] if self.whole and count > 1 else []), *crops)

    def glance(self, height: int, width: int) -> View:
        """The one view that frames of a clip have."""
        return fitted("page", height, width, self.tile)


Views = ViewRule | Pyramid | PageCrops


def fitted(name: str, height: int, width: int, side: int) -> View:
    """The whole picture in the middle of a black square, its longer side as long as the square's."""
    check_sides(height, width)
    scale = side / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return View(name, Pad(h, w, (side - h) // 2, (side - w) // 2, side, side), 0, 0, side, side)


def views_of(height: int, width: int, frames: int, rule: Views) -> tuple[View, ...]:
    """The views of a picture, or the one of a clip of several frames."""
    return rule.views(height, width) if frames == 1 else (rule.glance(height, width),)


def view_items(
    height: int, width: int, times_s: Sequence[float], picture: int, recipe: PixelRecipe, rule: Views
) -> list[tuple[View, Item]]:
    """Every view of a picture or clip, cut to whole units, and its item; from its size alone.

    What a view has left over at the right and bottom is not seen, as a convolution of that stride does not see it
    (384 pixels in patches of 14: 378). Raises ShapeError for a view smaller than a unit.
    """
    times, whole = tuple(times_s[:: recipe.temporal]), (0.0, 0.0, float(width), float(height))
    found: list[tuple[View, Item]] = []
    for view in cut_to_units(views_of(height, width, len(times_s), rule), recipe):
        grid = Grid(len(times), view.height // recipe.patch, view.width // recipe.patch)
        found.append((view, Item(grid, times, picture, view.box(height, width), whole)))
    return found


def cut_to_units(views: Sequence[View], recipe: PixelRecipe) -> list[View]:
    """The views without what fills no unit at their right and bottom. Raises ShapeError for one smaller than a unit."""
    found: list[View] = []
    for view in views:
        check_resized(view.pad.height, view.pad.width, 1, Limits())
        for high, wide in (*view.through, (view.pad.resize_h, view.pad.resize_w)):
            check_resized(high, wide, 1, Limits())
        h, w = view.height // recipe.unit * recipe.unit, view.width // recipe.unit * recipe.unit
        if min(h, w) < 1:
            raise ShapeError(
                f"a view of {view.width} x {view.height} does not fill one unit of {recipe.unit} pixels",
                limit=recipe.unit,
                got=min(view.height, view.width),
            )
        found.append(view._replace(height=h, width=w))
    return found


def cut_views(
    frames: "UInt8[Tensor, 'F H W C']", views: Sequence[View], recipe: PixelRecipe
) -> "list[UInt8[Tensor, 'F h w C']]":
    """The pixels of each view, resized by the recipe's filter: each size once, however many views go through it.

    Views of a canvas share memory; nothing may be written to them.
    """
    resized: dict[Sizes, Tensor] = {(): frames}
    canvases: dict[tuple[Sizes, Pad], Tensor] = {}
    for view in views:
        if (view.through, view.pad) not in canvases:
            canvases[view.through, view.pad] = _drawn(resized, view, recipe)
    shown = ((canvases[v.through, v.pad], v) for v in views)
    return [canvas[:, v.top : v.top + v.height, v.left : v.left + v.width] for canvas, v in shown]


def _step(resized: "dict[Sizes, Tensor]", sizes: Sizes, recipe: PixelRecipe) -> "Tensor":
    """The picture resized to these sides one after the other; kept there, as every step on the way is."""
    from tubelet.pixels.resize import resize_frames  # rules of views do without torch

    if sizes not in resized:
        pad = Pad(*sizes[-1], 0, 0, *sizes[-1])
        before, kind = _step(resized, sizes[:-1], recipe), recipe.interpolation
        resized[sizes] = resize_frames(before, pad, resampler=recipe.resampler, interpolation=kind)
    return resized[sizes]


def _drawn(resized: "dict[Sizes, Tensor]", view: View, recipe: PixelRecipe) -> "Tensor":
    import torch

    pad = view.pad
    small = _step(resized, (*view.through, (pad.resize_h, pad.resize_w)), recipe)
    if (pad.resize_h, pad.resize_w) == (pad.height, pad.width):
        return small
    canvas = torch.zeros(len(small), pad.height, pad.width, small.shape[3], dtype=torch.uint8, device="cpu")
    canvas[:, pad.top : pad.top + pad.resize_h, pad.left : pad.left + pad.resize_w] = small
    return canvas
