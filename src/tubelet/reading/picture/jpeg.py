"""JPEG segments: what the header says, and a copy of the file that holds only what the pixels need.

Pillow parses EXIF while opening, and warns about what it finds there. So the segments are walked here; orientation and
colour profile are taken out, and Pillow is given the rest. The entropy-coded data is not looked into.

    FFD8 | FFE0 len ... | FFE1 len Exif ... | FFE2 len ICC_PROFILE n/m ... | FFC0 len size | FFDA scan ... | FFD9
"""

import struct
from dataclasses import dataclass, field
from itertools import pairwise

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.source import BinaryFile

_FRAMES = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15; C4, C8 and CC are other things
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_MAX_SCANS = 500  # of a progressive picture: each one costs a pass over every pixel
_MAX_SEGMENTS = 10_000
_ICC = b"ICC_PROFILE\0"
_FURTHER = b"MPF\0"  # an index of further pictures in the same file
_GAIN_MAPS = (b"http://ns.adobe.com/hdr-gain-map/1.0/", b"urn:iso:std:iso:ts:21496:-1")
_APPLE = b"http://ns.apple.com/HDRGainMap/"  # stands in the further picture that is the map


@dataclass
class JpegInfo:
    """width, height: as stored. dropped: (start, end) of segments that pixels do not need. gain_map: the header tells
    of one. further: there are pictures behind this one."""

    width: int
    height: int
    channels: int
    progressive: bool = False
    adobe: bool = False
    exif: bytes | None = None
    icc: bytes | None = None
    gain_map: bool = False
    further: bool = False
    dropped: list[tuple[int, int]] = field(default_factory=list)


def read_jpeg(file: BinaryFile, limits: Limits) -> JpegInfo:
    """The JpegInfo of a file, from its segments up to the first scan. Cost: some dozen short reads.

    Raises: DecodeError (damaged, cut short, no size), LimitError (a profile above `max_metadata_bytes`).
    Source: ITU-T T.81 annex B; ICC.1 annex B.4; EXIF 2.32 section 4.5.
    """
    if file.read(2) != b"\xff\xd8":
        raise DecodeError("no JPEG start marker")
    found = JpegInfo(0, 0, 0)
    profile: dict[int, bytes] = {}
    place, parts = 2, 0
    for _ in range(_MAX_SEGMENTS):
        start, marker = _next_marker(file, place)
        place = file.tell()
        if marker == 0xD9:
            raise DecodeError("the JPEG ends before its picture")
        if marker in _ALONE:
            continue
        head = file.read(2)
        length = int.from_bytes(head, "big")
        if len(head) < 2 or length < 2:
            raise DecodeError("a JPEG segment is cut off or has no length")
        place += length
        if marker in _FRAMES:
            _frame(found, marker, file.read(6))
        elif marker == 0xDA:
            break
        elif marker == 0xE1:
            data = file.read(length - 2)
            if found.exif is None and data.startswith(b"Exif\0\0"):
                found.exif = data
            found.gain_map |= any(mark in data for mark in _GAIN_MAPS)
            found.dropped.append((start, place))
        elif marker == 0xE2:
            data = file.read(length - 2)
            if data.startswith(_ICC) and len(data) >= 14:
                profile[data[12]], parts = data[14:], data[13]
                limits.check("max_metadata_bytes", sum(map(len, profile.values())), "colour profile of at least")
            found.gain_map |= any(mark in data for mark in _GAIN_MAPS)
            found.further |= data.startswith(_FURTHER)
            found.dropped.append((start, place))
        elif marker == 0xEE:
            found.adobe = file.read(5) == b"Adobe"
        elif 0xE3 <= marker <= 0xEF or marker == 0xFE:
            found.dropped.append((start, place))
        file.seek(place)
    else:
        raise LimitError("the JPEG has too many segments", limit=_MAX_SEGMENTS)
    if not found.channels:
        raise DecodeError("the JPEG has a scan before it has a size")
    if profile and sorted(profile) == list(range(1, parts + 1)):
        found.icc = b"".join(profile[i] for i in range(1, parts + 1))
    return found


def has_gain_map(data: bytes, info: JpegInfo) -> bool:
    """Whether there is a gain map to HDR beside the picture: Ultra HDR, ISO 21496-1 or Apple's."""
    return info.gain_map or (info.further and any(mark in data for mark in (*_GAIN_MAPS, _APPLE)))


def jpeg_pixels(data: bytes, info: JpegInfo) -> bytes:
    """The file without EXIF, profiles, further pictures and comments. Raises LimitError for too many scans."""
    if info.progressive and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise LimitError(f"the progressive JPEG has {scans:,} scans", limit=_MAX_SCANS, got=scans)
    if not info.dropped:
        return data
    kept, place = [], 0
    for start, end in info.dropped:
        kept.append(data[place:start])
        place = end
    return b"".join((*kept, data[place:]))


def _next_marker(file: BinaryFile, place: int) -> tuple[int, int]:
    """Where the next marker starts and its code. Stray and fill bytes before it are skipped, as libjpeg does."""
    file.seek(place)
    block = file.read(2)
    if len(block) == 2 and block[0] == 0xFF and block[1] not in (0, 0xFF):
        return place, block[1]
    block += file.read(1 << 16)
    for at, (first, second) in enumerate(pairwise(block)):
        if first == 0xFF and second not in (0, 0xFF):
            file.seek(place + at + 2)
            return place + at, second
    raise DecodeError("the JPEG is cut off in its header")


def _frame(found: JpegInfo, marker: int, data: bytes) -> None:
    if found.channels:
        raise DecodeError("the JPEG has two sizes")
    if len(data) < 6:
        raise DecodeError("the JPEG is cut off in its header")
    bits, found.height, found.width, found.channels = struct.unpack(">BHHB", data)
    found.progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
    if bits != 8 or found.channels not in (1, 3, 4):
        raise DecodeError(f"a JPEG of {found.channels} channels at {bits} bits is not decoded")
