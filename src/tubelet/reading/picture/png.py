"""PNG chunks: what the header says, whether every chunk is whole, and a copy of the file that holds only pixels.

Pillow accepts wrong checksums, inflates text of any length while opening and warns about odd animation chunks. So the
chunks are walked here first, and Pillow is given signature, IHDR, PLTE, tRNS, IDAT and IEND, nothing else.

    89 50 4E 47 0D 0A 1A 0A | length 4 | kind 4 | data ... | crc 4 | length 4 | ...
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.hdr import Hdr, hdr_of
from tubelet.reading.limits import Limits
from tubelet.reading.source import BinaryFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SMALL = (b"IHDR", b"acTL", b"eXIf", b"tRNS", b"cICP")  # read whole even when only the header is wanted
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
_MOTION = (b"acTL", b"fcTL", b"fdAT")
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # colour type -> depths
_MAX_CHUNKS = 200_000  # a file of 512 MiB in the usual pieces of 8 KiB has 65,536


@dataclass
class PngInfo:
    """What the chunks say. frames: of the animation, 1 when there is none. leading: the picture that viewers without
    animation show (IDAT) is not itself a frame. durations: seconds, one for each fcTL. spans, motion: (start, end) of
    the chunks of the still picture and of the animation, headers and checksums included. control_next: the sequence
    number the next fcTL or fdAT must carry. hdr, narrow: of PQ and HLG, and whether its samples have room above and
    below. gain_map: there is one, which viewers of such pictures would apply."""

    width: int
    height: int
    bits: int
    colour: int
    frames: int = 1
    animated: bool = False
    leading: bool = False
    exif: bytes | None = None
    icc: bytes | None = None
    transparency: bytes | None = None
    hdr: Hdr | None = None
    narrow: bool = False
    gain_map: bool = False
    durations: list[Fraction] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    motion: list[tuple[int, int]] = field(default_factory=list)
    control_next: int = 0


def read_png(file: BinaryFile, limits: Limits, *, whole: bool) -> PngInfo:
    """The PngInfo of a file. whole=False seeks over the data (for headers); whole=True also checks every checksum, the
    order of chunks, and the inflated length of texts and profiles.

    Raises: DecodeError (damaged, cut short), LimitError (a text or profile that inflates past `max_metadata_bytes`,
    too many frames or chunks).
    Source: PNG 3rd edition, sections 5, 11 and 13.
    """
    info: PngInfo | None = None
    seen_data = False
    for start, kind, length, data in _chunks(file, whole):
        if info is None:
            if kind != b"IHDR":
                raise DecodeError("the first chunk of the PNG is not IHDR")
            info = _ihdr(data, length)
            info.spans.append((start, start + 12 + length))
            continue
        if kind in _TEXTS:
            limits.check("max_metadata_bytes", length, f"{kind.decode()} chunk of")
        if kind in _PIXELS:
            info.spans.append((start, start + 12 + length))
        elif kind in _MOTION:
            info.motion.append((start, start + 12 + length))
        if kind == b"IDAT":
            seen_data = True
        elif kind == b"IEND":
            if not seen_data:
                raise DecodeError("the PNG has no picture data")
            return info
        else:
            _ancillary(info, kind, data, seen_data, limits, whole)
    raise DecodeError("the PNG ends before its IEND chunk")


def png_pixels(data: bytes, info: PngInfo, *, motion: bool = False) -> bytes:
    """The file reduced to the chunks that make the still picture; with motion=True also those of the animation."""
    spans = sorted(info.spans + info.motion) if motion else info.spans
    return SIGNATURE + b"".join(data[start:end] for start, end in spans)


def _chunks(file: BinaryFile, whole: bool) -> Iterator[tuple[int, bytes, int, bytes]]:
    """(start, kind, length, data) of each chunk up to IEND. `data` is empty for what is skipped."""
    if file.read(8) != SIGNATURE:
        raise DecodeError("no PNG signature")
    place = 8
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if length > 0x7FFFFFFF or not kind.isalpha():
            raise DecodeError("a PNG chunk has an impossible length or name")
        if whole or kind in _SMALL:
            data = file.read(length)
            crc = file.read(4)
            if len(data) < length or len(crc) < 4:
                raise DecodeError("the PNG is cut off inside a chunk")
            if zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(crc, "big"):
                raise DecodeError(f"the checksum of a PNG {kind.decode()} chunk is wrong")
        else:
            data = b""
            file.seek(length + 4, 1)
        yield place, kind, length, data
        place += 12 + length
        if kind == b"IEND":
            return
    raise LimitError("the PNG has too many chunks", limit=_MAX_CHUNKS)


def _ihdr(data: bytes, length: int) -> PngInfo:
    if length != 13:
        raise DecodeError("the IHDR chunk of the PNG has a wrong length")
    width, height, bits, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", data)
    if bits not in _BITS.get(colour, ()) or compression or filtering or interlace > 1:
        raise DecodeError(f"the PNG header asks for colour type {colour} at {bits} bits, which does not exist")
    return PngInfo(width, height, bits, colour)


def _ancillary(info: PngInfo, kind: bytes, data: bytes, seen_data: bool, limits: Limits, whole: bool) -> None:
    """What a chunk other than IHDR, IDAT and IEND adds to the info."""
    if kind == b"acTL":
        count = int.from_bytes(data[:4], "big")
        if info.animated or len(data) != 8 or count < 1:
            raise DecodeError("the animation header of the PNG makes no sense")
        limits.check("max_frames", count, "animation frames")
        info.animated, info.leading, info.frames = True, True, count
    elif kind in (b"fcTL", b"fdAT") and info.animated and whole:
        if int.from_bytes(data[:4], "big") != info.control_next:
            raise DecodeError("the animation chunks of the PNG are out of order or missing")
        info.control_next += 1
        if kind == b"fcTL":
            _frame(info, data)
            info.leading = info.leading and seen_data
    elif kind == b"eXIf":
        info.exif = data
    elif kind == b"tRNS":
        info.transparency = data
    elif kind == b"cICP":
        if len(data) == 4:
            info.hdr, info.narrow = hdr_of(data[1], data[0]), data[3] == 0
    elif kind == b"gmAP":
        info.gain_map = True
    elif kind == b"iCCP" and whole:
        info.icc = _inflate_after_name(data, kind, limits)
    elif kind in (b"zTXt", b"iTXt") and whole:
        _inflate_after_name(data, kind, limits)
    elif whole and kind[:1].isupper() and kind != b"PLTE":
        raise DecodeError("the PNG has a critical chunk of an unknown kind")


def _frame(info: PngInfo, data: bytes) -> None:
    """Checks the place of one animation frame and keeps its duration."""
    if len(data) != 26:
        raise DecodeError("a frame header of the PNG has a wrong length")
    width, height, left, top, delay, unit = struct.unpack_from(">IIIIHH", data, 4)
    if not (0 < width <= info.width - left and 0 < height <= info.height - top):
        raise DecodeError("a frame of the animated PNG lies outside its picture")
    info.durations.append(Fraction(delay, unit or 100))


def _inflate_after_name(data: bytes, kind: bytes, limits: Limits) -> bytes | None:
    """The inflated content of an iCCP, zTXt or compressed iTXt chunk, never more than `max_metadata_bytes` of it.

    A damaged profile or text is None: it does not change a pixel.
    """
    _, found, rest = data.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return None
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    if not found:
        return None
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(rest, limits.max_metadata_bytes + 1)
    except zlib.error:
        return None
    limits.check("max_metadata_bytes", len(content), f"inflated {kind.decode()} chunk of at least")
    return content
