"""The packets of a clip as values: which there are, which are wanted, and from where decoding must begin.

index.py fills in a `PacketIndex`, decode.py follows it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import av.packet

from tubelet.errors import DecodeError
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling, shown_at
from tubelet.reading.sniff import Format

_MOST_BACK: Final = 64  # entries that are asked whether a picture is shown before them


@dataclass
class PacketIndex:
    """The packets with content of one video stream, in decode order, and the display order of those that are shown."""

    kind: Format = "MP4"

    # One entry per packet, as the demuxer gives them, to recognise a packet again.
    pts: list[int | None] = field(default_factory=list)  # presentation time, in ticks of the stream
    dts: list[int | None] = field(default_factory=list)  # decode time, likewise
    size: list[int] = field(default_factory=list)  # bytes
    position: list[int | None] = field(default_factory=list)  # byte of the file
    entry: list[bool] = field(default_factory=list)  # decoding may start here

    # One entry per picture that is shown.
    order: list[int] = field(default_factory=list)  # packet numbers in display order
    starts_s: list[float] = field(default_factory=list)  # from 0.0, ascending

    duration_s: float = 0.0  # to the end of the last picture
    declared_s: float = 0.0  # how long a cut clip should have been where the file says so; never below duration_s
    # The presentation times cannot be trusted (AVI with reordered pictures): the n-th picture that comes out of a
    # decoder that saw everything is the n-th of `order`.
    by_count: bool = False
    cut: bool = False  # the file ends, or breaks, before the stream does
    misplaced: int = 0  # pictures whose times contradict the order of decoding, and which are not shown
    headless: int = 0  # pictures before the first key picture, which refer to what is not there
    blanks: int = 0  # packets without content, each of which lets the picture before it stay
    reorder: int = 0  # pictures that a decoder must hold back to put them in order
    early: int = 0  # places by which a picture is decoded before its turn, at most
    nonref: bool = False  # pictures that no other refers to may be skipped where they are not wanted
    slack_s: float = 0.0  # by how much a start may be late through the rounding of its clock: half a tick
    _entries: dict[tuple[int | None, int, int | None], int] = field(default_factory=dict, repr=False)

    def is_packet(self, number: int, packet: av.packet.Packet) -> bool:
        """Whether `packet` is the one that stands at `number`."""
        if self.size[number] != packet.size or self.position[number] != packet.pos:
            return False
        return packet.pos is not None or self.pts[number] == packet.pts

    def number_of_entry(self, packet: av.packet.Packet) -> int | None:
        """The number of a packet that is an entry, None for any other."""
        if not self._entries:  # made from the last to the first, so that of equal ones the first stays
            self._entries = {
                (self.position[i], self.size[i], None if self.position[i] is not None else self.pts[i]): i
                for i in range(len(self.size) - 1, -1, -1)
                if self.entry[i]
            }
        return self._entries.get((packet.pos, packet.size, None if packet.pos is not None else packet.pts))

    @cached_property
    def entries(self) -> list[int]:
        """The numbers of the packets at which decoding may start, ascending."""
        return [i for i, entry in enumerate(self.entry) if entry]

    def entry_of(self, packet: int) -> int:
        """The last entry at or before `packet` in decode order that is not shown after it.

        That is one of the last two, but in damaged files, where the search ends early: the first will always do.
        """
        end = bisect_right(self.entries, packet)
        for i in reversed(self.entries[max(0, end - _MOST_BACK) : end]):
            if i == packet or not self.shown_before(packet, i):
                return i
        return 0

    def entry_before(self, entry: int) -> int:
        """The entry before this one, 0 where there is none."""
        return self.entries[max(0, bisect_left(self.entries, entry) - 1)] if self.entries else 0

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
    """A stretch of packets to decode in one go."""

    first: int  # packet numbers, both inclusive
    last: int
    wanted: dict[int, tuple[int, ...]]  # packet number -> the slots that its picture is for


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
    chosen = there if sampling.times_s is not None else sorted(set(there))  # named times may name a frame twice
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
    if index.by_count:  # pictures can only be counted from the first
        return [Segment(0, len(index.size) - 1, {packet: tuple(slots) for packet, slots in wanted.items()})]
    stretches: list[tuple[int, list[int]]] = []  # (first packet, the wanted ones)
    for packet in sorted(wanted):
        first = index.entry_of(packet)
        if stretches and first <= stretches[-1][1][-1]:  # reached without restarting
            stretches[-1][1].append(packet)
        else:
            stretches.append((first, [packet]))
    return [Segment(first, last[-1], {n: tuple(wanted[n]) for n in last}) for first, last in stretches]
