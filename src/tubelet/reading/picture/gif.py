"""GIF blocks: where its frames stand and how long each is shown, up to the trailer or to the first thing that is wrong.

GIF89a screen [colours] | 21 F9 4 .. delay .. 0 | 2C left top width height flags [colours] data ... 0 | ... | 3B
"""

import struct
from dataclasses import dataclass, field

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.source import BinaryFile


@dataclass(frozen=True)
class GifFrame:
    """One frame of a GIF on its canvas."""

    left: int
    top: int
    width: int
    height: int
    delay: int  # how long it is shown, in hundredths of a second


@dataclass
class GifInfo:
    """What the blocks of a GIF say."""

    frames: list[GifFrame] = field(default_factory=list)  # whole ones; the first one even where it is cut
    width: int = 0  # of the logical screen, made larger where the first frame is larger, as Pillow and viewers do
    height: int = 0
    density: tuple[int, int] = (1, 1)  # pixels to a length, across and down
    notes: list[str] = field(default_factory=list)
    fault: str | None = None  # what is wrong behind the last of the frames
    ended: bool = True  # False: there is no trailer


def read_gif(file: BinaryFile, limits: Limits) -> GifInfo:
    """The GifInfo of a file. What is wrong behind the first frame changes no pixel of it: a fault, not an error.

    Cost: a walk over the blocks. Raises: DecodeError (cut short before its first frame's data, no frame), LimitError
    (too many frames, a first frame too large).
    Source: GIF89a specification, sections 17 to 27.
    """
    data = file.read()
    screen_w, screen_h, flags, _, aspect = struct.unpack_from("<HHBBB", data, 6)
    found = GifInfo(density=(64, aspect + 15) if aspect else (1, 1))
    try:
        _walk(data, 13 + _colours(flags), found, limits)
    except (IndexError, struct.error) as error:
        if not found.frames:
            raise DecodeError("the GIF ends before its first frame") from error
        found.ended = False
        found.fault = "the GIF ends inside a block behind its first frame"
    except DecodeError as error:
        if not found.frames:
            raise
        found.fault = error.message
    if not found.frames:
        raise DecodeError("the GIF has no frame")
    first = found.frames[0]
    found.width, found.height = max(screen_w, first.left + first.width), max(screen_h, first.top + first.height)
    return found


def _walk(data: bytes, at: int, found: GifInfo, limits: Limits) -> None:
    delay = 0
    while at < len(data) and (block := data[at]) != 0x3B:
        if block == 0x21:
            if data[at + 1] == 0xF9 and data[at + 2] >= 4:
                delay = struct.unpack_from("<H", data, at + 4)[0]
            at = _behind(data, at + 2)
        elif block == 0x2C:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
            _check(left + width, top + height, len(found.frames), limits)
            frame = GifFrame(left, top, width, height, delay)
            if not found.frames:  # whether the data of the first one are whole is the decoder's to judge
                found.frames.append(frame)
                at = _behind(data, at + 11 + _colours(flags))
            else:
                at = _behind(data, at + 11 + _colours(flags))
                found.frames.append(frame)
            delay = 0
        elif block == 0:  # stray terminators between blocks occur in the wild
            at += 1
        else:
            raise DecodeError("the GIF has a block of an unknown kind")
    if at >= len(data):
        found.ended = False
        if found.frames:
            found.notes.append("the GIF ends without its trailer")


def _check(right: int, bottom: int, before: int, limits: Limits) -> None:
    """A first frame that is too large is a LimitError; a later one ends what is read."""
    limits.check("max_frames", before + 1, "frames in the file, at least")
    try:
        limits.check_picture(right, bottom)
    except LimitError as error:
        if not before:
            raise
        raise DecodeError(f"a later frame is too large: {error.message}") from error


def _behind(data: bytes, at: int) -> int:
    """The place behind the sub-blocks at `at`: a length, that many bytes, ... until a length of zero."""
    while data[at]:
        at += data[at] + 1
    return at + 1


def _colours(flags: int) -> int:
    """Bytes of the colour table that the flags tell of."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
