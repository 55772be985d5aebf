"""What decoding one clip is to give: the job that all workers share, and the frames that one stretch of packets owes.

Every packet carries its own number through the decoder, so that a frame is known by its packet and not by its time.
"""

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import av.packet
import av.video
import numpy as np

from tubelet.reading.limits import Limits
from tubelet.reading.source import Source
from tubelet.reading.video.file import Guard
from tubelet.reading.video.frames import Painter, Upright
from tubelet.reading.video.packets import PacketIndex, Segment


@runtime_checkable
class Observer(Protocol):
    """Sees a decoder at work: each packet before it is decoded, each clean picture as it comes out, wanted or not."""

    def fed(self, number: int, packet: av.packet.Packet) -> None: ...
    def shown(self, number: int, frame: av.video.VideoFrame) -> None: ...


@dataclass
class DecodeJob:
    """What every worker needs, and where results meet."""

    source: Source
    stream: int  # its number in the file
    index: PacketIndex
    way: Upright
    limits: Limits
    on_frame: Callable[[int, np.ndarray], None] | None  # None: nothing is converted to RGB
    observer: Observer | None = None  # for one worker with one thread
    # Motion vectors are exported with each picture. They are always the same only on one thread: on several, FFmpeg
    # now and then reads a table of vectors that another thread is still writing.
    vectors: bool = False
    until: float = 0.0  # when decoding must be over, by the monotonic clock
    whole: set[int] = field(default_factory=set)  # slots whose frames are whole; guarded by `lock`, as notes are
    notes: set[str] = field(default_factory=set)
    lock: Guard = field(default_factory=threading.Lock)
    file_lock: Guard = field(default_factory=threading.Lock)  # shared by all views of the file
    damaged: bool = False  # something could not be read or decoded cleanly
    stop: threading.Event = field(default_factory=threading.Event)  # a worker failed: the others end


class PacketTag:
    """The number of a packet, carried through the decoder. PyAV knows tags by identity, so each is an object of its own
    and never a shared small integer."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class WantedFrames:
    """The wanted frames of one stretch: which were given, and which a failure has spoilt."""

    def __init__(self, job: DecodeJob, stretch: Segment, painter: Painter) -> None:
        self._job = job
        self._wanted = stretch.wanted
        self._painter = painter
        self._failures: list[int] = []
        self._given: set[int] = set()
        self._came_out = 0

    def done(self) -> bool:
        return len(self._given) == len(self._wanted)

    def failed(self, number: int) -> None:
        """The packet `number` could not be decoded cleanly."""
        insort(self._failures, number)
        self._job.damaged = True

    def frame(self, frame: av.video.VideoFrame) -> None:
        """Takes a frame that came out of the decoder; converts and gives it when it is wanted and not spoilt."""
        tag = frame.opaque
        if self._job.index.by_count:
            number = self._next_in_line()
        else:
            number = tag.number if isinstance(tag, PacketTag) else None
        if number is None:
            return
        if frame.is_corrupt:
            self.failed(number)
        observer = self._job.observer
        if (observer is None and number not in self._wanted) or number in self._given or self._spoilt(number):
            return
        if observer is not None:
            observer.shown(number, frame)
        if number not in self._wanted:
            return
        if self._job.on_frame is not None:
            rgb = self._painter.paint(frame)
            for slot in self._wanted[number]:
                self._job.on_frame(slot, rgb)
        self._given.add(number)

    def _next_in_line(self) -> int | None:
        order = self._job.index.order
        self._came_out += 1
        return order[self._came_out - 1] if self._came_out <= len(order) else None

    def _spoilt(self, number: int) -> bool:
        """Whether a failure lies in what this frame was decoded from. Pictures that are shown before the entry they
        were reached through may fail after a seek, and nothing shown after it refers to them."""
        index = self._job.index
        if index.by_count or not self._failures:
            return bool(self._failures)
        entry = index.entry_of(number)
        between = range(bisect_left(self._failures, entry), bisect_right(self._failures, number))
        return any(not index.shown_before(self._failures[place], entry) for place in between)

    def settle(self) -> None:
        """Adds what is whole to the job; failures that came to light late are minded."""
        late = not self._job.index.by_count
        slots = {s for n in self._given if not (late and self._spoilt(n)) for s in self._wanted[n]}
        with self._job.lock:
            self._job.whole |= slots
