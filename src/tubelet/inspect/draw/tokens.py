"""What tokens hold, at their true places: a page of maps for each picture, and what the colours mean below.

receipt.png  1 x 56 x 37, 2,072 tokens
+---------+ +---------+ +---------+ +---------+
| picture | | own     | | one     | | norm    |     of a clip, a row of frames for each map
+---------+ +---------+ +---------+ +---------+
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tubelet.doors import door
from tubelet.errors import ShapeError
from tubelet.inspect.draw.cells import AROUND, ViewLayer, cells_at, extent, layers_of, outline, panels_of, part_of
from tubelet.inspect.draw.frames import ALARM, GAP, MARGIN, NARROW, frame_at
from tubelet.inspect.draw.lettering import (
    INK,
    MUTED,
    PAPER,
    Colour,
    TextLine,
    caption,
    drawable,
    shorten,
    time_text,
    words,
)
from tubelet.inspect.draw.token_maps import Point, TokenMap, row_at, token_maps
from tubelet.inspect.draw.veil import is_page, veiled
from tubelet.packed import Packed
from tubelet.reading.clip import Clip
from tubelet.shapes import Int64, UInt8

FRAMES, MOST = 8, 40  # of a clip, and pictures that are looked at one by one
STRETCHED = 200.0  # sides of a map, at most: a file may say anything
TALLEST, LOWEST = 460, 90  # pixels of a map, as far as the page has room
TITLE, NAME = 26, 30  # above a map, and above those of a picture
NOTHING: Colour = (226, 224, 218)  # where there is no token and no picture


@dataclass(frozen=True)
class Block:
    """The maps of views that lie beside each other in one picture."""

    name: str
    panel: tuple[ViewLayer, ...]
    tables: tuple[Int64[np.ndarray, "t h w"], ...]  # the row of the pack in each cell of each view, -1 for none
    clip: Clip | None
    maps: int  # columns, or of a clip rows, with the picture itself where there is one

    @property
    def times(self) -> list[int]:
        t = self.panel[0].item.grid.t
        return [round(i) for i in np.linspace(0, t - 1, min(t, FRAMES))]

    def size(self, width: int, tallest: int) -> tuple[int, int]:
        """Of one map, (width, height), where so much is there for all."""
        left, top, right, bottom = extent(self.panel)
        aspect = min(max((right - left) / (bottom - top), 1 / STRETCHED), STRETCHED)
        columns = self.maps if len(self.times) == 1 else len(self.times)
        wide = min((width - GAP * (columns - 1)) / columns, tallest * aspect)
        return max(1, int(wide)), max(1, int(wide / aspect))

    def height(self, width: int, tallest: int) -> int:
        rows = 1 if len(self.times) == 1 else self.maps
        return NAME + rows * (self.size(width, tallest)[1] + TITLE) + GAP


@door
def draw_tokens(
    p: Packed,
    clips: Sequence[Clip | None] = (),
    names: Sequence[str] = (),
    *,
    like: Point | None = None,
    lines: Sequence[TextLine] = (),
    max_side: int = 1600,
) -> Image.Image:
    """Principal directions as colours, norms, and likeness with a chosen token, at the places of the rows, as an RGB
    picture.

    clips: of the pictures that items count, None where there is none; they are shown beside the maps and through what
    has no token. names: of each item. lines: what to say above. Where not all pictures fit into `max_side` pixels, the
    first ones are drawn and the page says so. Cost: rows x width x 100 or so operations on the host. Raises ShapeError,
    and InputError for a `like` without a token.

        >>> p = tubelet.pack([torch.randn(24, 8)], [tubelet.Item.of(1, 4, 6)])
        >>> draw_tokens(p).mode
        'RGB'
    """
    if max_side < NARROW + 2 * MARGIN:
        raise ShapeError(f"a drawing needs at least {NARROW + 2 * MARGIN} pixels a side", got=max_side)
    pictures = sorted({item.picture for item in p.items})
    found = token_maps(p, like, drawn=pictures[:MOST])
    maps = [one for one in found if one.colours is not None]
    chosen = None if like is None else row_at(p, like)
    blocks = _blocks(p, pictures[:MOST], clips, names, len(maps))
    width = max_side - 2 * MARGIN
    broken = p.x.is_floating_point() and not bool(p.x.isfinite().all())
    foot = _legend(width, found, broken)
    room = width - caption(width, [*lines, TextLine(("x",))]).height - foot.height - 2 * GAP
    shown, tallest = _fitting(blocks, width, room)
    left_out = len(blocks) - len(shown) + max(0, len(pictures) - MOST)
    more = [TextLine((f"{left_out:,} more are not shown",))] if left_out else []
    drawn = [_drawn(block, maps, width, tallest, chosen) for block in shown]
    across = max(NARROW, *(one.width for one in drawn))
    head, foot = caption(across, [*lines, *more]), _legend(across, found, broken)
    page = Image.new(
        "RGB",
        (across + 2 * MARGIN, head.height + GAP + sum(d.height for d in drawn) + foot.height + 2 * MARGIN),
        PAPER,
    )
    page.paste(head, (MARGIN, MARGIN))
    y = MARGIN + head.height + GAP
    for one in drawn:
        page.paste(one, (MARGIN, y))
        y += one.height
    page.paste(foot, (MARGIN, y))
    return page


def _blocks(
    p: Packed, pictures: Sequence[int], clips: Sequence[Clip | None], names: Sequence[str], maps: int
) -> list[Block]:
    out = []
    for picture in pictures:
        own = [i for i, item in enumerate(p.items) if item.picture == picture]
        layers = layers_of(p, p, picture)
        tables = {id(layer): _table(p, i) for i, layer in zip(own, layers, strict=True)}
        clip = clips[picture] if picture < len(clips) else None
        name = names[own[0]] if names else f"picture {picture}"
        for panel in panels_of(layers):
            cut = tuple(tables[id(layer)] for layer in panel)
            out.append(Block(name, tuple(panel), cut, clip, maps + (clip is not None)))
    return out


def _table(p: Packed, item: int) -> Int64[np.ndarray, "t h w"]:
    table = np.full(p.items[item].grid, -1, np.int64)
    rows = slice(p.starts[item], p.starts[item + 1])
    table[tuple(p.pos[rows].cpu().long().numpy().T)] = np.arange(rows.start, rows.stop)
    return table


def _fitting(blocks: Sequence[Block], width: int, room: int) -> tuple[Sequence[Block], int]:
    """The blocks that fit under each other, all of them if they can, and how tall their maps are at most."""
    tallest = TALLEST
    while tallest > LOWEST and sum(b.height(width, tallest) for b in blocks) > room:
        tallest = max(LOWEST, int(tallest * 0.9))
    count = len(blocks)
    while count > 1 and sum(b.height(width, tallest) for b in blocks[:count]) > room:
        count -= 1
    while count == 1 and tallest > 8 and blocks[0].height(width, tallest) > room:
        tallest = int(tallest * 0.9)
    return blocks[:count], tallest


def _drawn(block: Block, maps: Sequence[TokenMap], width: int, tallest: int, chosen: int | None) -> Image.Image:
    """One block: names of the maps over the maps."""
    size, times = block.size(width, tallest), block.times
    still = len(times) == 1
    pictures = [("the picture" if still else "frames", None)] if block.clip is not None else []
    columns = [*pictures, *((m.name, m.colours) for m in maps)]
    across = len(columns) if still else len(times)
    step = size[1] + TITLE
    page = Image.new(
        "RGB", (max(NARROW, across * (size[0] + GAP) - GAP), NAME + (1 if still else len(columns)) * step + GAP), PAPER
    )
    grids = {f"{layer.item.grid.h} x {layer.item.grid.w}" for layer in block.panel}
    frames = "" if still else f"{block.panel[0].item.grid.t} x "
    views = "" if len(block.panel) == 1 else f"{len(block.panel)} views of "
    count = sum(int((table >= 0).sum()) for table in block.tables)
    text = f"{block.name}  \N{MIDDLE DOT}  {views}{frames}{', '.join(sorted(grids))}  \N{MIDDLE DOT}  {count:,} tokens"
    page.paste(words(shorten(drawable(text), 16, page.width), 16, INK), (0, 0))
    for i, (name, colours) in enumerate(columns):
        for j, t in enumerate(times):
            x = (i if still else j) * (size[0] + GAP)
            y = NAME + (0 if still else i * step)
            picture = _frame(block, t, size) if colours is None else _map(block, colours, t, size, chosen)
            page.paste(picture, (x, y + TITLE - 4))
            title = (name,) if still or j == 0 else ()
            when = (time_text(block.panel[0].item.times_s[t]),) if not still and i == 0 else ()
            said = ", ".join((*title, *when))
            page.paste(words(shorten(said, 13, max(size[0], 60)), 13, MUTED), (x, y + 2))
    return page


def _frame(block: Block, t: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(part_of(_frame_at(block, t), extent(block.panel), size))


def _frame_at(block: Block, t: int) -> UInt8[np.ndarray, "H W 3"]:
    assert block.clip is not None
    return block.clip.frames[frame_at(block.clip, block.panel[0].item.times_s[t])]


def _map(
    block: Block, colours: UInt8[np.ndarray, "T 3"], t: int, size: tuple[int, int], chosen: int | None
) -> Image.Image:
    """The colours of the rows at their cells; where there is no row, the picture under a veil, or nothing."""
    box = extent(block.panel)
    if block.clip is None:
        out = np.full((size[1], size[0], 3), NOTHING, np.uint8)
    else:
        frame = _frame_at(block, t)
        out = veiled(part_of(frame, box, size), is_page(frame))
    for layer, table in zip(block.panel, block.tables, strict=True):
        rows, columns = cells_at(layer.item, box, size)
        if not (len(rows) and len(columns)):
            continue
        index = table[t][np.ix_([i for _, i in rows], [j for _, j in columns])]
        here = out[rows[0][0] : rows[-1][0] + 1, columns[0][0] : columns[-1][0] + 1]
        here[index >= 0] = colours[index[index >= 0]]
        mark = index == chosen if chosen is not None else np.zeros_like(index, bool)
        if mark.any():
            outline(here, ~mark, AROUND, 1)
            outline(here, mark, (255, 255, 255), 1)
    return Image.fromarray(out)


def _legend(width: int, maps: Sequence[TokenMap], broken: bool) -> Image.Image:
    """What the colours of each map mean, and their scales."""
    red = [TextLine(("red: tokens with NaN or infinity",), 13, ALARM)] if broken else []
    ends = (
        [TextLine(("scales: a hundredth of the tokens lies beyond each end",), 13)]
        if any(m.scale for m in maps)
        else []
    )
    text = caption(width, [*(TextLine((m.about,), 13) for m in maps), *red, *ends])
    bars = [m.scale for m in maps if m.scale is not None]
    page = Image.new("RGB", (width, text.height + 6 + 24 * len(bars)), PAPER)
    page.paste(text, (0, 0))
    for i, bar in enumerate(bars):
        page.paste(bar, (0, text.height + 6 + 24 * i))
    return page
