"""A pack as a person sees it: each picture with its grid, or with the cells that still have a row."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from tubelet.doors import door
from tubelet.errors import ShapeError
from tubelet.inspect.draw.cells import ViewLayer, extent, layers_of, overlay, panels_of, part_of
from tubelet.inspect.draw.frames import GAP, MARGIN, NARROW, check_drawn, frame_at, name_of
from tubelet.inspect.draw.grid_lines import draw_lines
from tubelet.inspect.draw.kept import page_of
from tubelet.inspect.draw.lettering import INK, PAPER, TextLine, caption, time_text
from tubelet.packed import Packed
from tubelet.reading.clip import Clip

FRAMES, MOST = 4, 24  # of a clip, and panels on a page
BLANK = 244  # grey level of what there is no clip of
SIDES = 340, 260  # of a panel, at most


@door
def draw_packed(p: Packed, clips: Sequence[Clip] | None = None, *, max_side: int = 1200) -> Image.Image:
    """Each picture of a pack with its patch grid, or what is left of it bright and outlined, as an RGB picture.

    clips: of the pictures that items count; without them the grids are blank. Of a clip, four frames. Of more than 24
    panels, the first. Raises ShapeError where items cannot come from the clips.

        >>> p = tubelet.pack([torch.zeros(24, 8)], [tubelet.Item.of(1, 4, 6)])
        >>> draw_packed(p.keep(torch.tensor([0, 7]))).mode
        'RGB'
    """
    if max_side < NARROW + 2 * MARGIN:
        raise ShapeError(f"a drawing needs at least {NARROW + 2 * MARGIN} pixels a side", got=max_side)
    if not len(p):
        raise ShapeError("there is no item to draw", limit=1, got=0)
    drawn: list[Image.Image] = []
    count = 0
    pictures = sorted({item.picture for item in p.items})
    for picture in pictures[:MOST]:
        if clips is not None and picture >= len(clips):
            raise ShapeError(f"picture {picture} of {len(clips)} clips", item=picture, limit=len(clips), got=picture)
        clip = None if clips is None else clips[picture]
        layers = layers_of(p, p, picture)
        for panel in panels_of(layers):
            t = panel[0].item.grid.t
            for row in (round(i) for i in np.linspace(0, t - 1, min(t, FRAMES))):
                count += 1
                if count <= MOST:
                    drawn.append(_panel(clip, panel, row, picture))
    columns = max(1, (max_side - 2 * MARGIN + GAP) // (max(d.width for d in drawn) + GAP))
    left_out = count - len(drawn) + max(0, len(pictures) - MOST)
    more = [TextLine((f"{left_out:,} more are not shown",))] if left_out else []
    rows, values = p.x.shape
    head = TextLine((f"{len(p)} items" if len(p) != 1 else "1 item", f"{rows:,} rows of {values:,} values"), 17, INK)
    return page_of(drawn, [head, *more], columns=columns)


def _panel(clip: Clip | None, panel: Sequence[ViewLayer], row: int, picture: int) -> Image.Image:
    """One frame of views that lie beside each other, with a line of words below."""
    for layer in panel:
        if clip is not None:
            check_drawn(clip, layer.item, 1, NARROW + 2 * MARGIN)
    box = extent(panel)
    if clip is None:  # a file may say a box of any size: what is blank is made as large as it is drawn
        panel, box = _small(panel, box)
    scale = min(SIDES[0] / (box[2] - box[0]), SIDES[1] / (box[3] - box[1]))
    size = max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale))
    item, time = panel[0].item, panel[0].item.times_s[row]
    frame = np.full((*size[::-1], 3), BLANK, np.uint8) if clip is None else clip.frames[frame_at(clip, time)]
    if len(panel) == 1 and panel[0].kept.all():
        image = Image.fromarray(draw_lines(part_of(frame, box, size), item.grid))
    else:
        image = overlay(frame, panel, size, t=row)
    kept, every = sum(int(one.kept[row].sum()) for one in panel), sum(one.kept[row].size for one in panel)
    name = f"picture {picture}" if clip is None else name_of(clip)
    views = f"{len(panel)} views of " if len(panel) > 1 else ""
    when = (time_text(time),) if item.grid.t > 1 else ()
    rows = f"{every:,} rows" if kept == every else f"{kept:,} of {every:,} rows"
    text = caption(max(image.width, 240), [TextLine((name, *when, f"{views}{item.grid.h} x {item.grid.w}", rows), 13)])
    page = Image.new("RGB", (text.width, image.height + 4 + text.height), PAPER)
    page.paste(image, (0, 0))
    page.paste(text, (0, image.height + 4))
    return page


def _small(
    panel: Sequence[ViewLayer], box: tuple[float, float, float, float]
) -> tuple[list[ViewLayer], tuple[float, float, float, float]]:
    """The views with their boxes moved to the upper left and as large as a panel is drawn."""
    across, down = box[2] - box[0], box[3] - box[1]
    scale = min(SIDES[0] / across, SIDES[1] / down)

    def moved(one: tuple[float, ...]) -> tuple[float, float, float, float]:
        left, top, right, bottom = one
        return (left - box[0]) * scale, (top - box[1]) * scale, (right - box[0]) * scale, (bottom - box[1]) * scale

    out = []
    for layer in panel:
        item = layer.item
        content = None if item.content is None else moved(item.content)
        out.append(replace(layer, item=replace(item, box=moved(item.box), content=content)))
    return out, (0.0, 0.0, across * scale, down * scale)
