"""Watching a decoder frame by frame: what each frame brings that the frame before it does not explain.

    packets in ──> which pictures others refer to
    pictures out ─> vectors, moved to "since the frame before" ─> error and motion on cells ─> summed up
    a picture that is taken <─ the sums since the picture taken before, turned upright; the sums start again

Memory: two pictures of luma and a few fields of cells, whatever the length of the clip.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any, Final, Literal, get_args

import av.packet
import av.video
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from tubelet.errors import InputError
from tubelet.reading.codec.cuts import CutFinder
from tubelet.reading.codec.prediction import CELL, NOISE_LEVELS, Luma, cell_means, motion_error, search, still_error
from tubelet.reading.codec.vectors import BLANK_B, EXPORTING, Reach, exported, moved, on_cells
from tubelet.reading.video.alpha import opaque
from tubelet.reading.video.file import decoder_errors
from tubelet.reading.video.frames import Upright, check_size
from tubelet.reading.video.nal import is_referred_to
from tubelet.reading.video.packets import PacketIndex
from tubelet.shapes import Float, UInt8

Signal = Literal["vectors", "blocks", "difference"]
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
# Pixels of luma to compare; larger pictures are halved until they are below. Searching costs several times as much.
_MOST_PIXELS: Final[dict[str, int]] = {"vectors": 1 << 19, "blocks": 1 << 18, "difference": 1 << 19}
_LUMA_FIRST: Final = frozenset(  # formats whose first plane is luma of 8 bits
    (
        *("gray", "nv12", "nv21", "yuv410p", "yuv411p"),
        *(f"yuv{kind}{form}" for kind in ("", "j") for form in ("420p", "422p", "440p", "444p")),
    )
)
_B: Final = 3
_KINDS: Final = {1: "I", 2: "P", 3: "B"}  # AVPictureType
_REMEMBERED: Final = 32  # pictures that may be referred to; no codec keeps more


@dataclass(frozen=True)
class FrameSignal:
    """What a clip did up to one frame taken out of it, since the frame taken before. Fields are upright, on cells."""

    picture: str  # I, P or B, "?" where the decoder does not say
    frames: int  # shown since then, this one included
    packet_bytes: int  # the size of those in the file
    key: bool  # whether a key frame is among them
    cut: bool  # whether a scene began among them
    # Of each cell, summed over those frames: levels of luma that neither staying nor moving explains, above coding
    # noise; and how far its content moved, in pixels of the upright picture and relative to the camera.
    error_levels: Float[np.ndarray, "h w"]
    motion_px: Float[np.ndarray, "h w"]


def signal_for(codec: str, asked: str) -> Signal:
    """The signal that is computed: "auto" is vectors where the decoder exports them, else blocks.

    Raises: InputError for vectors where there are none, and for other words.
    """
    if asked == "auto":
        return "vectors" if codec in EXPORTING else "blocks"
    if asked not in SIGNALS:
        raise InputError(f"signal is auto, {', '.join(SIGNALS)}, not {asked!r}", expected=("auto", *SIGNALS), got=asked)
    if asked == "vectors" and codec not in EXPORTING:
        raise InputError(f"the decoder {codec} exports no motion vectors; signal='blocks' searches for them", got=codec)
    return asked


class Watcher:
    """An observer of one decoder (`reading.video.wanted.Observer`). taken: the signal of each wanted slot so far.
    disorder: slots whose frame came out after a later one, which have none. notes: what a person may want to know."""

    def __init__(
        self,
        index: PacketIndex,
        way: Upright,
        codec: str,
        nal_bytes: int,
        signal: Signal,
        wanted: dict[int, tuple[int, ...]],
    ) -> None:
        self.taken: dict[int, FrameSignal] = {}
        self.disorder: set[int] = set()
        self.notes: set[str] = set()
        self._codec = codec
        self._index, self._way, self._signal, self._wanted = index, way, signal, wanted
        self._rank = np.full(len(index.size), -1, np.int32)  # of each packet; -1: its picture is not shown
        self._rank[index.order] = np.arange(len(index.order), dtype=np.int32)
        self._references = References(index, nal_bytes if codec == "h264" else -1)
        self.shrink = shrink_of(way.stored_h, way.stored_w, signal)
        size = compared_size(way, signal)
        self._now, self._before = Luma(*size), Luma(*size)
        self._reformatter = VideoReformatter()
        self._cuts = CutFinder()
        self._last, self._last_taken = -1, -1
        self._moves = np.zeros((self._now.rows, self._now.columns, 2), np.float32)
        self._clear()

    def _clear(self) -> None:
        shape = (self._now.rows, self._now.columns)
        self._error, self._motion, self._cut = np.zeros(shape, np.float32), np.zeros(shape, np.float32), False

    def fed(self, number: int, packet: av.packet.Packet) -> None:
        self._references.fed(number, int(self._rank[number]), packet)

    def shown(self, number: int, frame: av.video.VideoFrame) -> None:
        """Adds a frame to the sums, and at a wanted one puts them down."""
        rank, slots = int(self._rank[number]), self._wanted.get(number, ())
        if rank <= self._last:
            self.disorder |= set(slots)
        if rank <= self._last or (self._signal == "difference" and not slots):
            return
        check_size(frame, self._way)
        self._now, self._before = self._before, self._now
        self._now.fill(self._luma(frame))
        if self._last >= 0:
            self._compare(frame, number, rank)
        self._last = rank
        for slot in slots:
            self._take(slot, rank, _KINDS.get(int(frame.pict_type), "?"))

    def _luma(self, frame: av.video.VideoFrame) -> UInt8[np.ndarray, "height width"]:
        height, width = self._now.height, self._now.width
        plane: Any = opaque(frame, self._reformatter, self._way.background) or frame
        with decoder_errors("converted to grey"):
            if self.shrink > 1 or plane.format.name not in _LUMA_FIRST or plane.planes[0].line_size < 0:
                plane = self._reformatter.reformat(
                    plane, width=width, height=height, format="gray", interpolation=Interpolation.AREA, threads=1
                )
                if plane.planes[0].line_size < 0:
                    return plane.to_ndarray()
            first = plane.planes[0]
            view = memoryview(first)
        return np.ndarray((height, width), np.uint8, buffer=view, strides=(first.line_size, 1))

    def _compare(self, frame: av.video.VideoFrame, number: int, rank: int) -> None:
        still = still_error(self._now, self._before)
        error = still
        if self._signal != "difference":
            moves, known = self._field(frame, number, rank, still)
            error = motion_error(self._now, self._before, still, moves)
            self._motion += _path(moves, known, self._scale)

        def look() -> tuple[float, float]:
            contrast = hypot(*(float(cell_means(luma.inside).std()) for luma in (self._now, self._before)))
            return contrast, float((error > max(2 * NOISE_LEVELS, 0.2 * contrast)).mean())

        self._cut |= self._cuts.is_cut(float(error.mean()), look)
        self._error += np.maximum(error - NOISE_LEVELS, 0)

    @property
    def _scale(self) -> tuple[float, float]:
        """Pixels of the upright picture, before its turn, in one pixel of luma, across and down."""
        way = self._way
        return way.square_w / way.stored_w * self.shrink, way.square_h / way.stored_h * self.shrink

    def _field(
        self, frame: av.video.VideoFrame, number: int, rank: int, still: np.ndarray
    ) -> tuple[Float[np.ndarray, "h w 2"], Float[np.ndarray, "h w"]]:
        """Moves of the cells since the frame before, in pixels of luma, and whether they are known."""
        untold = self._codec in BLANK_B and int(frame.pict_type) == _B
        if untold and self._signal == "vectors":
            self.notes.add(f"the decoder {self._codec} exports no vectors of B pictures, which were searched")
        if untold or self._signal == "blocks":
            self._moves = search(self._now, self._before, still, self._moves)
            return self._moves, np.ones(still.shape, np.float32)
        vectors = exported(frame)
        if vectors is None:
            return np.zeros_like(self._moves), np.zeros(still.shape, np.float32)
        moves = moved(vectors, self._references.reach(number, rank, self._last))
        field, known = on_cells(vectors, moves, self._now.rows, self._now.columns, CELL * self.shrink)
        self._moves = field / self.shrink
        return self._moves, known

    def _take(self, slot: int, rank: int, picture: str) -> None:
        index = self._index
        since = index.order[self._last_taken + 1 : rank + 1]
        self.taken[slot] = FrameSignal(
            picture,
            len(since),
            sum(index.size[packet] for packet in since),
            any(index.entry[packet] for packet in since),
            self._cut,
            turned(self._error, self._way),
            turned(self._motion, self._way),
        )
        self._last_taken = rank
        self._clear()


class References:
    """Which pictures others may refer to, as their packets go by, and how far from a picture those are in time."""

    def __init__(self, index: PacketIndex, nal: int) -> None:
        self._index, self._nal = index, nal
        self._known: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # (packet, rank)
        self._latest = -1

    def fed(self, number: int, rank: int, packet: av.packet.Packet) -> None:
        """H.264 says which pictures are referred to; in other codecs those are that are not shown before one that was
        decoded earlier."""
        if rank < 0:
            return
        ahead = rank > self._latest
        self._latest = max(self._latest, rank)
        if is_referred_to(packet, self._nal) if self._nal >= 0 else ahead:
            self._known.append((number, rank))

    def reach(self, number: int, rank: int, before: int) -> Reach:
        """From the picture `before` and from the nearest references decoded earlier to the picture of this packet.

        Seconds; frames where the clock stands still, or where it is not known which packet a picture came from.
        """
        if self._index.by_count:
            return Reach(1.0, 1.0, -1.0)
        starts: Sequence[float] = self._index.starts_s
        if starts[rank] <= starts[before]:
            starts = range(len(starts))
        ranks = [r for n, r in self._known if n < number]
        back = max((r for r in ranks if r < rank), default=rank)
        forward = min((r for r in ranks if r > rank), default=rank)
        return Reach(starts[rank] - starts[before], starts[rank] - starts[back], starts[rank] - starts[forward])


def shrink_of(height: int, width: int, signal: str) -> int:
    """By how much a stored picture is reduced for comparing: 1, 2, 4 ..."""
    shrink = 1
    while (height // shrink) * (width // shrink) > _MOST_PIXELS[signal]:
        shrink *= 2
    return shrink


def compared_size(way: Upright, signal: str) -> tuple[int, int]:
    """Height and width of the luma that is compared, as stored."""
    shrink = shrink_of(way.stored_h, way.stored_w, signal)
    return max(1, way.stored_h // shrink), max(1, way.stored_w // shrink)


def _path(
    moves: Float[np.ndarray, "h w 2"], known: Float[np.ndarray, "h w"], scale: tuple[float, float]
) -> Float[np.ndarray, "h w"]:
    """How far each cell moved against the camera, which moves as the median of the cells does, both ways."""
    there = known > 0
    count = int(np.count_nonzero(there))
    if not count:
        return np.zeros(known.shape, np.float32)
    across, down = moves[..., 0], moves[..., 1]
    camera = [np.partition(part[there], count // 2)[count // 2] for part in (across, down)]
    path = np.hypot((across - camera[0]) * np.float32(scale[0]), (down - camera[1]) * np.float32(scale[1]))
    path[~there] = 0
    return path


def turned(field: Float[np.ndarray, "h w"], way: Upright) -> Float[np.ndarray, "h2 w2"]:
    """A field of the stored picture as one of the upright picture; an array of its own."""
    out = field.T if way.transpose else field
    return np.ascontiguousarray(out[:: -1 if way.flip_rows else 1, :: -1 if way.flip_columns else 1])


def edges_px(way: Upright, signal: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(rows, columns): where the cells of an upright field begin and end, in pixels of the upright picture, from 0 to
    its height and width. The cells at one edge may be smaller."""
    height, width = compared_size(way, signal)
    down, across = _edges(height, way.square_h), _edges(width, way.square_w)
    if way.transpose:
        down, across = across, down
    return _flipped(down, way.flip_rows), _flipped(across, way.flip_columns)


def _edges(compared: int, size: int) -> tuple[float, ...]:
    return tuple(min(k * CELL, compared) * size / compared for k in range(-(-compared // CELL) + 1))


def _flipped(edges: tuple[float, ...], flip: bool) -> tuple[float, ...]:
    return tuple(edges[-1] - e for e in reversed(edges)) if flip else edges
