"""Files to packed rows in one pass, with memory for the rows and hardly more.

    headers -> sizes, grids, offsets        of every kind of input; no pixel is decoded; above a limit it ends here
            -> one uint8 buffer             every input has its slice before work starts
            -> threads, largest input first: decode -> resize -> write into the slice

The rows are bit for bit those of `patchify(read(...))`. A clip never exists as a whole: each frame is resized and
written as it is decoded.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tubelet.errors import InputError, LimitError, TubeletError
from tubelet.packed import Packed
from tubelet.packed.grid import MAX_ROWS, Item
from tubelet.pixels.load_one import LoadedSource, Options, StageTimer, Task, cut_whole, decode_into, describe
from tubelet.pixels.patchify import empty_rows, packed_of
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.isolated.pool import SUPPORTED, isolated_outline, isolated_read
from tubelet.reading.job import ReadJob, decode_source
from tubelet.reading.limits import Limits
from tubelet.reading.outline import outline_source
from tubelet.reading.read import is_one
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import VIDEOS, open_source
from tubelet.reading.video.video import plan_video

Progress = Callable[[int, int, str], None]
"""Called in the caller's thread after each input: how many are done, of how many, and the name of this one."""


@dataclass
class Loaded:
    """packed: the rows of all inputs that could be read; an item's `picture` is the index of its input. sources: one
    report for each input, in order. errors: those of the inputs that could not be read, in order."""

    packed: Packed
    sources: list[LoadedSource]

    @property
    def errors(self) -> list[TubeletError]:
        return [s.error for s in self.sources if s.error is not None]


def load_patches(
    sources: Any,
    recipe: PixelRecipe,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Sequence[float] | None = None,
    limits: Limits | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
    animation: bool = False,
    isolate: Literal["auto", "always", "never"] = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """The uint8 rows of one input or a list of them, and a report of each: `patchify(read(sources))`, faster and flat
    in memory.

    sources, sampling, limits, background, animation and isolate mean what they mean in `read`. workers: threads, by
    default one for each core this process may use; torch's own threads are neither needed nor changed. Peak memory is
    the rows, one decoded picture for each thread and a few frames of each clip in work. What is decoded in a child
    process and animations are the exception: there a whole clip is in memory for a moment. A file object that cannot
    seek is read into memory before anything is counted.

    Rows are counted before anything is decoded, those of bytes and file objects in the same process that will decode
    them. One kind of input has no such count: an animated AVIF from which frames are taken by time, for only its
    decoded frames have durations. It counts as one frame then, and as what it is when it alone has been decoded.

    on_error="skip": an input that cannot be read has no rows, and its error stands in its report. "raise": the first
    error met is raised once the work under way has ended. A clip that breaks off has the rows of the frames that
    were found and complete=False in its report. Its size is the one its header was planned with, which differs from
    `patchify(read(...))` only under a recipe with max_video_pixels.

    Raises: what `read` and `fit` raise, naming the item; LimitError when all rows together pass `max_tokens`.

        >>> loaded = load_patches(["receipt.png", "walk.mp4"], PixelRecipe(patch=16), fps=2.0)
        >>> loaded.packed
        Packed(T=6392, D=768, uint8, cpu, 2 items: [1x56x37, 9x16x30])
        >>> [source.frames for source in loaded.sources]
        [1, 9]
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}", limit=1, got=workers)
    if isolate not in ("auto", "always", "never"):
        raise InputError(f"isolate is auto, always or never, not {isolate!r}", got=isolate)
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is raise or skip, not {on_error!r}", got=on_error)
    sampling = Sampling(fps=fps, num_frames=num_frames, times_s=None if times_s is None else tuple(times_s))
    job = ReadJob(Limits() if limits is None else limits, sampling, background, animation)
    options = Options(recipe, job, isolate, on_error == "skip", workers or _cores())
    several = not is_one(sources)
    listed = list(sources) if several else [sources]
    tasks = [Task(i, s, LoadedSource(_name(s, i)), named=several) for i, s in enumerate(listed)]
    tell = _Counter(len(tasks), progress)
    with _threads(options.workers) as pool:
        _each(pool, _plan, tasks, options, lambda task: tell(task) if task.report.error else None)
        kept = [t for t in tasks if t.report.error is None]
        _check(kept, options)
        _each(pool, _whole, [t for t in kept if not t.counted], options, tell)
        kept = [t for t in kept if t.report.error is None]
        buffer = _allocate(kept, options)
        _decode_all(pool, [t for t in kept if not t.decoded], options, tell)
    return Loaded(_assemble(buffer, kept, options), [t.report for t in tasks])


# ---- threads


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose waiting work is dropped when the block is left by an exception."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tubelet-load")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Counter:
    """Counts inputs that are done and tells the caller."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.done = total, progress, 0

    def __call__(self, task: Task) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, task.report.name)


def _each(
    pool: ThreadPoolExecutor,
    work: Callable[[Task, Options], None],
    tasks: Sequence[Task],
    options: Options,
    after: Callable[[Task], None],
) -> None:
    """Run `work` on every task. A TubeletError becomes the task's; unless such are skipped, it ends everything."""
    waiting: dict[Future[None], Task] = {pool.submit(work, task, options): task for task in tasks}
    for future in as_completed(waiting):
        task = waiting[future]
        try:
            future.result()
        except TubeletError as error:
            task.report.error = error.placed(item=task.index if task.named else None, source=task.report.name)
            if not options.skip:
                raise
        after(task)


