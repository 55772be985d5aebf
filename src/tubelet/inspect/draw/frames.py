"""Pictures for people: what the encoder is given, with its patch grid, and the frames of a clip with their times.

Pillow and numpy alone. Each picture is a few small pieces put under one another: pixels of an item, lines on them, a
strip of text (tubelet.inspect.draw.lettering).

    draw_grid(clip, item, patch)          contact_sheet(clip, item, patch)
    +--+--+--+--+                         walk.mp4
    |  |  |  |  |                         320 x 240 · 8 frames of 4.00 s · ...
    +--+--+--+--+                         +----+ +----+ +----+ +----+
    |  |  |  |  |                         |    | |    | |    | |    |
    +--+--+--+--+                         +----+ +----+ +----+ +----+
    receipt.png                           0  0.00 s   1  0.50 s   ...
    620 x 877, resized to 608 x 864 · ...
"""

import math
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageDraw

from tubelet.doors import door
from tubelet.errors import ShapeError
from tubelet.inspect.draw.grid_lines import MIN_PITCH, draw_lines, line_step
from tubelet.inspect.draw.lettering import INK, MUTED, PAPER, Colour, TextLine, caption, length, time_text, words
from tubelet.packed.grid import Grid, Item
from tubelet.reading.clip import Clip
from tubelet.shapes import UInt8

FRAME: Colour = (214, 212, 206)
ALARM: Colour = (190, 38, 38)

MARGIN, GAP, LABEL = 22, 14, 24  # around a page, between its parts, under a thumbnail
MOST_SIDE = 1 << 15  # pixels of a drawing
NARROW = 400  # no caption is narrower
CELL = 64  # no cell of a contact sheet is narrower: a time must fit


# ---- pixels and lines


def item_pixels(frame: UInt8[np.ndarray, "H W 3"], item: Item, patch: int) -> UInt8[np.ndarray, "h w 3"]:
    """One upright frame as its item is cut: the item's box, resized to grid.h * patch x grid.w * patch pixels.

    Where the box reaches beyond the frame, as after `merge` with odd="pad_edge", there is nothing to see but grey.
    """
    width, height = item.grid.w * patch, item.grid.h * patch
    left, top, right, bottom = item.box
    part = (max(left, 0.0), max(top, 0.0), min(right, float(frame.shape[1])), min(bottom, float(frame.shape[0])))
    # where that part stands in the result; at least one pixel of it
    x0, x1 = (round((x - left) / (right - left) * width) for x in (part[0], part[2]))
    y0, y1 = (round((y - top) / (bottom - top) * height) for y in (part[1], part[3]))
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    size = (max(1, x1 - x0), max(1, y1 - y0))
    cut = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box=part, reducing_gap=3.0))
    if size == (width, height):
        return cut
    out = np.full((height, width, 3), FRAME, dtype=np.uint8)
    out[y0 : y0 + size[1], x0 : x0 + size[0]] = cut
    return out


