"""Matroska and WebM: whether their elements reach to their ends, and how each track's pictures are turned.

    id 1..4 | size 1..8 | body        variable-length integers: the zeros before the first one say how many bytes follow

Source: RFC 8794 (EBML) and RFC 9559 (Matroska). A size of all ones is unknown: live recordings have segments and
clusters that end where the next element of their own level begins.
"""

import struct
from collections.abc import Iterator

from tubelet.errors import LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.video.structure import MAX_PARTS, Bytes, Part, Structure

_SEGMENT, _CLUSTER, _TRACKS = 0x18538067, 0x1F43B675, 0x1654AE6B
_VOID, _CRC32 = 0xEC, 0xBF  # may stand on any level
_LEVEL1 = frozenset(
    (0x114D9B74, 0x1549A966, _TRACKS, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _VOID, _CRC32)
)
_TRACK_ENTRY, _TRACK_NUMBER, _VIDEO, _PROJECTION, _ROLL = 0xAE, 0xD7, 0xE0, 0x7670, 0x7675
_WIDTH, _HEIGHT = 0xB0, 0xBA
_UNKNOWN = -1
_MOST_SMALL = 10_000  # elements that are looked at before the segment, and in one description of tracks
# A roll of +90 degrees shows the picture turned counter-clockwise.
_QUARTERS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


def walk_mkv(data: Bytes, found: Structure, limits: Limits) -> None:
    """Fills in what is missing of the segment, and the turns. Raises: LimitError for too many elements."""
    offset = 0
    for _ in range(_MOST_SMALL):  # the EBML header, anything before the segment, and the segment
        if offset >= data.size:
            break
        ident, body, size = _element(data, offset)
        if ident == 0 or (size == _UNKNOWN and ident != _SEGMENT):
            found.broken = True
            return
        if ident == _SEGMENT:
            end = data.size if size == _UNKNOWN else body + size
            found.missing_bytes = max(0, end - data.size)
            _walk_segment(data, body, end, found, limits)
            return
        offset = body + size
    found.missing_bytes = max(1, offset - data.size)  # there is no segment


def _walk_segment(data: Bytes, offset: int, end: int, found: Structure, limits: Limits) -> None:
    """The elements of the segment; those of a cluster of unknown size count as the segment's own."""
    in_live_cluster = False
    for _ in limits.within_deadline(range(MAX_PARTS)):
        if offset >= min(end, data.size):
            found.after_media = not in_live_cluster
            return
        ident, body, size = _element(data, offset)
        if ident == 0 and data.size - offset < 12:  # the file ends within an id or a size
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
        # an element of the segment ends a live cluster; what may stand on any level does not
        in_live_cluster = in_live_cluster and ident not in _LEVEL1 - {_VOID, _CRC32}
        if body + size > end or body + size > data.size:
            found.broken = found.broken or body + size > end
            found.missing_bytes = max(found.missing_bytes, body + size - data.size)
            found.after_media = ident != _CLUSTER and not in_live_cluster
            return
        if ident == _TRACKS:
            _read_tracks(Part(data, body, body + size), found)
        offset = body + size
    raise LimitError(f"more than {MAX_PARTS:,} elements in one file", limit=MAX_PARTS)


def _children(part: Part) -> Iterator[tuple[int, Part]]:
    """(id, body) of the elements in `part`, up to the first that does not end within it."""
    offset = 0
    for _ in range(_MOST_SMALL):
        if offset >= part.size:
            return
        ident, body, size = _element(part, offset)
        if ident == 0 or size == _UNKNOWN or body + size > part.size:
            return
        yield ident, Part(part, body, body + size)
        offset = body + size


def _read_tracks(tracks: Part, found: Structure) -> None:
    """The roll of each track's projection, as a turn, and the size of its pictures."""
    for ident, entry in _children(tracks):
        if ident != _TRACK_ENTRY:
            continue
        fields = dict(_children(entry))
        if _VIDEO not in fields or _TRACK_NUMBER not in fields:
            continue
        video, number = dict(_children(fields[_VIDEO])), int.from_bytes(fields[_TRACK_NUMBER].at(0, 8), "big")
        if _WIDTH in video and _HEIGHT in video:
            width, height = (int.from_bytes(video[side].at(0, 8), "big") for side in (_WIDTH, _HEIGHT))
            found.sizes[number] = width, height
        roll = dict(_children(video.get(_PROJECTION, Part(entry, 0, 0)))).get(_ROLL)
        if roll is None or roll.size not in (4, 8):
            continue
        (degrees,) = struct.unpack(">f" if roll.size == 4 else ">d", roll.at(0, 8))
        quarter = round(degrees / 90) % 4 if abs(degrees) <= 360 else 0
        found.turns[number] = _QUARTERS[quarter]


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
