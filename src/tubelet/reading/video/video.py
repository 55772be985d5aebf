"""Video: sampled by time, decoded only where frames are wanted, and never silently short.

    probe_video    headers                      -> size, length, rate
    plan_video     headers + packet index       -> which frames, their true start times, what to decode for them
    decode_video   plan                         -> each wanted frame, upright RGB, as soon as it is there
    read_video     all of it                    -> Clip

A file that is cut or damaged gives the frames that are whole, says `complete=False` and how many were expected, or
raises DecodeError when there is none. A frame counts as whole when everything it was decoded from decoded cleanly.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import av.container
import av.video
import numpy as np

from tubelet.errors import DecodeError, NoVideo, TubeletError
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.hdr import HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import Source
from tubelet.reading.video.boxes import walk
from tubelet.reading.video.decode import DecodeJob, decode
from tubelet.reading.video.file import choose_stream, only_stream, opened, stored_as
from tubelet.reading.video.frames import Told, Upright, upright
from tubelet.reading.video.index import read_index
from tubelet.reading.video.nal import length_bytes
from tubelet.reading.video.packets import PacketIndex, choose, segments
from tubelet.reading.video.structure import Structure, Turn


@dataclass(frozen=True)
class VideoInfo:
    """What the headers of a video say, which may not be true. Sizes are upright, with square pixels."""

    width: int
    height: int
    duration_s: float | None
    fps: float | None  # on average
    frames: int | None
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
    """Size, length, rate and codec from the headers; nothing is decoded and no packet is indexed.

    Raises: UnsupportedFormat, NoVideo, DecodeError, LimitError.
    """
    with opened(src) as (container, view):
        structure = walk(view, src.format, limits)
        stream, _ = _stream_of(container, structure, limits)
        way, _ = upright(*stored_as(src, stream, limits), _turn(structure, stream.id, stream.index), limits)
        tick = stream.time_base
        seconds = float(stream.duration * tick) if stream.duration and tick else None
        if seconds is None and container.duration:
            seconds = container.duration / 1e6
        if seconds is not None:
            limits.check("max_seconds", seconds, "seconds declared:")
        rate = stream.average_rate
        codec = stream.codec_context.codec.canonical_name
        return VideoInfo(way.width, way.height, seconds, float(rate) if rate else None, stream.frames or None, codec)


def plan_video(src: Source, limits: Limits, sampling: Sampling, hdr: HdrMode = "tonemap") -> VideoPlan:
    """The frames to take and where they are, from the headers and the packets; no picture is decoded.

    hdr: what `decode_video` will make of PQ and HLG, as in `read`.

    Cost: reads the file once, about 25 ms for a minute of 30 frames a second.
    Raises: UnsupportedFormat, NoVideo, DecodeError (nothing readable), LimitError (size, seconds, frames, packets),
    InputError (a time after the end).
    """
    with opened(src) as (container, view):
        structure = walk(view, src.format, limits)
        stream, notes = _stream_of(container, structure, limits)
        turn = _turn(structure, stream.id, stream.index)
        told = _told(stream)
        way, turned = upright(*stored_as(src, stream, limits), turn, limits)
        way = replace(way, hdr=hdr, told=told)
        only_stream(container, stream.index)
        index = read_index(container, stream, src.format, structure, limits)
        chosen, expected = choose(index, sampling, limits)
        limits.check_clip(len(chosen), way.width, way.height)
        if index.cut:
            notes.append(_cut_note(index, structure))
        return VideoPlan(
            way.width,
            way.height,
            tuple(index.starts_s[rank] for rank in chosen),
            expected,
            index.declared_s,
            index.cut,
            (*notes, *turned),
            sampling.times_s is not None,
            stream.index,
            index,
            tuple(chosen),
            way,
            stream.codec_context.codec.name,
            length_bytes(stream),
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
    workers: int = 1,
    allocate: Allocate = new_frames,
) -> Clip:
    """The clip: frames chosen by `sampling`, upright RGB, with their true start times.

    Cost: the frames in memory once, plus one frame a worker. Raises: as `plan_video` and `decode_video`; each error
    names the source.
    """
    try:
        plan = plan_video(src, limits, sampling, hdr)
        frames = allocate((len(plan.times_s), plan.height, plan.width, 3))

        def keep(slot: int, rgb: np.ndarray) -> None:
            frames[slot] = rgb

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


def _told(stream: av.video.VideoStream) -> Told:
    codec = stream.codec_context
    return Told(int(codec.color_trc), int(codec.color_primaries), int(codec.colorspace))


def _turn(structure: Structure, stream_id: int, stream_index: int) -> Turn | None:
    """The turn of a stream: MP4 numbers its tracks in the stream's id, MKV by their order."""
    return structure.turns.get(stream_id) or structure.turns.get(stream_index + 1)


def _cut_note(index: PacketIndex, structure: Structure) -> str:
    told: Sequence[str] = (
        f"{structure.missing_bytes:,} bytes of the file are missing" if structure.missing_bytes else "",
        "its structure is broken" if structure.broken else "",
    )
    why = ", ".join(t for t in told if t) or "its pictures end before the length it declares"
    return f"cut or damaged: {why}; {index.duration_s:.3f} of {index.declared_s:.3f} s are there"
