"""Which rows are kept, on the picture they come from: a page with a caption, or a sheet of a clip's frames.

    a global view and tiles                a clip
    +-----------+  +-----+                 +----+ +----+ +----+
    |tile |tile |  |whole|                 |##  | | ## | |   #|
    |-----+-----|  |     |                 +----+ +----+ +----+
    |tile |tile |  +-----+                 0.00 s 0.50 s 1.00 s
    +-----------+                          9 kept 7 kept 2 kept

Views are drawn in place, at their boxes; those that lie over others get a panel of their own. With scores, a second
picture shows them as heat (tubelet.inspect.draw.cells).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from tubelet.inspect.draw.cells import HEAT, Show, ViewLayer, extent, overlay, panels_of
from tubelet.inspect.draw.frames import (
    ALARM,
    GAP,
    MARGIN,
    NARROW,
    arrange,
    check_drawn,
    frame_at,
    label,
    name_of,
    sheet_capacity,
)
from tubelet.inspect.draw.lettering import INK, MUTED, PAPER, TextLine, caption, time_text
from tubelet.inspect.draw.shades import ends, legend
from tubelet.reading.clip import Clip

LARGEST = 1000  # no panel is enlarged beyond


def draw_kept(
    clip: Clip,
    layers: Sequence[ViewLayer],
    lines: Sequence[TextLine] = (),
    *,
    total: int | None = None,
    heat: bool = False,
    max_side: int = 1600,
) -> Image.Image:
    """A picture's kept rows, view by view, as an RGB picture with a caption; for a clip, those of each frame.

    lines: what else to say under the name and the count. total: of the tokens there were, the cells of all views if
    None. heat: the scores beside it, where layers have them. Neither side passes `max_side`. Raises ShapeError where a
    view cannot come from the clip or there is no room for words.

        >>> clip = tubelet.read("photo.jpg")[0]
        >>> p = tubelet.patchify([clip], tubelet.PixelRecipe(16))
        >>> from tubelet.inspect.draw.cells import layers_of
        >>> draw_kept(clip, layers_of(p, p.keep(torch.tensor([0, 7])), 0)).mode
        'RGB'
    """
    for layer in layers:
        check_drawn(clip, layer.item, 1, max_side)
    kept, every = sum(sum(layer.counts) for layer in layers), sum(layer.kept.size for layer in layers)
    title = TextLine((name_of(clip), f"{kept:,} of {every if total is None else total:,} tokens kept"), 19, INK)
    text = [title, *lines]
    if layers[0].item.grid.t > 1:
        return _sheet(clip, layers[0], text, heat, max_side)
    shows: tuple[Show, ...] = ("kept", "heat") if heat and layers[0].heat is not None else ("kept",)
    together = panels_of(layers)
    panels: list[tuple[list[ViewLayer], Show]] = [(panel, show) for show in shows for panel in together]
    frame = frame_at(clip, layers[0].item.times_s[0])
    columns, sizes = _sizes([extent(panel) for panel, _ in panels], len(together), max_side, text)
    drawn = [
        _titled(overlay(clip.frames[frame], panel, size, show=show), _panel_text(panel, show), _scale(panel, show))
        for (panel, show), size in zip(panels, sizes, strict=True)
    ]
    return page_of(drawn, text, columns=columns)


def page_of(
    drawn: Sequence[Image.Image],
    text: Sequence[TextLine],
    *,
    columns: int,
    least: int = 0,
    foot: Callable[[int], Image.Image] | None = None,
) -> Image.Image:
    """Pictures in rows of so many, under a caption. least: so many pixels wide at least. foot: makes what stands below,
    as wide as the rows are."""
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    across = max(NARROW, least, *(sum(d.width for d in row) + GAP * (len(row) - 1) for row in rows))
    head, below = caption(across, text), None if foot is None else foot(across)
    down = head.height + sum(max(d.height for d in row) + GAP for row in rows)
    down += 0 if below is None else GAP + below.height
    page = Image.new("RGB", (across + 2 * MARGIN, down + 2 * MARGIN), PAPER)
    page.paste(head, (MARGIN, MARGIN))
    y = MARGIN + head.height + GAP
    for row in rows:
        x = MARGIN
        for picture in row:
            page.paste(picture, (x, y))
            x += picture.width + GAP
        y += max(d.height for d in row) + GAP
    if below is not None:
        page.paste(below, (MARGIN, y))
    return page


def _titled(picture: Image.Image, text: str, scale: Image.Image | None) -> Image.Image:
    strip = caption(max(picture.width, 230), [TextLine((text,), 14, MUTED)])
    below = 0 if scale is None else scale.height + 2
    page = Image.new(
        "RGB", (max(strip.width, scale.width if scale else 0), picture.height + 5 + strip.height + below), PAPER
    )
    page.paste(picture, (0, 0))
    page.paste(strip, (0, picture.height + 5))
    if scale is not None:
        page.paste(scale, (0, picture.height + 7 + strip.height))
    return page


def _scale(panel: Sequence[ViewLayer], show: Show) -> Image.Image | None:
    """What the colours of heat mean; where all scores are one, that one."""
    if show != "heat" or panel[0].scale is None:
        return None
    low, high = ends(*panel[0].scale)
    return legend("score", low, high, HEAT)


def _panel_text(panel: Sequence[ViewLayer], show: Show) -> str:
    if show == "heat":
        return "scores; white lines around what is kept"
    kept, total = sum(int(one.kept.sum()) for one in panel), sum(one.kept.size for one in panel)
    grid = panel[0].item.grid
    views = f"{len(panel)} views of {grid.h} x {grid.w}" if len(panel) > 1 else f"{grid.h} x {grid.w}"
    return f"{views}: {kept:,} of {total:,}"


def _sizes(
    boxes: Sequence[tuple[float, float, float, float]], together: int, max_side: int, text: Sequence[TextLine]
) -> tuple[int, list[tuple[int, int]]]:
    """Columns, and (width, height) of each panel at one scale: the largest at which all fit.

    together: panels that belong in one row, or else under each other.
    """
    room = max_side - 2 * MARGIN
    below = room - caption(NARROW, text).height - GAP
    widths, heights = ([b[i + 2] - b[i] for b in boxes] for i in (0, 1))
    found = {}
    for n in range(1, len(boxes) + 1):
        if n % together and together % n:
            continue
        rows = [range(i, min(i + n, len(boxes))) for i in range(0, len(boxes), n)]
        across = max(sum(widths[i] for i in row) for row in rows)
        down = sum(max(heights[i] for i in row) for row in rows)
        gaps = (room - GAP * (n - 1)) / across, (below - (GAP + 52) * len(rows)) / down
        found[n] = min(*gaps, LARGEST / max(*widths, *heights))
    columns = max(found, key=lambda n: found[n])
    scale = found[columns]
    return columns, [(max(1, int(w * scale)), max(1, int(h * scale))) for w, h in zip(widths, heights, strict=True)]


def _sheet(clip: Clip, layer: ViewLayer, text: Sequence[TextLine], heat: bool, max_side: int) -> Image.Image:
    """A thumbnail for each row of time, with its time and how many of its cells are kept."""
    item = layer.item
    left, top, right, bottom = item.box
    aspect = (right - left) / (bottom - top)
    room = max_side - 2 * MARGIN
    show: Show = "heat" if heat and layer.heat is not None else "kept"
    scale = _scale([layer], show)
    below = room - caption(NARROW, text).height - GAP - (0 if scale is None else scale.height + GAP)
    shown = min(item.grid.t, 64, math.prod(sheet_capacity(room, below)))
    sheet = arrange(shown, aspect, room, below)
    across = max(sheet.size[0], NARROW)
    more = () if shown == item.grid.t else (TextLine((f"{shown} of {item.grid.t} frames are shown",)),)
    strip = caption(across, [*text, *more])
    down = MARGIN + strip.height + GAP + sheet.size[1] + (0 if scale is None else GAP + scale.height)
    page = Image.new("RGB", (across + 2 * MARGIN, down + MARGIN), PAPER)
    page.paste(strip, (MARGIN, MARGIN))
    if scale is not None:
        page.paste(scale, (MARGIN, down - scale.height))
    for cell, t in enumerate(round(i) for i in np.linspace(0, item.grid.t - 1, shown)):
        frame = frame_at(clip, item.times_s[t])
        x, y = sheet.place(cell)
        x, y = MARGIN + x, MARGIN + strip.height + GAP + y
        page.paste(overlay(clip.frames[frame], [layer], (sheet.width, sheet.height), t=t, show=show), (x, y))
        kept = f"{layer.counts[t]:,} kept"
        label(page, x, y + sheet.height + 5, sheet.pitch - GAP, kept, time_text(item.times_s[t]))
    return page


def warning(*parts: str) -> TextLine:
    """A line that must be seen."""
    return TextLine(parts, 15, ALARM)
