"""How many rows attend to each other in each span: windows in frames, frames in items, items in scenes.

Host integers only, so that plans and the encoder itself count with the same lines. With one prefix token p per frame:

    rows      a0 a1 a2 a3 | a4 a5 a6 a7 || b0 b1           item a of two frames, item b of one
    frame     p a0 a1 a2 a3 | p a4 a5 a6 a7 | p b0 b1      5, 5, 3
    item      p a0 a1 a2 a3   p a4 a5 a6 a7 | p b0 b1      10, 3
    scene     all of it, where a and b are one scene       13
    window    p | a0 a1 | a2 a3 | p | ...                  1, 2, 2, 1, ...

Prefix tokens belong to the segment that holds what they stand before. In a span narrower than that they are in none of
its segments, and attend to each other: a segment of their own.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import NamedTuple, get_args

from tubelet.encoder.config import EncoderConfig, Span
from tubelet.packed.grid import Grid

Lengths = tuple[int, ...]


class ItemCuts(NamedTuple):
    """Rows of each frame of an item in the order of time, and of each window, frame by frame. Empty ones are left out.

    An item whose frames nobody asks for is one frame here; windows are () where no layer has any.
    """

    frames: Lengths
    windows: tuple[Lengths, ...] = ()


def needs_frames(config: EncoderConfig) -> bool:
    """Whether rows must be cut into frames at all: for layers that see frames, or for prefix tokens before each."""
    return "frame" in config.layer_spans or (config.prefix > 0 and config.prefix_per == "frame")


def whole_cuts(config: EncoderConfig, grid: Grid) -> ItemCuts:
    """The cuts of an item of which no row was dropped."""
    windowed = "window" in config.layer_spans
    return _cuts(grid, config.span_frames if needs_frames(config) else grid.t, config.span_side if windowed else None)


@lru_cache(maxsize=1024)
def _cuts(grid: Grid, step: int, side: int | None) -> ItemCuts:
    counts = [min(step, grid.t - first) for first in range(0, grid.t, step)]
    frames = tuple(n * grid.h * grid.w for n in counts)
    if side is None:
        return ItemCuts(frames)
    sides = [[min(side, n - first) for first in range(0, n, side)] for n in (grid.h, grid.w)]
    one = tuple(sorted(h * w for h in sides[0] for w in sides[1]))  # equal lengths together: they run as one batch
    return ItemCuts(frames, tuple(one * n for n in counts))


def unit_lengths(config: EncoderConfig, items: Iterable[ItemCuts]) -> Lengths:
    """Rows that each group of prefix tokens stands before, without those: of every frame or of every item."""
    per_frame = config.prefix_per == "frame"
    return tuple(n for cuts in items for n in (cuts.frames if per_frame else _all(cuts)))


def span_lengths(
    config: EncoderConfig, items: Sequence[ItemCuts], scenes: Sequence[int] | None = None
) -> dict[Span, Lengths]:
    """Rows of each segment, prefix tokens counted in, for every span that some layer has.

    scenes: how many consecutive items make each scene; None: an item each.
    """
    used = set(config.layer_spans)
    return {span: tuple(_lengths(span, config, items, scenes)) for span in get_args(Span) if span in used}


def _all(cuts: ItemCuts) -> Lengths:
    return (sum(cuts.frames),) if cuts.frames else ()


def _lengths(
    span: Span, config: EncoderConfig, items: Sequence[ItemCuts], scenes: Sequence[int] | None
) -> Iterable[int]:
    own, per_frame = config.prefix, config.prefix_per == "frame"
    if span in ("item", "scene"):
        whole = [sum(c.frames) + own * (len(c.frames) if per_frame else bool(c.frames)) for c in items]
        if span == "item" or scenes is None:
            return whole
        return [sum(whole[a:b]) for a, b in pairwise(accumulate(scenes, initial=0))]
    if span == "frame" and per_frame:
        return [n + own for cuts in items for n in cuts.frames]
    # narrower than what the prefix tokens stand before: they come first, by themselves
    apart = (own,) if own else ()
    groups = [
        (cuts.frames,) if span == "frame" else cuts.windows if per_frame else (tuple(chain(*cuts.windows)),)
        for cuts in items
        if cuts.frames
    ]
    return chain.from_iterable((*apart, *group) for item in groups for group in item)
