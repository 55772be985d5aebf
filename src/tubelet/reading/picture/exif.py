"""Which way is up, wherever a file says it: EXIF, else ImageMagick's raw profile, and where neither holds it, XMP.

    EXIF block (JPEG APP1, PNG eXIf, WEBP EXIF, AVIF item, TIFF tags)   tag 0x0112, any type of number
    PNG text "Raw profile type exif" or "APP1"                          the same block in hexadecimal digits
    XMP packet (JPEG APP1, PNG iTXt, WEBP XMP, AVIF item, TIFF tag 700) tiff:Orientation, attribute or element

This is the rule of Pillow's `ImageOps.exif_transpose`, for every door. Only numbers are read; no text, no thumbnail, no
nested directory. Pillow's own reader is not used because it warns, differently by version, about every oddity of a
block that we need one number from.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from tubelet.errors import DecodeError

ORIENTATION = 0x0112
XMP = 700  # tag of TIFF

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
_UNSIGNED = {1: "B", 3: "H", 4: "I", 5: "II", 13: "I", 16: "Q", 18: "Q"}  # 5: numerator and denominator
_NUMBERS = _UNSIGNED | {6: "b", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 17: "q"}
_IN_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([0-9]{1,9})""")


class Directory(NamedTuple):
    """One TIFF directory: the whole numbers of each wanted tag, and where the next directory is (0: nowhere)."""

    tags: dict[int, tuple[int, ...]]
    next: int


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height after the turn that `orientation` asks for."""
    return (height, width) if orientation >= 5 else (width, height)


def orientation_of(
    exif: bytes | None, xmp: bytes | None = None, raw_profile: str | bytes | None = None
) -> tuple[int, str | None]:
    """The orientation 1..8 that a file's blocks say, and a note when a block or its value makes no sense (then 1).

    exif: the block as JPEG, PNG, WEBP or AVIF store it, with or without the leading `Exif\\0\\0`. raw_profile: a PNG
    text of ImageMagick, looked at where there is no EXIF. xmp: a packet, looked at where those have no such tag.
    Source: EXIF 2.32 section 4.6.4; XMP part 2 section 8.5; the order and turns are those of exif_transpose.
    """
    note = None
    if not exif and raw_profile:
        exif, note = _unhexed(raw_profile)
    if exif:
        while exif.startswith(b"Exif\0\0"):
            exif = exif[6:]
        block = exif

        def at(offset: int, length: int) -> bytes:
            return block[offset : offset + length]

        try:
            order, big, first = tiff_start(block[:16])
            values = directory(at, first, order, big, {ORIENTATION}).tags.get(ORIENTATION)
            if values is not None:
                return judged(values[0] if values else 0)
        except DecodeError:
            note = "the EXIF block is damaged; shown as stored"
    found = _IN_XMP.search(xmp) if xmp else None
    return (1, note) if found is None else judged(int(found[1]))


def _unhexed(text: str | bytes) -> tuple[bytes | None, str | None]:
    """The block in a raw profile: an empty line, its name, its length, then hexadecimal digits on lines."""
    lines = (text if isinstance(text, str) else text.decode("latin-1")).split("\n")
    try:
        return bytes.fromhex("".join(lines[3:])), None
    except ValueError:
        return None, "the raw EXIF profile is damaged; shown as stored"


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

    A wanted tag that holds anything but whole numbers is left out; of long lists the first `max_values` are read. With
    nothing wanted, only the count and the link are read. Cost: one read of at most 4,096 entries.
    """
    count_code, entry_code, next_code = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count_size, entry_size, next_size = (struct.calcsize(order + c) for c in (count_code, entry_code, next_code))
    count_bytes = at(offset, count_size)
    if offset < 8 or len(count_bytes) < count_size:
        raise DecodeError("a TIFF directory lies outside the file")
    count = struct.unpack(order + count_code, count_bytes)[0]
    if count > 4096:
        raise DecodeError("a TIFF directory has too many entries", limit=4096, got=count)
    skipped = 0 if wanted else count * entry_size
    table = at(offset + count_size + skipped, count * entry_size + next_size - skipped)
    if len(table) < count * entry_size - skipped:
        raise DecodeError("a TIFF directory is cut off")
    tags = {}
    for i in range(count if wanted else 0):
        tag, kind, length, inline = struct.unpack_from(order + entry_code, table, i * entry_size)
        if tag not in wanted or (kind not in _NUMBERS and (tag, kind) != (XMP, 7)):  # 7: bytes of no stated meaning
            continue
        taken = min(length, max_values)
        if length * _WIDTHS[kind] <= len(inline):
            data = inline
        else:
            data = at(struct.unpack(order + ("Q" if big else "I"), inline)[0], taken * _WIDTHS[kind])
        if len(data) < taken * _WIDTHS[kind]:
            raise DecodeError("the data of a TIFF tag lies outside the file")
        whole = _whole_numbers(order, kind, data[: taken * _WIDTHS[kind]])
        if whole is not None:
            tags[tag] = whole
    tail = table[count * entry_size - skipped :][:next_size]
    following = struct.unpack(order + next_code, tail)[0] if len(tail) == next_size else 0
    return Directory(tags, following)


def _whole_numbers(order: str, kind: int, data: bytes) -> tuple[int, ...] | None:
    """The numbers of a tag, also signed ones, floats and fractions; None where one of them is not whole."""
    code = "B" if kind == 7 else _NUMBERS[kind]
    found = [number for numbers in struct.iter_unpack(order + code, data) for number in numbers]
    if kind in (5, 10):
        fractions = list(zip(found[::2], found[1::2], strict=True))
        if any(below == 0 or above % below for above, below in fractions):
            return None
        return tuple(above // below for above, below in fractions)
    if not all(float(number).is_integer() for number in found):  # neither NaN nor infinity is
        return None
    return tuple(int(number) for number in found)
