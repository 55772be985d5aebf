"""AVI: whether its RIFF lists reach to their ends. Little endian; what the lists hold is left to the demuxer.

"RIFF" | length of what follows 4 | "AVI " or "AVIX" | lists ...        one after another, each of even length
"""

import struct

import numpy as np

from tubelet.errors import DecodeError
from tubelet.reading.video.structure import Bytes, Media, Structure

_MOST_CHUNKS = 4_000_000  # of an index that are counted
_MOST_LISTS = 10_000  # that are looked at; real ones are of a gigabyte each


def walk_avi(data: Bytes, found: Structure) -> None:
    """Fills in what is missing of the RIFF lists. What follows the last of them is not judged.

    Raises: DecodeError where the file does not begin with one.
    """
    offset = 0
    for _ in range(_MOST_LISTS):
        if offset + 12 > data.size:
            break
        tag, size, kind = struct.unpack("<4sI4s", data.at(offset, 12))
        if tag != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break
        if kind == b"AVI ":
            _count_index(data, offset + 12, min(offset + 8 + size, data.size), found)
        end = offset + 8 + size + (size & 1)  # the last list may do without its filler
        if size < 4 or end > data.size + (size & 1):
            found.missing_bytes, found.broken = max(0, end - data.size), size < 4
            break
        offset = end
    if offset == 0 and not found.damaged:
        raise DecodeError("the file does not start with a whole RIFF header")


def _count_index(data: Bytes, offset: int, end: int, found: Structure) -> None:
    """How many chunks of pictures the index lists for each stream, those without content included.

    An entry is 16 bytes: the chunk's name (two digits of the stream, "dc" or "db"), flags, place, length.
    """
    for _ in range(_MOST_LISTS):
        if offset + 8 > end:
            return
        tag, size = struct.unpack("<4sI", data.at(offset, 8))
        if tag == b"idx1":
            break
        offset += 8 + size + (size & 1)
    else:
        return
    size = min(size, end - offset - 8, 16 * _MOST_CHUNKS) // 16 * 16
    entries = np.frombuffer(
        data.at(offset + 8, size), np.dtype([("name", "S4"), ("flags", "<u4"), ("at", "<u4"), ("size", "<u4")])
    )
    names = entries["name"]
    for name, count in zip(*np.unique(names, return_counts=True), strict=True):
        if bytes(name[2:]) in (b"dc", b"db") and name[:2].isdigit():
            number = int(name[:2]) + 1
            found.media[number] = Media(samples=found.media.get(number, Media()).samples + int(count))
