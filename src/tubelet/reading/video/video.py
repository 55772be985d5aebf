"""Video: sampled by time, decoded only where frames are wanted, and never silently short.

    probe_video    headers + packet index       -> size, frames, length, rate
    plan_video     the same, and a sampling     -> which frames, their true start times, what to decode for them
    decode_video   plan                         -> each wanted frame, upright RGB, as soon as it is there
    read_video     all of it                    -> Clip

A file that is cut or damaged gives the frames that are whole, says `complete=False` and how many were expected, or
raises DecodeError when there is none. A frame counts as whole when everything it was decoded from decoded cleanly.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import av.container
import av.video
import numpy as np

from tubelet.errors import DecodeError, NoVideo, TubeletError
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.hdr import HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.picture.colour import Colour
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import Format, Source
from tubelet.reading.video.boxes import walk
from tubelet.reading.video.decode import decode
from tubelet.reading.video.file import choose_stream, only_stream, opened, stored_as
from tubelet.reading.video.frames import Told, Upright, upright
from tubelet.reading.video.index import read_index
from tubelet.reading.video.nal import length_bytes
from tubelet.reading.video.packets import PacketIndex, choose, segments
from tubelet.reading.video.structure import Structure
from tubelet.reading.video.wanted import DecodeJob

T = TypeVar("T")


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds, by its headers and packets together. Sizes are upright, with square pixels."""

    width: int
    height: int
    duration_s: float  # as a Clip of it has
    fps: float | None  # on average
    frames: int  # that are there: those of reading it whole, unless decoding finds damage in them
    codec: str  # FFmpeg's name of it


@dataclass(frozen=True)
class VideoPlan:
    """Which frames to take out of one video, and how to get at them. Plain values, which pickle."""

    width: int  # of the RGB frames, upright
    height: int
    times_s: tuple[float, ...]  # the true start of each frame to take, in seconds from the first frame shown
    expected: int  # frames the sampling asked for; more than there are times only when the file is cut
    duration_s: float  # of the whole clip, as declared where the file is cut
    cut: bool  # the file ends, or breaks, before the stream does
    notes: tuple[str, ...]  # what a person might want to know
    named: bool = field(repr=False)  # the caller named the times: a cut file that has them all is complete
    stream: int = field(repr=False)  # its number in the file
    index: PacketIndex = field(repr=False)
    chosen: tuple[int, ...] = field(repr=False)  # the frames to take, by their rank in the order shown
    way: Upright = field(repr=False)  # how pictures become upright
    codec: str  # the decoder's name
    nal_bytes: int  # see `tubelet.reading.video.nal.length_bytes`


@dataclass(frozen=True)
class VideoResult:
    """What `decode_video` delivered."""

    times_s: tuple[float, ...]  # of the frames that are whole
    complete: bool  # False: frames are missing, or the file is cut
    frames_expected: int | None  # where it is not complete, how many were asked for
    duration_s: float  # of the whole clip
    notes: tuple[str, ...]
    slots: tuple[int, ...]  # the places of the whole frames in the plan's times, ascending


def probe_video(src: Source, limits: Limits) -> VideoInfo:
    """Size, frames, length, rate and codec: what a plan and reading find, the same errors too. At most the first
    picture is decoded; a size that changes on the way, and damage inside packets, is met by reading alone.

    Cost: as `plan_video`. Raises: UnsupportedFormat, NoVideo, DecodeError, LimitError.
    """
    seen = _look(src, limits)
    index, rate = seen.index, seen.rate
    if src.format == "AVI" and index.starts_s[-1] > 0:  # whose header counts ticks
        rate = (len(index.order) - 1) / index.starts_s[-1]
    return VideoInfo(seen.way.width, seen.way.height, index.declared_s, rate, len(index.order), seen.family)


