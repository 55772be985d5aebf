"""AVI: whether its RIFF lists reach to their ends. Little endian; what the lists hold is left to the demuxer.

"RIFF" | length of what follows 4 | "AVI " or "AVIX" | lists ...        one after another, each of even length
"""

import struct

from tubelet.errors import DecodeError
from tubelet.reading.video.structure import Bytes, Structure


def walk_avi(data: Bytes, found: Structure) -> None:
    """Fills in what is missing of the RIFF lists. What follows the last of them is not judged.

    Raises: DecodeError where the file does not begin with one.
    """
    offset = 0
    while offset + 12 <= data.size:
        tag, size, kind = struct.unpack("<4sI4s", data.at(offset, 12))
        if tag != b"RIFF" or kind not in (b"AVI ", b"AVIX"):
            break
        end = offset + 8 + size + (size & 1)  # the last list may do without its filler
        if size < 4 or end > data.size + (size & 1):
            found.missing_bytes, found.broken = max(0, end - data.size), size < 4
            break
        offset = end
    if offset == 0 and not found.damaged:
        raise DecodeError("the file does not start with a whole RIFF header")
