"""Files to packed rows in one pass, with memory for the rows and hardly more.

    headers -> sizes, grids, offsets        of every kind of input; no pixel is decoded; above a limit it ends here
            -> one uint8 buffer             every input has its slice before work starts
            -> threads, largest input first: decode -> resize -> write into the slice

The rows are bit for bit those of `patchify(read(...))`. A clip never exists as a whole: each frame is resized and
written as it is decoded.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np

from tubelet.doors import door
from tubelet.errors import CountedInput, CountedRows, LimitError, TubeletError
from tubelet.packed import Packed
from tubelet.packed.grid import MAX_ROWS, Item
from tubelet.pixels.inputs import is_one, listed
from tubelet.pixels.load_one import LoadedSource, Task, decode_into, decode_whole
from tubelet.pixels.patchify import empty_rows, packed_of
from tubelet.pixels.planned import LoadConfig, Options, PlannedInput, options_of, planned, threads
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.hdr import HdrMode
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.outlined import alone
from tubelet.reading.sampling import Sampling

Progress = Callable[[int, int, str], None]
"""Called in the caller's thread after each input: how many are done, of how many, and the name of this one."""


@dataclass
class Loaded:
    """Inputs as rows."""

    packed: Packed  # the rows of all inputs that could be read; an item's `picture` is the index of its input
    sources: list[LoadedSource]  # one report for each input, in order

    @property
    def errors(self) -> list[TubeletError]:
        """Those of the inputs that could not be read, in order."""
        return [s.error for s in self.sources if s.error is not None]


@door
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
    hdr: HdrMode = "tonemap",
    isolate: Literal["auto", "always", "never"] = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """The uint8 rows of one input or a list of them, and a report of each: `patchify(read(sources))`, faster and flat
    in memory.

    sources: what `read` takes, and what is in memory already: Pillow pictures, uint8 arrays and tensors, clips, in any
    mixture (see `tubelet.pixels.inputs.clip_of`); or plans of `tubelet.pixels.stream.plan_inputs`, made with the same
    options. Sampling, limits, background, animation, hdr and isolate mean what they mean in `read`. workers: threads,
    by default one for each core this process may use; torch's own threads are neither needed nor changed. Peak memory:
    the rows, one decoded picture for each thread and a few frames of each clip in work. What is decoded in a child
    process and animations are the exception: there a whole clip is in memory for a moment. A file object that cannot
    seek is read into memory before anything is counted.

    Rows are counted before anything is decoded, those of bytes and file objects in the same process that will decode
    them. One kind of input has no such count: an animated AVIF from which frames are taken by time, for only its
    decoded frames have durations. It counts as one frame then, and as what it is when it alone has been decoded.

    on_error="skip": an input that cannot be read, or has more rows than `max_tokens` by itself, has no rows here, and
    its error stands in its report. "raise": the first error met is raised once the work under way has ended.
    A clip that breaks off has the rows of the frames that were found and complete=False in its report. Its size is the
    one its header was planned with, which differs from `patchify(read(...))` only under a recipe with
    max_video_pixels.

    Raises: what `read` and `fit` raise, naming the item; LimitError when all rows together pass `max_tokens`.

        >>> loaded = load_patches(["receipt.png", "walk.mp4"], PixelRecipe(patch=16), fps=2.0)
        >>> loaded.packed
        Packed(T=6392, D=768, uint8, cpu, 2 items: [1x56x37, 9x16x30])
        >>> [source.frames for source in loaded.sources]
        [1, 9]
    """
    sampling = Sampling(fps=fps, num_frames=num_frames, times_s=None if times_s is None else tuple(times_s))
    job = ReadJob(Limits() if limits is None else limits, sampling, background, animation, hdr=hdr)
    options = options_of(LoadConfig(recipe, job, isolate), on_error, workers)
    inputs, named = listed(sources), not is_one(sources)

    def tell(done: int, name: str) -> None:
        if progress is not None:
            progress(done, len(inputs), name)

    with threads(options.workers) as pool:
        plans = list(planned(pool, inputs, options, named=named))
        return load_planned(pool, plans, options, Counter(tell), named=named)


def load_planned(
    pool: ThreadPoolExecutor,
    plans: Sequence[PlannedInput],
    options: Options,
    tell: "Counter",
    *,
    first: int = 0,
    named: bool = True,
) -> Loaded:
    """The rows of planned inputs, the first of them number `first` of all. Raises: as `load_patches`."""
    tasks = [Task.of(plan, first + i, named) for i, plan in enumerate(plans)]
    kept = _within(tasks, options)
    for task in tasks:
        if task.report.error is not None:
            tell(task)
    _check(kept, options)
    _each(pool, _whole, [t for t in kept if not t.plan.exact], options, tell)
    kept = _within(kept, options)
    buffer = _allocate(kept, options)
    _decode_all(pool, [t for t in kept if not t.decoded], options, tell)
    return Loaded(_assemble(buffer, kept, options), [t.report for t in tasks])


