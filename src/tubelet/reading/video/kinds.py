"""What kind of picture a packet holds, by its first bits: codecs of the MPEG family, VP8, VP9 and AV1.

    I   needs no other: decoding may start here        P   refers to pictures before it
    B   shown before a picture that is decoded earlier  ?   the packet does not say

Containers flag packets as key pictures, and not always truly: an MP4 without its table of key pictures flags them all.
"""

from typing import Final, Literal

import av.packet

PictureKind = Literal["I", "P", "B", "?"]

_LOOK_BYTES: Final = 4096  # in which a picture's header stands, behind those of the sequence
_MPEG4: Final[tuple[PictureKind, ...]] = ("I", "P", "B", "P")  # the last one: a sprite
_MPEG12: Final[dict[int, PictureKind]] = {1: "I", 2: "P", 3: "B", 4: "I"}
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # OBU types
# Codecs that `picture_kind` knows; those of which only B pictures come out of their turn.
KNOWN: Final = frozenset(("mpeg4", "mpeg1video", "mpeg2video", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d"))


def picture_kind(codec: str, packet: av.packet.Packet) -> PictureKind:
    """The kind of the (first) picture in a packet, by the stream itself; "?" for other codecs too.

    Source: ISO/IEC 14496-2 6.2.5, ISO/IEC 13818-2 6.2.3, RFC 6386 9.1, VP9 bitstream 6.2, AV1 bitstream 5.9.2.
    """
    data = bytes(memoryview(packet)[:_LOOK_BYTES])
    if codec == "mpeg4":
        at = data.find(b"\0\0\1\xb6") + 4
        return _MPEG4[data[at] >> 6] if 4 <= at < len(data) else "?"
    if codec in ("mpeg1video", "mpeg2video"):
        at = data.find(b"\0\0\1\0") + 5
        return _MPEG12.get(data[at] >> 3 & 7, "?") if 5 <= at < len(data) else "?"
    if codec in ("vp8", "libvpx"):
        return "P" if data[:1] and data[0] & 1 else "I" if data[3:6] == b"\x9d\x01\x2a" else "?"
    if codec in ("vp9", "libvpx-vp9"):
        return _vp9(data)
    return _av1(data) if codec in ("av1", "libdav1d") else "?"


def _vp9(data: bytes) -> PictureKind:
    """Bits from the top: marker 2, profile 2 (one more for profile 3), shows a stored frame 1, is no key frame 1."""
    if len(data) < 4 or data[0] >> 6 != 2:
        return "?"
    rest = data[0] << 8 | data[1]
    place = 10 if data[0] >> 4 & 3 == 3 else 11  # of the bit for a stored frame, from the bottom of 16
    stored, other = rest >> place & 1, rest >> (place - 1) & 1
    return "P" if stored or other else "I"


def _av1(data: bytes) -> PictureKind:
    """The first frame of a temporal unit: shown at once and a key frame, or anything else."""
    at = 0
    reduced = False  # a sequence of one picture, whose frame header says nothing
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        size, shift = 0, 0
        while sized and at < len(data) and shift < 35:  # base 128, the lowest digit first
            size |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 128:
                break
        if at >= len(data):
            break
        if kind == _SEQUENCE:
            reduced = bool(data[at] >> 3 & 1)
        elif kind in (_FRAME_HEADER, _FRAME):
            stored, of, shown = data[at] >> 7, data[at] >> 5 & 3, data[at] >> 4 & 1
            return "I" if reduced or (not stored and of == 0 and shown) else "P"
        if not sized:
            break
        at += size
    return "?"
