"""An input looked at once: what it will be, kept with what its decoding needs, whatever model it is read for.

    source ─> outline_input ─> OutlinedInput ─> a plan under a recipe (`pixels.planned`) ─> pixels, in a second opening
                                             ─> clip_of_outlined: a Clip, in a second opening

A command looks at all its files before a model is loaded, and what it found is not looked for again.
"""

import io
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tubelet.errors import TubeletError
from tubelet.reading.clip import Clip
from tubelet.reading.isolated.pool import SUPPORTED, isolated_outline, isolated_read
from tubelet.reading.job import ReadJob, decode_source
from tubelet.reading.memory import is_memory, is_tensor, memory_clip, memory_name, outline_of
from tubelet.reading.outline import Outline, outline_source
from tubelet.reading.read import Isolate
from tubelet.reading.source import VIDEOS, BinaryFile, Source, open_source

if TYPE_CHECKING:
    from tubelet.reading.video.video import VideoPlan


@dataclass(frozen=True)
class OutlinedInput:
    """One input, looked at. It pickles where its source does: paths, bytes, arrays and clips."""

    source: Any = field(repr=False)  # what will be decoded: as it was given, or all bytes of a stream that cannot seek
    name: str  # to show
    job: ReadJob = field(repr=False)  # under which it was looked at, and must be decoded
    isolate: Isolate = "auto"  # as in `read`
    outline: Outline | None = None  # None where there is an error instead
    video: "VideoPlan | None" = field(default=None, repr=False)  # of a clip that this process decodes frame by frame
    isolated: bool = False  # decoded in a child process
    spent_s: float = 0.0  # on looking
    error: TubeletError | None = None  # why it cannot be read

    @property
    def whole(self) -> bool:
        """Decoded as one clip: in a child process, an animation, or in memory already."""
        moves = self.outline is not None and self.outline.moves
        return is_memory(self.source) or self.isolated or (moves and self.video is None)


def outline_input(
    source: Any,
    job: ReadJob,
    isolate: Isolate = "auto",
    *,
    name: str = "",
    lock: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
) -> OutlinedInput:
    """What one input will be; what cannot be read has an `error`.

    source: what `read` takes, one of them. name: of bytes and file objects that have none. lock: held while an object
    is read that may be listed twice. Cost: the header, of a clip one read of the file, in a child process where the
    content will be decoded in one.

        >>> outline_input("walk.mp4", ReadJob()).outline.width
        480
    """
    start = time.perf_counter()
    named = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else name
    found = OutlinedInput(source, named, job, isolate)
    try:
        with alone(source, lock):
            if is_memory(source):
                found = replace(found, name=memory_name(source))
                found = replace(found, outline=outline_of(source, job.limits))
            else:
                with open_source(source, job.limits) as src:
                    found = replace(found, name=src.name, source=_kept(source, src.file))
                    found = _from_header(found, src)
    except TubeletError as error:
        found = replace(found, error=error.placed(source=found.name or None))
    return replace(found, spent_s=time.perf_counter() - start)


def alone(source: Any, lock: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """File objects, and pictures that Pillow has not loaded, are read one at a time: one may be listed twice."""
    several_at_once = (str, os.PathLike, bytes, bytearray, memoryview, Clip, np.ndarray)
    return nullcontext() if isinstance(source, several_at_once) or is_tensor(source) else lock


def clip_of_outlined(
    found: OutlinedInput, chosen: Callable[[Outline], list[int]] | None = None, *, workers: int | None = None
) -> Clip:
    """The clip that `read` gives of the input, decoded in a second opening; of a clip that this process decodes, the
    frames with the numbers of `chosen` alone. The others of it are never in memory.

    workers: threads that decode a clip, by default one for each CPU core. Raises: the input's own error; what `read`
    raises.
    """
    if found.error is not None:
        raise found.error
    if is_memory(found.source):
        return memory_clip(found.source, found.job.limits, found.job.background)
    job = replace(found.job, workers=workers or os.cpu_count() or 1)
    with open_source(found.source, job.limits, found.name) as src:
        if found.video is None:
            return isolated_read(src, job) if found.isolated else decode_source(src, job)
        from tubelet.reading.video.video import decode_clip

        plan = found.video if found.outline is None or chosen is None else thinned(found.video, chosen(found.outline))
        return decode_clip(src, plan, job.limits, workers=job.workers)


def thinned(video: "VideoPlan", chosen: list[int]) -> "VideoPlan":
    """The plan of some of its frames, by their number."""
    left_out = len(video.times_s) - len(chosen)
    if not left_out:
        return video
    times_s = tuple(video.times_s[i] for i in chosen)
    ranks = tuple(video.chosen[i] for i in chosen)
    return replace(video, times_s=times_s, chosen=ranks, expected=video.expected - left_out)


def _kept(source: Any, file: BinaryFile) -> Any:
    """The source, or the content of a stream, which can be read only once."""
    if isinstance(file, io.BytesIO) and not isinstance(source, (bytes, bytearray, memoryview)):
        return file.getvalue()
    return source


def _from_header(found: OutlinedInput, src: Source) -> OutlinedInput:
    """With the outline of an opened input. Raises: what reading headers raises."""
    job = found.job
    if found.isolate == "always" or (found.isolate == "auto" and src.foreign and SUPPORTED):
        return replace(found, outline=isolated_outline(src, job), isolated=True)
    if src.format not in VIDEOS:
        return replace(found, outline=outline_source(src, job))
    from tubelet.reading.video.video import plan_video  # loads FFmpeg, which pictures can do without

    video = plan_video(src, job.limits, job.sampling, job.hdr, job.background)
    outline = Outline(video.width, video.height, video.times_s, moves=True, duration_s=video.duration_s)
    return replace(found, outline=outline, video=video)
