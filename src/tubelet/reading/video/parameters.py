"""The size of pictures and the shape of pixels, in the sequence parameter set of H.264."""

from fractions import Fraction
from typing import NamedTuple

from tubelet.errors import DecodeError

_CHROMA_PROFILES = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
_MOST_ZEROS = 31  # before the first 1 of a number of at most 32 bits
_ASPECTS = (
    *((0, 1), (1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11), (80, 33), (18, 11)),
    *((15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1)),
)


class _Bits:
    """Bits from the first on, with the number codes of H.264 9.1. Raises: DecodeError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise DecodeError("a parameter set ends early")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def number(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > _MOST_ZEROS:
                raise DecodeError("a number of a parameter set is out of range", limit=_MOST_ZEROS, got=zeros)
        return (1 << zeros) - 1 + self.take(zeros)

    def pass_numbers(self, count: int) -> None:
        for _ in range(count):
            self.number()

    def signed(self) -> int:
        code = self.number()
        return (code + 1) // 2 if code & 1 else -(code // 2)


class Stored(NamedTuple):
    """What the pictures of a stream are like before anything is done to them."""

    width: int
    height: int
    sample_aspect: Fraction | None  # width / height of a pixel


def parameter_set(extradata: bytes) -> Stored | None:
    """Size and shape of pixels (1 where it says nothing) by the first parameter set of an H.264 stream in MP4 or MKV.

    None when the data is of another form or damaged. Source: ITU-T H.264 7.3.2.1.1, E.1.1, table E-1.
    """
    if len(extradata) < 9 or extradata[0] != 1 or extradata[5] & 31 == 0:
        return None
    unit = extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")]
    try:
        found = _stored(_Bits(unit[1:].replace(b"\0\0\3", b"\0\0")))
    except DecodeError:
        return None
    return found if min(found.width, found.height) > 0 else None


def _stored(bits: _Bits) -> Stored:
    profile, _, _ = bits.take(8), bits.take(16), bits.number()
    chroma = 1  # 4:2:0
    if profile in _CHROMA_PROFILES:
        lists, chroma = 8, bits.number()
        if chroma == 3:
            lists = 12
            chroma = 0 if bits.take(1) else 3  # planes of their own are cut like grey
        bits.pass_numbers(2)
        bits.take(1)
        if bits.take(1):
            for k in range(lists):
                if bits.take(1):
                    _pass_scaling_list(bits, 16 if k < 6 else 64)
    bits.number()
    order = bits.number()
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.pass_numbers(2)
        bits.pass_numbers(min(bits.number(), 255))
    bits.number()
    bits.take(1)
    across, down = bits.number() + 1, bits.number() + 1  # in blocks of 16, of fields where pictures may be fields
    frames = bits.take(1)
    down *= 2 - frames
    if not frames:
        bits.take(1)
    bits.take(1)
    width, height = 16 * across, 16 * down
    if bits.take(1):  # cut off at the left, right, top and bottom
        left, right, top, bottom = (bits.number() for _ in range(4))
        width -= (left + right) * (2 if chroma in (1, 2) else 1)
        height -= (top + bottom) * (2 if chroma == 1 else 1) * (2 - frames)
    return Stored(width, height, _aspect(bits))


def _aspect(bits: _Bits) -> Fraction:
    if not bits.take(1) or not bits.take(1):  # no usability information, or no aspect in it
        return Fraction(1)
    kind = bits.take(8)
    across, down = (bits.take(16), bits.take(16)) if kind == 255 else _ASPECTS[kind] if kind < len(_ASPECTS) else (0, 1)
    return Fraction(across, down) if across and down else Fraction(1)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
