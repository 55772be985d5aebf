"""Pictures and clips written out in a worded prompt: text around rows, between tiles and between frames.

template       User:<image>What is it?                       what a chat template writes
written out    User:<tag row 1 col 1><image><tag row 1 col 2><image>\\n\\n<whole><image><end>What is it?
rows                                  64                   64              64
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import torch

from tubelet.errors import AlignmentError, LimitError
from tubelet.language.vlm.scheme import Written
from tubelet.packed import Packed
from tubelet.pixels.views_plan import ViewRule
from tubelet.reading.clip import Clip

Block = tuple[str, int]  # text with one placeholder, and its rows

_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ONES += ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_MOST = 999_999


def marks_of(written: Written) -> re.Pattern[str]:
    """What a template writes for pictures and clips."""
    marks = [written.mark] if written.clip_mark is None else [written.mark, written.clip_mark]
    return re.compile("|".join(map(re.escape, marks)))


class Shown(NamedTuple):
    """A picture or clip as it is written out. lengths: rows of each view, or of each frame of a clip."""

    height: int
    width: int
    is_video: bool
    times_s: Sequence[float]
    duration_s: float | None
    lengths: Sequence[int]


class WrittenOut(NamedTuple):
    """text: with what stands around rows. counts: rows of each placeholder. grown: where marks ended in the text that
    was given, and how many letters longer what stands there is."""

    text: str
    counts: list[int]
    grown: list[tuple[int, int]]


def shown_of(clips: Sequence[Clip], rows: Packed, written: Written) -> list[Shown]:
    """The clips that the pack has rows of, in its order."""
    out: list[Shown] = []
    for number in dict.fromkeys(item.picture for item in rows.items):
        own, clip = [i for i, item in enumerate(rows.items) if item.picture == number], clips[number]
        lengths: Sequence[int] = [rows.lengths[i] for i in own]
        if written.clip_mark is not None and clip.is_video:
            [lengths] = [_frame_lengths(rows, i) for i in own]
        out.append(Shown(clip.height, clip.width, clip.is_video, clip.times_s, clip.duration_s, lengths))
    return out


def write_out(text: str, items: Sequence[Shown], written: Written, views: ViewRule | None) -> WrittenOut:
    """The text with its marks written out; a tile or frame without rows is left out.

    Raises AlignmentError where the text has other marks than there are items.
    """
    pieces, counts, grown, done = [], [], [], 0
    found = list(marks_of(written).finditer(text))
    if len(found) != len(items):
        raise AlignmentError("the prompt has other items", expected=len(items), got=len(found))
    for number, (item, at) in enumerate(zip(items, found, strict=True)):
        by_frame = at[0] == written.clip_mark
        if by_frame != (written.clip_mark is not None and item.is_video):
            raise AlignmentError("the prompt has another kind of item", item=number, got=at[0])
        blocks = _clip(item, written) if by_frame else _picture(item, written, views)
        shown = "".join(block for block, _ in blocks) + (written.clip_end if by_frame else "")
        pieces += [text[done : at.start()], shown]
        counts += [n for _, n in blocks]
        done = at.end()
        grown.append((done, len(shown) - len(at[0])))
    return WrittenOut("".join([*pieces, text[done:]]), counts, grown)


def _picture(item: Shown, written: Written, views: ViewRule | None) -> list[Block]:
    """One block, or one for each tile and one for the whole behind them."""
    lengths = item.lengths
    if written.tile is None or views is None or len(lengths) == 1:
        return [(written.text, sum(lengths))]
    columns = views.tiling(item.height, item.width).cols
    blocks: list[Block] = []
    before = ""
    for n, length in enumerate(lengths[:-1]):
        row, col = divmod(n, columns)
        if length:
            tag = written.tile.replace("{row}", str(row + 1)).replace("{col}", str(col + 1))
            blocks.append((before + tag, length))
            before = ""
        if col == columns - 1 and any(lengths[row * columns : (row + 1) * columns]):
            before += written.row_end
    before += written.tiles_end if blocks else ""
    return [*blocks, (before + written.text, lengths[-1])]


def _clip(item: Shown, written: Written) -> list[Block]:
    """A block a frame; the first begins with what is said of the clip."""
    kept = [t for t, n in enumerate(item.lengths) if n]
    length_s = item.times_s[-1] if item.duration_s is None else item.duration_s
    begin = written.clip_begin.replace("{duration}", str(timedelta(seconds=int(length_s))))
    begin = begin.replace("{frames}", number_in_words(len(kept))) if "{frames}" in begin else begin
    blocks: list[Block] = []
    for t in kept:
        when = f"{int(item.times_s[t] // 60):02d}:{int(item.times_s[t] % 60):02d}"
        frame = written.frame.replace("{}", str(t + 1)).replace("{time}", when)
        blocks.append(((written.between if blocks else begin) + frame, item.lengths[t]))
    return blocks


def _frame_lengths(rows: Packed, item: int) -> list[int]:
    """Rows of each row of time of an item."""
    own = rows.pos[rows.starts[item] : rows.starts[item + 1], 0]
    return torch.bincount(own.long().cpu(), minlength=rows.items[item].grid.t).tolist()


def number_in_words(number: int) -> str:
    """A whole number as num2words, which SmolVLM's processor asks, writes it in English. Raises LimitError.

    >>> number_in_words(64), number_in_words(1234)
    ('sixty-four', 'one thousand, two hundred and thirty-four')
    """
    if not 0 <= number <= _MOST:
        raise LimitError(f"{number:,} frames in words", limit=_MOST, got=number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, unit)
    said = f"{number_in_words(many)} {name}"
    if not rest:
        return said
    return said + (" and " if rest < 100 else ", ") + number_in_words(rest)
