"""One input on its way into its slice of the rows: what is known of it, and decoding, resizing and writing it.

`tubelet.pixels.load` decides what is done when and on which thread; each function here works on one input.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock, local
from typing import Any, Literal

import numpy as np

from tubelet.errors import DecodeError, TubeletError
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.patchify import as_tensor, empty_rows, item_of, slots, write_frame, write_frames
from tubelet.pixels.recipe import FILLING, PixelRecipe
from tubelet.pixels.resize import Fit, ResizeBuffers, fit, resize_frames
from tubelet.reading.clip import Clip
from tubelet.reading.job import ReadJob
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.image import decode_pixels
from tubelet.reading.source import Source, open_source
from tubelet.reading.video.video import VideoPlan, VideoResult, decode_video

STAGES = ("open", "decode", "resize", "pack")


@dataclass
class LoadedSource:
    """What became of one input. item: its index in the pack, None where there is an error instead. width, height: of
    the upright picture. frames: how many were taken. seconds: how long it took by stage; where several threads worked
    on one clip, their shares of that time. complete=False: the clip ended early or is damaged."""

    name: str
    item: int | None = None
    width: int = 0
    height: int = 0
    frames: int = 0
    grid: Grid | None = None
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    complete: bool = True
    notes: tuple[str, ...] = ()
    error: TubeletError | None = None


@dataclass(eq=False)
class Task:
    """One input on its way. rows: its slice of the buffer; before there is a buffer, rows of its own for an input that
    had to be decoded at once (`decoded`). whole: it is decoded as a whole clip, `isolated` in a child process.
    counted: whether its header says how many frames it has; if not, `item` has at least as many rows as it."""

    index: int
    source: Any
    report: LoadedSource
    size: Fit | None = None
    item: Item | None = None
    plan: VideoPlan | None = None
    rows: np.ndarray | None = None
    decoded: bool = False
    whole: bool = False
    isolated: bool = False
    counted: bool = True
    named: bool = True  # whether errors say which of several inputs this is

    @property
    def cost(self) -> int:
        """Pixels to decode, roughly: what comes first when threads choose work."""
        frames = (
            4 * self.report.frames if self.plan is not None or self.whole else 1
        )  # frames between the wanted ones are decoded too
        return self.report.width * self.report.height * frames

    @property
    def ready(self) -> tuple[Fit, Item, np.ndarray]:
        if self.size is None or self.item is None or self.rows is None:
            raise RuntimeError(f"input {self.index} has no place in the buffer yet")
        return self.size, self.item, self.rows


class ThreadBuffers:
    """One thread's memory, used for one picture after the other."""

    def __init__(self) -> None:
        self.canvas, self.room = Canvas(), ResizeBuffers()


@dataclass(frozen=True)
class Options:
    """What holds for all inputs of one call."""

    recipe: PixelRecipe
    job: ReadJob  # of one thread
    isolate: Literal["auto", "always", "never"]
    skip: bool
    workers: int
    file_objects: AbstractContextManager[bool] = field(default_factory=Lock)  # one and the same may be listed twice
    desks: local = field(default_factory=local)

    def desk(self) -> ThreadBuffers:
        """The calling thread's."""
        if not hasattr(self.desks, "mine"):
            self.desks.mine = ThreadBuffers()
        return self.desks.mine


class StageTimer:
    """Adds the time since the last lap to a stage."""

    def __init__(self, report: LoadedSource) -> None:
        self.seconds, self.last = report.seconds, time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


def describe(task: Task, width: int, height: int, times_s: Sequence[float], options: Options) -> tuple[Fit, Item]:
    """Put down the size and the item of an upright picture or clip, and note what a person might want to know."""
    recipe = options.recipe
    task.size = fit(height, width, recipe, len(times_s))
    task.item = item_of(height, width, times_s, task.index, recipe)
    r = task.report
    r.width, r.height, r.frames, r.grid = width, height, len(times_s), task.item.grid
    if min(width, height) < recipe.unit and recipe.rule not in FILLING:
        r.notes = (f"{width} x {height} was enlarged: a side is below one unit of {recipe.unit} pixels",)
    return task.size, task.item


