"""What the codec says and what decoding shows of a clip: motion, prediction error, key frames, scene cuts, bits.

codec_signals    file -> fields of the frames taken, each for the time since the frame taken before
watch_video      the same, given out frame by frame as the file is decoded, with its pixels

vectors      H.264 and the MPEG family: the file's own motion vectors, and the error they leave between frames
blocks       any codec: vectors found by comparing blocks, and the error they leave
difference   any codec: the difference of the frames taken, and no motion; only they are decoded, and what they need
"""

from collections.abc import Callable, Iterable
from operator import index as integer
from typing import Any, Literal

import numpy as np

from tubelet.errors import DecodeError, InputError, TubeletError
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.codec.signals import CodecSignals, signals_from
from tubelet.reading.codec.watch import FrameSignal, Watcher, edges_px, signal_for
from tubelet.reading.isolated.pool import SUPPORTED, ask_child
from tubelet.reading.isolated.wire import Reply, map_frames, shape_of
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import Source, open_source
from tubelet.reading.video.decode import decode, decode_plain
from tubelet.reading.video.packets import Segment, segments
from tubelet.reading.video.video import VideoPlan, VideoResult, clip_of, plan_video, result_of
from tubelet.reading.video.wanted import DecodeJob

Asked = Literal["auto", "vectors", "blocks", "difference"]
Give = Callable[[int, np.ndarray | None, FrameSignal], None]
"""Called for each frame taken, in order: its slot in the plan, upright pixels (valid during the call), its signal."""

_ATTEMPTS = 3  # a file that gives other pictures each time is not read


def codec_signals(
    source: Any,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Iterable[float] | None = None,
    signal: Asked = "auto",
    limits: Limits = Limits(),  # noqa: B008
    isolate: Literal["auto", "always", "never"] = "auto",
) -> CodecSignals:
    """The fields of the frames that `read` would take with the same sampling; what it takes to give each its tokens.

    source: one video: a path, bytes or a binary file object. signal: "auto" is the file's own vectors where the decoder
    exports them (H.264, MPEG-1, -2, -4, H.263 and their kin), else a search for them (HEVC, VP9, AV1 ...). isolate: as
    in `read`; a child process sends the frames along as well, which are dropped.
    Cost: every frame is decoded and compared on one thread, at a half or a quarter where pictures are large; searching
    costs several times what vectors do. "difference" decodes only the frames taken and what they need. Memory: the
    fields, and a quarter kilobyte for each packet of the file.
    Raises: as `read`; UnsupportedFormat for a picture; InputError for vectors of a codec that has none.

    >>> codec_signals("walk.mp4", num_frames=3, signal="difference")
    CodecSignals('walk.mp4', difference of h264, 3 frames of 34 x 60 cells)
    """
    sampling = sampling_of(fps, num_frames, times_s)
    check_words(signal, isolate)
    with open_source(source, limits) as src:
        if isolate == "always" or (isolate == "auto" and src.foreign and SUPPORTED):
            return isolated_signals(src, ReadJob(limits, sampling), signal)[1]
        return read_signals(src, limits, sampling, signal)


def sampling_of(fps: float | None, num_frames: int | None, times_s: Iterable[float] | None) -> Sampling:
    times = None if times_s is None else tuple(float(t) for t in times_s)
    return Sampling(None if fps is None else float(fps), None if num_frames is None else integer(num_frames), times)


def check_words(signal: str, isolate: str) -> None:
    """Raise InputError for a word that is none of those known, before anything is opened."""
    if isolate not in ("auto", "always", "never"):
        raise InputError(f"isolate is auto, always or never, not {isolate!r}", got=isolate)
    if signal not in ("auto", "vectors", "blocks", "difference"):
        raise InputError(f"signal is auto, vectors, blocks or difference, not {signal!r}", got=signal)


def read_signals(src: Source, limits: Limits, sampling: Sampling, signal: Asked) -> CodecSignals:
    """The signals of an opened source, in this process; nothing is converted to RGB. Raises: as `codec_signals`."""
    try:
        plan = plan_video(src, limits, sampling)
        got: list[FrameSignal] = []

        def begin() -> Give:
            got.clear()
            return lambda _slot, _rgb, seen: got.append(seen)

        result, kind = watch_video(src, plan, limits, signal, begin, pixels=False)
        return signals_of(src, plan, result, kind, got)
    except TubeletError as error:
        error.placed(source=src.name)
        raise


