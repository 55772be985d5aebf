"""The first bits of H.264 and H.265 packets: enough to know whether decoding may really start at one.

Containers flag packets as key pictures, and not always truly: an H.264 picture that is refreshed bit by bit is flagged
where the refresh begins. A packet is a chain of NAL units; the kind of each stands in its first byte.

    H.264 packet   [length][6 SEI: recovery point, 0 frames][length][1 slice of an I picture]     may be entered
"""

from fractions import Fraction

import av.packet
import av.video

from tubelet.errors import DecodeError


def length_bytes(stream: av.video.VideoStream) -> int:
    """How many bytes give the length of each NAL unit, 0 where units are divided by start codes."""
    extra = stream.codec_context.extradata or b""
    codec = stream.codec_context.codec.name
    if codec == "h264" and len(extra) > 6 and extra[0] == 1:
        return (extra[4] & 3) + 1
    if codec == "hevc" and len(extra) > 22 and extra[0] in (0, 1) and extra[:3] not in (b"\0\0\1", b"\0\0\0"):
        return (extra[21] & 3) + 1
    return 0


def has_layers(codec: str, stream: av.video.VideoStream) -> bool:
    """Whether HEVC pictures that nothing in their own temporal layer refers to may still be referred to by another."""
    if codec != "hevc":
        return False
    extra = stream.codec_context.extradata or b""
    return length_bytes(stream) == 0 or (extra[21] >> 3) & 7 != 1


def is_true_entry(codec: str, packet: av.packet.Packet, nal_bytes: int) -> bool:
    """Whether decoding can start at this packet, which the container flags: H.264 and HEVC flags are looked into.

    H.264: an IDR picture, or a recovery point at which the picture is right at once. HEVC: a random access picture.
    Source: ITU-T H.264 7.4.1 and D.2.8, ITU-T H.265 table 7-1.
    """
    if codec not in ("h264", "hevc"):
        return True
    data = memoryview(packet)
    for start, end in _units(data, nal_bytes):
        if codec == "hevc":
            kind = data[start] >> 1 & 0x3F
            if kind < 32:
                return 16 <= kind <= 21
        else:
            kind = data[start] & 0x1F
            if kind == 5:
                return True
            if kind == 1:
                return False
            if kind == 6 and _recovers_at_once(bytes(data[start + 1 : end])):
                return True
    return False


def is_referred_to(packet: av.packet.Packet, nal_bytes: int) -> bool:
    """Whether other pictures may refer to the picture of an H.264 packet: nal_ref_idc of its first slice.

    Source: ITU-T H.264 7.4.1.
    """
    data = memoryview(packet)
    for start, _ in _units(data, nal_bytes):
        if data[start] & 0x1F in (1, 5):
            return data[start] & 0x60 != 0
    return False


def _units(data: memoryview, nal_bytes: int) -> list[tuple[int, int]]:
    """(first byte, end) of the NAL units of a packet."""
    out: list[tuple[int, int]] = []
    if nal_bytes:
        at = 0
        while at + nal_bytes < len(data):
            length = int.from_bytes(data[at : at + nal_bytes], "big")
            at += nal_bytes
            if length < 1 or at + length > len(data):
                break
            out.append((at, at + length))
            at += length
        return out
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while at >= 0 and at + 3 < len(raw):
        after = raw.find(b"\0\0\1", at + 3)
        out.append((at + 3, after if after >= 0 else len(raw)))
        at = after
    return out


def _recovers_at_once(sei: bytes) -> bool:
    """Whether a supplemental message holds a recovery point of zero frames."""
    sei = sei.replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 < len(sei):
        kind = size = 0
        while at < len(sei) and sei[at] == 255:
            kind, at = kind + 255, at + 1
        if at >= len(sei):
            return False
        kind, at = kind + sei[at], at + 1
        while at < len(sei) and sei[at] == 255:
            size, at = size + 255, at + 1
        if at >= len(sei):
            return False
        size, at = size + sei[at], at + 1
        if kind == 6:
            return size > 0 and at < len(sei) and sei[at] >= 0x80  # the number 0 is written as a single 1 bit
        at += size
    return False


# --- the shape of pixels, in the sequence parameter set of H.264

_CHROMA_PROFILES = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
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
        return (1 << zeros) - 1 + self.take(zeros)

    def pass_numbers(self, count: int) -> None:
        for _ in range(count):
            self.number()

    def signed(self) -> int:
        code = self.number()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def sample_aspect(extradata: bytes) -> Fraction | None:
    """Width / height of a pixel by the first parameter set of an H.264 stream in MP4 or MKV, 1 where it says nothing.

    None when the data is of another form or damaged. Source: ITU-T H.264 7.3.2.1.1, E.1.1, table E-1.
    """
    if len(extradata) < 9 or extradata[0] != 1 or extradata[5] & 31 == 0:
        return None
    unit = extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")]
    try:
        return _aspect_of(_Bits(unit[1:].replace(b"\0\0\3", b"\0\0")))
    except DecodeError:
        return None


def _aspect_of(bits: _Bits) -> Fraction:
    profile, _, _ = bits.take(8), bits.take(16), bits.number()
    if profile in _CHROMA_PROFILES:
        lists = 8
        if bits.number() == 3:
            lists = 12
            bits.take(1)
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
    bits.pass_numbers(2)
    if not bits.take(1):
        bits.take(1)
    bits.take(1)
    if bits.take(1):
        bits.pass_numbers(4)
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
