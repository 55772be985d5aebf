"""Where the rows of a pack stand inside the encoder: window after window, and prefix tokens before items or frames.

    pack      a0 a1 a2 a3 | b0 b1              two items
    inside    p a0 a1 a2 a3 | p b0 b1          with one prefix token p for each
    inside    a0 a2 | a1 a3 | b0 | b1          with windows: rows of a window together
    inside    p a0 a2 a1 a3 | p b0 b1          with both

Most encoders change nothing; then every function here gives back what it was given. Sizes come from the host; nothing
syncs while no row has been dropped.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from tubelet.encoder.attention import Segments, frame_lengths, to_device
from tubelet.encoder.config import EncoderConfig, Span
from tubelet.encoder.spans import ItemCuts, Lengths, needs_frames, span_lengths, unit_lengths, whole_cuts
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed
from tubelet.packed.order import check_order
from tubelet.shapes import Bool, Int64, Shaped


@dataclass(frozen=True)
class Layout:
    """What attends to what, and how rows of a pack move in and out. A unit is what prefix tokens stand before."""

    spans: dict[Span, Segments]  # of every span that layers have, prefix tokens counted in
    units: Lengths  # rows of the pack in each unit, without prefix tokens
    prefix: int = 0  # tokens before each unit
    where: Int64[Tensor, " T"] | None = None  # the place inside of each row of the pack; None when that is its own
    starts: Int64[Tensor, " S"] | None = None  # the place inside of each unit's first prefix token
    firsts: Bool[Tensor, " S"] | None = None  # units that begin a scene, where those have tokens of their own

    @property
    def total(self) -> int:
        """Rows inside."""
        return sum(self.units) + self.prefix * len(self.units)

    def to_layout(
        self, x: Shaped[Tensor, "T ..."], prefix: Tensor | None = None, first: Tensor | None = None
    ) -> Shaped[Tensor, "R ..."]:
        """Rows of the pack in their places inside, with copies of the (P, D) `prefix` rows in theirs. One copy.

        first: (P, D) rows for the units that begin a scene, where those have their own.
        """
        if self.where is None:
            return x
        if self.starts is None or prefix is None:
            return torch.empty_like(x).index_copy(0, self.where, x)
        out = x.new_empty(self.total, *x.shape[1:]).index_copy(0, self.where, x)
        own = prefix.to(x.dtype).repeat(len(self.starts), *[1] * (x.ndim - 1))
        if first is not None and self.firsts is not None:
            others = self.firsts.repeat_interleave(self.prefix, output_size=len(own))
            own = torch.where(others[:, None], first.to(x.dtype).repeat(len(self.starts), 1), own)
        return out.index_copy(0, self._prefix_places(), own)

    def from_layout(self, x: Shaped[Tensor, "R D"]) -> Shaped[Tensor, "T D"]:
        """The pack's rows, in its order. One copy."""
        return x if self.where is None else x.index_select(0, self.where)

    def prefixes(self, x: Shaped[Tensor, "R D"]) -> Shaped[Tensor, "S P D"] | None:
        """The prefix tokens of every unit, in the order of items and time; None where the encoder has none."""
        return None if self.starts is None else x.index_select(0, self._prefix_places()).unflatten(0, (-1, self.prefix))

    def units_of(self, p: Packed) -> tuple[int, ...]:
        """How many units each item of the pack has. Host sizes only."""
        begins = list(accumulate(self.units, initial=0))[:-1]
        return tuple(bisect_left(begins, b) - bisect_left(begins, a) for a, b in pairwise(p.starts))

    def _prefix_places(self) -> Tensor:
        assert self.starts is not None
        return (self.starts[:, None] + torch.arange(self.prefix, device=self.starts.device)).flatten()


def layout_of(
    p: Packed, config: EncoderConfig, *, segments: Segments | None = None, scenes: Sequence[int] | None = None
) -> Layout:
    """The layout of a pack in an encoder of this configuration.

    segments: instead of the configuration's, where all layers have one span; prefix tokens stand before each of them.
    scenes: how many consecutive items make each scene; None: an item each. Raises ShapeError when segments do not sum
    to the rows or scenes to the items, or rows stand in no order of time that frames need; ConfigError for segments or
    scenes that the configuration has no use for.
    """
    _check_given(p, config, segments, scenes)
    spans: dict[Span, Lengths]
    if segments is not None:
        units, moved = segments.lengths, None
        spans = {config.spans[0]: tuple(n + config.prefix for n in units)}
    else:
        cuts, moved = _cut(p, config)
        units, spans = unit_lengths(config, cuts), span_lengths(config, cuts, scenes)
    found: dict[Span, Segments] = {span: Segments(lengths) for span, lengths in spans.items()}
    if not config.prefix:
        return Layout(found, units, where=moved)
    where, starts = _beside_prefixes(units, config.prefix, p.device)
    where = where if moved is None else where.index_select(0, moved)
    layout = Layout(found, units, config.prefix, where, starts)
    if not config.prefix_first:
        return layout
    firsts = to_device(torch.tensor(_begin_scenes(layout.units_of(p), scenes), dtype=torch.bool), p.device)
    return Layout(found, units, config.prefix, where, starts, firsts)


