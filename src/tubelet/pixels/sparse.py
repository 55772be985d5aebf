"""A clip as few rows, chosen while it is decoded: key frames and scene cuts whole, of the rest what changes.

    file ──> every frame: what the frame before does not explain (tubelet.reading.codec.decode), summed up
         ──> frames taken: upright RGB, resized, cut into rows; energy of each block
         ──> the best blocks so far (tubelet.pixels.sparse_choice)                 ──> Packed, exactly `budget` rows

Rows are those of `patchify(read(...))`, with their true places and times; no mosaic, no padding. Memory: the rows kept,
up to four times, and one frame, whatever the length of the clip; an input that decodes in a child process is the
exception: all frames taken are in memory for a moment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import index as integer
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, TubeletError
from tubelet.packed import Packed
from tubelet.packed.grid import Grid, Item, positions
from tubelet.pixels.budget import frames_within
from tubelet.pixels.fit import box_of, fit
from tubelet.pixels.patchify import as_tensor, empty_rows, write_frame
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import ResizeBuffers, resize_frames
from tubelet.pixels.sparse_choice import ANCHOR, KEY, PLAIN, BlockChooser, block_rows
from tubelet.reading.codec.decode import (
    Asked,
    Give,
    check_words,
    isolated_signals,
    sampling_of,
    signals_of,
    watch_video,
)
from tubelet.reading.codec.signals import CodecSignals
from tubelet.reading.codec.watch import FrameSignal, edges_px, signal_for
from tubelet.reading.hdr import HdrMode
from tubelet.reading.isolated.pool import SUPPORTED
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.source import Source, open_source
from tubelet.reading.video.video import plan_video
from tubelet.shapes import Float

MOTION_LEVELS = 16.0  # energy of content that moves by a whole patch, which changes nothing if it moves as a whole


@dataclass(frozen=True, eq=False)
class Sparse:
    """A clip as few rows, and why these."""

    packed: Packed  # one item: uint8 rows of whole merge blocks in the recipe's order
    scores: Tensor = field(repr=False)  # (T,) energy of each row, in levels
    signals: CodecSignals  # what was seen of each frame taken, and by which signal
    whole_t: tuple[int, ...]  # the t that were kept whole: the first frame, scene cuts, key frames
    cut_t: tuple[int, ...]  # those in which a scene begins

    @property
    def complete(self) -> bool:
        return self.signals.complete

    @property
    def notes(self) -> tuple[str, ...]:
        return self.signals.notes


@door
def read_sparse(
    source: Any,
    recipe: PixelRecipe,
    *,
    budget: int,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Iterable[float] | None = None,
    signal: Asked = "auto",
    dense: float = 0.5,
    limits: Limits = Limits(),  # noqa: B008
    background: Sequence[int] = (255, 255, 255),
    hdr: HdrMode = "tonemap",
    isolate: Literal["auto", "always", "never"] = "auto",
) -> Sparse:
    """The `budget` rows of a video that say most: its first frame and scene cuts, key frames, and what changes.

    source: one video: a path, bytes or a binary file object. budget: rows over the whole clip; whole blocks of
    merge x merge patches are kept, so it is the largest multiple of merge^2 not above it, or all rows where there are
    fewer. fps, num_frames, times_s, limits, background, hdr, isolate: as in `read`; recipe.temporal frames make one
    row of time.

    dense: the share of the budget for whole rows of time: the first and those in which a scene begins (found from the
    pixels, on key frames or not) get equally many blocks up to all; what is left of the share goes to those with key
    frames, spread over the clip. The rest of the budget goes to the blocks with the most energy: levels of luma that
    neither staying nor moving explains, summed over all frames since the frame taken before, and 16 for each patch
    width moved against the camera. signal: how that is found, see `reading.codec.decode.codec_signals`;
    the result says which it was. Deterministic; equal energies are spread over time and picture.

    Cost: as `codec_signals`, and for each frame taken its conversion and resize. Raises: as `read` and `fit`;
    UnsupportedFormat for a picture; InputError for a budget below 0, a share outside 0..1, or vectors of a codec that
    has none; LimitError for a budget above `max_tokens`.

        >>> sparse = tubelet.read_sparse("walk.mp4", PixelRecipe(patch=16), budget=1200, fps=2.0)
        >>> sparse.packed
        Packed(T=1200, D=768, uint8, cpu, 1 items: [9x16x30 (1200 kept)])
        >>> sparse.signals.signal, sparse.cut_t
        ('vectors', (6,))
    """
    sampling = sampling_of(fps, num_frames, times_s)
    check_words(signal, isolate)
    budget = integer(budget)
    if budget < 0:
        raise InputError(f"a budget is 0 rows or more, got {budget}", limit=0, got=budget)
    if not 0 <= dense <= 1:
        raise InputError(f"dense is a share of 0..1, got {dense}", got=dense)
    red, green, blue = (int(level) for level in background)
    job = ReadJob(limits, sampling, (red, green, blue), hdr=hdr)
    with open_source(source, limits) as src:
        try:
            if isolate == "always" or (isolate == "auto" and src.foreign and SUPPORTED):
                return _in_child(src, recipe, budget, job, signal, dense)
            return _streamed(src, recipe, budget, job, signal, dense)
        except TubeletError as error:
            error.placed(source=src.name)
            raise


def _streamed(src: Source, recipe: PixelRecipe, budget: int, job: ReadJob, signal: Asked, dense: float) -> Sparse:
    """Decoded here, each frame forgotten once its best blocks are held."""
    plan = plan_video(src, job.limits, job.sampling, job.hdr, job.background)
    edges = edges_px(plan.way, signal_for(plan.codec, signal))
    cuts = Cutter(plan.height, plan.width, len(plan.times_s), recipe, budget, dense, edges, job.limits)
    seen: list[FrameSignal] = []

    def begin() -> Give:
        seen.clear()
        cuts.start()

        def give(_slot: int, rgb: np.ndarray | None, found: FrameSignal) -> None:
            assert rgb is not None
            seen.append(found)
            cuts.frame(rgb, found.error_levels, found.motion_px, found.cut, found.key)

        return give

    result, kind = watch_video(src, plan, job.limits, signal, begin)
    return cuts.result(signals_of(src, plan, result, kind, seen))


def _in_child(src: Source, recipe: PixelRecipe, budget: int, job: ReadJob, signal: Asked, dense: float) -> Sparse:
    """Decoded in a child process, which sends the frames taken and their signals."""
    clip, seen = isolated_signals(src, job, signal)
    edges = (seen.rows_px, seen.columns_px)
    cuts = Cutter(clip.height, clip.width, len(clip), recipe, budget, dense, edges, job.limits)
    cuts.start()
    for i, frame in enumerate(clip.frames):
        cuts.frame(frame, seen.error_levels[i], seen.motion_px[i], seen.cuts[i], seen.keys[i])
    return cuts.result(seen)


class Cutter:
    """Cuts the frames taken of one clip into rows as they come, and hands each full row of time on to the choice."""

    def __init__(
        self,
        height: int,
        width: int,
        frames: int,
        recipe: PixelRecipe,
        budget: int,
        dense: float,
        edges: tuple[tuple[float, ...], tuple[float, ...]],
        limits: Limits,
    ) -> None:
        own = recipe.of(clip=True)
        size = fit(height, width, own, frames_within(height, width, frames, own), limits)
        self.recipe, self.size = recipe, size
        self.box = box_of(height, width, size)
        self.frame_grid = Grid(1, size.height // recipe.patch, size.width // recipe.patch)
        self._frames, self._dense = -(-frames // recipe.temporal), dense
        rows = min(budget, self._frames * self.frame_grid.rows)
        limits.check("max_tokens", rows, "rows to keep:")
        self._budget = rows // recipe.merge**2
        self._down = shares(edges[0], *_spans(self.box[1], self.box[3], self.frame_grid.h))
        self._across = shares(edges[1], *_spans(self.box[0], self.box[2], self.frame_grid.w))
        self._patch_px = (self.box[3] - self.box[1]) / self.frame_grid.h
        self._blocks = block_rows(*self.frame_grid[1:], recipe.merge, recipe.order == "block" and recipe.merge > 1)
        self._buffers = ResizeBuffers()

    def start(self) -> None:
        """Forget everything that came so far."""
        shape = (self._blocks.shape[1], self.recipe.width)
        self._choice = BlockChooser(len(self._blocks), self._budget, self._dense, self._frames, shape)
        self._rows = empty_rows(self.frame_grid.rows, self.recipe)
        self._energy = np.zeros(self.frame_grid[1:], np.float64)
        self._count, self._cut, self._key = 0, False, False
        self.cut_t: list[int] = []

    def frame(
        self,
        rgb: np.ndarray,
        error_levels: Float[np.ndarray, "h w"],
        motion_px: Float[np.ndarray, "h w"],
        cut: bool,
        key: bool,
    ) -> None:
        """The next frame taken: resized, written into its row of time, its energy added."""
        place = self._count % self.recipe.temporal
        self._write(rgb, place)
        energy = error_levels + motion_px * (MOTION_LEVELS / self._patch_px)
        self._energy += self._down @ energy @ self._across.T
        self._cut |= cut and self._count > 0
        self._key |= key
        self._count += 1
        if place == self.recipe.temporal - 1:
            self._close()

    def _write(self, rgb: np.ndarray, place: int) -> None:
        whole = as_tensor(np.ascontiguousarray(rgb)[None])
        recipe = self.recipe
        small = resize_frames(
            whole, self.size, resampler=recipe.resampler, interpolation=recipe.interpolation, buffers=self._buffers
        )
        for index in range(place, recipe.temporal):  # a last frame fills up its row of time
            write_frame(self._rows, self.frame_grid, index, small[0].numpy(), recipe)

    def _close(self) -> None:
        """A row of time is complete."""
        t = (self._count - 1) // self.recipe.temporal
        energy = self._energy.reshape(-1)[block_rows(*self.frame_grid[1:], self.recipe.merge, False)].mean(axis=1)
        kind = ANCHOR if t == 0 or self._cut else KEY if self._key else PLAIN
        if self._cut:
            self.cut_t.append(t)
        self._choice.add(t, kind, energy, self._rows[self._blocks])
        self._energy[...] = 0
        self._cut = self._key = False

    def result(self, signals: CodecSignals) -> Sparse:
        """The chosen rows as a pack of one item, in the recipe's order."""
        pt = self.recipe.temporal
        if self._count % pt:
            self._close()
        chosen = self._choice.result()
        times_s = signals.times_s[::pt]
        item = Item(Grid(len(times_s), *self.frame_grid[1:]), times_s, 0, self.box)
        group = self.recipe.merge**2
        rows = chosen.rows.reshape(-1, self.recipe.width)
        row_t, score = chosen.t.repeat(group), chosen.energy.repeat(group)
        number = self._blocks[chosen.number].reshape(-1)  # in its row of time
        order = np.lexsort((number, row_t))
        pos = _places(self.frame_grid, self.recipe)[number[order]]
        pos[:, 0] = row_t[order]
        packed = Packed(torch.from_numpy(rows[order]), torch.from_numpy(pos), (item,), (len(rows),))
        scores = torch.from_numpy(score[order].astype(np.float32))
        return Sparse(packed, scores, signals, chosen.whole, tuple(self.cut_t))


def _places(grid: Grid, recipe: PixelRecipe) -> np.ndarray:
    """(h*w, 3) int32 places of the rows of one row of time, in the recipe's order; an array of its own."""
    return positions(grid, merge=recipe.merge if recipe.order == "block" else 1).numpy().copy()


def _spans(start: float, end: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where `count` equal parts of start..end begin and end."""
    marks = np.linspace(start, end, count + 1)
    return marks[:-1], marks[1:]


def shares(
    edges: tuple[float, ...], begins: Float[np.ndarray, " p"], ends: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "p c"]:
    """Which share of each part lies in each cell between neighbouring `edges`: the weights of the mean over the part.

    >>> shares((0.0, 8.0, 16.0), np.array([0.0, 6.0]), np.array([6.0, 12.0])).tolist()
    [[1.0, 0.0], [0.3333333333333333, 0.6666666666666666]]
    """
    left, right = np.array(edges[:-1]), np.array(edges[1:])
    overlap = np.minimum(ends[:, None], right) - np.maximum(begins[:, None], left)
    return np.clip(overlap, 0, None) / (ends - begins)[:, None]
