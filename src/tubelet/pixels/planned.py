"""What an input will be, from its header: the plan that loading follows, as a value.

A plan costs one opening and no decoding (`reading.outlined`). It can be kept, sorted, cut into packs and sent to
another process, and is loaded there by `load_patches` and `stream`, which open the input a second time and plan nothing
again.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock, local
from typing import Any

from tubelet.errors import InputError, TubeletError
from tubelet.packed.grid import Item
from tubelet.pixels.budget import frames_within, is_clip, size_notes, spread, times_of, told
from tubelet.pixels.fit import Fit, fit, item_of
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.outline import Outline
from tubelet.reading.outlined import OutlinedInput, clip_of_outlined, outline_input, thinned
from tubelet.reading.read import Isolate
from tubelet.reading.video.video import VideoPlan


@dataclass(frozen=True)
class LoadConfig:
    """How inputs become rows: the same input under the same configuration always gives the same rows."""

    recipe: PixelRecipe
    job: ReadJob  # sampling, limits and what else reading is told; each input is decoded as if by one thread
    isolate: Isolate = "auto"  # as in `read`

    def __post_init__(self) -> None:
        if self.isolate not in ("auto", "always", "never"):
            raise InputError(f"isolate is auto, always or never, not {self.isolate!r}", got=self.isolate)
        object.__setattr__(self, "job", replace(self.job, workers=1))


@dataclass(frozen=True)
class Options:
    """What holds for all inputs of one call."""

    config: LoadConfig
    skip: bool  # errors are results
    workers: int  # threads
    file_objects: AbstractContextManager[bool] = field(default_factory=Lock)  # one and the same may be listed twice
    of_threads: local = field(default_factory=local)  # what each thread keeps from one input to the next


@dataclass(frozen=True)
class PlannedInput:
    """One input, planned. It pickles where its source does: paths, bytes, arrays and clips."""

    source: Any = field(repr=False)  # what will be decoded: as it was given, or all bytes of a stream that cannot seek
    name: str  # to show
    config: LoadConfig = field(repr=False)  # under which it was planned, and must be loaded
    width: int = 0  # of the upright picture, in pixels
    height: int = 0
    times_s: tuple[float, ...] = ()  # of the frames to take
    found: int = 0  # frames that the sampling chose: more of them where the budget has no room for all
    moves: bool = False  # it is sized as a clip
    size: Fit | None = field(default=None, repr=False)  # how each of them is resized
    item: Item | None = None  # what it will be in a pack, as picture 0; None where there is an error instead
    video: VideoPlan | None = field(default=None, repr=False)  # of a clip that this process decodes frame by frame
    whole: bool = False  # decoded as one clip: in a child process, an animation, or in memory already
    isolated: bool = False  # in a child process
    exact: bool = True  # False: it has at least so many frames, and only decoding tells how many
    spent_s: float = 0.0  # on planning
    error: TubeletError | None = None  # why it cannot be read

    @property
    def rows(self) -> int:
        """Rows it will have; 0 where there is an error."""
        return 0 if self.item is None else self.item.grid.rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person might want to know of the size."""
        if self.item is None:
            return ()
        return size_notes(self.width, self.height, self.found, self.config.recipe, moves=self.moves)


def options_of(config: LoadConfig, on_error: str, workers: int | None) -> Options:
    """What holds for all inputs of one call. Raises InputError for words and numbers that mean nothing."""
    if workers is not None and (workers != workers or workers < 1):  # NaN would start no thread
        raise InputError(f"workers must be at least 1, got {workers}", limit=1, got=workers)
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is raise or skip, not {on_error!r}", got=on_error)
    return Options(config, on_error == "skip", workers or _cores())


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose waiting work is dropped when the block is left by an exception."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tubelet-load")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def planned(
    pool: ThreadPoolExecutor, sources: Iterable[Any], options: Options, *, named: bool = True
) -> Iterator[PlannedInput]:
    """The plan of each source, in order, a few of them made ahead on other threads.

    Raises the first error in that order, unless errors are skipped.
    """
    waiting: deque[tuple[int, Future[PlannedInput]]] = deque()

    def next_one() -> PlannedInput:
        index, future = waiting.popleft()
        plan = future.result()
        if plan.error is not None and not options.skip:
            raise plan.error.placed(item=index if named else None)
        return plan

    for index, source in enumerate(sources):
        waiting.append((index, pool.submit(_plan, source, index, options)))
        if len(waiting) > 2 * options.workers:  # what is planned and not yet wanted stays little
            yield next_one()
    while waiting:
        yield next_one()