def _check_given(p: Packed, config: EncoderConfig, segments: Segments | None, scenes: Sequence[int] | None) -> None:
    if segments is not None and segments.total != p.x.shape[0]:
        raise ShapeError(
            f"segments sum to {segments.total}, the pack has {p.x.shape[0]} rows",
            expected=p.x.shape[0],
            got=segments.total,
        )
    if segments is not None and (len(config.spans) > 1 or "window" in config.spans or config.prefix_first):
        raise ConfigError("an encoder with windows or several spans makes its segments itself", got="segments")
    if scenes is None:
        return
    if "scene" not in config.layer_spans and not config.prefix_first:
        raise ConfigError("no part of this encoder sees scenes", expected="a span 'scene'", got=config.spans)
    if min(scenes, default=1) < 1 or sum(scenes) != len(p):
        raise ShapeError(
            f"scenes of {tuple(scenes)} items do not make the pack's {len(p)}", expected=len(p), got=tuple(scenes)
        )


def _beside_prefixes(units: Lengths, prefix: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places inside of all rows, and of each unit's first prefix token: unit s has s + 1 groups of them before it."""
    lengths = to_device(torch.tensor(units, dtype=torch.int64), device)
    number = torch.arange(len(units), device=device)
    total = sum(units)
    owner = number.repeat_interleave(lengths, output_size=total)
    where = torch.arange(total, device=device) + prefix * (owner + 1)
    return where, lengths.cumsum(0) - lengths + prefix * number


def _begin_scenes(units: Sequence[int], scenes: Sequence[int] | None) -> list[bool]:
    """Of every unit, whether it is the first of its scene that holds rows; units: how many each item has."""
    counts = units if scenes is None else [sum(units[a:b]) for a, b in pairwise(accumulate(scenes, initial=0))]
    return [i == 0 for n in counts for i in range(n)]


def _cut(p: Packed, config: EncoderConfig) -> tuple[list[ItemCuts], Tensor | None]:
    """How each item is cut, and where its rows stand when windows are put together, prefix tokens not counted."""
    frames = frame_lengths(p, config.span_frames) if needs_frames(config) else [(n,) if n else () for n in p.lengths]
    side, merge = config.span_side, config.pixels.merge if config.pixels.order == "block" else 1
    if "window" not in config.layer_spans or side is None:
        return [ItemCuts(own) for own in frames], None
    if p.whole:
        check_order(p, merge)
    cuts: list[ItemCuts] = []
    orders = [np.zeros(0, dtype=np.int64)]
    for i, (item, count) in enumerate(zip(p.items, p.lengths, strict=True)):
        start = p.starts[i]
        if count == item.grid.rows:
            area = item.grid.h * item.grid.w
            order, _ = _frame_windows(item.grid.h, item.grid.w, side, merge)
            orders += [order + (start + t * area) for t in range(item.grid.t)]
            cuts.append(whole_cuts(config, item.grid))
        else:
            order, lengths = windows_of(p.pos[start : start + count].cpu().numpy(), side)
            orders.append(order + start)
            cuts.append(ItemCuts(frames[i], _grouped(lengths, frames[i])))
    order = np.concatenate(orders)
    where = np.empty_like(order)
    where[order] = np.arange(len(order))
    return cuts, to_device(torch.from_numpy(where), p.device)


def _grouped(windows: Lengths, frames: Lengths) -> tuple[Lengths, ...]:
    """Windows frame by frame: they are in the order of time, and none reaches beyond its frame."""
    ends = list(accumulate(windows))
    cuts = [0, *(ends.index(end) + 1 for end in accumulate(frames))]
    return tuple(windows[a:b] for a, b in pairwise(cuts))


def windows_of(places: np.ndarray, side: int) -> tuple[np.ndarray, Lengths]:
    """Row numbers of the (T, 3) places, window after window (by time, then by rows, then raster), and rows of each.

    Frames stay together and in order, so that layers which see whole frames need no second order. Inside a frame,
    windows of equal length are neighbours: their attention runs as one batch.
    """
    cell = places // np.array([1, side, side])
    _, window, counts = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    window = window.reshape(-1)
    order = np.lexsort((window, counts[window], cell[:, 0]))
    begins = np.flatnonzero(np.diff(window[order], prepend=-1))
    return order, tuple(np.diff(begins, append=len(order)).tolist())


@lru_cache(maxsize=256)
def _frame_windows(h: int, w: int, side: int, merge: int) -> tuple[np.ndarray, Lengths]:
    rows = np.stack([np.zeros((h, w), dtype=np.int64), *np.indices((h, w))], axis=-1)
    rows = rows.reshape(h // merge, merge, w // merge, merge, 3).transpose(0, 2, 1, 3, 4)
    return windows_of(rows.reshape(-1, 3), side)