def plan_video(
    src: Source,
    limits: Limits,
    sampling: Sampling,
    hdr: HdrMode = "tonemap",
    background: Colour = (255, 255, 255),
) -> VideoPlan:
    """The frames to take and where they are, from the headers and the packets; no picture is decoded.

    hdr, background: what `decode_video` will make of PQ and HLG and of what is transparent, as in `read`.

    Cost: reads the file once, about 25 ms for a minute of 30 frames a second.
    Raises: UnsupportedFormat, NoVideo, DecodeError (nothing readable), LimitError (size, seconds, frames, packets),
    InputError (a time after the end).
    """
    seen = _look(src, limits)
    index, way = seen.index, replace(seen.way, hdr=hdr, background=background)
    try:
        chosen, expected = choose(index, sampling, limits)
        limits.check_clip(len(chosen), way.width, way.height)
    except TubeletError as error:
        error.placed(source=src.name)
        raise
    return VideoPlan(
        way.width,
        way.height,
        tuple(index.starts_s[rank] for rank in chosen),
        expected,
        index.declared_s,
        index.cut,
        seen.notes,
        sampling.times_s is not None,
        seen.stream,
        index,
        tuple(chosen),
        way,
        seen.codec,
        seen.nal_bytes,
    )


def decode_video(
    src: Source,
    plan: VideoPlan,
    limits: Limits,
    *,
    workers: int = 1,
    on_frame: Callable[[int, np.ndarray], None],
) -> VideoResult:
    """Decodes what the plan wants and calls `on_frame(slot, rgb)` once for each frame, in any order.

    rgb: (H, W, 3) uint8, upright, valid only during the call, not always contiguous. slot: its place in
    `plan.times_s`. workers: threads; each decodes stretches of its own with one thread, or, where there are fewer
    stretches, with several. `on_frame` is called from these threads, at the same time, when workers > 1. What it gets
    does not depend on `workers`. A frame found damaged only after it was given is left out of `slots`, or given again
    when a second, plain attempt finds it whole.
    Raises: DecodeError (not one whole frame, a size that changes), LimitError (deadline), what `on_frame` raises.
    """
    stretches = segments(plan.index, plan.chosen)
    job = DecodeJob(src, plan.stream, plan.index, plan.way, limits, on_frame)
    whole, notes = decode(job, stretches, max(1, workers))
    return result_of(plan, whole, notes)


def result_of(plan: VideoPlan, whole: Iterable[int], notes: Iterable[str]) -> VideoResult:
    """What was delivered, from the slots whose frames are whole. Raises: DecodeError where there is none."""
    slots = tuple(sorted(whole))
    if not slots:
        raise DecodeError("not one of the frames asked for could be decoded", expected=plan.expected, got=0)
    missing = plan.expected - len(slots)
    complete = missing == 0 and (plan.named or not plan.cut)
    said = list(plan.notes)
    if len(slots) < len(plan.times_s):
        said.append(f"{len(plan.times_s) - len(slots)} damaged frames left out")
    return VideoResult(
        tuple(plan.times_s[slot] for slot in slots),
        complete,
        None if complete else plan.expected,
        plan.duration_s,
        (*said, *sorted(set(notes) - set(said))),
        slots,
    )


def read_video(
    src: Source,
    limits: Limits,
    sampling: Sampling,
    *,
    hdr: HdrMode = "tonemap",
    background: Colour = (255, 255, 255),
    workers: int = 1,
    allocate: Allocate = new_frames,
) -> Clip:
    """The clip: frames chosen by `sampling`, upright RGB, with their true start times.

    Cost: the frames in memory once, plus one frame a worker. Raises: as `plan_video` and `decode_video`; each error
    names the source.
    """
    try:
        plan = plan_video(src, limits, sampling, hdr, background)
    except TubeletError as error:
        error.placed(source=src.name)
        raise
    return decode_clip(src, plan, limits, workers=workers, allocate=allocate)


def decode_clip(
    src: Source, plan: VideoPlan, limits: Limits, *, workers: int = 1, allocate: Allocate = new_frames
) -> Clip:
    """The clip of the frames that the plan wants. Cost and errors: as `read_video`."""
    frames = allocate((len(plan.times_s), plan.height, plan.width, 3))

    def keep(slot: int, rgb: np.ndarray) -> None:
        frames[slot] = rgb

    try:
        result = decode_video(src, plan, limits, workers=workers, on_frame=keep)
    except TubeletError as error:
        error.placed(source=src.name)
        raise
    return clip_of(src, frames, result)


