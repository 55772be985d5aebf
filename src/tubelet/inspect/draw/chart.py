"""Small line charts as one picture, with Pillow alone: panels side by side, each with its own axes.

tokens against side length        tokens against frames
4k |        /                     4k |      .'
   |     _-'o                        |   .o'
 0 +-----------                    0 +-----------
   0   500   1000 px                 0    16    32
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from tubelet.errors import ShapeError
from tubelet.inspect.draw.lettering import FINE, INK, MUTED, PAPER, Colour, TextLine, caption, length, words

LINE: Colour = (0, 82, 190)
MARK: Colour = (190, 38, 38)
RULE: Colour = (226, 224, 218)
WIDTH, HEIGHT = 430, 230  # of the area between the axes
LEFT, RIGHT, TOP, BOTTOM = 86, 26, 34, 52  # around it, for words
MARGIN = 20


@dataclass(frozen=True)
class Panel:
    """One curve. x ascends; y_text and x_text write a number on an axis. mark: a point to show, with its y beside it;
    limit: a level, with its number on it."""

    title: str
    x_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    y_text: Callable[[float], str]
    x_text: Callable[[float], str] = "{:,.0f}".format
    mark: tuple[float, float] | None = None
    limit: float | None = None


def ticks(highest: float, base: int = 10) -> list[float]:
    """0 and a few round numbers up to the first that reaches `highest`: steps of 1, 2 or 5 in base 10, powers of two
    in base 2.

    >>> ticks(1730)
    [0.0, 500.0, 1000.0, 1500.0, 2000.0]
    """
    if not highest > 0:
        return [0.0, 1.0]
    rough = highest / 4
    if base == 2:
        step = 2.0 ** math.ceil(math.log2(rough))
    else:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]


def chart(panels: Sequence[Sequence[Panel]], lines: Sequence[TextLine], base: int = 10) -> Image.Image:
    """Rows of panels under a title of `lines`, as an RGB picture. base: 2 for ticks that are round in bytes.

    Raises ShapeError for a panel without two points.

        >>> square = Panel("squares", "n", (0.0, 1.0, 2.0), (0.0, 1.0, 4.0), "{:.0f}".format)
        >>> chart([[square]], [TextLine(("An example",))]).mode
        'RGB'
    """
    drawn = [[_panel(p, base) for p in row] for row in panels]
    across = max(sum(p.width for p in row) for row in drawn)
    title = caption(across, lines)
    down = title.height + sum(row[0].height for row in drawn)
    page = Image.new("RGB", (across + 2 * MARGIN, down + 2 * MARGIN + 12), PAPER)
    page.paste(title, (MARGIN, MARGIN))
    y = MARGIN + title.height + 12
    for row in drawn:
        x = MARGIN
        for panel in row:
            page.paste(panel, (x, y))
            x += panel.width
        y += row[0].height
    return page


def _panel(panel: Panel, base: int) -> Image.Image:
    if len(panel.x) < 2 or len(panel.x) != len(panel.y):
        raise ShapeError(f"a curve needs two points or more, got {len(panel.x)} x and {len(panel.y)} y")
    xs, right = _axis(max(panel.x))
    ys, top = _axis(max(*panel.y, panel.limit or 0.0), base)
    page = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM), PAPER)
    page.paste(_curve(panel, ys, right, top), (LEFT, TOP))
    page.paste(words(panel.title, 15, INK), (LEFT, 4))
    for value in ys:
        text = panel.y_text(value)
        y = TOP + round(HEIGHT * (1 - value / top))
        page.paste(words(text, 12, MUTED), (LEFT - 8 - math.ceil(length(text, 12)), y - 8))
    for value in xs:
        text = panel.x_text(value)
        x = LEFT + round(WIDTH * value / right) - math.ceil(length(text, 12)) // 2
        page.paste(words(text, 12, MUTED), (x, TOP + HEIGHT + 6))
    if panel.limit is not None:
        page.paste(
            words(panel.y_text(panel.limit), 12, MARK), (LEFT + 6, TOP + round(HEIGHT * (1 - panel.limit / top)) + 3)
        )
    if panel.mark is not None:
        page.paste(*_label(panel, right, top))
    middle = LEFT + (WIDTH - math.ceil(length(panel.x_label, 12))) // 2
    page.paste(words(panel.x_label, 12, MUTED), (middle, TOP + HEIGHT + 24))
    return page


def _axis(highest: float, base: int = 10) -> tuple[list[float], float]:
    """The ticks that lie on an axis, and where it ends: a little above what is shown.

    >>> _axis(1730)
    ([0.0, 500.0, 1000.0, 1500.0], 1816.5)
    """
    found = ticks(highest, base)
    end = min(found[-1], 1.05 * highest) if highest > 0 else found[-1]
    return [value for value in found if value <= end], end


def _label(panel: Panel, right: float, top: float) -> tuple[Image.Image, tuple[int, int]]:
    """What stands beside the mark, and its place: left above it, or right below where that is outside."""
    x, y = panel.mark or (0.0, 0.0)
    text = panel.y_text(y)
    wide = math.ceil(length(text, 12))
    across, down = LEFT + round(WIDTH * x / right), TOP + round(HEIGHT * (1 - y / top))
    inside = across - wide - 8 >= LEFT + 2
    return words(text, 12, MARK), (across - wide - 8 if inside else across + 8, down - 20 if inside else down + 4)


def _curve(panel: Panel, ys: Sequence[float], right: float, top: float) -> Image.Image:
    """The area between the axes, drawn larger and reduced: rules, limit, curve, mark."""
    width, height = WIDTH * FINE, HEIGHT * FINE

    def at(x: float, y: float) -> tuple[float, float]:
        return x / right * (width - 1), (1 - y / top) * (height - 1)

    large = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(large)
    for value in ys:
        pen.line((*at(0, value), *at(right, value)), fill=RULE, width=FINE)
    if panel.limit is not None:
        pen.line((*at(0, panel.limit), *at(right, panel.limit)), fill=MARK, width=FINE)
    pen.line([at(x, y) for x, y in zip(panel.x, panel.y, strict=True)], fill=LINE, width=2 * FINE, joint="curve")
    if panel.mark is not None:
        x, y = at(*panel.mark)
        r = 4 * FINE
        pen.ellipse((x - r, y - r, x + r, y + r), fill=MARK)
    pen.line((0, 0, 0, height), fill=MUTED, width=2 * FINE)
    pen.line((0, height - FINE, width, height - FINE), fill=MUTED, width=2 * FINE)
    return large.reduce(FINE)