# ---- threads


class Counter:
    """Counts inputs that are done and tells the caller."""

    def __init__(self, progress: Callable[[int, str], None] | None) -> None:
        self.progress, self.done = progress, 0

    def __call__(self, task: Task) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, task.report.name)


def _each(
    pool: ThreadPoolExecutor,
    work: Callable[[Task, Options], None],
    tasks: Sequence[Task],
    options: Options,
    tell: Counter,
) -> None:
    """Run `work` on every task. A TubeletError becomes the task's; unless such are skipped, it ends everything.

    What is dropped by another thread that ends the pool is done too; `as_completed` would wait for it for ever.
    """
    waiting: dict[Future[None], Task] = {pool.submit(work, task, options): task for task in tasks}
    done: SimpleQueue[Future[None]] = SimpleQueue()
    for future in waiting:
        future.add_done_callback(done.put)
    for _ in tasks:
        future = done.get()
        task = waiting[future]
        try:
            future.result()
        except TubeletError as error:
            task.failed(error)
            if not options.skip:
                raise
        tell(task)


# ---- before any pixel


def _whole(task: Task, options: Options) -> None:
    with alone(task.plan.source, options.file_objects):
        decode_whole(task, options)


def _ceiling(options: Options) -> int:
    return min(options.config.job.limits.max_tokens, MAX_ROWS)


def _within(tasks: Sequence[Task], options: Options) -> list[Task]:
    """The tasks without an error. Where errors are results, one that is above the ceiling by itself has one now."""
    for task in tasks:
        rows = 0 if task.item is None else task.item.grid.rows
        if options.skip and task.report.error is None and rows > _ceiling(options):
            task.failed(_refusal([task], rows, _ceiling(options)))
    return [task for task in tasks if task.report.error is None]


def _check(tasks: Sequence[Task], options: Options) -> int:
    """The rows of all inputs. Raises LimitError with the plan when they are too many."""
    total = sum(t.item.grid.rows for t in tasks if t.item is not None)
    limit = _ceiling(options)
    if total > limit:
        error = _refusal(tasks, total, limit)
        if len(tasks) == 1:
            tasks[0].failed(error)
        raise error
    return total


def _allocate(tasks: Sequence[Task], options: Options) -> np.ndarray:
    """One buffer for all rows, a slice of it for each task, and in there already what is decoded."""
    buffer = empty_rows(_check(tasks, options), options.config.recipe)
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
    plan = CountedRows(
        tuple(
            CountedInput(t.report.name, t.report.width, t.report.height, t.report.frames, t.item.grid, t.item.grid.rows)
            for t in tasks
            if t.item is not None
        )
    )
    largest = sorted(plan.inputs, key=lambda one: -one.patches)[:3]
    told = [
        f"{one.name}: {one.frames} x {one.width} x {one.height} -> "
        f"{' x '.join(map(str, one.grid))} = {one.patches:,} rows"
        for one in largest
    ]
    more = f"; and {len(plan.inputs) - len(largest):,} more" if len(plan.inputs) > len(largest) else ""
    count = "1 input makes" if len(plan.inputs) == 1 else f"{len(plan.inputs):,} inputs make"
    error = LimitError(
        f"{count} {total:,} rows, above max_tokens = {limit:,} ({'; '.join(told)}{more})", limit=limit, got=total
    )
    error.plan = plan
    return error


# ---- pixels


def _decode_all(pool: ThreadPoolExecutor, tasks: Sequence[Task], options: Options, tell: Counter) -> None:
    """The largest first, one thread each; but clips that are fewer than the threads come one after the other before
    the rest, each decoded by all threads."""

    def one_thread(task: Task, options: Options) -> None:
        if task.plan.whole:
            _whole(task, options)
            return
        with alone(task.plan.source, options.file_objects):
            decode_into(task, options, 1)

    def all_threads(task: Task, options: Options) -> None:
        with alone(task.plan.source, options.file_objects):
            decode_into(task, options, options.workers)

    clips = [t for t in tasks if t.plan.video is not None]
    if len(clips) < options.workers:
        for task in clips:
            _each(pool, all_threads, [task], options, tell)
        tasks = [t for t in tasks if t.plan.video is None]
    _each(pool, one_thread, sorted(tasks, key=lambda t: -t.cost), options, tell)


def _assemble(buffer: np.ndarray, tasks: Sequence[Task], options: Options) -> Packed:
    """The pack of all tasks without an error. Where rows are missing, what follows moves up, in place."""
    items: list[Item] = []
    start = 0
    for task in tasks:
        if task.report.error is not None:
            continue
        _, item, rows = task.ready
        task.report.item = len(items)
        items.append(item)
        target = buffer[start : start + len(rows)]
        if target.ctypes.data != rows.ctypes.data:
            target[...] = rows
        start += len(rows)
    return packed_of(buffer[:start], items, options.config.recipe)