def cut_whole(task: Task, clip: Clip, options: Options, laps: StageTimer) -> None:
    """Resize a clip that was decoded as a whole and cut it into its slice, or without one into rows of the task's own.

    Raises DecodeError where the slice was planned for another size or fewer frames.
    """
    if task.rows is None:
        _, item = describe(task, clip.width, clip.height, clip.times_s, options)
        task.rows = empty_rows(item.grid.rows, options.recipe)
    planned, item, rows = task.ready
    r = task.report
    if (clip.width, clip.height) != (r.width, r.height) or len(clip) > r.frames:
        raise DecodeError(
            "the content has another size than its header says",
            expected=(r.frames, r.width, r.height),
            got=(len(clip), clip.width, clip.height),
        )
    pt = options.recipe.temporal
    grid = Grid(-(-len(clip) // pt), item.grid.h, item.grid.w)  # fewer rows where frames are missing
    task.item, task.rows = Item(grid, clip.times_s[::pt], task.index, item.box), rows[: grid.rows]
    r.grid, r.frames = grid, len(clip)
    recipe, whole = options.recipe, as_tensor(clip.frames)
    small = resize_frames(whole, planned, resampler=recipe.resampler, interpolation=recipe.interpolation).numpy()
    laps("resize")
    write_frames(task.rows, grid, small, recipe)
    laps("pack")
    _finish(task, clip.complete, clip.notes)


def _finish(task: Task, complete: bool, notes: Sequence[str]) -> None:
    task.decoded = True
    task.report.complete = complete
    task.report.notes = (*notes, *task.report.notes)


def decode_into(task: Task, options: Options, workers: int) -> None:
    """Decode a planned input and write it into its slice: a picture on this thread, a clip frame by frame on
    `workers` threads. Raises what decoding raises; then the slice holds anything."""
    laps = StageTimer(task.report)
    with open_source(task.source, options.job.limits, task.report.name) as src:
        laps("open")
        if task.plan is not None:
            _clip(task, src, task.plan, options, workers)
            return
        pixels, notes = decode_pixels(src, options.job.limits, options.job.background, options.desk().canvas)
        laps("decode")
    _write(task, 0, pixels, options, laps)
    _fill_up(task, 1, options)
    _finish(task, True, notes)


def _write(task: Task, index: int, pixels: np.ndarray, options: Options, laps: StageTimer) -> None:
    """Resize one decoded frame and write it as frame `index`."""
    size, item, rows = task.ready
    if pixels.shape[:2] != (task.report.height, task.report.width):
        raise DecodeError(
            "the content has another size than its header says",
            expected=(task.report.width, task.report.height),
            got=(pixels.shape[1], pixels.shape[0]),
        )
    whole = as_tensor(np.ascontiguousarray(pixels)[None])
    room, recipe = options.desk().room, options.recipe
    small = resize_frames(whole, size, resampler=recipe.resampler, interpolation=recipe.interpolation, room=room)[
        0
    ].numpy()
    laps("resize")
    write_frame(rows, item.grid, index, small, recipe)
    laps("pack")


def _clip(task: Task, src: Source, plan: VideoPlan, options: Options, workers: int) -> None:
    """Every frame into its rows as it comes, from whichever thread it comes."""
    work: list[LoadedSource] = []

    def on_frame(slot: int, frame: np.ndarray) -> None:
        mine = LoadedSource(task.report.name)
        work.append(mine)
        _write(task, slot, frame, options, StageTimer(mine))

    start = time.perf_counter()
    result = decode_video(src, plan, options.job.limits, workers=workers, on_frame=on_frame)
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
    pt = options.recipe.temporal
    where = slots(rows, item.grid, options.recipe)
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
    pt = options.recipe.temporal
    where = slots(rows, item.grid, options.recipe)[-1]
    last = (frames - 1) % pt
    for index in range(last + 1, pt):
        where[..., index, :, :] = where[..., last, :, :]
