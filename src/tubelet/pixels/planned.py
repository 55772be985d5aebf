"""What an input will be, from its header: the plan that loading follows, as a value.

A plan costs one opening and no decoding. It can be kept, sorted, cut into packs and sent to another process, and is
loaded there by `load_patches` and `stream`, which open the input a second time and plan nothing again.
"""

import io
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from tubelet.errors import InputError, TubeletError
from tubelet.packed.grid import Item
from tubelet.pixels.inputs import is_source
from tubelet.pixels.patchify import item_of
from tubelet.pixels.recipe import FILLING, PixelRecipe
from tubelet.pixels.resize import Fit, fit
from tubelet.reading.clip import Clip
from tubelet.reading.isolated.pool import SUPPORTED, isolated_outline
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.memory import memory_name, outline_of
from tubelet.reading.outline import Outline, outline_source
from tubelet.reading.read import Isolate
from tubelet.reading.source import VIDEOS, BinaryFile, Source, open_source
from tubelet.reading.video.video import VideoPlan, plan_video


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
class PlannedInput:
    """One input, planned. It pickles where its source does: paths, bytes, arrays and clips."""

    source: Any = field(repr=False)  # what will be decoded: as it was given, or all bytes of a stream that cannot seek
    name: str  # to show
    config: LoadConfig = field(repr=False)  # under which it was planned, and must be loaded
    width: int = 0  # of the upright picture, in pixels
    height: int = 0
    times_s: tuple[float, ...] = ()  # of the frames to take
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
        return size_notes(self.width, self.height, self.config.recipe) if self.item is not None else ()


def plan_input(source: Any, name: str, config: LoadConfig, lock: AbstractContextManager[Any]) -> PlannedInput:
    """The plan of one input; what cannot be read has an `error`. lock: held while an object is read that may be listed
    twice. Cost: the header, which a child process reads where the content will be decoded in one."""
    start = time.perf_counter()
    plan = PlannedInput(source, name, config)
    try:
        with alone(source, lock):
            if is_source(source):
                with open_source(source, config.job.limits) as src:
                    plan = replace(plan, name=src.name, source=_kept(source, src.file))
                    plan = _from_header(plan, src)
            else:
                plan = replace(plan, name=memory_name(source))
                plan = _measured(plan, outline_of(source, config.job.limits), whole=True)
    except TubeletError as error:
        plan = replace(plan, error=error.placed(source=plan.name))
    return replace(plan, spent_s=time.perf_counter() - start)


def alone(source: Any, lock: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """File objects, and pictures that Pillow has not loaded, are read one at a time: one may be listed twice."""
    several_at_once = (str, os.PathLike, bytes, bytearray, memoryview, Clip, np.ndarray, Tensor)
    return nullcontext() if isinstance(source, several_at_once) else lock


def measured(
    height: int, width: int, times_s: tuple[float, ...], index: int, recipe: PixelRecipe, limits: Limits
) -> tuple[Fit, Item]:
    """The size and the item of an upright picture or clip that is input number `index`."""
    size = fit(height, width, recipe, len(times_s), limits)
    return size, item_of(height, width, times_s, index, recipe, limits)


def size_notes(width: int, height: int, recipe: PixelRecipe) -> tuple[str, ...]:
    """That a picture is smaller than one unit, where the recipe does not enlarge every picture anyway."""
    if min(width, height) >= recipe.unit or recipe.rule in FILLING:
        return ()
    return (f"{width} x {height} was enlarged: a side is below one unit of {recipe.unit} pixels",)


def _kept(source: Any, file: BinaryFile) -> Any:
    """The source, or the content of a stream, which can be read only once."""
    if isinstance(file, io.BytesIO) and not isinstance(source, (bytes, bytearray, memoryview)):
        return file.getvalue()
    return source


def _from_header(plan: PlannedInput, src: Source) -> PlannedInput:
    """The plan of an opened input. Raises: what reading headers and fitting raise."""
    isolate, job = plan.config.isolate, plan.config.job
    if isolate == "always" or (isolate == "auto" and src.foreign and SUPPORTED):
        return replace(_measured(plan, isolated_outline(src, job), whole=True), isolated=True)
    if src.format in VIDEOS:
        video = plan_video(src, job.limits, job.sampling, job.hdr, job.background)
        return replace(_measured(plan, Outline(video.width, video.height, video.times_s)), video=video)
    seen = outline_source(src, job)
    return _measured(plan, seen, whole=seen.moves)


def _measured(plan: PlannedInput, seen: Outline, *, whole: bool = False) -> PlannedInput:
    recipe, limits = plan.config.recipe, plan.config.job.limits
    size, item = measured(seen.height, seen.width, seen.times_s, 0, recipe, limits)
    return replace(
        plan,
        width=seen.width,
        height=seen.height,
        times_s=seen.times_s,
        size=size,
        item=item,
        whole=whole,
        exact=seen.exact,
    )
