"""The packet index of a video stream: what is in the file and when it is shown, found without decoding anything.

Reading the packets of a clip costs a hundredth of decoding it, and tells everything that a plan needs:

    decode order     I0   P3   B1   B2   P6   B4   B5   I9   B7   B8   P12 ...     I: an entry, decoding may start here
    display order    I0   B1   B2   P3   B4   B5   P6   B7   B8   I9   ...         B7, B8 need I9 *and* what is before

    start of frame i = its presentation time - that of the first frame shown        (never its number / a rate)
    entry of frame i = the last entry before it in decode order that is not shown after it
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import av.container
import av.packet
import av.video

from tubelet.errors import DecodeError, LimitError, TubeletError
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling, shown_at
from tubelet.reading.sniff import Format
from tubelet.reading.video.boxes import Media, Structure
from tubelet.reading.video.file import FOREIGN
from tubelet.reading.video.nal import has_layers, is_true_entry, length_bytes

# Every packet stands alone.
INTRA: Final = frozenset(("mjpeg", "prores", "dnxhd", "dvvideo", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "png"))
# Codecs whose flagged packets are true entries: what is shown after one needs nothing from before it.
_ENTERED: Final = INTRA | {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg1video", "mpeg2video"}
# Codecs whose decoder can leave out the pictures that no other picture refers to.
_NONREF: Final = frozenset(("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"))
_DEEPEST: Final = 16  # no codec holds back more pictures; times that ask for it are damaged
_CLOCK_EVERY = 512  # packets between two looks at the clock


@dataclass
class PacketIndex:
    """One entry per packet with content, in decode order, and the display order of those that are shown.

    size, position, pts: as the demuxer gives them, to recognise a packet again. entry: decoding may start here.
    order: packet numbers in display order. starts_s: of those, from 0.0, ascending. duration_s: to the end of the last.
    by_count: the presentation times cannot be trusted (AVI with reordered pictures): the n-th picture that comes out of
    a decoder that saw everything is the n-th of `order`. cut: the file ends, or breaks, before the stream does; then
    `declared_s` is how long it should have been where the file says so, and never less than `duration_s`.
    blanks: packets without content, each of which lets the picture before it stay.
    reorder: how many pictures a decoder must hold back to put them in order; early: by how many places one is decoded
    before its turn, at most. nonref: unneeded ones may be skipped.
    """

    kind: Format = "MP4"
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    position: list[int | None] = field(default_factory=list)
    entry: list[bool] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    duration_s: float = 0.0
    declared_s: float = 0.0
    by_count: bool = False
    cut: bool = False
    blanks: int = 0
    reorder: int = 0
    early: int = 0
    nonref: bool = False
    slack_s: float = 0.0
    _entries: dict[tuple[int | None, int, int | None], int] = field(default_factory=dict, repr=False)

    def is_packet(self, number: int, packet: av.packet.Packet) -> bool:
        """Whether `packet` is the one that stands at `number`."""
        if self.size[number] != packet.size or self.position[number] != packet.pos:
            return False
        return packet.pos is not None or self.pts[number] == packet.pts

    def number_of_entry(self, packet: av.packet.Packet) -> int | None:
        """The number of a packet that is an entry, None for any other."""
        if not self._entries:
            self._entries = {
                (self.position[i], self.size[i], None if self.position[i] is not None else self.pts[i]): i
                for i in range(len(self.size) - 1, -1, -1)
                if self.entry[i]
            }
        return self._entries.get((packet.pos, packet.size, None if packet.pos is not None else packet.pts))

    def entry_of(self, packet: int) -> int:
        """The last entry at or before `packet` in decode order that is not shown after it."""
        for i in range(packet, 0, -1):
            if self.entry[i] and (i == packet or not self.shown_before(packet, i)):
                return i
        return 0

    def entry_before(self, entry: int) -> int:
        return next((i for i in range(entry - 1, 0, -1) if self.entry[i]), 0)

    def shown_before(self, a: int, b: int) -> bool:
        """Whether packet `a` has a presentation time before that of packet `b`."""
        stamp_a, stamp_b = self.pts[a], self.pts[b]
        return stamp_a is not None and stamp_b is not None and stamp_a < stamp_b

    def seek_stamp(self, entry: int) -> int | None:
        """The time to seek to for an entry: MKV lists entries by presentation time, the others by decode time."""
        by_pts = self.kind in ("MKV", "WEBM") or self.dts[entry] is None
        return self.pts[entry] if by_pts else self.dts[entry]


@dataclass(frozen=True)
class Segment:
    """A stretch of packets to decode in one go, first to last inclusive; `wanted` maps packet numbers to slots."""

    first: int
    last: int
    wanted: dict[int, tuple[int, ...]]


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
    _judge(index, rows, stream, kind, structure, tick, cut, container)
    limits.check("max_seconds", index.declared_s, "seconds declared:")
    return index


@dataclass
class _Row:
    duration: int
    shown: bool


def _demux(
    container: av.container.InputContainer, stream: av.video.VideoStream, index: PacketIndex, limits: Limits
) -> tuple[list[_Row], bool]:
    """Fills the packet columns of `index`; the rows for ordering, and whether reading ended early."""
    rows: list[_Row] = []
    codec = stream.codec_context.codec.name
    nal_bytes = length_bytes(stream)
    first, until, cut = True, time.monotonic() + limits.deadline_s, False
    try:
        for packet in container.demux(stream):
            size = packet.size
            if size == 0:  # an AVI placeholder, or the end, which has no time
                index.blanks += packet.dts is not None
                continue
            if packet.is_corrupt:
                cut = True  # only a part of it is there
                continue
            entry = codec in INTRA or first or (packet.is_keyframe and codec in _ENTERED)
            if entry and not first:
                entry = is_true_entry(codec, packet, nal_bytes)
            shown = not packet.is_discard and not (codec == "vp8" and not memoryview(packet)[0] & 0x10)
            index.pts.append(packet.pts)
            index.size.append(size)
            index.position.append(packet.pos)
            index.entry.append(entry)
            index.dts.append(packet.dts)
            rows.append(_Row(packet.duration or 0, shown))
            first = False
            if len(rows) % _CLOCK_EVERY == 0:
                limits.check("max_packets", len(rows), "packets")
                check_clock(until, limits)
    except TubeletError:
        raise
    except FOREIGN as error:
        if not rows:
            raise DecodeError("the video stream could not be read") from error
        cut = True
    limits.check("max_packets", len(rows), "packets")
    return rows, cut


def check_clock(until: float, limits: Limits) -> None:
    """Raise LimitError when the monotonic clock has passed `until`."""
    late = time.monotonic() - until
    if late > 0:
        raise LimitError(
            f"reading took longer than deadline_s = {limits.deadline_s:g}",
            limit=limits.deadline_s,
            got=round(limits.deadline_s + late, 3),
        )


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
        usable = [i for i in shown if i == 0 or not index.entry[0] or clock[i] >= clock.get(0, clock[i])]
        index.order = sorted(usable, key=lambda i: (clock[i], i))
        index.reorder, index.early = _reorder_depth(sorted(range(len(rows)), key=lambda i: (index.pts[i] or 0, i)))
    if not index.order:
        return
    zero = clock[index.order[0]]
    up, down = tick.numerator, tick.denominator
    index.starts_s = [(clock[i] - zero) * up / down for i in index.order]
    last = index.order[-1]
    step = _step(index.starts_s)
    own = float(rows[last].duration * tick)
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


def _step(starts: Sequence[float]) -> float:
    """The usual time from one frame to the next, 0.0 for a single frame."""
    gaps = [b - a for a, b in itertools.pairwise(starts) if b > a]
    return statistics.median(gaps) if gaps else 0.0


# --- whether all of it is there ---------------------------------------------------------------------------------------


def _judge(
    index: PacketIndex,
    rows: Sequence[_Row],
    stream: av.video.VideoStream,
    kind: Format,
    structure: Structure,
    tick: Fraction,
    stopped: bool,
    container: av.container.InputContainer,
) -> None:
    """Sets `cut` and `declared_s` by what the structure, the header and the packets say together.

    A cut in what follows the last picture (an index, the sound) is not a cut of the video: where the file says how much
    video it has, by number or by length, and all of that is there, nothing is missing.
    """
    step = _step(index.starts_s)
    declared = _declared_length(index, rows, stream, kind, structure, tick)
    index.declared_s = max(index.duration_s, declared or 0.0)
    missing_s = index.declared_s - index.duration_s
    ends_early = missing_s > step * 1.5 + 0.005
    there = len(rows) + index.blanks
    if kind == "MP4":
        media = structure.media.get(stream.id, Media(samples=stream.frames))
        listed, trimmed = media.samples, not structure.fragmented and media.shown_s < media.media_s - step
        whole = 0 < listed <= there and (structure.after_media or not structure.fragmented)
        short = ends_early or (listed > there and not trimmed)
    elif kind == "AVI":
        whole, short = 0 < stream.frames <= there, stream.frames > there
    else:
        whole = structure.after_media and declared is not None and missing_s <= step / 2 + 0.002
        short = ends_early
    lost = structure.missing_bytes > 0 and not whole
    index.cut = stopped or lost or short or structure.broken or index.reorder > _DEEPEST or index.early > 2 * _DEEPEST
    if index.cut and declared is None and container.duration is not None:
        index.declared_s = max(index.declared_s, container.duration / 1e6)
    if not index.cut:
        index.declared_s = index.duration_s


def _declared_length(
    index: PacketIndex,
    rows: Sequence[_Row],
    stream: av.video.VideoStream,
    kind: Format,
    structure: Structure,
    tick: Fraction,
) -> float | None:
    """Seconds of video from the first picture shown, as the file declares for this stream; None where it does not."""
    if kind == "MP4":
        return structure.declared_s if structure.fragmented else structure.media.get(stream.id, Media()).shown_s or None
    if kind == "AVI":
        lost = stream.frames - len(rows) - index.blanks
        return index.duration_s + float(max(0, lost) * tick) if stream.frames > 0 else None
    end_s = _clock_time(stream.metadata.get("DURATION", ""))
    first = index.pts[index.order[0]]
    return None if end_s is None else end_s - float((first or 0) * tick)


def _clock_time(text: str) -> float | None:
    """Seconds of "hh:mm:ss.fraction", None for anything else."""
    parts = text.split(":")
    if len(parts) != 3 or not all(p.replace(".", "", 1).isdigit() and p.isascii() for p in parts):
        return None
    return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])


# --- what to decode for which frames ----------------------------------------------------------------------------------


def choose(index: PacketIndex, sampling: Sampling, limits: Limits) -> tuple[list[int], int]:
    """(frame numbers in display order to take, how many were wanted). They differ in number only for a cut file, of
    which the part that is missing is sampled as well, and counted. Raises: InputError, LimitError, DecodeError.
    """
    if not index.cut:
        chosen = sampling.choose(index.starts_s, index.duration_s, limits, index.slack_s)
        return chosen, len(chosen)
    times = sampling.times(0.0, index.declared_s, limits)
    there = [shown_at(index.starts_s, t, index.slack_s) for t in times if t < index.duration_s - index.slack_s]
    lost = len(times) - len(there)
    chosen = there if sampling.times_s is not None else sorted(set(there))
    if not chosen:
        raise DecodeError("the file ends before the first of the times asked for", expected=lost, got=0)
    return chosen, len(chosen) + lost


def segments(index: PacketIndex, chosen: Sequence[int]) -> list[Segment]:
    """The stretches to decode for the frames `chosen` (display order), in decode order, none overlapping.

    Decoding restarts at an entry wherever that leaves packets out.
    """
    wanted: dict[int, list[int]] = {}
    for slot, rank in enumerate(chosen):
        wanted.setdefault(index.order[rank], []).append(slot)
    if index.by_count:
        return [Segment(0, len(index.size) - 1, {packet: tuple(slots) for packet, slots in wanted.items()})]
    out: list[Segment] = []
    for packet in sorted(wanted):
        first = index.entry_of(packet)
        slots = {packet: tuple(wanted[packet])}
        if out and first <= out[-1].last:
            out[-1] = Segment(out[-1].first, packet, out[-1].wanted | slots)
        else:
            out.append(Segment(first, packet, slots))
    return out