def _shown(pixels: UInt8[np.ndarray, "H W 3"], width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """`pixels` at another size: small ones enlarged as visible squares of colour, large ones reduced smoothly."""
    if (height, width) == pixels.shape[:2]:
        return pixels
    how = Image.Resampling.NEAREST if width >= 3 * pixels.shape[1] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def _framed(picture: Image.Image) -> Image.Image:
    out = Image.new("RGB", (picture.width + 2, picture.height + 2), FRAME)
    out.paste(picture, (1, 1))
    return out


# ---- what is written beside them


def frame_at(clip: Clip, time_s: float) -> int:
    """The number of the frame that starts nearest to a time."""
    return int(np.argmin(np.abs(np.array(clip.times_s) - time_s)))


def name_of(clip: Clip) -> str:
    """The last part of its source, without folders."""
    return PurePath(clip.source).name or clip.source


def _size_text(clip: Clip, item: Item | None, patch: int | None) -> str:
    if item is None or patch is None:
        return f"{clip.width} x {clip.height}"
    left, top, right, bottom = item.box
    whole = (left, top, right, bottom) == (0.0, 0.0, float(clip.width), float(clip.height))
    how = "cut" if _inside(clip, item) else "padded"
    numbers = [f"{round(v, 1):g}" for v in (right - left, bottom - top, left, top)]
    cut = "" if whole else ", {} to {} x {} at {}, {}".format(how, *numbers)
    return f"{clip.width} x {clip.height}{cut}, resized to {item.grid.w * patch} x {item.grid.h * patch}"


def _inside(clip: Clip, item: Item) -> bool:
    left, top, right, bottom = item.box
    return left >= 0 and top >= 0 and right <= clip.width and bottom <= clip.height


def _grid_text(grid: Grid, patch: int | None) -> tuple[str, str]:
    of = "" if patch is None else f" patches of {patch} px"
    return f"grid {grid.t} x {grid.h} x {grid.w}{of}", f"{grid.rows:,} tokens"


def _step_text(step: int) -> tuple[str, ...]:
    return (f"a line every {step} patches",) if step > 1 else ()


def _warnings(clip: Clip) -> list[TextLine]:
    lines: list[TextLine] = []
    if not clip.complete:
        of = "" if clip.frames_expected is None else f": {len(clip)} of {clip.frames_expected} frames"
        lines.append(TextLine((f"INCOMPLETE{of}",), 15, ALARM))
    return lines + [TextLine((note,), 13) for note in clip.notes[:3]]


def _below(clip: Clip, item: Item, patch: int, frame: int, step: int) -> list[TextLine]:
    """What stands under one drawn frame."""
    when = (f"frame at {time_text(clip.times_s[frame])}",) if clip.is_video else ()
    what = (_size_text(clip, item, patch), *_grid_text(item.grid, patch), *when, *_step_text(step))
    return [TextLine((name_of(clip),), 17, INK), TextLine(what), *_warnings(clip)]


def check_drawn(clip: Clip, item: Item | None, patch: int | None, max_side: int) -> None:
    """Raises ShapeError where the item cannot come from the clip or the page has no room for words."""
    if max_side > MOST_SIDE:
        raise ShapeError(f"a drawing has at most {MOST_SIDE} pixels a side", limit=MOST_SIDE, got=max_side)
    if max_side < NARROW + 2 * MARGIN:
        raise ShapeError(f"a drawing needs at least {NARROW + 2 * MARGIN} pixels a side", got=max_side)
    if (item is None) != (patch is None) or (patch is not None and patch < 1):
        raise ShapeError("an item is drawn with its patch size in pixels, at least 1", source=clip.source, got=patch)
    if item is None:
        return
    left, top, right, bottom = item.box
    if not (left < right and top < bottom and left < clip.width and top < clip.height and right > 0 and bottom > 0):
        raise ShapeError(
            f"the box {item.box} has no part of {clip.width} x {clip.height}", source=clip.source, got=item.box
        )


# ---- the two pictures


@door
def draw_grid(clip: Clip, item: Item, patch: int, *, row: int = 0, max_side: int = 1600) -> Image.Image:
    """One frame as the encoder is given it, with its patch grid and a caption, as an RGB picture.

    The frame is the one that starts nearest to the item's time row `row`. Small pictures are enlarged by a whole
    number, large ones reduced so that neither side of the result passes `max_side` (captions included); grids too
    dense to be seen get a line every few patches, and the caption says so. Cost: two resizes on the host.
    Raises ShapeError when the item cannot come from the clip or `max_side` has no room for words.

        >>> from tubelet import Clip, Item
        >>> clip = Clip(np.full((1, 60, 90, 3), 200, dtype=np.uint8), (0.0,), "wall.png")
        >>> draw_grid(clip, Item(Grid(1, 4, 6), (0.0,), 0, (0, 0, 90, 60)), patch=14).mode
        'RGB'
    """
    check_drawn(clip, item, patch, max_side)
    if not 0 <= row < item.grid.t:
        raise ShapeError(f"time row {row} of {item.grid.t}", source=clip.source, limit=item.grid.t, got=row)
    frame = frame_at(clip, item.times_s[row])
    pixels = item_pixels(clip.frames[frame], item, patch)
    height, width = pixels.shape[:2]
    room = max_side - 2 * MARGIN - 2
    reserve = caption(NARROW, _below(clip, item, patch, frame, 2)).height + GAP
    scale = min(max(1, 900 // max(height, width)), room / width, (room - reserve) / height)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    lines = _below(clip, item, patch, frame, line_step(min(shown[0] / item.grid.w, shown[1] / item.grid.h)))
    picture = _framed(Image.fromarray(draw_lines(_shown(pixels, *shown), item.grid)))
    text = caption(max(picture.width, NARROW), lines)
    page = Image.new("RGB", (text.width + 2 * MARGIN, picture.height + GAP + text.height + 2 * MARGIN), PAPER)
    page.paste(picture, ((page.width - picture.width) // 2, MARGIN))
    page.paste(text, (MARGIN, MARGIN + picture.height + GAP))
    return page


@dataclass(frozen=True)
class Sheet:
    """Where the cells of a contact sheet lie: columns, rows, and the size of one thumbnail."""

    columns: int
    rows: int
    width: int
    height: int

    @property
    def pitch(self) -> int:
        return max(self.width, CELL) + GAP

    @property
    def size(self) -> tuple[int, int]:
        return self.columns * self.pitch - GAP, self.rows * (self.height + LABEL + GAP) - GAP

    def place(self, cell: int) -> tuple[int, int]:
        """Left top corner of a thumbnail, counted from that of the first."""
        return cell % self.columns * self.pitch, cell // self.columns * (self.height + LABEL + GAP)


def sheet_capacity(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the smallest cells that fit into width x height."""
    return max(1, (width + GAP) // (CELL + GAP)), max(1, (height + GAP) // (MIN_PITCH + LABEL + GAP))


def arrange(cells: int, aspect: float, width: int, height: int) -> Sheet:
    """The arrangement with the largest thumbnails in width x height; wide sheets without empty cells are preferred."""

    def of(n: int) -> Sheet:
        rows = math.ceil(cells / n)
        w = (width + GAP) / n - GAP
        h = (height + GAP) / rows - GAP - LABEL
        w = max(1.0, min(w, h * aspect, 420.0 * min(1.0, aspect)))
        return Sheet(n, rows, int(w), max(1, min(int(w / aspect), int(h))))

    def worth(sheet: Sheet) -> float:
        across, down = sheet.size
        shape = abs(math.log(across / down / 1.8))
        empty = sheet.columns * sheet.rows - cells
        return sheet.width * sheet.height * (1.0 - 0.3 * min(shape, 3.0)) * (1.0 - 0.3 * empty / cells)

    columns, rows = sheet_capacity(width, height)
    return max((of(n) for n in range(1, columns + 1) if math.ceil(cells / n) <= rows), key=worth)


def _title(clip: Clip, item: Item | None, patch: int | None, shown: int, step: int) -> list[TextLine]:
    count = f"{len(clip)} frames" if len(clip) != 1 else "1 frame"
    if shown < len(clip):
        count = f"{shown} of {count}"
    lasts = "" if clip.duration_s is None else f" of {time_text(clip.duration_s)}"
    grid = () if item is None else (*_grid_text(item.grid, patch), *_step_text(step))
    return [
        TextLine((name_of(clip),), 19, INK),
        TextLine((_size_text(clip, item, patch), count + lasts, *grid)),
        *_warnings(clip),
    ]


def _thumbnail(frame: UInt8[np.ndarray, "H W 3"], item: Item | None, patch: int | None, sheet: Sheet) -> Image.Image:
    pixels = frame if item is None or patch is None else item_pixels(frame, item, patch)
    pixels = _shown(pixels, sheet.width, sheet.height)
    return Image.fromarray(pixels if item is None else draw_lines(pixels, item.grid))


def label(page: Image.Image, x: int, y: int, width: int, index: str, time: str) -> None:
    """The time under a thumbnail and, where there is room for both, the frame's index at the other end."""
    page.paste(words(time, 13, INK), (x, y))
    right = words(index, 13, MUTED)
    if right.width + length(time, 13) + 12 <= width:
        page.paste(right, (x + width - right.width, y))


def _missing(page: Image.Image, x: int, y: int, sheet: Sheet) -> None:
    """An empty cell for a frame that was asked for and not found."""
    box = (x, y, x + sheet.width - 1, y + sheet.height - 1)
    pen = ImageDraw.Draw(page)
    pen.line((box[0], box[3], box[2], box[1]), fill=FRAME)
    pen.rectangle(box, outline=ALARM)
    page.paste(words("missing", 13, ALARM), (x, y + sheet.height + 5))


@door
def contact_sheet(
    clip: Clip,
    item: Item | None = None,
    patch: int | None = None,
    *,
    max_frames: int = 64,
    max_side: int = 1600,
) -> Image.Image:
    """The frames of a clip as thumbnails with their true times, as an RGB picture with a title.

    With `item` and `patch`, each thumbnail is drawn as the item is cut and carries the patch grid. Of more than
    `max_frames` frames, evenly chosen ones are shown and the title says how many. A clip that is not complete says so
    in the title, and the frames it lacks are drawn as empty cells. Sides stay within `max_side`, captions included.
    Cost: one resize per shown frame. Raises ShapeError when the item cannot come from the clip or `max_side` has no
    room for words.

        >>> clip = Clip(np.zeros((3, 36, 64, 3), dtype=np.uint8), (0.0, 0.5, 1.0), "dark.mp4", is_video=True)
        >>> contact_sheet(clip).mode
        'RGB'
    """
    check_drawn(clip, item, patch, max_side)
    if max_frames < 1:
        raise ShapeError(f"a sheet has at least one frame, got {max_frames}", limit=1, got=max_frames)
    aspect = clip.width / clip.height if item is None else item.grid.w / item.grid.h
    room = max_side - 2 * MARGIN
    below = room - caption(NARROW, _title(clip, item, patch, 0, 2)).height - GAP
    most = math.prod(sheet_capacity(room, below))
    frames, shown = len(clip), min(len(clip), max_frames, most)
    chosen = [round(i) for i in np.linspace(0, frames - 1, shown)]
    lost = 0 if clip.complete or clip.frames_expected is None else max(0, clip.frames_expected - frames)
    cells = shown + min(lost, max_frames, most - shown)
    sheet = arrange(cells, aspect, room, below)
    step = 1 if item is None else line_step(min(sheet.height / item.grid.h, sheet.width / item.grid.w))
    lines = _title(clip, item, patch, shown, step)
    across = max(sheet.size[0], NARROW)
    text = caption(across, lines)
    top = MARGIN + text.height + GAP
    page = Image.new("RGB", (across + 2 * MARGIN, top + sheet.size[1] + MARGIN), PAPER)
    page.paste(text, (MARGIN, MARGIN))
    for cell in range(cells):
        x, y = sheet.place(cell)
        x, y = MARGIN + x, top + y
        if cell < shown:
            frame = chosen[cell]
            page.paste(_thumbnail(clip.frames[frame], item, patch, sheet), (x, y))
            label(page, x, y + sheet.height + 5, sheet.pitch - GAP, str(frame), time_text(clip.times_s[frame]))
        else:
            _missing(page, x, y, sheet)
    return page
