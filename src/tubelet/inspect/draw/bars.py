"""Bars with intervals as one picture, with Pillow alone: a row for each value, the interval as a line over its end.

all        |==================|--     0.612 [0.58, 0.65]
pool       |============|---          0.431 [0.39, 0.47]
"""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from tubelet.errors import ShapeError
from tubelet.inspect.draw.chart import LINE, RULE, ticks
from tubelet.inspect.draw.lettering import (
    FINE,
    INK,
    MUTED,
    PAPER,
    Colour,
    TextLine,
    caption,
    drawable,
    length,
    shorten,
    words,
)
from tubelet.inspect.metrics.estimate import Estimate

BAR: Colour = (150, 182, 224)
WIDTH, HEIGHT, GAP = 360, 18, 10  # of a bar's place, of a bar, between bars
NAME, VALUE, MARGIN = 130, 190, 20  # places for names and numbers, around all


def bars(values: Sequence[tuple[str, Estimate]], lines: Sequence[TextLine]) -> Image.Image:
    """A bar from 0 for each named value under a title of `lines`, as an RGB picture; values are 0 or more.

    Raises ShapeError without a value or for one below 0.

        >>> from tubelet.inspect.metrics import share_of
        >>> bars([("all", share_of(6, 10)), ("pool", share_of(4, 10))], [TextLine(("An example",))]).mode
        'RGB'
    """
    known = [estimate for _, estimate in values if not math.isnan(estimate.value)]
    if not values or any(estimate.value < 0 for estimate in known):
        raise ShapeError(f"bars of {len(values)} values from 0 up", got=[estimate.value for _, estimate in values])
    marks = ticks(max((max(e.value, e.high if math.isfinite(e.high) else 0.0) for e in known), default=1.0))
    across = NAME + WIDTH + VALUE
    title = caption(across, lines)
    down = len(values) * (HEIGHT + GAP)
    page = Image.new("RGB", (across + 2 * MARGIN, title.height + 12 + down + 26 + 2 * MARGIN), PAPER)
    page.paste(title, (MARGIN, MARGIN))
    top = MARGIN + title.height + 12
    page.paste(_area([e for _, e in values], marks, down), (MARGIN + NAME, top))
    for n, (name, estimate) in enumerate(values):
        y = top + n * (HEIGHT + GAP) + GAP // 2
        page.paste(words(shorten(drawable(name), 14, NAME - 10), 14, INK), (MARGIN, y))
        page.paste(words(format(estimate, ".3f").rpartition(" ")[0], 13, MUTED), (MARGIN + NAME + WIDTH + 12, y))
    for mark in marks:
        text = f"{mark:g}"
        x = MARGIN + NAME + round(WIDTH * mark / marks[-1]) - math.ceil(length(text, 12)) // 2
        page.paste(words(text, 12, MUTED), (x, top + down + 6))
    return page


def _area(values: Sequence[Estimate], marks: Sequence[float], down: int) -> Image.Image:
    """Rules, bars and intervals, drawn larger and reduced."""
    large = Image.new("RGB", (WIDTH * FINE, down * FINE), PAPER)
    pen = ImageDraw.Draw(large)

    def at(value: float) -> float:
        return min(value / marks[-1], 1.0) * (WIDTH * FINE - FINE)

    for mark in marks:
        pen.line((at(mark), 0, at(mark), down * FINE), fill=RULE, width=FINE)
    for n, estimate in enumerate(values):
        y = (n * (HEIGHT + GAP) + GAP // 2) * FINE
        if math.isnan(estimate.value):
            continue
        pen.rectangle((0, y, at(estimate.value), y + HEIGHT * FINE), fill=BAR)
        if estimate.known:
            middle, half = y + HEIGHT * FINE // 2, HEIGHT * FINE // 4
            low, high = at(max(0.0, estimate.low)), at(estimate.high if math.isfinite(estimate.high) else marks[-1])
            pen.line((low, middle, high, middle), fill=LINE, width=2 * FINE)
            for end in (low, high):
                pen.line((end, middle - half, end, middle + half), fill=LINE, width=2 * FINE)
    pen.line((0, 0, 0, down * FINE), fill=MUTED, width=2 * FINE)
    return large.reduce(FINE)
