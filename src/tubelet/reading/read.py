"""Files in: bytes become upright RGB frames with true times.

path, bytes, file object -> format by its first bytes -> limits from its header -> decoding -> Clip
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from operator import index
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from tubelet.doors import door
from tubelet.errors import InputError, TubeletError
from tubelet.reading.clip import Clip as Clip
from tubelet.reading.limits import Limits

if TYPE_CHECKING:
    from tubelet.reading.hdr import HdrMode
    from tubelet.reading.job import ReadJob

Isolate = Literal["auto", "always", "never"]


@overload
def read(
    sources: Any,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Iterable[float] | None = None,
    limits: Limits = ...,
    background: Sequence[int] = ...,
    animation: bool = False,
    hdr: "HdrMode" = "tonemap",
    isolate: Isolate = "auto",
    on_error: Literal["raise"] = "raise",
    workers: int | None = None,
    urls: bool = False,
) -> list[Clip]: ...
@overload
def read(
    sources: Any,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Iterable[float] | None = None,
    limits: Limits = ...,
    background: Sequence[int] = ...,
    animation: bool = False,
    hdr: "HdrMode" = "tonemap",
    isolate: Isolate = "auto",
    on_error: Literal["skip"],
    workers: int | None = None,
    urls: bool = False,
) -> list[Clip | TubeletError]: ...


@door
def read(
    sources: Any,
    *,
    fps: Any = None,
    num_frames: Any = None,
    times_s: Any = None,
    limits: Limits = Limits(),  # noqa: B008
    background: Any = (255, 255, 255),
    animation: bool = False,
    hdr: Any = "tonemap",
    isolate: Any = "auto",
    on_error: Any = "raise",
    workers: int | None = None,
    urls: bool = False,
) -> list[Clip] | list[Clip | TubeletError]:
    """One Clip for each input, in the order given: upright sRGB frames and the true time of each.

    sources: one input or several (any iterable). An input is a path (str, os.PathLike) of a local regular file, bytes,
    a binary file object, or pixels in memory: a Pillow picture, a Clip, sRGB of 0 to 255 as a uint8 array with channels
    last, (H, W), (H, W, 3) or (F, H, W, 3), or as a uint8 tensor with channels first, (3, H, W) or (F, 3, H, W). Frames
    of arrays and tensors are one second apart, and all of them are taken. fps, num_frames, times_s: which frames of a
    video, by time; at most one of them, none means 2 a second and at most 64 (an animation: all).
    background: what transparent parts are laid on.
    animation: read GIF, WEBP, PNG and AVIF that move as clips; else their first frame, with a note.
    hdr: "tonemap" brings PQ and HLG to SDR by the curve of `tubelet.reading.hdr`, "clip" shows their code values as if
    they were SDR; either is noted, and nothing else is touched.
    isolate: decode in a child process, under `limits.max_memory_bytes` and `limits.deadline_s`, so that a crash of a
    decoder is an error: "always", "never", or "auto" = for bytes and file objects, which may come from strangers, but
    not for paths that the caller names. What decodes in this process is bounded by its header, not by a clock.
    Windows cannot isolate: "always" is an error there, "auto" decodes here.
    on_error: "raise" the first error, told which item it is, or "skip": the error stands in its item's place.
    workers: threads that decode, by default one for each CPU core. urls: a str may also be an address, of http, https,
    s3 or hf (`tubelet.reading.urls`; the extra tubelet[urls]).
    Pixels that are not square: those of clips are made square, as players do; pictures stay as stored, as in browsers
    and Pillow. Either is noted. A clip whose size changes on the way is an error where frames of both are taken.
    Cost: decoding; one copy of the pixels. Nothing is kept between calls but idle decoding processes.
    Raises: InputError and its kinds for what cannot be read; WorkerDied for a decoding process that died.

    >>> import io
    >>> from PIL import Image
    >>> Image.new("L", (3, 2), 7).save(file := io.BytesIO(), "PNG")
    >>> read(file, isolate="never")
    [Clip('<file>', 3x2, picture)]
    """
    from tubelet.reading.job import ReadJob  # numpy and Pillow are first needed here: importing stays cheap
    from tubelet.reading.sampling import Sampling

    if isolate not in ("auto", "always", "never"):
        raise InputError(f"isolate is auto, always or never, not {isolate!r}", got=isolate)
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is raise or skip, not {on_error!r}", got=on_error)
    if workers is not None and index(workers) < 1:
        raise InputError(f"workers must be at least 1, got {workers}", got=workers)
    several = not is_one(sources)
    items = list(sources) if several else [sources]
    threads = min(workers or os.cpu_count() or 1, len(items))
    times = None if times_s is None else tuple(float(t) for t in times_s)
    sampling = Sampling(None if fps is None else float(fps), None if num_frames is None else index(num_frames), times)
    red, green, blue = (int(level) for level in background)
    job = ReadJob(limits, sampling, (red, green, blue), bool(animation), _each(workers, len(items)), hdr)

    def one(place: int) -> Clip:
        try:
            return _read_one(items[place], job, isolate, urls=urls)
        except TubeletError as error:
            error.placed(item=place if several else None)
            raise

    return cast(Any, _in_order(one, len(items), threads, skip=on_error == "skip"))


@door
def probe(source: Any, *, limits: Limits = Limits()) -> Any:  # noqa: B008
    """Upright width and height, frame count and more of one input, undecoded: PictureInfo or VideoInfo.

    Of a picture by its header; of a clip by its headers and the list of its packets, for which the file is read once.
    What is refused for these is refused here as in `read`; damage that only decoding shows is met there. Raises: as
    `read`.

        >>> seen = tubelet.probe("receipt.png")
        >>> seen.width, seen.height
        (600, 900)
    """
    from tubelet.reading.source import PICTURES, open_source

    with open_source(source, limits) as src:
        if src.format in PICTURES:
            from tubelet.reading.picture.image import probe_image

            return probe_image(src, limits)
        from tubelet.reading.video.video import probe_video

        return probe_video(src, limits)


def is_one(sources: Any) -> bool:
    """A path, bytes, file object or pixels in memory stand for themselves; what else can be iterated holds several."""
    from tubelet.reading.memory import is_memory

    if (
        is_memory(sources)
        or isinstance(sources, (str, os.PathLike, bytes, bytearray, memoryview))
        or hasattr(sources, "read")
    ):
        return True
    return not isinstance(sources, Iterable)


def _each(workers: int | None, items: int) -> int:
    """Threads that the decoding of one video may use: all of them when it is the only input, else one."""
    return (workers or os.cpu_count() or 1) if items == 1 else 1


def _read_one(source: Any, job: "ReadJob", isolate: Isolate, *, urls: bool = False) -> Clip:
    from tubelet.reading.isolated.pool import SUPPORTED, isolated_read
    from tubelet.reading.job import decode_source
    from tubelet.reading.memory import is_memory, memory_clip
    from tubelet.reading.source import open_source
    from tubelet.reading.urls import is_url, open_url

    if is_memory(source):
        return memory_clip(source, job.limits, job.background)
    if urls and is_url(source):
        with closing(open_url(source)) as file:
            return _read_one(file, job, isolate)
    with open_source(source, job.limits) as src:
        if isolate == "always" or (isolate == "auto" and src.foreign and SUPPORTED):
            return isolated_read(src, job)
        return decode_source(src, job)


def _in_order(one: Callable[[int], Clip], count: int, threads: int, *, skip: bool) -> list[Clip | TubeletError]:
    """`one(0)` to `one(count - 1)` on threads, in order. With skip, errors of ours are results."""

    def kept(place: int) -> Clip | TubeletError:
        try:
            return one(place)
        except TubeletError as error:
            if not skip:
                raise
            return error

    if threads <= 1:
        return [kept(place) for place in range(count)]
    executor = ThreadPoolExecutor(threads, thread_name_prefix="tubelet-read")
    wait = False  # a keyboard interrupt does not wait for what is being decoded
    try:
        clips = list(executor.map(kept, range(count)))
        wait = True
    except TubeletError:
        wait = True
        raise
    finally:
        executor.shutdown(wait=wait, cancel_futures=True)
    return clips