def clip_of(src: Source, frames: np.ndarray, result: VideoResult) -> Clip:
    """The Clip of the frames that were delivered; `frames` has a place for each that was planned."""
    kept = frames if len(result.slots) == len(frames) else frames[list(result.slots)]
    return Clip(
        kept,
        result.times_s,
        source=src.name,
        is_video=True,
        duration_s=result.duration_s,
        complete=result.complete,
        frames_expected=result.frames_expected,
        notes=result.notes,
    )


@dataclass(frozen=True)
class _Looked:
    """What headers and packets say, whatever is to be taken of them."""

    stream: int  # its number in the file
    codec: str  # the decoder's name
    family: str  # the codec's, whatever decodes it
    nal_bytes: int
    rate: float | None  # frames a second, by the header
    way: Upright
    index: PacketIndex
    notes: tuple[str, ...]


def _look(src: Source, limits: Limits) -> _Looked:
    """The one look at a file that `probe_video` and `plan_video` have, so that they agree. Raises: as they do."""
    walked: list[Structure] = []
    with opened(src, first=lambda view: walked.append(walk(view, src.format, limits))) as container:
        [structure] = walked
        stream, notes = _stream_of(container, structure, limits)
        stored, differs = stored_as(src, stream, _of_track(structure.sizes, stream), limits)
        way, turned = upright(*stored, _of_track(structure.turns, stream), limits)
        declared = _declared_s(stream, container, src.format)
        if declared is not None:
            limits.check("max_seconds", declared, "seconds declared:")
        only_stream(container, stream.index)
        index = read_index(container, stream, src.format, structure, limits)
        if index.cut:
            notes.append(_cut_note(index, structure))
        codec = stream.codec_context.codec
        return _Looked(
            stream.index,
            codec.name,
            codec.canonical_name,
            length_bytes(stream),
            float(stream.average_rate) if stream.average_rate else None,
            replace(way, told=_told(stream)),
            index,
            (*notes, *differs, *turned),
        )


def _stream_of(
    container: av.container.InputContainer, structure: Structure, limits: Limits
) -> tuple[av.video.VideoStream, list[str]]:
    """The stream to show; that there is none in a damaged file is the damage's doing."""
    try:
        return choose_stream(container, limits)
    except NoVideo as error:
        if structure.damaged:
            raise DecodeError("the file is cut or damaged where its streams are described") from error
        raise


def _declared_s(stream: av.video.VideoStream, container: av.container.InputContainer, kind: Format) -> float | None:
    """How long the headers say that the clip is, from its first picture on; None where they do not."""
    tick = stream.time_base
    start = float((stream.start_time or 0) * tick) if tick else 0.0
    if kind == "AVI" and stream.frames and tick:
        return max(0.0, float(stream.frames * tick) - start) or None
    if stream.duration and tick:
        return float(stream.duration * tick)
    if container.duration:  # to the end, from the file's zero
        return max(0.0, container.duration / 1e6 - max(0.0, start)) or None
    return None


def _told(stream: av.video.VideoStream) -> Told:
    codec = stream.codec_context
    return Told(int(codec.color_trc), int(codec.color_primaries), int(codec.colorspace))


def _of_track(found: dict[int, T], stream: av.video.VideoStream) -> T | None:
    """What was found of a stream: MP4 numbers its tracks in the stream's id, MKV by their order."""
    return found.get(stream.id) or found.get(stream.index + 1)


def _cut_note(index: PacketIndex, structure: Structure) -> str:
    told: Sequence[str] = (
        f"{structure.missing_bytes:,} bytes of the file are missing" if structure.missing_bytes else "",
        "its structure is broken" if structure.broken else "",
        f"time stamps of {index.misplaced:,} pictures cannot be true" if index.misplaced else "",
        f"{index.headless:,} pictures come before the first key picture" if index.headless else "",
    )
    why = ", ".join(t for t in told if t) or "its pictures end before the length it declares"
    return f"cut or damaged: {why}; {index.duration_s:.3f} of {index.declared_s:.3f} s are there"