def read_both(
    src: Source, job: ReadJob, signal: Asked, *, allocate: Allocate = new_frames
) -> tuple[Clip, CodecSignals]:
    """The frames that are taken and their signals: what a child process sends. Raises: as `codec_signals`."""
    try:
        plan = plan_video(src, job.limits, job.sampling, job.hdr, job.background)
        frames = allocate((len(plan.times_s), plan.height, plan.width, 3))
        got: list[FrameSignal] = []

        def begin() -> Give:
            got.clear()

            def give(slot: int, rgb: np.ndarray | None, seen: FrameSignal) -> None:
                frames[slot] = rgb
                got.append(seen)

            return give

        result, kind = watch_video(src, plan, job.limits, signal, begin)
    except TubeletError as error:
        error.placed(source=src.name)
        raise
    return clip_of(src, frames, result), signals_of(src, plan, result, kind, got)


def watch_video(
    src: Source, plan: VideoPlan, limits: Limits, signal: Asked, begin: Callable[[], Give], *, pixels: bool = True
) -> tuple[VideoResult, str]:
    """Decodes a planned clip once and gives each frame taken with its signal, in order; what was delivered, and which
    signal it was.

    begin: gives the function that is called; asked again, with what was given so far void, when a frame that was given
    turns out to be damaged or a frame comes out of its turn. pixels=False: nothing is converted to RGB and all is given
    at the end. Memory: two pictures of luma and a few fields, whatever the length of the clip.
    Raises: as `decode_video`; InputError for vectors of a codec that has none.
    """
    kind = signal_for(plan.codec, signal)
    index, chosen = plan.index, dict(enumerate(plan.chosen))
    for attempt in range(_ATTEMPTS):
        wanted: dict[int, tuple[int, ...]] = {}
        for slot, rank in chosen.items():
            wanted[index.order[rank]] = (*wanted.get(index.order[rank], ()), slot)
        watcher = Watcher(index, plan.way, plan.codec, plan.nal_bytes, kind, wanted)
        give, given = begin(), []

        def on_frame(slot: int, rgb: np.ndarray | None, watcher=watcher, give=give, given=given) -> None:
            given.append(slot)
            if slot in watcher.taken:  # a frame out of its turn has no signal
                give(slot, rgb, watcher.taken.pop(slot))

        job = DecodeJob(
            src, plan.stream, index, plan.way, limits, on_frame if pixels else None, watcher, vectors=kind == "vectors"
        )
        plain = kind != "difference" or attempt > 0
        if not plain:
            whole, notes = decode(job, segments(index, plan.chosen), 1)
        else:
            last = len(index.size) - 1 if index.by_count else max(wanted)
            whole, notes = decode_plain(job, Segment(0, last, wanted))
        result = result_of(plan, whole, notes | watcher.notes)
        if not pixels:
            for slot in sorted(watcher.taken):
                on_frame(slot, None)
        if given == list(result.slots) and not watcher.taken and not watcher.disorder:
            return result, kind
        kept = whole - watcher.disorder if plain else whole
        chosen = {slot: rank for slot, rank in chosen.items() if slot in kept}
        if not chosen:
            break
    raise DecodeError("the pictures come out in another order each time", expected=plan.expected, got=0)


def signals_of(src: Source, plan: VideoPlan, result: VideoResult, kind: str, got: list[FrameSignal]) -> CodecSignals:
    rows_px, columns_px = edges_px(plan.way, kind)
    return CodecSignals(
        kind,
        plan.codec,
        result.times_s,
        tuple(s.picture for s in got),
        tuple(s.frames for s in got),
        tuple(s.packet_bytes for s in got),
        tuple(s.key for s in got),
        tuple(s.cut for s in got),
        np.stack([s.error_levels for s in got]),
        np.stack([s.motion_px for s in got]),
        rows_px,
        columns_px,
        src.name,
        result.complete,
        result.notes,
    )


def isolated_signals(src: Source, job: ReadJob, signal: str) -> tuple[Clip, CodecSignals]:
    """The frames and signals that `read_both` gives, decoded in a child process under the job's limits.

    Raises: as `codec_signals` and `ask_child`.
    """

    def made_of(reply: Reply) -> tuple[Clip, CodecSignals]:
        clip = reply.clip(src.name, job.limits)
        if len(reply.files) < 2:
            raise ValueError("no fields were sent")
        maps = map_frames(reply.files[1], shape_of(reply.values["maps"], 4))
        return clip, signals_from(reply.values["signals"], maps, clip)

    return ask_child({"kind": "signals", "signal": signal}, src, job, made_of)
