"""What a video file's own structure says: how long the file should be, how its pictures are turned, how long it lasts.

FFmpeg stops quietly where the bytes stop, so a cut file reads as a short clip. The containers know better: every box,
element or chunk starts with its length. A walk over the outermost of them, headers only, tells a whole file from a cut
one, whatever was cut:

    MP4   [ftyp 24][moov 3120][mdat 1512883 ......]            one box after another
    MKV   [EBML][Segment 1512000 [Info][Tracks][Cluster]...]    one level deeper
    AVI   [RIFF 1511992 ............][RIFF ....]

Order of bytes: MP4 and MKV big endian, AVI little. Cost: two small reads a box; no payload but `moov` is looked at.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.sniff import Format

_MAX_PARTS = 1_000_000  # boxes looked at in one file: far above any real one
_IDENTITY = (1.0, 0.0, 0.0, 1.0)


@runtime_checkable
class Bytes(Protocol):
    """Something that gives `count` bytes from `offset`, fewer only at its end."""

    size: int

    def at(self, offset: int, count: int) -> bytes: ...


class Media(NamedTuple):
    """Of one MP4 track: seconds that its edit list shows, seconds that it has, samples listed, fragments included."""

    shown_s: float = 0.0
    media_s: float = 0.0
    samples: int = 0


@dataclass
class Structure:
    """The result of the walk.

    missing_bytes: by how much the structure runs past the end of the file; 0 for a whole file. after_media: what is
    missing comes after the pictures, as far as the structure tells. broken: the chain of boxes does not hold together
    at some byte. declared_s: the length a fragmented MP4 declares for all of it. media: per track number of an MP4.
    turns: per track number, the (a, b, c, d) of x' = a x + c y, y' = b x + d y, from stored to upright pixels.
    """

    missing_bytes: int = 0
    after_media: bool = False
    broken: bool = False
    fragmented: bool = False
    declared_s: float | None = None
    media: dict[int, Media] = field(default_factory=dict)
    turns: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)

    @property
    def damaged(self) -> bool:
        return self.broken or self.missing_bytes > 0


def walk(data: Bytes, kind: Format, limits: Limits) -> Structure:
    """The structure of an MP4, MKV, WEBM or AVI file. Raises: LimitError for tables and counts above the ceilings."""
    found = Structure()
    if kind == "MP4":
        _walk_mp4(data, found, limits)
    elif kind == "AVI":
        _walk_avi(data, found)
    else:
        _walk_mkv(data, found, limits)
    return found


def _counted(parts: Iterator[tuple[bytes, int, int]]) -> Iterator[tuple[bytes, int, int]]:
    for n, part in enumerate(parts):
        if n >= _MAX_PARTS:
            raise LimitError(f"more than {_MAX_PARTS:,} boxes in one file", limit=_MAX_PARTS, got=n)
        yield part


# --- MP4 --------------------------------------------------------------------------------------------------------------


_TOP = frozenset(
    b"ftyp styp moov moof mdat free skip wide uuid udta meta sidx ssix prft emsg mfra pdin pnot PICT".split()
)


def _boxes(data: Bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the body, end) of the boxes from `start`; the last may end after `end`.

    A header cut off by `end` comes out with the type b"" .
    """
    while start < end:
        head = data.at(start, min(16, end - start))
        if len(head) < 8:
            yield b"", start, start + 8
            return
        size, kind = struct.unpack(">I4s", head[:8])
        body = start + 8
        if size == 1:
            if len(head) < 16:
                yield b"", start, start + 16
                return
            size, body = struct.unpack(">Q", head[8:])[0], start + 16
        elif size == 0:
            size = data.size - start
        if size < body - start:
            yield b"", start, start
            return
        yield kind, body, start + size
        start += size


class _Part:
    """The bytes of one box as a file of its own."""

    def __init__(self, data: Bytes, start: int, end: int) -> None:
        self._data, self._start, self.size = data, start, end - start

    def at(self, offset: int, count: int) -> bytes:
        return self._data.at(self._start + offset, max(0, min(count, self.size - offset)))


