"""Size, frame count and orientation of a picture from its header alone: no pixel is decoded, nothing large is read.

Limits are checked on what comes out of here before any decoder is started, so each format's few numbers are read by
hand instead of by a library that may allocate while opening. AVIF is the exception: libavif parses its boxes.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction

from tubelet.errors import DecodeError
from tubelet.reading.limits import Limits
from tubelet.reading.picture.colour import no_stated_range
from tubelet.reading.picture.decode import decoding, open_picture
from tubelet.reading.picture.exif import ORIENTATION, XMP, directory, judged, orientation_of, tiff_start, upright_size
from tubelet.reading.picture.gif import read_gif
from tubelet.reading.picture.heif import primary_item
from tubelet.reading.picture.jpeg import read_jpeg
from tubelet.reading.picture.png import read_png
from tubelet.reading.source import Format, Source

_MAX_TILE = 1 << 14  # side of a TIFF tile: larger ones only occur in attacks
_ROUNDING = 0.01  # by which densities of square pixels may differ
_SAMPLES = (258, 339)  # tags of TIFF: bits of a sample; 1 unsigned, 2 signed, 3 float
_RESOLUTION = (282, 283)  # tags of TIFF: pixels to a length, across and down, as fractions
_MAX_XMP = 1 << 16  # bytes of a TIFF's packet that are looked at


@dataclass(frozen=True)
class Header:
    """What a header says, and what is wrong behind the first picture."""

    width: int  # as stored, before the turn that `orientation` asks for
    height: int
    frames: int = 1  # pages or frames that the file has, as far as it is whole
    orientation: int = 1  # 1..8
    notes: tuple[str, ...] = ()
    fault: str | None = None  # why what is behind the first picture cannot be read; it is then not counted
    ended: bool = True  # False: the file stops where an animation may go on

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


def _not_square(density: tuple[int, int]) -> tuple[str, ...]:
    """A note where pixels are not as wide as high: they stay as stored, as in browsers, Pillow and image processors,
    while those of clips are made square, as in players. density: pixels to a length, across and down."""
    across, down = density
    if min(across, down) < 1 or abs(across - down) <= _ROUNDING * max(across, down):
        return ()
    shape = Fraction(down, across).limit_denominator(1000)
    return (f"pixels of {shape.numerator}:{shape.denominator} are shown as stored",)


def _oriented(
    width: int,
    height: int,
    frames: int = 1,
    *,
    exif: bytes | None,
    xmp: bytes | None,
    raw_profile: bytes | None = None,
    notes: tuple[str, ...] = (),
    fault: str | None = None,
) -> Header:
    orientation, note = orientation_of(exif, xmp, raw_profile)
    return Header(width, height, frames, orientation, notes + (() if note is None else (note,)), fault)


def _jpeg(src: Source, limits: Limits) -> Header:
    found = read_jpeg(src.file, limits)
    notes = _not_square(found.density)
    return _oriented(found.width, found.height, exif=found.exif, xmp=found.xmp, notes=notes)


def _png(src: Source, limits: Limits) -> Header:
    found = read_png(src.file, limits, whole=False)
    return _oriented(
        found.width,
        found.height,
        found.frames if found.motion_fault is None else 1,
        exif=found.exif,
        xmp=found.xmp,
        raw_profile=found.raw_profile,
        notes=(*found.notes, *_not_square(found.density)),
        fault=found.motion_fault,
    )


def _bmp(src: Source, limits: Limits) -> Header:
    head = src.file.read(46)
    if int.from_bytes(head[14:18], "little") == 12:
        return Header(*struct.unpack_from("<HH", head, 18))
    width, height = struct.unpack_from("<ii", head, 18)
    notes = _not_square(struct.unpack_from("<ii", head, 38)) if len(head) == 46 else ()
    return Header(width, abs(height), notes=notes)  # a negative height means top-down rows


def _gif(src: Source, limits: Limits) -> Header:
    found = read_gif(src.file, limits)
    notes = (*found.notes, *_not_square(found.density))
    return Header(found.width, found.height, len(found.frames), 1, notes, found.fault, found.ended)


def _webp(src: Source, limits: Limits) -> Header:
    """RIFF chunks: VP8X (canvas, flags), VP8 or VP8L (one picture), ANMF (frames), EXIF. Source: RFC 9649 section 2."""
    file = src.file
    head = file.read(12)
    end = int.from_bytes(head[4:8], "little") + 8
    if end > src.size:
        raise DecodeError("the WEBP is shorter than its header says", expected=end, got=src.size)
    size: tuple[int, int] | None = None
    frames, place = 0, 12
    blocks: dict[bytes, bytes] = {}
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
            blocks.setdefault(kind, file.read(length))
        place += 8 + length + (length & 1)
    if size is None:
        raise DecodeError("the WEBP has no picture in it")
    return _oriented(*size, max(frames, 1), exif=blocks.get(b"EXIF"), xmp=blocks.get(b"XMP "))


def _tiff(src: Source, limits: Limits) -> Header:
    """Directories: the first gives the picture, their chain the number of pages. Source: TIFF 6.0 section 2."""

    def at(offset: int, length: int) -> bytes:
        if offset >= src.size:
            return b""
        src.file.seek(offset)
        return src.file.read(length)

    order, big, place = tiff_start(src.file.read(16))
    first = directory(at, place, order, big, {256, 257, ORIENTATION, 322, 323, *_SAMPLES, *_RESOLUTION}, max_values=1)
    xmp = None
    if ORIENTATION not in first.tags:
        xmp = bytes(directory(at, place, order, big, {XMP}, max_values=_MAX_XMP).tags.get(XMP, ()))
    seen = {place}
    following, fault = first.next, None
    while following and following not in seen:
        limits.check("max_frames", len(seen) + 1, "pages in the file, at least")
        try:
            upcoming = directory(at, following, order, big, set()).next  # reads a count and a link, no entry
        except DecodeError as error:
            fault = error.message
            break
        seen.add(following)
        following = upcoming
    if 256 not in first.tags or 257 not in first.tags:
        raise DecodeError("the TIFF does not say how large its picture is")
    for side in (322, 323):
        if (tile := first.tags.get(side, (1,))[0]) > _MAX_TILE:
            raise DecodeError("the tiles of the TIFF are impossibly large", limit=_MAX_TILE, got=tile)
    bits, form = (first.tags.get(tag, (1,))[0] for tag in _SAMPLES)
    if form == 3 or bits == 32 or (form, bits) == (2, 16):
        raise no_stated_range(floats=form == 3)
    by_tag = ORIENTATION in first.tags
    orientation, note = judged(first.tags[ORIENTATION][0]) if by_tag else orientation_of(None, xmp)
    across, down = (first.tags.get(tag, (0,))[0] for tag in _RESOLUTION)
    notes = (*(() if note is None else (note,)), *_not_square((across, down)))
    return Header(first.tags[256][0], first.tags[257][0], len(seen), orientation, notes, fault)


def _avif(src: Source, limits: Limits) -> Header:
    with decoding(src):
        picture = open_picture(src.format, src.file)
        width, height = picture.size
        frames = getattr(picture, "n_frames", 1)
        exif, xmp = picture.info.get("exif"), picture.info.get("xmp")
    shape = primary_item(src.file, limits).properties.get(b"pasp", b"").ljust(8, b"\0")
    down, across = struct.unpack(">II", shape[:8])
    notes = _not_square((across, down))
    return _oriented(width, height, frames, exif=exif, xmp=xmp, notes=notes)


def is_animation(file_format: Format, header: Header) -> bool:
    """Whether the file holds frames with times; the pages of a TIFF have none."""
    return header.frames > 1 and file_format != "TIFF"
