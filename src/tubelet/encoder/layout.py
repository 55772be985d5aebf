"""Where the rows of a pack stand inside the encoder: window after window, and prefix tokens before every segment.

    pack      a0 a1 a2 a3 | b0 b1              two items
    inside    p a0 a1 a2 a3 | p b0 b1          with one prefix token p for each segment
    inside    a0 a2 | a1 a3 | b0 | b1          with windows: rows of a window together

Most encoders change nothing; then every function here gives back what it was given. Sizes come from the host; nothing
syncs while no row has been dropped.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from tubelet.encoder.attention import Segments, frame_segments, item_segments, to_device
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed
from tubelet.packed.order import check_order
from tubelet.shapes import Int64, Shaped


@dataclass(frozen=True)
class Layout:
    """segments: of layers that see whole segments, prefix tokens counted in; local: of the other layers, None where
    there are none. where: the place inside of each row of the pack, None when that is its own; heads: that of each
    segment's first prefix token. prefix: tokens before every segment."""

    segments: Segments
    local: Segments | None = None
    where: Int64[Tensor, " T"] | None = None
    starts: Int64[Tensor, " S"] | None = None
    prefix: int = 0

    @property
    def total(self) -> int:
        """Rows inside."""
        return self.segments.total

    def inside(self, x: Shaped[Tensor, "T ..."], prefix: Tensor | None = None) -> Shaped[Tensor, "R ..."]:
        """Rows of the pack in their places inside, with copies of the (P, D) `prefix` rows in theirs. One copy."""
        if self.where is None:
            return x
        if self.starts is None or prefix is None:
            return torch.empty_like(x).index_copy(0, self.where, x)
        out = x.new_empty(self.total, *x.shape[1:]).index_copy(0, self.where, x)
        return out.index_copy(0, self._heads(), prefix.to(x.dtype).repeat(len(self.starts), *[1] * (x.ndim - 1)))

    def outside(self, x: Shaped[Tensor, "R D"]) -> Shaped[Tensor, "T D"]:
        """The pack's rows, in its order. One copy."""
        return x if self.where is None else x.index_select(0, self.where)

    def prefixes(self, x: Shaped[Tensor, "R D"]) -> Shaped[Tensor, "S P D"] | None:
        """The prefix tokens of every segment."""
        return None if self.starts is None else x.index_select(0, self._heads()).unflatten(0, (-1, self.prefix))

    def segments_of(self, p: Packed) -> tuple[int, ...]:
        """How many segments each item of the pack has. Host sizes only."""
        begins = list(accumulate((n - self.prefix for n in self.segments.lengths), initial=0))[:-1]
        return tuple(bisect_left(begins, b) - bisect_left(begins, a) for a, b in pairwise(p.starts))

    def _heads(self) -> Tensor:
        assert self.starts is not None
        return (self.starts[:, None] + torch.arange(self.prefix, device=self.starts.device)).flatten()


def layout_of(p: Packed, config: EncoderConfig, segments: Segments | None = None) -> Layout:
    """The layout of a pack in an encoder of this configuration; `segments`: instead of the configuration's.

    Raises ShapeError when segments do not sum to the rows, or rows stand in no order of time that windows need.
    """
    chosen = segments
    if chosen is None:
        chosen = item_segments(p) if config.window is None else frame_segments(p, config.window)
    if chosen.total != p.x.shape[0]:
        raise ShapeError(
            f"segments sum to {chosen.total}, the pack has {p.x.shape[0]} rows",
            expected=p.x.shape[0],
            got=chosen.total,
        )
    if config.prefix:
        return _with_prefix(chosen, config.prefix, p.device)
    if config.local is not None:
        if segments is not None:
            raise ConfigError("an encoder with windows makes its segments itself", got="segments")
        order, lengths = _windows(p, config)
        where = np.empty_like(order)
        where[order] = np.arange(len(order))
        return Layout(chosen, Segments(lengths), to_device(torch.from_numpy(where), p.device))
    return Layout(chosen)


def _with_prefix(segments: Segments, prefix: int, device: torch.device) -> Layout:
    lengths = to_device(torch.tensor(segments.lengths, dtype=torch.int64), device)
    number = torch.arange(len(segments.lengths), device=device)
    owner = number.repeat_interleave(lengths, output_size=segments.total)
    where = torch.arange(segments.total, device=device) + prefix * (owner + 1)
    starts = lengths.cumsum(0) - lengths + prefix * number
    return Layout(Segments(tuple(n + prefix for n in segments.lengths)), None, where, starts, prefix)


def _windows(p: Packed, config: EncoderConfig) -> tuple[np.ndarray, tuple[int, ...]]:
    """Rows of the pack in the order of their windows, on the host, and how many rows each window has.

    Frames stay together and in order, so that layers which see whole frames need no second order. Inside a frame,
    windows of equal length are neighbours: their attention runs as one batch.
    """
    assert config.local is not None
    side, merge = config.local.side, config.pixels.merge if config.pixels.order == "block" else 1
    if p.whole:
        check_order(p, merge)
    orders: list[np.ndarray] = []
    lengths: list[int] = []
    for i, (item, count) in enumerate(zip(p.items, p.lengths, strict=True)):
        start = p.starts[i]
        if count == item.grid.rows:
            order, own = _frame_windows(item.grid.h, item.grid.w, side, merge)
            area = item.grid.h * item.grid.w
            orders += [order + (start + t * area) for t in range(item.grid.t)]
            lengths += own * item.grid.t
        else:
            order, own = windows_of(p.pos[start : start + count].cpu().numpy(), side)
            orders.append(order + start)
            lengths += own
    return np.concatenate([np.zeros(0, dtype=np.int64), *orders]), tuple(lengths)


def windows_of(places: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Row numbers of the (T, 3) places, window after window (by time, then by rows, then raster), and rows of each."""
    cell = places // np.array([1, side, side])
    _, window, counts = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    window = window.reshape(-1)
    order = np.lexsort((window, counts[window], cell[:, 0]))
    begins = np.flatnonzero(np.diff(window[order], prepend=-1))
    return order, tuple(np.diff(begins, append=len(order)).tolist())


@lru_cache(maxsize=256)
def _frame_windows(h: int, w: int, side: int, merge: int) -> tuple[np.ndarray, tuple[int, ...]]:
    rows = np.stack([np.zeros((h, w), dtype=np.int64), *np.indices((h, w))], axis=-1)
    rows = rows.reshape(h // merge, merge, w // merge, merge, 3).transpose(0, 2, 1, 3, 4)
    return windows_of(rows.reshape(-1, 3), side)