def _walk_mp4(data: Bytes, found: Structure, limits: Limits) -> None:
    """The chain of boxes. Where `moov` lists all samples, only `moov` and `mdat` matter, whatever follows them."""
    moov, whole_media, last, unknown = None, False, b"", False
    for kind, body, end in _counted(_boxes(data, 0, data.size)):
        last = kind
        found.fragmented = found.fragmented or kind in (b"moof", b"sidx")
        unknown = unknown or kind not in _TOP
        if kind == b"" or not all(32 <= c < 127 or c >= 160 for c in kind):
            found.broken = True
            break
        if end > data.size:
            found.missing_bytes, found.after_media = end - data.size, kind not in (b"moov", b"moof", b"mdat")
        elif kind == b"moov" and moov is None:
            moov = (body, end)
        elif kind == b"mdat":
            whole_media = True
        elif kind == b"moof":
            _read_moof(_Part(data, body, end), found)
        elif kind == b"sidx":
            found.missing_bytes = max(
                found.missing_bytes, _indexed_end(data.at(body, min(end - body, 1 << 22)), end) - data.size
            )
    broken, found.broken = found.broken, False
    if moov is not None:
        _read_moov(_Part(data, *moov), data.size, found, limits)
    if found.fragmented:  # a fragment's index without its content, or one whose name is damaged
        found.broken = found.broken or broken or unknown or last == b"moof"
    elif moov is not None and whole_media and last != b"mdat":
        found.missing_bytes = 0
    else:
        found.broken = found.broken or broken


def _read_moof(moof: _Part, found: Structure) -> None:
    """Counts the samples of each track in one fragment."""
    for kind, body, end in _boxes(moof, 0, moof.size):
        if end > moof.size:
            found.broken = True
        elif kind == b"traf":
            traf, track = _Part(moof, body, end), 0
            for inner, at, stop in _boxes(traf, 0, traf.size):
                if stop > traf.size:
                    found.broken = True
                elif inner == b"tfhd":
                    track = int.from_bytes(traf.at(at + 4, 4), "big")
                elif inner == b"trun":
                    media = found.media.get(track, Media())
                    count = int.from_bytes(traf.at(at + 4, 4), "big")
                    found.media[track] = media._replace(samples=media.samples + count)


