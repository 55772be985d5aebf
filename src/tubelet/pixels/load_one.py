"""One input on its way into its slice of the rows: what is known of it, and decoding, resizing and writing it.

`tubelet.pixels.load` decides what is done when and on which thread; each function here works on one input.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tubelet.errors import DecodeError, TubeletError
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.budget import clip_within, is_clip, size_notes
from tubelet.pixels.fit import Fit
from tubelet.pixels.inputs import clip_of, is_source
from tubelet.pixels.patchify import as_tensor, empty_rows, slots, write_frame, write_frames
from tubelet.pixels.planned import Options, PlannedInput, measured
from tubelet.pixels.resize import ResizeBuffers, resize_frames
from tubelet.reading.clip import Clip
from tubelet.reading.isolated.pool import isolated_read
from tubelet.reading.job import decode_source
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.image import decode_pixels
from tubelet.reading.source import Source, open_source
from tubelet.reading.video.video import VideoPlan, VideoResult, decode_video

STAGES = ("open", "decode", "resize", "pack")


@dataclass
class LoadedSource:
    """What became of one input."""

    name: str
    index: int = 0  # its place among all inputs
    item: int | None = None  # its item in the pack; None where there is an error instead
    width: int = 0  # of the upright picture, in pixels
    height: int = 0
    frames: int = 0  # taken
    grid: Grid | None = None
    # How long each stage took; where several threads worked on one clip, their shares of that time.
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    complete: bool = True  # False: the clip ended early or is damaged
    notes: tuple[str, ...] = ()  # what a person might want to know, a line each
    error: TubeletError | None = None


@dataclass(eq=False)
class Task:
    """One input on its way."""

    index: int
    plan: PlannedInput
    report: LoadedSource
    named: bool  # errors say which of several inputs this is
    size: Fit | None = None
    item: Item | None = None
    # Its slice of the buffer; before there is a buffer, rows of its own for an input that had to be decoded at once.
    rows: np.ndarray | None = None
    decoded: bool = False

    @classmethod
    def of(cls, plan: PlannedInput, index: int, named: bool) -> "Task":
        """The task of a plan, as input number `index`."""
        report = LoadedSource(plan.name, index, width=plan.width, height=plan.height, frames=len(plan.times_s))
        report.seconds["open"], report.notes = plan.spent_s, plan.notes
        item = None if plan.item is None else replace(plan.item, picture=index)
        report.grid = None if item is None else item.grid
        task = cls(index, plan, report, named, plan.size, item)
        if plan.error is not None:
            task.failed(plan.error)
        return task

    def failed(self, error: TubeletError) -> None:
        """Put down an error, told where it happened."""
        self.report.error = error.placed(item=self.index if self.named else None, source=self.report.name)
        self.report.grid = None

    @property
    def cost(self) -> int:
        """Pixels to decode, roughly: what comes first when threads choose work."""
        moves = self.plan.video is not None or self.plan.whole
        frames = 4 * self.report.frames if moves else 1  # frames between the wanted ones are decoded too
        return self.report.width * self.report.height * frames

    @property
    def ready(self) -> tuple[Fit, Item, np.ndarray]:
        if self.size is None or self.item is None or self.rows is None:
            raise RuntimeError(f"input {self.index} has no place in the buffer yet")
        return self.size, self.item, self.rows


class ThreadBuffers:
    """One thread's memory, used for one picture after the other."""

    def __init__(self) -> None:
        self.canvas, self.resize = Canvas(), ResizeBuffers()


def _buffers(options: Options) -> ThreadBuffers:
    """The calling thread's."""
    if not hasattr(options.of_threads, "buffers"):
        options.of_threads.buffers = ThreadBuffers()
    return options.of_threads.buffers


class StageTimer:
    """Adds the time since it was last asked to a stage."""

    def __init__(self, report: LoadedSource) -> None:
        self.seconds, self.last = report.seconds, time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


def decode_whole(task: Task, options: Options) -> None:
    """Decode an input as one clip, in a child process if it has to be, and cut it into its rows."""
    timer = StageTimer(task.report)
    job, plan = options.config.job, task.plan
    if is_source(plan.source):
        with open_source(plan.source, job.limits, plan.name) as src:
            timer("open")
            clip = isolated_read(src, job) if plan.isolated else decode_source(src, job)
    else:
        clip = clip_of(plan.source, limits=plan.config.job.limits)
    timer("decode")
    _cut_whole(task, clip, options, timer)