# ---- before any pixel


def _name(source: Any, index: int) -> str:
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else f"<input {index}>"


def _alone(task: Task, options: Options) -> AbstractContextManager[Any]:
    """File objects are read one at a time: the same one may be listed twice."""
    return (
        nullcontext()
        if isinstance(task.source, (str, os.PathLike, bytes, bytearray, memoryview))
        else (options.file_objects)
    )


def _plan(task: Task, options: Options) -> None:
    """Size, times and grid from the header, which is read in a child process where the content will be."""
    laps = StageTimer(task.report)
    job = options.job
    with _alone(task, options), open_source(task.source, job.limits) as src:
        task.report.name = src.name
        if isinstance(src.file, io.BytesIO) and not isinstance(task.source, (bytes, bytearray, memoryview)):
            task.source = src.file.getvalue()  # a stream can be read only once
        task.isolated = options.isolate == "always" or (options.isolate == "auto" and src.foreign and SUPPORTED)
        if not task.isolated and src.format in VIDEOS:
            task.plan = plan_video(src, job.limits, job.sampling)
            describe(task, task.plan.width, task.plan.height, task.plan.times_s, options)
        else:
            seen = isolated_outline(src, job) if task.isolated else outline_source(src, job)
            task.whole = task.isolated or seen.moves
            task.counted = seen.exact
            describe(task, seen.width, seen.height, seen.times_s, options)
    laps("open")


def _whole(task: Task, options: Options) -> None:
    """Decode an input as one clip, in a child process if it has to be, and cut it into its rows."""
    laps = StageTimer(task.report)
    with _alone(task, options), open_source(task.source, options.job.limits, task.report.name) as src:
        laps("open")
        clip = isolated_read(src, options.job) if task.isolated else decode_source(src, options.job)
        laps("decode")
    cut_whole(task, clip, options, laps)


def _check(tasks: Sequence[Task], options: Options) -> int:
    """The rows of all inputs. Raises LimitError with the plan when they are too many."""
    total = sum(t.item.grid.rows for t in tasks if t.item is not None)
    limit = min(options.job.limits.max_tokens, MAX_ROWS)
    if total > limit:
        raise _refusal(tasks, total, limit)
    return total


def _allocate(tasks: Sequence[Task], options: Options) -> np.ndarray:
    """One buffer for all rows, a slice of it for each task, and in there already what is decoded."""
    buffer = empty_rows(_check(tasks, options), options.recipe)
    start = 0
    for task in tasks:
        rows = buffer[start : start + (0 if task.item is None else task.item.grid.rows)]
        if task.rows is not None:
            rows[...] = task.rows
        task.rows = rows
        start += len(rows)
    return buffer


def _refusal(tasks: Sequence[Task], total: int, limit: int) -> LimitError:
    """What would have been read and how many rows it makes: the largest in the message, all in the error's `plan`."""
    plan = [
        {
            "name": t.report.name,
            "width": t.report.width,
            "height": t.report.height,
            "frames": t.report.frames,
            "grid": list(t.item.grid),
            "patches": t.item.grid.rows,
        }
        for t in tasks
        if t.item is not None
    ]
    largest = sorted(plan, key=lambda p: -p["patches"])[:3]
    told = [
        f"{p['name']}: {p['frames']} x {p['width']} x {p['height']} -> "
        f"{' x '.join(map(str, p['grid']))} = {p['patches']:,} rows"
        for p in largest
    ]
    more = f"; and {len(plan) - len(largest):,} more" if len(plan) > len(largest) else ""
    count = "1 input makes" if len(plan) == 1 else f"{len(plan):,} inputs make"
    error = LimitError(
        f"{count} {total:,} rows, above max_tokens = {limit:,} ({'; '.join(told)}{more})", limit=limit, got=total
    )
    error.plan = plan
    return error


# ---- pixels


def _decode_all(pool: ThreadPoolExecutor, tasks: Sequence[Task], options: Options, tell: _Counter) -> None:
    """The largest first, one thread each; but clips that are fewer than the threads come one after the other before
    the rest, each decoded by all threads."""

    def one_thread(task: Task, options: Options) -> None:
        if task.whole:
            _whole(task, options)
            return
        with _alone(task, options):
            decode_into(task, options, 1)

    def all_threads(task: Task, options: Options) -> None:
        with _alone(task, options):
            decode_into(task, options, options.workers)

    clips = [t for t in tasks if t.plan is not None]
    if len(clips) < options.workers:
        for task in clips:
            _each(pool, all_threads, [task], options, tell)
        tasks = [t for t in tasks if t.plan is None]
    _each(pool, one_thread, sorted(tasks, key=lambda t: -t.cost), options, tell)


def _assemble(buffer: np.ndarray, tasks: Sequence[Task], options: Options) -> Packed:
    """The pack of all tasks without an error. Where rows are missing, what follows moves up, in place."""
    items: list[Item] = []
    start = 0
    for task in tasks:
        if task.report.error is not None:
            task.report.grid = None
            continue
        _, item, rows = task.ready
        task.report.item = len(items)
        items.append(item)
        target = buffer[start : start + len(rows)]
        if target.ctypes.data != rows.ctypes.data:
            target[...] = rows
        start += len(rows)
    return packed_of(buffer[:start], items, options.recipe)
