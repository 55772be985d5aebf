"""The packet index of a video stream: what is in the file and when it is shown, found without decoding anything.

Reading the packets of a clip costs a hundredth of decoding it, and tells everything that a plan needs:

    decode order     I0   P3   B1   B2   P6   B4   B5   I9   B7   B8   P12 ...     I: an entry, decoding may start here
    display order    I0   B1   B2   P3   B4   B5   P6   B7   B8   I9   ...         B7, B8 need I9 *and* what is before

    start of frame i = its presentation time - that of the first frame shown        (never its number / a rate)
    entry of frame i = the last entry before it in decode order that is not shown after it
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av.container
import av.packet
import av.video

from tubelet.errors import DecodeError, TubeletError
from tubelet.reading.limits import Limits
from tubelet.reading.sniff import Format
from tubelet.reading.video.complete import judge, usual_step
from tubelet.reading.video.file import FOREIGN
from tubelet.reading.video.kinds import KNOWN, picture_kind
from tubelet.reading.video.nal import has_layers, is_true_entry, length_bytes
from tubelet.reading.video.packets import PacketIndex
from tubelet.reading.video.stamps import leading, misplaced
from tubelet.reading.video.structure import Structure

# Every packet stands alone.
INTRA: Final = frozenset(("mjpeg", "prores", "dnxhd", "dvvideo", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "png"))
# Codecs that are entered in the middle, where a packet is flagged and is what it says: what is shown after it needs
# nothing from before it.
_ENTERED: Final = KNOWN | {"h264", "hevc"}
# Codecs that show their pictures in the order of decoding; VP8, VP9 and AV1 do too, by their kinds.
_IN_ORDER: Final = INTRA | {"ffv1", "qtrle", "cinepak", "theora", "flv", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2"}
# Codecs whose decoder can leave out the pictures that no other picture refers to.
_NONREF: Final = frozenset(("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"))


@dataclass
class _Row:
    """What ordering needs to know of a packet and decoding does not."""

    duration: int  # in ticks of the stream; 0 where it has none
    shown: bool
    firm: bool  # all that is decoded before it is shown before it
    headless: bool  # it comes before the first key picture


def read_index(
    container: av.container.InputContainer,
    stream: av.video.VideoStream,
    kind: Format,
    structure: Structure,
    limits: Limits,
) -> PacketIndex:
    """The index, by demuxing the stream once. Reads the file, decodes nothing; about 15 us a packet.

    Raises: DecodeError (no packet at all), LimitError (packets, seconds, deadline).
    """
    index = PacketIndex(kind)
    rows, cut = _demux(container, stream, index, limits)
    if not rows:
        raise DecodeError("the video stream has no content", got=0)
    codec = stream.codec_context.codec.name
    tick = Fraction(stream.time_base or Fraction(1, 1000))
    index.slack_s = min(float(tick) / 2, 0.001)
    index.by_count = _needs_counting(index, rows, kind, codec)
    index.nonref = codec in _NONREF and not index.by_count and not has_layers(codec, stream)
    _order(index, rows, tick)
    if not index.order:
        raise DecodeError("no picture of the video stream is shown", got=0)
    limits.check("max_seconds", index.duration_s, "seconds found:")
    judge(index, stream, structure, tick, cut or index.misplaced > 0 or index.headless > 0, container)
    limits.check("max_seconds", index.declared_s, "seconds declared:")
    return index


def _demux(
    container: av.container.InputContainer, stream: av.video.VideoStream, index: PacketIndex, limits: Limits
) -> tuple[list[_Row], bool]:
    """Fills the packet columns of `index`; the rows for ordering, and whether reading ended early."""
    rows: list[_Row] = []
    codec = stream.codec_context.codec.name
    nal_bytes = length_bytes(stream)
    cut, headless = False, True
    try:
        for number, packet in enumerate(limits.within_deadline(container.demux(stream))):
            if number > limits.max_packets:  # those without content count too
                limits.check("max_packets", number, "packets")
            size = packet.size
            if size == 0:  # an AVI placeholder, or the end, which has no time
                index.blanks += packet.dts is not None
                continue
            if packet.is_corrupt:
                cut = True  # only a part of it is there
                continue
            kind, intra = picture_kind(codec, packet) if codec in KNOWN else "?", codec in INTRA
            flagged = packet.is_keyframe and codec in _ENTERED
            entry = intra or (flagged and is_true_entry(codec, packet, nal_bytes, kind))
            shown = not packet.is_discard and not (codec == "vp8" and not memoryview(packet)[0] & 0x10)
            headless = headless and not entry and kind in ("P", "B")
            if headless:  # it refers to what this file does not have, and some decoders show grey for that
                index.headless += shown
                shown = False
            index.pts.append(packet.pts)
            index.size.append(size)
            index.position.append(packet.pos)
            index.entry.append(entry or not rows)
            index.dts.append(packet.dts)
            firm = entry or kind in ("I", "P") or codec in _IN_ORDER
            rows.append(_Row(packet.duration or 0, shown, firm, headless))
    except TubeletError:
        raise
    except FOREIGN as error:
        if not rows:
            raise DecodeError("the video stream could not be read") from error
        cut = True
    limits.check("max_packets", len(rows), "packets")
    return rows, cut


# --- when each picture is shown ---------------------------------------------------------------------------------------


def _needs_counting(index: PacketIndex, rows: Sequence[_Row], kind: Format, codec: str) -> bool:
    """AVI stores no presentation times, and FFmpeg's guess for H.264 and HEVC there is the decode order."""
    if codec in INTRA:
        return False
    if kind == "AVI" and codec in ("h264", "hevc"):
        return True
    return any(pts is None and row.shown for pts, row in zip(index.pts, rows, strict=True))


