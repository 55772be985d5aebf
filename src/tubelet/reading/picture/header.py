"""Size, frame count and orientation of a picture from its header alone: no pixel is decoded, nothing large is read.

Limits are checked on what comes out of here before any decoder is started, so each format's few numbers are read by
hand instead of by a library that may allocate while opening. AVIF is the exception: libavif parses its boxes.
"""

import struct
from dataclasses import dataclass

from tubelet.errors import DecodeError
from tubelet.reading.limits import Limits
from tubelet.reading.picture.decode import decoding, open_picture
from tubelet.reading.picture.exif import directory, judged, orientation_of, tiff_start, upright_size
from tubelet.reading.picture.jpeg import read_jpeg
from tubelet.reading.picture.png import read_png
from tubelet.reading.source import BinaryFile, Format, Source

_MAX_TILE = 1 << 14  # side of a TIFF tile: larger ones only occur in attacks


@dataclass(frozen=True)
class Header:
    """width, height: as stored, before the turn that `orientation` (1..8) asks for. frames: how many the file has."""

    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) as shown."""
        return upright_size(self.width, self.height, self.orientation)


def read_header(src: Source, limits: Limits) -> Header:
    """The Header of a picture, its sizes and frame count within the limits. Leaves the file at its start.

    Cost: microseconds to a few milliseconds; GIF and WEBP are walked block by block to count frames.
    Raises: DecodeError (damaged, cut short), LimitError.
    """
    readers = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif, "BMP": _bmp, "WEBP": _webp, "TIFF": _tiff, "AVIF": _avif}
    src.file.seek(0)
    try:
        header = readers[src.format](src, limits)
    except struct.error as error:
        raise DecodeError(f"the {src.format} header is cut off") from error
    finally:
        src.file.seek(0)
    limits.check_picture(header.width, header.height)
    limits.check("max_frames", header.frames, "frames in the file")
    return header


def _oriented(width: int, height: int, exif: bytes | None, frames: int = 1) -> Header:
    orientation, note = orientation_of(exif)
    return Header(width, height, frames, orientation, () if note is None else (note,))


def _jpeg(src: Source, limits: Limits) -> Header:
    found = read_jpeg(src.file, limits)
    return _oriented(found.width, found.height, found.exif)


def _png(src: Source, limits: Limits) -> Header:
    found = read_png(src.file, limits, whole=False)
    return _oriented(found.width, found.height, found.exif, found.frames)


def _bmp(src: Source, limits: Limits) -> Header:
    head = src.file.read(26)
    if int.from_bytes(head[14:18], "little") == 12:
        width, height = struct.unpack_from("<HH", head, 18)
    else:
        width, height = struct.unpack_from("<ii", head, 18)
    return Header(width, abs(height))  # a negative height means top-down rows


@dataclass(frozen=True)
class GifFrame:
    """One frame of a GIF: its place on the canvas and how long it is shown, in hundredths of a second."""

    left: int
    top: int
    width: int
    height: int
    delay: int


def gif_frames(file: BinaryFile, limits: Limits) -> tuple[int, int, list[GifFrame]]:
    """Canvas width, height and the frames, from the blocks of a GIF up to its trailer.

    The canvas is the logical screen, made larger where the first frame is larger, as Pillow and viewers do.
    Raises: DecodeError (cut short: no trailer), LimitError (too many frames, a frame too large).
    Source: GIF89a specification, sections 17 to 27.
    """
    data = file.read()
    screen_w, screen_h, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    frames: list[GifFrame] = []
    delay = 0
    try:
        while (block := data[at]) != 0x3B:
            if block == 0x21:
                if data[at + 1] == 0xF9 and data[at + 2] >= 4:
                    delay = struct.unpack_from("<H", data, at + 4)[0]
                at += 2
            elif block == 0x2C:
                left, top, width, height, flags = struct.unpack_from("<HHHHB", data, at + 1)
                at += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
                frames.append(GifFrame(left, top, width, height, delay))
                limits.check("max_frames", len(frames), "frames in the file, at least")
                limits.check_picture(left + width, top + height)
                delay = 0
            elif block == 0:  # stray terminators between blocks occur in the wild
                at += 1
                continue
            else:
                raise DecodeError("the GIF has a block of an unknown kind")
            while data[at]:  # sub-blocks: a length, that many bytes, ... until a length of zero
                at += data[at] + 1
            at += 1
    except (IndexError, struct.error) as error:
        raise DecodeError("the GIF ends before its trailer") from error
    if not frames:
        raise DecodeError("the GIF has no frame")
    first = frames[0]
    return max(screen_w, first.left + first.width), max(screen_h, first.top + first.height), frames


def _gif(src: Source, limits: Limits) -> Header:
    width, height, frames = gif_frames(src.file, limits)
    return Header(width, height, len(frames))


def _webp(src: Source, limits: Limits) -> Header:
    """RIFF chunks: VP8X (canvas, flags), VP8 or VP8L (one picture), ANMF (frames), EXIF. Source: RFC 9649 section 2."""
    file = src.file
    head = file.read(12)
    end = int.from_bytes(head[4:8], "little") + 8
    if end > src.size:
        raise DecodeError("the WEBP is shorter than its header says", expected=end, got=src.size)
    size: tuple[int, int] | None = None
    frames, exif, place = 0, None, 12
    while place + 8 <= end:
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"VP8X" and size is None:
            body = file.read(10)
            size = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        elif kind == b"VP8 " and size is None:
            width, height = struct.unpack_from("<HH", file.read(10), 6)
            size = width & 0x3FFF, height & 0x3FFF
        elif kind == b"VP8L" and size is None:
            bits = struct.unpack_from("<I", file.read(5), 1)[0]
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"ANMF":
            frames += 1
            limits.check("max_frames", frames, "frames in the file, at least")
        elif kind in (b"EXIF", b"ICCP", b"XMP "):
            limits.check("max_metadata_bytes", length, f"{kind.decode().strip()} chunk of")
            exif = file.read(length) if kind == b"EXIF" else exif
        place += 8 + length + (length & 1)
    if size is None:
        raise DecodeError("the WEBP has no picture in it")
    return _oriented(*size, exif, max(frames, 1))


def _tiff(src: Source, limits: Limits) -> Header:
    """Directories: the first gives the picture, their chain the number of pages. Source: TIFF 6.0 section 2."""

    def at(offset: int, length: int) -> bytes:
        if offset >= src.size:
            return b""
        src.file.seek(offset)
        return src.file.read(length)

    order, big, place = tiff_start(src.file.read(16))
    tags = {256, 257, 274, 322, 323, 700, 34675}
    first = directory(at, place, order, big, tags, max_values=1)
    seen = {place}
    following = first.next
    while following and following not in seen:
        seen.add(following)
        limits.check("max_frames", len(seen), "pages in the file, at least")
        following = directory(at, following, order, big, set()).next
    if 256 not in first.tags or 257 not in first.tags:
        raise DecodeError("the TIFF does not say how large its picture is")
    for side in (322, 323):
        if (tile := first.tags.get(side, (1,))[0]) > _MAX_TILE:
            raise DecodeError("the tiles of the TIFF are impossibly large", limit=_MAX_TILE, got=tile)
    orientation, note = judged(first.tags.get(274, (1,))[0])
    notes = () if note is None else (note,)
    return Header(first.tags[256][0], first.tags[257][0], len(seen), orientation, notes)


def _avif(src: Source, limits: Limits) -> Header:
    with decoding(src):
        picture = open_picture(src.format, src.file)
        width, height = picture.size
        frames = getattr(picture, "n_frames", 1)
        exif = picture.info.get("exif")
    return _oriented(width, height, exif, frames)


def is_animation(file_format: Format, header: Header) -> bool:
    """Whether the file holds frames with times; the pages of a TIFF have none."""
    return header.frames > 1 and file_format != "TIFF"
