"""The first bits of H.264 and H.265 packets: enough to know whether decoding may really start at one.

Containers flag packets as key pictures, and not always truly: an H.264 picture that is refreshed bit by bit is flagged
where the refresh begins. A packet is a chain of NAL units; the kind of each stands in its first byte.

    H.264 packet   [length][6 SEI: recovery point, 0 frames][length][1 slice of an I picture]     may be entered
"""

import av.packet
import av.video

from tubelet.reading.video.kinds import PictureKind


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


def is_true_entry(codec: str, packet: av.packet.Packet, nal_bytes: int, kind: PictureKind = "?") -> bool:
    """Whether decoding can start at this packet, which the container flags. kind: of its picture, in other codecs.

    H.264: an IDR picture, or a recovery point at which the picture is right at once. HEVC: a random access picture.
    Source: ITU-T H.264 7.4.1 and D.2.8, ITU-T H.265 table 7-1.
    """
    if codec not in ("h264", "hevc"):
        return kind == "I"
    data = memoryview(packet)
    for start, end in _units(data, nal_bytes):
        if codec == "hevc":
            unit = data[start] >> 1 & 0x3F
            if unit < 32:
                return 16 <= unit <= 21
        else:
            unit = data[start] & 0x1F
            if unit == 5:
                return True
            if unit == 1:
                return False
            if unit == 6 and _recovers_at_once(bytes(data[start + 1 : end])):
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
