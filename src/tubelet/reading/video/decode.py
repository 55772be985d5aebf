"""Decoding stretches of packets on several threads, keeping only the wanted frames and refusing tainted ones.

One stretch runs from an entry to the last frame wanted in it:

    packets     I    B    P    b    P    b    P    ...        b: nothing refers to it
    decoder     all  skip all  skip all  WANTED               a `b` that is not wanted is not decoded: exact, and less
    converted                            RGB

Every packet carries its own number through the decoder, so that a frame is known by its packet and not by its time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import av.container
import av.packet
import av.video
import numpy as np

from tubelet.errors import TubeletError
from tubelet.reading.limits import Limits
from tubelet.reading.source import Source
from tubelet.reading.video.file import FOREIGN, Guard, decoder_errors, only_stream, opened
from tubelet.reading.video.frames import Painter, Upright
from tubelet.reading.video.index import check_clock
from tubelet.reading.video.packets import PacketIndex, Segment

_SKIP_AHEAD: Final = 200  # packets that are cheaper to read over than to seek past
_LOOK: Final = 200  # packets in which an entry must come after a seek


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
    stop: threading.Event = field(default_factory=threading.Event)  # a worker failed: the others end


def decode(job: DecodeJob, stretches: list[Segment], workers: int) -> tuple[set[int], set[str]]:
    """The slots whose frames were given whole, and notes. Stretches go to whichever worker is free, in order.

    What comes out damaged is tried once more in one plain run from the start of the stream, without seeking or
    skipping, so that a frame is refused only when plain decoding refuses it too.
    """
    job.until = time.monotonic() + job.limits.deadline_s
    queue = iter(stretches)
    count = min(workers, len(stretches))
    threads = workers // count

    def work() -> None:
        try:
            with _Decoder(job, threads) as decoder:
                while not job.stop.is_set():
                    with job.lock:
                        stretch = next(queue, None)
                    if stretch is None:
                        return
                    decoder.run(stretch, job.index.nonref)
        except BaseException:
            job.stop.set()
            raise

    if count == 1:
        work()
    else:
        with ThreadPoolExecutor(count, thread_name_prefix="tubelet-video") as pool:
            for done in [pool.submit(work) for _ in range(count)]:
                done.result()
    _retry(job, stretches, threads)
    return job.whole, job.notes


def decode_plain(job: DecodeJob, stretch: Segment) -> tuple[set[int], set[str]]:
    """As `decode`, in one run on one thread from the start of the stream, without seeking, skipping or a second try:
    every picture up to the last one wanted comes out, in the order shown."""
    job.until = time.monotonic() + job.limits.deadline_s
    with _Decoder(job, 1) as decoder:
        decoder.run(stretch, nonref=False)
    return job.whole, job.notes


def _retry(job: DecodeJob, stretches: list[Segment], threads: int) -> None:
    left = {packet: slots for s in stretches for packet, slots in s.wanted.items() if not job.whole.issuperset(slots)}
    plain = all(s.first == 0 for s in stretches) and threads == 1 and not job.index.nonref
    if not left or plain:
        return
    last = len(job.index.size) - 1 if job.index.by_count else max(left)
    with _Decoder(job, 1) as decoder:
        decoder.run(Segment(0, last, left), nonref=False)


class _Decoder:
    """One container over its own view of the file, one decoder; a context manager, for one thread at a time."""

    def __init__(self, job: DecodeJob, threads: int) -> None:
        self._job = job
        self._index = job.index
        self._threads = threads
        self._painter = Painter(job.way)
        self._next = 0  # the number of the packet that the demuxer gives next ...
        self._held: av.packet.Packet | None = None  # ... which may already have been read

    def __enter__(self) -> "_Decoder":
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()
        with self._job.lock:
            self._job.notes |= self._painter.notes

    def _open(self) -> None:
        job = self._job
        self._close = ExitStack()
        self._container, _ = self._close.enter_context(opened(job.source, job.file_lock))
        with decoder_errors("opened"):
            self._stream = only_stream(self._container, job.stream)
            self._codec = self._stream.codec_context
            self._codec.thread_count = self._threads
            self._codec.thread_type = "FRAME" if self._threads > 1 else "NONE"
            self._codec.copy_opaque = True
            options = {"err_detect": "crccheck+explode", "max_pixels": str(job.limits.max_pixels)}
            self._codec.options = options | ({"flags2": "+export_mvs"} if job.vectors else {})
        self._next, self._held, self._demuxer = 0, None, self._container.demux(self._stream)

    # --- packets by number

    def _packets(self, first: int) -> Iterator[tuple[int, av.packet.Packet]]:
        """The packets from number `first` on, by reading ahead, by seeking, or from the start again."""
        if not self._next <= first <= self._next + _SKIP_AHEAD and not self._seek(first):
            self._reopen()
        while (packet := self._read()) is not None:
            number = self._next
            if number >= len(self._index.size):
                return
            if not self._index.is_packet(number, packet):
                raise _Lost
            self._next += 1
            if number >= first:
                yield number, packet

    def _read(self) -> av.packet.Packet | None:
        packet, self._held = self._held, None
        while packet is None or packet.size == 0 or packet.is_corrupt:
            try:
                packet = next(self._demuxer, None)
            except TubeletError:
                raise
            except FOREIGN as error:
                raise _Lost from error
            if packet is None:
                return None
        return packet

    def _seek(self, first: int) -> bool:
        """Goes to the entry `first` or to one before it; False when the demuxer did not go there."""
        for entry in (first, self._index.entry_before(first)):
            stamp = self._index.seek_stamp(entry)
            if stamp is None:
                return False
            try:
                self._container.seek(stamp, stream=self._stream)
            except TubeletError:
                raise
            except FOREIGN:
                return False
            self._held, self._demuxer = None, self._container.demux(self._stream)
            number = self._arrived()
            if number is not None and number <= first:
                self._next = number
                return True
        return False

    def _arrived(self) -> int | None:
        """The number of the first entry that the demuxer gives now, which is held back; None when none comes soon."""
        for _ in range(_LOOK):
            try:
                packet = self._read()
            except _Lost:
                return None
            number = None if packet is None else self._index.number_of_entry(packet)
            if packet is None or number is not None:
                self._held = packet
                return number
        return None

    def _reopen(self) -> None:
        self._close.close()
        self._open()

    # --- frames

    def run(self, stretch: Segment, nonref: bool) -> None:
        """Decodes one stretch and gives its wanted frames; those that turn out whole are added to the job's."""
        wanted = WantedFrames(self._job, stretch, self._painter)
        try:
            for number, packet in self._packets(stretch.first):
                if number > stretch.last or self._job.stop.is_set():
                    self._held, self._next = packet, number
                    break
                check_clock(self._job.until, self._job.limits)
                self._decode(number, packet, nonref and number not in stretch.wanted, wanted)
                if wanted.done():
                    break
        except _Lost:
            wanted.failed(self._next)
            self._reopen()
            return wanted.settle()
        counted_to_a_cut = self._index.by_count and self._index.cut  # pictures still held back may have lost neighbours
        if not wanted.done() and not counted_to_a_cut:
            self._decode(stretch.last, None, False, wanted)
        self._codec.flush_buffers()
        return wanted.settle()

    def _decode(self, number: int, packet: av.packet.Packet | None, skip: bool, wanted: "WantedFrames") -> None:
        self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
        if self._codec.codec.name == "h264":  # a flush forgets how far pictures are out of order; the packets show it
            self._codec.reorder_depth = max(self._codec.reorder_depth, min(16, self._index.reorder))
        if packet is not None:
            packet.opaque = _Tag(number)
            if self._job.observer is not None:
                self._job.observer.fed(number, packet)
        try:
            frames = self._codec.decode(packet)
        except TubeletError:
            raise
        except FOREIGN:
            wanted.failed(number)
            return
        for frame in frames:
            wanted.frame(frame)


class _Lost(Exception):
    """The demuxer failed, or gave another packet than the index says."""


class _Tag:
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
        self._failures.append(number)

    def frame(self, frame: av.video.VideoFrame) -> None:
        """Takes a frame that came out of the decoder; converts and gives it when it is wanted and not spoilt."""
        tag = frame.opaque
        if self._job.index.by_count:
            number = self._next_in_line()
        else:
            number = tag.number if isinstance(tag, _Tag) else None
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
        return any(entry <= f <= number and not index.shown_before(f, entry) for f in self._failures)

    def settle(self) -> None:
        """Adds what is whole to the job; failures that came to light late are minded."""
        late = not self._job.index.by_count
        slots = {s for n in self._given if not (late and self._spoilt(n)) for s in self._wanted[n]}
        with self._job.lock:
            self._job.whole |= slots
