"""Several choices from one picture beside each other, with a table of their numbers, on one page.

+--------+ +--------+ +--------+
| ##     | |  # #  #| |#### ###|
+--------+ +--------+ +--------+
shirg      divprune   random

          coverage ^  in boxes ^        which way is better, and what the columns mean below
shirg        0.53        1.00
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from tubelet.errors import ShapeError
from tubelet.inspect.draw.cells import ViewLayer, extent, overlay, panels_of, resized_view
from tubelet.inspect.draw.frames import FRAME, GAP, MARGIN, frame_at
from tubelet.inspect.draw.kept import page_of
from tubelet.inspect.draw.lettering import (
    INK,
    MUTED,
    PAPER,
    TextLine,
    arrow,
    caption,
    drawable,
    length,
    shorten,
    words,
)
from tubelet.inspect.metrics.comparison import Comparison, Measure
from tubelet.reading.clip import Clip

FRAMES = 6  # of a clip that each choice shows
ROW, CELL_GAP = 22, 26  # height of a row of the table, room between its columns
NAME_ROOM = 24  # above each picture, for its name
NOTE_ROOM = 42  # below


@dataclass(frozen=True)
class Entry:
    """One choice and how it is drawn."""

    name: str
    note: tuple[str, ...]  # under its picture, on up to two lines
    layers: tuple[ViewLayer, ...]
    cell: int | None = None  # pixels of a side of a cell: None for rows of the picture itself, 1 for averages of them


def draw_comparison(
    clip: Clip,
    entries: Sequence[Entry],
    numbers: Comparison,
    lines: Sequence[TextLine],
    *,
    max_side: int = 1600,
) -> Image.Image:
    """One picture for each entry, at one scale, under a caption and over a table, as an RGB picture.

    numbers: of the same names, best ones bold; what the columns mean stands below. Of a clip, up to six frames each. A
    page that is too narrow for the table is as wide as the table. Raises ShapeError for nothing to compare.

        >>> clip = tubelet.read("photo.jpg")[0]
        >>> p = tubelet.patchify([clip], tubelet.PixelRecipe(16))
        >>> from tubelet.inspect.draw.cells import layers_of
        >>> from tubelet.inspect.metrics import mean_of
        >>> entry = Entry("first", ("2 of 24",), tuple(layers_of(p, p.keep(torch.tensor([0, 1])), 0)))
        >>> draw_comparison(clip, [entry], Comparison({"first": {"coverage": mean_of([0.25])}}), []).mode
        'RGB'
    """
    if not entries:
        raise ShapeError("there is nothing to compare")
    table = _table(numbers)
    width = max(max_side - 2 * MARGIN, table.width)
    below = _with_notes(table, numbers, width)
    head = caption(width, lines)
    room = max(300, max_side - 2 * MARGIN - head.height - below.height - 2 * GAP)
    columns, scale = _arranged([_natural(clip, entry) for entry in entries], width, room)
    drawn = [_named(_picture(clip, entry, scale), entry) for entry in entries]
    return page_of(drawn, lines, columns=columns, least=table.width, foot=partial(_with_notes, table, numbers))


# ---- the pictures


def _natural(clip: Clip, entry: Entry) -> tuple[float, float]:
    """Width and height of an entry's picture in pixels of the clip, gaps left out."""
    boxes = [extent(panel) for panel in panels_of(entry.layers)]
    wide, high = sum(b[2] - b[0] for b in boxes), max(b[3] - b[1] for b in boxes)
    return wide * len(_frames(entry)), high


def _frames(entry: Entry) -> list[int]:
    t = entry.layers[0].item.grid.t
    return [round(i) for i in np.linspace(0, t - 1, min(t, FRAMES))]


def _arranged(sizes: Sequence[tuple[float, float]], width: int, height: int) -> tuple[int, float]:
    """Columns, and the scale at which they fill the room best."""
    wide, high = max(w for w, _ in sizes), max(h for _, h in sizes)

    def scale(columns: int) -> float:
        rows = math.ceil(len(sizes) / columns)
        across = (width - GAP * (columns - 1) - 2 * FRAMES) / columns / wide
        down = (height - rows * (NAME_ROOM + NOTE_ROOM + GAP)) / rows / high
        return min(across, down)

    best = max(range(1, len(sizes) + 1), key=scale)
    return best, max(scale(best), 40 / max(wide, high))