def _order(index: PacketIndex, rows: Sequence[_Row], tick: Fraction) -> None:
    """Display order, start times from 0.0, the length, and the reordering depth."""
    shown = [i for i, row in enumerate(rows) if row.shown]
    if index.by_count or any(index.pts[i] is None for i in shown):
        stamps = _filled(index.dts, [row.duration for row in rows])
        clock = dict(zip(shown, sorted(stamps[i] for i in shown), strict=True))
        index.order = shown
    else:
        clock = {i: pts for i in shown if (pts := index.pts[i]) is not None}
        # pictures shown before the first entry refer to what this file does not have
        wrong = misplaced(shown, clock, [row.firm for row in rows])
        placed = [i for i in shown if i not in wrong]
        first = next((i for i, row in enumerate(rows) if not row.headless), 0)
        without, true = leading(placed, clock, first)
        index.misplaced = len(wrong) + (0 if true else len(without))
        index.order = sorted((i for i in placed if i not in without), key=lambda i: (clock[i], i))
        index.reorder, index.early = _reorder_depth(sorted(range(len(rows)), key=lambda i: (index.pts[i] or 0, i)))
    if not index.order:
        return
    zero = clock[index.order[0]]
    up, down = tick.numerator, tick.denominator
    index.starts_s = [(clock[i] - zero) * up / down for i in index.order]
    last = index.order[-1]
    step = usual_step(index.starts_s)
    own = float(rows[last].duration * tick)
    if index.kind == "AVI":  # a tick, which need not be a picture's
        own = max(own, step)
    index.duration_s = index.starts_s[-1] + (own if own > 0 else step)


def _filled(stamps: list[int | None], durations: list[int]) -> list[int]:
    """Decode times with the missing ones counted on from the one before, or back from the first that is there."""
    known = next((i for i, s in enumerate(stamps) if s is not None), None)
    step = max(1, statistics.median_low([d for d in durations if d > 0] or [1]))
    at = 0 if known is None else (stamps[known] or 0) - known * step
    out: list[int] = []
    for stamp, duration in zip(stamps, durations, strict=True):
        at = at if stamp is None else stamp
        out.append(at)
        at += duration if duration > 0 else step
    return out


def _reorder_depth(order: Sequence[int]) -> tuple[int, int]:
    """(the most pictures that come before one in decode order and after it in display order, the most the other way)"""
    decoded_at = {packet: place for place, packet in enumerate(sorted(order))}
    ahead = [decoded_at[packet] - rank for rank, packet in enumerate(order)]
    return max(ahead), -min(ahead)