def _cut_whole(task: Task, clip: Clip, options: Options, timer: StageTimer) -> None:
    """Resize a clip that was decoded as a whole and cut it into its slice, or without one into rows of the task's own.

    Raises DecodeError where the slice was planned for another size or fewer frames.
    """
    r, recipe = task.report, options.config.recipe
    found, clip = len(clip), clip_within(clip, recipe)
    if task.rows is None:
        limits, own = options.config.job.limits, recipe.of(is_clip(found, clip.is_video))
        task.size, task.item = measured(clip.height, clip.width, clip.times_s, task.index, own, limits)
        task.rows = empty_rows(task.item.grid.rows, recipe)
        r.width, r.height, r.frames = clip.width, clip.height, len(clip)
        r.notes = size_notes(clip.width, clip.height, found, recipe, moves=clip.is_video)
    planned, item, rows = task.ready
    if (clip.width, clip.height) != (r.width, r.height) or len(clip) > r.frames:
        raise DecodeError(
            "the content has another size than its header says",
            expected=(r.frames, r.width, r.height),
            got=(len(clip), clip.width, clip.height),
        )
    pt = recipe.temporal
    grid = Grid(-(-len(clip) // pt), item.grid.h, item.grid.w)  # fewer rows where frames are missing
    task.item, task.rows = Item(grid, clip.times_s[::pt], task.index, item.box), rows[: grid.rows]
    r.grid, r.frames = grid, len(clip)
    whole = as_tensor(clip.frames)
    small = resize_frames(whole, planned, resampler=recipe.resampler, interpolation=recipe.interpolation).numpy()
    timer("resize")
    write_frames(task.rows, grid, small, recipe)
    timer("pack")
    _finish(task, clip.complete, clip.notes)


def _finish(task: Task, complete: bool, notes: Sequence[str]) -> None:
    task.decoded = True
    task.report.complete = complete
    task.report.notes = (*notes, *task.report.notes)


def decode_into(task: Task, options: Options, workers: int) -> None:
    """Decode a planned input and write it into its slice: a picture on this thread, a clip frame by frame on
    `workers` threads. Raises what decoding raises; then the slice holds anything."""
    timer = StageTimer(task.report)
    job, plan = options.config.job, task.plan
    with open_source(plan.source, job.limits, plan.name) as src:
        timer("open")
        if plan.video is not None:
            _clip(task, src, plan.video, options, workers)
            return
        pixels, notes, complete = decode_pixels(src, job.limits, job.background, _buffers(options).canvas, job.hdr)
        timer("decode")
    _write(task, 0, pixels, options, timer)
    _fill_up(task, 1, options)
    _finish(task, complete, notes)


def _write(task: Task, index: int, pixels: np.ndarray, options: Options, timer: StageTimer) -> None:
    """Resize one decoded frame and write it as frame `index`."""
    size, item, rows = task.ready
    if pixels.shape[:2] != (task.report.height, task.report.width):
        raise DecodeError(
            "the content has another size than its header says",
            expected=(task.report.width, task.report.height),
            got=(pixels.shape[1], pixels.shape[0]),
        )
    whole = as_tensor(np.ascontiguousarray(pixels)[None])
    buffers, recipe = _buffers(options).resize, options.config.recipe
    [small] = resize_frames(
        whole, size, resampler=recipe.resampler, interpolation=recipe.interpolation, buffers=buffers
    ).numpy()
    timer("resize")
    write_frame(rows, item.grid, index, small, recipe)
    timer("pack")


def _clip(task: Task, src: Source, plan: VideoPlan, options: Options, workers: int) -> None:
    """Every frame into its rows as it comes, from whichever thread it comes."""
    work: list[LoadedSource] = []

    def on_frame(slot: int, frame: np.ndarray) -> None:
        mine = LoadedSource(task.report.name)
        work.append(mine)
        _write(task, slot, frame, options, StageTimer(mine))

    start = time.perf_counter()
    result = decode_video(src, plan, options.config.job.limits, workers=workers, on_frame=on_frame)
    spent = time.perf_counter() - start
    seconds = task.report.seconds
    for stage in ("resize", "pack"):
        seconds[stage] = sum(w.seconds[stage] for w in work) / workers
    seconds["decode"] = max(spent - seconds["resize"] - seconds["pack"], 0.0)
    _close_gaps(task, result, options)
    _finish(task, result.complete, result.notes)


def _close_gaps(task: Task, result: VideoResult, options: Options) -> None:
    """Move the whole frames next to each other; the item has the grid and the times of those."""
    _, item, rows = task.ready
    pt = options.config.recipe.temporal
    where = slots(rows, item.grid, options.config.recipe)
    for index, slot in enumerate(result.slots):
        if index != slot:
            where[index // pt, ..., index % pt, :, :] = where[slot // pt, ..., slot % pt, :, :]
    grid = Grid(-(-len(result.slots) // pt), item.grid.h, item.grid.w)
    task.item = Item(grid, result.times_s[::pt], task.index, item.box)
    task.rows = rows[: grid.rows]
    task.report.grid, task.report.frames = grid, len(result.slots)
    _fill_up(task, len(result.slots), options)


def _fill_up(task: Task, frames: int, options: Options) -> None:
    """Repeat the last frame in what its tubelet has left."""
    _, item, rows = task.ready
    pt = options.config.recipe.temporal
    where = slots(rows, item.grid, options.config.recipe)[-1]
    last = (frames - 1) % pt
    for index in range(last + 1, pt):
        where[..., index, :, :] = where[..., last, :, :]
