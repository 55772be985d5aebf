"""Decoding stretches of packets on several threads, keeping only the wanted frames and refusing tainted ones.

One stretch runs from an entry to the last frame wanted in it:

    packets     I    B    P    b    P    b    P    ...        b: nothing refers to it
    decoder     all  skip all  skip all  WANTED               a `b` that is not wanted is not decoded: exact, and less
    converted                            RGB
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

import av.packet
from av.video.codeccontext import VideoCodecContext

from tubelet.errors import TubeletError
from tubelet.reading.video.file import FOREIGN, decoder_errors, decoder_of, only_stream, opened
from tubelet.reading.video.frames import Painter
from tubelet.reading.video.packets import Segment
from tubelet.reading.video.wanted import DecodeJob, PacketTag, WantedFrames

_SKIP_AHEAD: Final = 200  # packets that are cheaper to read over than to seek past
_LOOK: Final = 200  # packets in which an entry must come after a seek
# Decoders that, on several threads, give other pixels each time for damage that they do not notice.
_ONE_THREAD: Final = frozenset(("vp8", "libvpx", "ffv1"))


def decode(job: DecodeJob, stretches: list[Segment], workers: int) -> tuple[set[int], set[str]]:
    """The slots whose frames were given whole, and notes. Stretches go to whichever worker is free, in order.

    What comes of a damaged stream is what one plain run over it gives, whatever `workers` is.
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
    _again(job, stretches, threads)
    return job.whole, job.notes


def decode_plain(job: DecodeJob, stretch: Segment) -> tuple[set[int], set[str]]:
    """As `decode`, in one run on one thread from the start of the stream, without seeking, skipping or a second try:
    every picture up to the last one wanted comes out, in the order shown."""
    job.until = time.monotonic() + job.limits.deadline_s
    with _Decoder(job, 1) as decoder:
        decoder.run(stretch, nonref=False)
    return job.whole, job.notes


def _again(job: DecodeJob, stretches: list[Segment], threads: int) -> None:
    """Where anything at all went wrong, everything once more in one plain run from the start, on one thread, without
    seeking or skipping: what a damaged stream gives must not depend on how it was divided."""
    wanted = {packet: slots for s in stretches for packet, slots in s.wanted.items()}
    plain = all(s.first == 0 for s in stretches) and threads == 1 and not job.index.nonref
    if plain or (not job.damaged and all(job.whole.issuperset(slots) for slots in wanted.values())):
        return
    job.whole.clear()
    last = len(job.index.size) - 1 if job.index.by_count else max(wanted)
    with _Decoder(job, 1) as decoder:
        decoder.run(Segment(0, last, wanted), nonref=False)


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
        self._container = self._close.enter_context(opened(job.source, job.file_lock))
        with decoder_errors("opened"):
            self._stream = only_stream(self._container, job.stream)
            self._codec = self._made()
        self._next, self._held, self._demuxer = 0, None, self._container.demux(self._stream)

    def _made(self) -> VideoCodecContext:
        job, codec = self._job, decoder_of(self._stream)
        threads = 1 if codec.codec.name in _ONE_THREAD else self._threads
        codec.thread_count = threads
        codec.thread_type = "FRAME" if threads > 1 else "NONE"
        codec.copy_opaque = True
        options = {"err_detect": "crccheck+explode", "max_pixels": str(job.limits.max_pixels)}
        codec.options = options | ({"flags2": "+export_mvs"} if job.vectors else {})
        return codec

    def _forget(self) -> None:
        """The decoder as new: what it gives next must not depend on what it decoded before. libvpx's keeps some."""
        if self._codec is self._stream.codec_context:
            self._codec.flush_buffers()
        else:
            self._codec = self._made()

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
            self._job.limits.check_clock(self._job.until)  # also where packets are only passed over
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
        self._forget()
        return wanted.settle()

    def _decode(self, number: int, packet: av.packet.Packet | None, skip: bool, wanted: "WantedFrames") -> None:
        self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
        if self._codec.codec.name == "h264":  # a flush forgets how far pictures are out of order; the packets show it
            self._codec.reorder_depth = max(self._codec.reorder_depth, min(16, self._index.reorder))
        if packet is not None:
            packet.opaque = PacketTag(number)
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
