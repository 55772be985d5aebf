"""Which way is up: the orientation tag of an EXIF block, and the few TIFF directory entries that need reading by hand.

Only numbers of one and two words are read; no text, no thumbnail, no nested directory. Pillow's own reader is not used
for this because it warns, differently by version, about every oddity of a block that we need one number from.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from tubelet.errors import DecodeError

ORIENTATION = 0x0112

# Pillow's name of the turn that makes each stored orientation upright. 1 needs none.
#   1 as stored   2 mirrored      3 half turn       4 flipped
#   5 transposed  6 quarter left  7 anti-transposed 8 quarter right
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # the unsigned numbers among them


class Directory(NamedTuple):
    """One TIFF directory: the unsigned numbers of each wanted tag, and where the next directory is (0: nowhere)."""

    tags: dict[int, tuple[int, ...]]
    next: int


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height after the turn that `orientation` asks for."""
    return (height, width) if orientation >= 5 else (width, height)


def orientation_of(exif: bytes | None) -> tuple[int, str | None]:
    """The EXIF orientation 1..8 of a block, and a note when the block or its value makes no sense (then 1).

    exif: the block as JPEG, PNG, WEBP or AVIF store it, with or without the leading `Exif\\0\\0`; None gives 1.
    Orientation in XMP is not looked at: viewers do not either.
    Source: EXIF 2.32 section 4.6.4; the turns are those of Pillow's ImageOps.exif_transpose.
    """
    if not exif:
        return 1, None
    block = exif.removeprefix(b"Exif\0\0")

    def at(offset: int, length: int) -> bytes:
        return block[offset : offset + length]

    try:
        order, big, first = tiff_start(block[:16])
        values = directory(at, first, order, big, {ORIENTATION}).tags.get(ORIENTATION, (1,))
    except DecodeError:
        return 1, "the EXIF block is damaged; shown as stored"
    return judged(values[0] if values else 0)


def judged(value: int) -> tuple[int, str | None]:
    """An orientation as found in a file: 1..8 as it is, anything else 1 with a note."""
    if 1 <= value <= 8:
        return value, None
    return 1, f"orientation {value} means nothing; shown as stored"


def tiff_start(head: bytes) -> tuple[str, bool, int]:
    """Byte order ("<" or ">"), whether offsets have eight bytes, and the place of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise DecodeError("no TIFF header")
    version = struct.unpack_from(order + "H", head, 2)[0]
    if version == 42:
        return order, False, struct.unpack_from(order + "I", head, 4)[0]
    if version == 43 and len(head) >= 16:
        return order, True, struct.unpack_from(order + "Q", head, 8)[0]
    raise DecodeError("no TIFF header")


def directory(
    at: Callable[[int, int], bytes], offset: int, order: str, big: bool, wanted: set[int], max_values: int = 16
) -> Directory:
    """The directory at `offset`. `at(offset, length)` reads; what is short or points outside is a DecodeError.

    A wanted tag that holds anything but unsigned numbers is left out; of long lists the first `max_values` are read.
    """
    count_code, entry_code, next_code = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count_size, entry_size, next_size = (struct.calcsize(order + c) for c in (count_code, entry_code, next_code))
    count_bytes = at(offset, count_size)
    if offset < 8 or len(count_bytes) < count_size:
        raise DecodeError("a TIFF directory lies outside the file")
    count = struct.unpack(order + count_code, count_bytes)[0]
    if count > 4096:
        raise DecodeError("a TIFF directory has too many entries", limit=4096, got=count)
    table = at(offset + count_size, count * entry_size + next_size)
    if len(table) < count * entry_size:
        raise DecodeError("a TIFF directory is cut off")
    tags = {}
    for i in range(count):
        tag, kind, length, inline = struct.unpack_from(order + entry_code, table, i * entry_size)
        if tag not in wanted or kind not in _CODES:
            continue
        taken = min(length, max_values)
        if length * _WIDTHS[kind] <= len(inline):
            data = inline
        else:
            data = at(struct.unpack(order + ("Q" if big else "I"), inline)[0], taken * _WIDTHS[kind])
        if len(data) < taken * _WIDTHS[kind]:
            raise DecodeError("the data of a TIFF tag lies outside the file")
        tags[tag] = struct.unpack_from(f"{order}{taken}{_CODES[kind]}", data)
    tail = table[count * entry_size : count * entry_size + next_size]
    following = struct.unpack(order + next_code, tail)[0] if len(tail) == next_size else 0
    return Directory(tags, following)
