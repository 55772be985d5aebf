"""JPEG segments: what the header says, and a copy of the file that holds only what the pixels need.

Pillow parses EXIF while opening, warns about what it finds there, and gives up on stray bytes that libjpeg steps over.
So the segments are walked here; orientation and colour profile are taken out, and Pillow is given the rest. Of the
entropy-coded data only the markers are looked at.

    FFD8 | FFE0 len ... | FFE1 len Exif ... | FFE2 len ICC_PROFILE n/m ... | FFC0 len size | FFDA scan ... | FFD9
"""

import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.source import BinaryFile

_FRAMES = frozenset((*range(0xC0, 0xD0),)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15; C4, C8 and CC are other things
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # in scans: FF00 is a byte of data, FFD0 to FFD7 restart it
_ANY_MARKER = re.compile(rb"\xff[^\x00\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SCANS = 16  # passes over `max_pixels` that the scans of one file may cost; encoders write at most a dozen
_SCAN_PIXELS = 10_000  # what a scan counts at least
_MAX_SEGMENTS = 10_000
_ICC = b"ICC_PROFILE\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_FURTHER = b"MPF\0"  # an index of further pictures in the same file
_GAIN_MAPS = (b"http://ns.adobe.com/hdr-gain-map/1.0/", b"urn:iso:std:iso:ts:21496:-1")
_JFIF = b"JFIF\0"
_APPLE = b"http://ns.apple.com/HDRGainMap/"  # stands in the further picture that is the map
_EOI = b"\xff\xd9"


@dataclass
class JpegInfo:
    """What the segments of a JPEG say, up to its first scan."""

    width: int  # as stored
    height: int
    channels: int
    units: int = 0  # that its only scan codes one after the other (MCUs)
    progressive: bool = False
    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    density: tuple[int, int] = (1, 1)  # pixels to a length, across and down
    gain_map: bool = False  # the header tells of one
    further: bool = False  # there are pictures behind this one
    restart: int = 0  # units between restart markers; 0: there are none
    kept: list[tuple[int, int]] = field(default_factory=list)  # (start, end) of segments that pixels need
    scan: int = 0  # where the first scan starts
    one_scan: bool = False  # the first scan is the picture


def read_jpeg(file: BinaryFile, limits: Limits) -> JpegInfo:
    """The JpegInfo of a file. Cost: some dozen short reads; of a file of several scans, reading it whole to count them.

    Raises: DecodeError (damaged, cut short, no size), LimitError (a profile above `max_metadata_bytes`; scans that
    together pass over more than 16 x `max_pixels` pixels).
    Source: ITU-T T.81 annex B; ICC.1 annex B.4; EXIF 2.32 section 4.5; XMP part 3 section 1.1.3.
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
        if marker == 0xE0:
            data = file.read(min(length - 2, 12))
            if data.startswith(_JFIF) and len(data) == 12:
                found.density = struct.unpack_from(">HH", data, 8)
            found.kept.append((start, place))
        elif 0xE1 <= marker <= 0xEF and marker != 0xEE:
            data = file.read(length - 2) if marker <= 0xE2 else b""
            if marker == 0xE2 and data.startswith(_ICC) and len(data) >= 14:
                profile[data[12]], parts = data[14:], data[13]
                limits.check("max_metadata_bytes", sum(map(len, profile.values())), "colour profile of at least")
            _application(found, marker, data)
        elif marker == 0xDA:
            found.scan = start
            found.one_scan = not found.progressive and file.read(1) == bytes((found.channels,))
            break
        elif marker != 0xFE:
            if marker in _FRAMES:
                _frame(found, marker, file.read(length - 2))
            elif marker == 0xDD:
                found.restart = int.from_bytes(file.read(2), "big")
            found.kept.append((start, place))
        file.seek(place)
    else:
        raise LimitError("the JPEG has too many segments", limit=_MAX_SEGMENTS)
    if not found.channels:
        raise DecodeError("the JPEG has a scan before it has a size")
    if profile and sorted(profile) == list(range(1, parts + 1)):
        found.icc = b"".join(profile[i] for i in range(1, parts + 1))
    if not found.one_scan:
        file.seek(found.scan)
        _count_scans(file.read(), found, limits)
    return found


def has_gain_map(data: bytes, info: JpegInfo) -> bool:
    """Whether there is a gain map to HDR beside the picture: Ultra HDR, ISO 21496-1 or Apple's."""
    return info.gain_map or (info.further and any(mark in data for mark in (*_GAIN_MAPS, _APPLE)))


@dataclass(frozen=True)
class JpegPixels:
    """A file without EXIF, profiles, comments, stray bytes in its header, and further pictures."""

    data: bytes  # ends with an end marker, whether the file does or not
    ended: bool  # there is a marker behind the picture's last scan
    doubt: bool  # it is not the end marker
    gaps: bool  # restart markers are missing, and with them what stood between

    def otherwise_ended(self) -> bytes:
        """The same with random bits before its end: other pixels, exactly when the last scan is short of data."""
        tail = random.Random(0).randbytes(1 << 12).replace(b"\xff", b"\xa5")
        return self.data[:-2] + tail + _EOI


def jpeg_pixels(data: bytes, info: JpegInfo) -> JpegPixels:
    """What Pillow is given of a file. Cost: a look at every marker, and a copy."""
    end, marker = len(data), 0
    for start, code in _markers(data, info.scan):
        if code == 0xD9 or (info.one_scan and code != 0xDA):
            end, marker = start, code
            break
    body = data[info.scan : end].rstrip(b"\xff")
    gaps = False
    if info.one_scan and info.restart:
        gaps = len(_RESTART.findall(body)) < -(-info.units // info.restart) - 1
    header = (data[start:stop] for start, stop in info.kept)
    return JpegPixels(b"".join((b"\xff\xd8", *header, body, _EOI)), bool(marker), marker != 0xD9, gaps)


def lacks_scans(data: bytes, info: JpegInfo) -> bool:
    """Whether some coefficient of a picture of several scans is not there to its last bit."""
    missing: dict[int, list[int]] = {}
    for start, marker in _markers(data, info.scan):
        if marker == 0xD9:
            break
        if marker != 0xDA or start + 5 > len(data):
            continue
        count = data[start + 4]
        fields = data[start + 5 : start + 8 + 2 * count]
        if len(fields) < 2 * count + 3:
            break
        first, last, bits = fields[-3:] if info.progressive else (0, 63, 0)
        for component in fields[: 2 * count : 2]:
            levels = missing.setdefault(component, [1] * 64)
            levels[first : last + 1] = [bits & 15] * len(levels[first : last + 1])
    return len(missing) < info.channels or any(any(levels) for levels in missing.values())


def _markers(data: bytes, place: int) -> Iterator[tuple[int, int]]:
    """(place, code) of every marker from `place` on but restarts, the insides of segments left out."""
    while found := _MARKER.search(data, place):
        place = found.start()
        marker = data[place + 1]
        yield place, marker
        place += 2 if marker in (0xD8, 0xD9) else 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))


def _count_scans(rest: bytes, found: JpegInfo, limits: Limits) -> None:
    scans = 0
    for _, marker in _markers(rest, 0):
        if marker == 0xD9:
            break
        scans += marker == 0xDA
    passed, ceiling = scans * max(found.width * found.height, _SCAN_PIXELS), _SCANS * limits.max_pixels
    if passed > ceiling:
        raise LimitError(
            f"{scans:,} scans of {found.width} x {found.height} = {passed:,} pixels to pass over, above "
            f"{_SCANS} x max_pixels = {ceiling:,}",
            limit=ceiling,
            got=passed,
        )


def _application(found: JpegInfo, marker: int, data: bytes) -> None:
    """Keeps what an application's segment says of the picture; of several, the first."""
    if marker == 0xE1:
        if found.exif is None and data.startswith(b"Exif\0\0"):
            found.exif = data
        elif found.xmp is None and data.startswith(_XMP):
            found.xmp = data[len(_XMP) :]
    found.gain_map |= any(mark in data for mark in _GAIN_MAPS)
    found.further |= marker == 0xE2 and data.startswith(_FURTHER)


def _next_marker(file: BinaryFile, place: int) -> tuple[int, int]:
    """Where the next marker starts and its code. Stray and fill bytes before it are skipped, as libjpeg does."""
    file.seek(place)
    block = file.read(2)
    if len(block) == 2 and block[0] == 0xFF and block[1] not in (0, 0xFF):
        return place, block[1]
    block += file.read(1 << 16)
    found = _ANY_MARKER.search(block)
    if found is None:
        raise DecodeError("the JPEG is cut off in its header")
    file.seek(place + found.end())
    return place + found.start(), block[found.end() - 1]


def _frame(found: JpegInfo, marker: int, data: bytes) -> None:
    if found.channels:
        raise DecodeError("the JPEG has two sizes")
    if len(data) < 6:
        raise DecodeError("the JPEG is cut off in its header")
    bits, found.height, found.width, found.channels = struct.unpack_from(">BHHB", data)
    found.progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
    if bits != 8 or found.channels not in (1, 3, 4):
        raise DecodeError(f"a JPEG of {found.channels} channels at {bits} bits is not decoded")
    sampling = data[7 : 6 + 3 * found.channels : 3] if found.channels > 1 else b"\x11"
    across = 8 * max((1, *(factors >> 4 for factors in sampling)))
    down = 8 * max((1, *(factors & 15 for factors in sampling)))
    found.units = -(-found.width // across) * -(-found.height // down)