def _picture(clip: Clip, entry: Entry, scale: float) -> Image.Image:
    parts: list[Image.Image] = []
    for t in _frames(entry):
        time = entry.layers[0].item.times_s[t]
        frame = clip.frames[frame_at(clip, time)]
        for panel in panels_of(entry.layers):
            box = extent(panel)
            size = max(1, int((box[2] - box[0]) * scale)), max(1, int((box[3] - box[1]) * scale))
            if entry.cell is None:
                parts.append(overlay(frame, panel, size, t=t))
            else:
                parts.append(resized_view(frame, panel, size, pixels=entry.cell))
    page = Image.new("RGB", (sum(p.width + 2 for p in parts) - 2, max(p.height for p in parts)), PAPER)
    x = 0
    for part in parts:
        page.paste(part, (x, 0))
        x += part.width + 2
    return page


def _named(picture: Image.Image, entry: Entry) -> Image.Image:
    page = Image.new("RGB", (picture.width, picture.height + NAME_ROOM + NOTE_ROOM), PAPER)
    page.paste(words(shorten(drawable(entry.name), 17, picture.width), 17, INK), (0, 0))
    page.paste(picture, (0, NAME_ROOM))
    page.paste(caption(picture.width, [TextLine(entry.note, 13)]), (0, NAME_ROOM + picture.height + 4))
    return page


# ---- the table


def _table(numbers: Comparison) -> Image.Image:
    """Names to the left and numbers to the right under the names of their columns, the best of a column bold."""
    keys = [m.key for m in numbers.measures]
    cells = [[drawable(name), *(numbers.cell(name, key) for key in keys)] for name in numbers.rows]
    heads = [Image.new("RGB", (1, ROW), PAPER), *(_head(m) for m in numbers.measures)]
    widths = [max([head.width, *(math.ceil(length(row[i], 14)) for row in cells)]) for i, head in enumerate(heads)]
    across = sum(widths) + CELL_GAP * (len(widths) - 1)
    page = Image.new("RGB", (max(across, 1), ROW * (len(cells) + 1) + 8), PAPER)
    best = [set(), *(set(numbers.best(key)) for key in keys)]
    x = 0
    for column, (head, width) in enumerate(zip(heads, widths, strict=True)):
        page.paste(head, (x + width - head.width, 0))
        for i, (name, row) in enumerate(zip(numbers.rows, cells, strict=True)):
            strip = words(row[column], 14, INK, bold=name in best[column])
            page.paste(strip, (x + width - strip.width if column else x, (i + 1) * ROW + 8))
        x += width + CELL_GAP
    ImageDraw.Draw(page).line((0, ROW + 2, across, ROW + 2), fill=FRAME)
    return page


def _head(measure: Measure) -> Image.Image:
    """The name of a column and an arrow towards what is better."""
    name = words(measure.name, 14, MUTED)
    if measure.better is None:
        return name
    mark = arrow(14, MUTED, up=measure.better == "higher")
    page = Image.new("RGB", (name.width + mark.width + 3, name.height), PAPER)
    page.paste(name, (0, 0))
    page.paste(mark, (name.width + 3, 0))
    return page


def _with_notes(table: Image.Image, numbers: Comparison, width: int) -> Image.Image:
    """The table with what its columns mean and how far its numbers can be trusted."""
    marks = "arrows: which way is better", "bold: the best"
    trust = (TextLine(tuple(note.split(", ")), 13) for note in numbers.footnotes)
    notes = caption(width, [TextLine((*numbers.legend, *marks), 13), *trust])
    page = Image.new("RGB", (width, table.height + 10 + notes.height), PAPER)
    page.paste(table, (0, 0))
    page.paste(notes, (0, table.height + 10))
    return page