def plan_input(source: Any, name: str, config: LoadConfig, lock: AbstractContextManager[Any]) -> PlannedInput:
    """The plan of one input; what cannot be read has an `error`.

    source: as `outline_input` takes it, or what that gave under the same options. lock: held while an object is read
    that may be listed twice. Cost: of what was looked at none, else as `outline_input`. Raises InputError for an input
    that was looked at under other options.
    """
    seen = source
    if not isinstance(seen, OutlinedInput):
        seen = outline_input(source, config.job, config.isolate, name=name, lock=lock)
    elif (replace(seen.job, workers=1), seen.isolate) != (config.job, config.isolate):
        raise InputError("this was looked at with other options than it is to be loaded with", source=seen.name)
    plan = PlannedInput(seen.source, seen.name, config, spent_s=seen.spent_s, error=seen.error)
    if seen.outline is None:
        return plan
    try:
        return _measured(plan, seen, seen.outline)
    except TubeletError as error:
        return replace(plan, error=error.placed(source=plan.name))


def measured(
    height: int, width: int, times_s: tuple[float, ...], index: int, recipe: PixelRecipe, limits: Limits
) -> tuple[Fit, Item]:
    """The size and the item of an upright picture or clip that is input number `index`, under the recipe that sizes it
    and with the frames that this has room for."""
    size = fit(height, width, recipe, len(times_s), limits)
    return size, item_of(height, width, times_s, index, recipe, limits)


def _measured(plan: PlannedInput, seen: OutlinedInput, outline: Outline) -> PlannedInput:
    """With sizes and frames as the recipe has room for. Raises as `fit`."""
    moves, limits = is_clip(len(outline.times_s), outline.moves), plan.config.job.limits
    recipe = plan.config.recipe.of(moves)
    chosen = frames_of(outline, plan.config.recipe)
    times_s = times_of(outline.times_s, chosen)
    size, item = measured(outline.height, outline.width, times_s, 0, recipe, limits)
    return replace(
        plan,
        width=outline.width,
        height=outline.height,
        times_s=times_s,
        found=len(outline.times_s),
        moves=moves,
        size=size,
        item=item,
        video=None if seen.video is None else thinned(seen.video, chosen),
        whole=seen.whole,
        isolated=seen.isolated,
        exact=outline.exact,
    )


def frames_of(outline: Outline, recipe: PixelRecipe) -> list[int]:
    """The numbers of the frames, of those a sampling chose, that `recipe` has room for. Raises as `fit`."""
    frames = len(outline.times_s)
    if not is_clip(frames, outline.moves):
        return list(range(frames))
    return spread(frames, frames_within(outline.height, outline.width, frames, recipe.of(clip=True)))


def clip_for(found: OutlinedInput, recipe: PixelRecipe) -> Clip:
    """The clip with the frames that the recipe has room for, and what `size_notes` says of it among its notes.

    As `told` of what `read` gives, but frames that are not taken are never in memory where this process decodes the
    clip; of one that is damaged, those that are missing are missing of the frames taken. Raises: as `clip_of_outlined`
    and `fit`.
    """
    clip = clip_of_outlined(found, lambda outline: frames_of(outline, recipe))
    if found.video is None:
        return told(clip, recipe)
    frames = len(found.video.times_s)
    return replace(clip, notes=(*clip.notes, *size_notes(clip.width, clip.height, frames, recipe, moves=True)))


# ---- inside


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _plan(source: Any, index: int, options: Options) -> PlannedInput:
    if isinstance(source, PlannedInput):
        if source.config != options.config:
            raise InputError("this was planned with other options than it is to be loaded with", item=index)
        return source
    return plan_input(source, f"<input {index}>", options.config, options.file_objects)
