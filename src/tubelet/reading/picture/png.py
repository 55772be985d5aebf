"""PNG chunks: what the header says, whether its pixels are whole, and a copy of the file that holds only pixels.

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
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
_WHOLE = (b"IHDR", b"acTL", b"fcTL", b"tRNS", b"cICP", b"pHYs", *_TEXTS)  # for a header too
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")  # of ImageMagick; the same block
_XMP_NAMES = (b"XML:com.adobe.xmp", b"Raw profile type xmp")
_MOTION = (b"acTL", b"fcTL", b"fdAT")
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # colour type -> depths
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MAX_CHUNKS = 200_000  # a file of 512 MiB in the usual pieces of 8 KiB has 65,536


@dataclass
class PngInfo:
    """What the chunks say. Spans are (start, end) of chunks, headers and checksums included."""

    width: int
    height: int
    bits: int  # of a sample
    colour: int  # colour type
    interlaced: bool = False
    frames: int = 1  # of the animation, 1 when there is none
    animated: bool = False
    leading: bool = False  # the picture that viewers without animation show (IDAT) is not itself a frame
    exif: bytes | None = None
    xmp: bytes | None = None
    raw_profile: bytes | None = None  # a text of ImageMagick that holds EXIF
    icc: bytes | None = None
    density: tuple[int, int] = (1, 1)  # pixels to a length, across and down
    transparency: bytes | None = None
    hdr: Hdr | None = None  # of PQ and HLG
    narrow: bool = False  # its samples have room below black and above white
    gain_map: bool = False  # there is one, which viewers of such pictures would apply
    durations: list[Fraction] = field(default_factory=list)  # seconds, one for each fcTL
    spans: list[tuple[int, int]] = field(default_factory=list)  # of the still picture
    motion: list[tuple[int, int]] = field(default_factory=list)  # of the animation
    control_next: int = 0  # the sequence number that the next fcTL or fdAT must carry
    motion_fault: str | None = None  # why there is no animation to be had
    cut: tuple[int, int] | None = None  # picture data whose chunk is cut off: what is there of it
    notes: list[str] = field(default_factory=list)
    inflated: int = 0  # bytes of texts and profiles so far

    @property
    def data_bytes(self) -> int:
        """Bytes that the picture data must inflate to: a filter byte and the samples of each row, of every pass."""
        bits = self.bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[self.colour]
        passes = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        sides = [(-(-(self.width - x) // dx), -(-(self.height - y) // dy)) for x, y, dx, dy in passes]
        return sum(high * (1 + -(-wide * bits // 8)) for wide, high in sides if wide > 0 and high > 0)


def read_png(file: BinaryFile, limits: Limits, *, whole: bool) -> PngInfo:
    """The PngInfo of a file. whole=False seeks over the data (for headers); whole=True also checks the checksums of the
    pixels' chunks.

    What changes no pixel of the picture is a note, or a `motion_fault` where it concerns the animation: an ancillary
    chunk that is damaged, and anything behind picture data, whose being whole is the decoder's to judge.
    Raises: DecodeError (damaged, cut short), LimitError (texts and profiles that inflate past `max_metadata_bytes`
    together, too many frames or chunks).
    Source: PNG 3rd edition, sections 5, 11 and 13.
    """
    info: PngInfo | None = None
    seen_data = False
    for start, kind, length, data, damage in _chunks(file, whole):
        if info is None:
            if kind != b"IHDR" or damage is not None:
                raise DecodeError(damage or "the first chunk of the PNG is not IHDR")
            info = _ihdr(data, length)
            info.spans.append((start, start + 12 + length))
            continue
        if damage is not None:
            if not _survives(info, kind, seen_data, damage, (start, start + 8 + len(data))):
                break
            continue
        if kind in _TEXTS:
            limits.check("max_metadata_bytes", length, f"{kind.decode()} chunk of")
        if kind in _PIXELS and kind != b"IEND":
            info.spans.append((start, start + 12 + length))
        elif kind in _MOTION:
            info.motion.append((start, start + 12 + length))
        if kind == b"IDAT":
            seen_data = True
        elif kind == b"IEND":
            break
        else:
            _ancillary(info, kind, data, seen_data, limits, whole)
    else:
        if info is not None:
            info.notes.append("the PNG ends without its IEND chunk")
    if info is None or not (seen_data or info.cut):
        raise DecodeError("the PNG has no picture data")
    if info.animated and info.motion_fault is None and len(info.durations) != info.frames:
        info.motion_fault = "the animation has another number of frames than it says"
    return info


def _survives(info: PngInfo, kind: bytes, seen_data: bool, damage: str, span: tuple[int, int]) -> bool:
    """Notes damage to a chunk and says whether to go on behind it. Raises DecodeError where pixels depend on it."""
    if kind == b"IDAT" and "cut off" in damage:
        info.cut = span
        info.notes.append(f"{damage}, behind the picture's last row")
        return False
    if kind in _PIXELS and kind != b"IEND":
        raise DecodeError(damage)
    if kind in _MOTION:
        info.motion_fault = info.motion_fault or damage
    elif "checksum" in damage and kind[:1].islower():
        info.notes.append(f"{damage}, and it was ignored")
    elif seen_data:
        info.notes.append(f"{damage}, behind the picture data")
    else:
        raise DecodeError(damage)
    return "checksum" in damage


def png_pixels(data: bytes, info: PngInfo, *, motion: bool = False) -> bytes:
    """The file reduced to the chunks that make the still picture; with motion=True also those of the animation."""
    spans = sorted(info.spans + info.motion) if motion else info.spans
    parts = [data[start:end] for start, end in spans]
    if info.cut is not None:
        parts.append(_chunk(b"IDAT", data[info.cut[0] + 8 : info.cut[1]]))
    return b"".join((SIGNATURE, *parts, _chunk(b"IEND", b"")))


def missing_rows(data: bytes, info: PngInfo) -> bool:
    """Whether the picture data, though they end properly, are less than the picture needs: decoders leave the rest 0.

    Cost: inflating them, a MiB at a time.
    """
    inflater = zlib.decompressobj()
    need = info.data_bytes
    for start, end in info.spans:
        if data[start + 4 : start + 8] != b"IDAT":
            continue
        rest = data[start + 8 : end - 4]
        while need > 0 and not inflater.eof and (piece := inflater.decompress(rest, 1 << 20)):
            need -= len(piece)
            rest = inflater.unconsumed_tail
    return need > 0 and inflater.eof


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _chunks(file: BinaryFile, whole: bool) -> Iterator[tuple[int, bytes, int, bytes, str | None]]:
    """(start, kind, length, data, what is wrong with it) of each chunk up to IEND or the end of the file. `data` is
    empty for what is skipped, and short where the file is. Nothing follows a chunk that is cut off or has no name."""
    if file.read(8) != SIGNATURE:
        raise DecodeError("no PNG signature")
    end = file.seek(0, 2)
    place = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if length > 0x7FFFFFFF or not kind.isalpha():
            yield place, kind, 0, b"", "a PNG chunk has an impossible length or name"
            return
        name = kind.decode()
        data, damage = b"", None
        if place + 12 + length > end:
            damage = f"a PNG {name} chunk is cut off"
            data = file.read(length) if whole and kind == b"IDAT" else b""
        elif whole or kind in _WHOLE:
            data, crc = file.read(length), file.read(4)
            if zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(crc, "big"):
                damage = f"the checksum of a PNG {name} chunk is wrong"
        elif kind == b"fdAT":
            data = file.read(4)
        yield place, kind, length, data, damage
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
    return PngInfo(width, height, bits, colour, bool(interlace))


def _ancillary(info: PngInfo, kind: bytes, data: bytes, seen_data: bool, limits: Limits, whole: bool) -> None:
    """What a chunk other than IHDR, IDAT and IEND adds to the info."""
    if kind in _MOTION:
        if info.motion_fault is None:
            info.motion_fault = _motion(info, kind, data, seen_data, limits)
    elif kind == b"eXIf":
        info.exif = data
    elif kind == b"tRNS":
        info.transparency = data
    elif kind == b"cICP":
        if len(data) == 4:
            info.hdr, info.narrow = hdr_of(data[1], data[0]), data[3] == 0
    elif kind == b"pHYs":
        if len(data) == 9:
            info.density = struct.unpack_from(">II", data)
    elif kind == b"gmAP":
        info.gain_map = True
    elif kind in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
        _text(info, kind, data, limits)
    elif whole and kind[:1].isupper() and kind != b"PLTE":
        raise DecodeError("the PNG has a critical chunk of an unknown kind")


def _motion(info: PngInfo, kind: bytes, data: bytes, seen_data: bool, limits: Limits) -> str | None:
    """What a chunk of the animation adds to the info; why the animation makes no sense, where it does not."""
    if kind == b"acTL":
        count = int.from_bytes(data[:4], "big")
        if info.animated or len(data) != 8 or not 1 <= count <= 0x7FFFFFFF:
            return "the animation header of the PNG makes no sense"
        limits.check("max_frames", count, "animation frames")
        info.animated, info.leading, info.frames = True, True, count
    elif info.animated:
        if int.from_bytes(data[:4], "big") != info.control_next:
            return "the animation chunks of the PNG are out of order or missing"
        info.control_next += 1
        if kind == b"fcTL":
            if len(data) != 26:
                return "a frame header of the PNG has a wrong length"
            width, height, left, top, delay, unit = struct.unpack_from(">IIIIHH", data, 4)
            if not (0 < width <= info.width - left and 0 < height <= info.height - top):
                return "a frame of the animated PNG lies outside its picture"
            info.durations.append(Fraction(delay, unit or 100))
            info.leading = info.leading and seen_data
    return None


def _text(info: PngInfo, kind: bytes, data: bytes, limits: Limits) -> None:
    """Keeps the content of the texts and profiles that say something of the picture."""
    name = data.partition(b"\0")[0]
    content = _content(info, kind, data, limits)
    if content is None:
        return
    if kind == b"iCCP":
        info.icc = content
    elif name in _XMP_NAMES and info.xmp is None:
        text = content.split(b"\n", 3)[-1] if name.startswith(b"Raw") else content
        info.xmp = bytes.fromhex(text.decode("latin-1")) if name.startswith(b"Raw") and _is_hex(text) else text
    elif name in _RAW_PROFILES and info.raw_profile is None:
        info.raw_profile = content


def _is_hex(text: bytes) -> bool:
    return not text.translate(None, b"0123456789abcdefABCDEF \n\r\t") and len(b"".join(text.split())) % 2 == 0


def _content(info: PngInfo, kind: bytes, data: bytes, limits: Limits) -> bytes | None:
    """What follows the name in a text or profile chunk, inflated; never more than `max_metadata_bytes` of all together.

    A damaged profile or text is None: it does not change a pixel.
    """
    _, found, rest = data.partition(b"\0")
    if not found:
        return None
    if kind == b"tEXt":
        return rest
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        if not packed:
            return rest
    else:
        rest = rest[1:]
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(rest, limits.max_metadata_bytes - info.inflated + 1)
    except zlib.error:
        return None
    info.inflated += len(content)
    limits.check("max_metadata_bytes", info.inflated, f"inflated {kind.decode()} chunk, with those before it, of")
    return content