def _indexed_end(sidx: bytes, anchor: int) -> int:
    """Where the last fragment listed by a `sidx` box ends; the anchor is the first byte after that box."""
    if len(sidx) < 12:
        return 0
    wide = sidx[0] > 0
    first, start = (struct.unpack_from(">Q", sidx, 20)[0], 28) if wide and len(sidx) >= 32 else (0, 20)
    if not wide and len(sidx) >= 24:
        first = struct.unpack_from(">I", sidx, 16)[0]
    if len(sidx) < start + 4:
        return 0
    (count,) = struct.unpack_from(">H", sidx, start + 2)
    sizes = struct.iter_unpack(">III", sidx[start + 4 : start + 4 + 12 * count][: (len(sidx) - start - 4) // 12 * 12])
    return anchor + first + sum(entry[0] & 0x7FFFFFFF for entry in sizes)


def _read_moov(moov: _Part, file_size: int, found: Structure, limits: Limits) -> None:
    """Turns of the tracks, the length declared for all fragments, and the sample counts, which are checked."""
    movie_turn, timescale = _IDENTITY, 0
    for kind, body, end in _counted(_boxes(moov, 0, moov.size)):
        if end > moov.size:
            found.broken = True
        elif kind == b"mvhd":
            raw = moov.at(body, min(end - body, 256))
            wide = raw[:1] == b"\1"
            movie_turn = _matrix(raw, 48 if wide else 36) or _IDENTITY
            timescale = int.from_bytes(raw[20:24] if wide else raw[12:16], "big")
        elif kind == b"trak":
            track = _Track()
            _read_trak(_Part(moov, body, end), track, file_size, found, limits)
            if track.turn is not None:
                found.turns[track.number] = _product(track.turn, movie_turn)
            shown = sum(track.edits) / timescale if track.edits and timescale else track.seconds
            samples = found.media.get(track.number, Media()).samples + track.samples
            found.media[track.number] = Media(min(shown, track.seconds), track.seconds, samples)
        elif kind == b"mvex":
            found.fragmented = True
            for inner, at, stop in _boxes(moov, body, end):
                if inner == b"mehd" and stop <= end and timescale:
                    raw = moov.at(at, min(stop - at, 12))
                    found.declared_s = int.from_bytes(raw[4:12] if raw[:1] == b"\1" else raw[4:8], "big") / timescale


@dataclass
class _Track:
    number: int = 0
    turn: tuple[float, float, float, float] | None = None
    seconds: float = 0.0
    samples: int = 0
    edits: list[int] = field(default_factory=list)  # lengths of what is shown, in the movie's ticks


def _read_trak(part: _Part, track: _Track, file_size: int, found: Structure, limits: Limits, depth: int = 0) -> None:
    for kind, body, end in _counted(_boxes(part, 0, part.size)):
        if end > part.size:
            found.broken = True
        elif kind in (b"mdia", b"minf", b"stbl", b"edts") and depth < 3:
            _read_trak(_Part(part, body, end), track, file_size, found, limits, depth + 1)
        elif kind in (b"stco", b"co64"):
            item = 4 if kind == b"stco" else 8
            limits.check("max_packets", (end - body) // item, "chunks declared in the header:")
            offsets = np.frombuffer(part.at(body + 8, max(0, end - body - 8) // item * item), f">u{item}")
            found.broken = found.broken or bool(offsets.size and int(offsets.max()) >= file_size)
        elif kind in (b"tkhd", b"mdhd", b"stsz", b"elst"):
            _read_field(kind, part.at(body, min(end - body, 1 << 16)), track)
            limits.check("max_packets", track.samples, "samples declared in the header:")


def _read_field(kind: bytes, raw: bytes, track: _Track) -> None:
    """One of the small boxes of a track; version 1 of each has wider times."""
    wide = raw[:1] == b"\1"
    if kind == b"tkhd":
        track.number = int.from_bytes(raw[20:24] if wide else raw[12:16], "big")
        track.turn = _matrix(raw, 52 if wide else 40)
    elif kind == b"mdhd":
        ticks = int.from_bytes(raw[20:24] if wide else raw[12:16], "big")
        length = int.from_bytes(raw[24:32] if wide else raw[16:20], "big")
        track.seconds = length / ticks if ticks else 0.0
    elif kind == b"stsz":
        track.samples = int.from_bytes(raw[8:12], "big")
    else:
        form = struct.Struct(">QqI" if wide else ">IiI")
        body = raw[8 : 8 + (len(raw) - 8) // form.size * form.size] if len(raw) > 8 else b""
        track.edits = [length for length, place, _ in form.iter_unpack(body) if place >= 0]


def _matrix(raw: bytes, offset: int) -> tuple[float, float, float, float] | None:
    """The turning part of a 3 x 3 matrix in 16.16 fixed point, None when it is cut off or all zero."""
    if len(raw) < offset + 20:
        return None
    a, b, _, c, d = struct.unpack_from(">5i", raw, offset)
    return None if a == b == c == d == 0 else (a / 65536, b / 65536, c / 65536, d / 65536)


def _product(
    first: tuple[float, float, float, float], then: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    a, b, c, d = first
    e, f, g, h = then
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


# --- MKV and WEBM -----------------------------------------------------------------------------------------------------

_SEGMENT, _CLUSTER, _TRACKS = 0x18538067, 0x1F43B675, 0x1654AE6B
_LEVEL1 = frozenset(
    (0x114D9B74, 0x1549A966, _TRACKS, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF)
)
_TRACK_ENTRY, _TRACK_NUMBER, _VIDEO, _PROJECTION, _ROLL = 0xAE, 0xD7, 0xE0, 0x7670, 0x7675
_UNKNOWN = -1


def _vint(raw: bytes, keep_marker: bool) -> tuple[int, int]:
    """(value, length) of a variable-length integer at the start of `raw`; length 0 when it is cut off or invalid."""
    if not raw or raw[0] == 0:
        return 0, 0
    length = 9 - raw[0].bit_length()
    if len(raw) < length:
        return 0, 0
    value = int.from_bytes(raw[:length], "big")
    if keep_marker:
        return value, length
    value &= (1 << 7 * length) - 1
    return (_UNKNOWN if value == (1 << 7 * length) - 1 else value), length


def _element(data: Bytes, offset: int) -> tuple[int, int, int]:
    """(id, first byte of the body, size or _UNKNOWN) of the element at `offset`; id 0 when there is none."""
    raw = data.at(offset, 12)
    ident, a = _vint(raw[:4], keep_marker=True)
    size, b = _vint(raw[a : a + 8], keep_marker=False) if a else (0, 0)
    return (ident, offset + a + b, size) if b else (0, offset, 0)


def _walk_mkv(data: Bytes, found: Structure, limits: Limits) -> None:
    offset = 0
    while offset < data.size:  # the EBML header, anything before the segment, and the segment
        ident, body, size = _element(data, offset)
        if ident == 0 or (size == _UNKNOWN and ident != _SEGMENT):
            found.broken = True
            return
        if ident == _SEGMENT:
            end = data.size if size == _UNKNOWN else body + size
            found.missing_bytes = max(0, end - data.size)
            _walk_segment(data, body, end, found)
            return
        offset = body + size
    found.missing_bytes = max(1, offset - data.size)


def _walk_segment(data: Bytes, offset: int, end: int, found: Structure) -> None:
    """The elements of the segment; those of a cluster of unknown size count as the segment's own."""
    in_live_cluster = False
    for _ in range(_MAX_PARTS):
        if offset >= min(end, data.size):
            found.after_media = not in_live_cluster
            return
        ident, body, size = _element(data, offset)
        if ident == 0 and data.size - offset < 12:
            found.missing_bytes = max(1, found.missing_bytes)
            return
        if ident not in _LEVEL1 and not (in_live_cluster and ident):
            found.broken = True
            return
        if size == _UNKNOWN:
            if ident != _CLUSTER:
                found.broken = True
                return
            in_live_cluster, offset = True, body
            continue
        in_live_cluster = in_live_cluster and ident not in _LEVEL1 - {0xEC, 0xBF}
        if body + size > end or body + size > data.size:
            found.broken = found.broken or body + size > end
            found.missing_bytes = max(found.missing_bytes, body + size - data.size)
            found.after_media = ident != _CLUSTER and not in_live_cluster
            return
        if ident == _TRACKS:
            _read_tracks(_Part(data, body, body + size), found)
        offset = body + size
    raise LimitError(f"more than {_MAX_PARTS:,} elements in one file", limit=_MAX_PARTS)


def _children(part: _Part) -> Iterator[tuple[int, _Part]]:
    offset = 0
    while offset < part.size:
        ident, body, size = _element(part, offset)
        if ident == 0 or size == _UNKNOWN or body + size > part.size:
            return
        yield ident, _Part(part, body, body + size)
        offset = body + size


def _read_tracks(tracks: _Part, found: Structure) -> None:
    """The roll of each track's projection, as a turn; a roll of +90 shows the picture turned counter-clockwise."""
    for ident, entry in _children(tracks):
        if ident != _TRACK_ENTRY:
            continue
        fields = dict(_children(entry))
        if _VIDEO not in fields or _TRACK_NUMBER not in fields:
            continue
        roll = dict(_children(dict(_children(fields[_VIDEO])).get(_PROJECTION, _Part(entry, 0, 0)))).get(_ROLL)
        if roll is None or roll.size not in (4, 8):
            continue
        (degrees,) = struct.unpack(">f" if roll.size == 4 else ">d", roll.at(0, 8))
        quarter = round(degrees / 90) % 4 if abs(degrees) <= 360 else 0
        number = int.from_bytes(fields[_TRACK_NUMBER].at(0, 8), "big")
        found.turns[number] = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[quarter]


# --- AVI --------------------------------------------------------------------------------------------------------------


def _walk_avi(data: Bytes, found: Structure) -> None:
    """RIFF lists end to end; what follows the last one is not ours to judge."""
    offset = 0
    while offset + 12 <= data.size:
        tag, size, kind = struct.unpack("<4sI4s", data.at(offset, 12))
        if tag != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break
        end = offset + 8 + size + (size & 1)
        if size < 4 or end > data.size + (size & 1):
            found.missing_bytes, found.broken = max(0, end - data.size), size < 4
            break
        offset = end
    if offset == 0 and not found.damaged:
        raise DecodeError("the file does not start with a whole RIFF header")
