"""Where the kept rows lie: how much of a picture they cover, how far the others are from them, whether they cling.

Places alone are looked at, never values. A picture's value is over all its frames and views; the estimate is the mean
over pictures, with a bootstrap interval. Compare with a random choice of as many rows (tubelet.reduce.scores.random).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import mean_of
from tubelet.inspect.metrics.pictures import Pair, cells, centres, pairs, shown
from tubelet.packed import Item, Packed
from tubelet.reduce.cells import cells_of
from tubelet.reduce.groups import checked_scores
from tubelet.shapes import Bool, Float

PARTS = 8
_AT_ONCE = 1 << 22  # distances held together


class Distance(NamedTuple):
    """From each row there was to the nearest kept one, in cells of its own grid: the mean and the largest."""

    mean: Estimate
    largest: Estimate


def coverage(whole: Packed, kept: Packed, *, parts: int = PARTS, seed: int = 0) -> Estimate:
    """Share of parts x parts equal regions of each frame that have a kept row: one whose centre lies in the region, or
    whose cell holds the region's centre. Regions without a row before choosing do not count.

        >>> p = tubelet.pack([torch.zeros(16, 1)], [tubelet.Item.of(1, 4, 4)])
        >>> coverage(p, p.keep(torch.tensor([0, 1, 5, 15])), parts=2).value
        0.5
    """
    whole = shown(whole)
    before, after = cells(whole), cells(kept)
    values = []
    for pair in pairs(whole, kept):
        there, left = _regions(whole, before, after, pair, parts)
        values.append(float((left & there).sum() / there.sum()))
    return mean_of(values, seed=seed)


def concentration(whole: Packed, kept: Packed, *, parts: int = PARTS, seed: int = 0) -> Estimate:
    """Gini index of how many kept rows the regions of `coverage` have: 0 for as many in each, near 1 for all in one.

    Lower is better coverage. Not defined for a picture of which nothing is kept.

        >>> p = tubelet.pack([torch.zeros(16, 1)], [tubelet.Item.of(1, 4, 4)])
        >>> concentration(p, p.keep(torch.tensor([0, 2, 8, 10])), parts=2).value
        0.0
    """
    whole = shown(whole)
    before, after = cells(whole), cells(kept)
    values = []
    for pair in pairs(whole, kept):
        times, frame = _frames(whole, before, pair)
        there = torch.zeros(len(times) * parts * parts, dtype=torch.bool, device="cpu")
        there[_numbers(before[pair.whole], times, frame, parts)] = True
        counts = torch.zeros(len(there), dtype=torch.float64, device="cpu")
        counts += torch.bincount(_numbers(after[pair.kept], times, frame, parts), minlength=len(there))
        values.append(gini(counts[there | (counts > 0)].tolist()) if len(pair.kept) else math.nan)
    return mean_of(values, seed=seed)


def selectivity(p: Packed, scores: Float[Tensor, " T"], *, seed: int = 0) -> Estimate:
    """Gini index of the scores of each picture: 0 where all are equal, near 1 where few rows have all. It says nothing
    about variety. Scores of -inf are left out. Raises InputError for negative scores, which have no such index:
    `by_range` brings them to 0..1.

        >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)])
        >>> selectivity(p, torch.tensor([0.0, 0.0, 0.0, 8.0])).value
        0.75
    """
    s = checked_scores(p, scores).cpu().double()
    values = []
    for pair in pairs(p, p):
        own = s[pair.whole]
        values.append(gini(own[own > -torch.inf].tolist()))
    return mean_of(values, seed=seed)


def gini(values: Sequence[float]) -> float:
    """2 sum_i i v_(i) / (n sum v) - (n + 1) / n with v ascending; 0 where all are 0, NaN for none.

    Raises InputError for a negative value, NotFinite for one that is no number.

        >>> gini([1.0, 1.0, 1.0]), gini([0.0, 1.0])
        (0.0, 0.5)
    """
    v, n = sorted(values), len(values)
    if not all(math.isfinite(x) for x in v):
        raise NotFinite("the Gini index of finite values only")
    if n and v[0] < 0:
        raise InputError(f"the Gini index is of values of 0 or more, got {v[0]}", limit=0, got=v[0])
    total = math.fsum(v)
    if n == 0:
        return math.nan
    if total == 0:
        return 0.0
    return 2 * math.fsum(i * x for i, x in enumerate(v, 1)) / (n * total) - (n + 1) / n


def distance(whole: Packed, kept: Packed, *, seed: int = 0) -> Distance:
    """How far each row is from the nearest kept row of its frame, in cells of its own grid, straight through.

    A frame of which nothing is kept counts its whole diagonal. Cost: rows x kept rows of each frame.

        >>> p = tubelet.pack([torch.zeros(5, 1)], [tubelet.Item.of(1, 1, 5)])
        >>> distance(p, p.keep(torch.tensor([0]))).largest.value
        4.0
    """
    whole = shown(whole)
    before, after = cells(whole), cells(kept)
    means, largest = [], []
    for pair in pairs(whole, kept):
        own = after[pair.kept]
        found = []
        for i in {int(i) for i in torch.bucketize(pair.whole, _ends(whole), right=True)}:
            item, rows = whole.items[i], before[whole.starts[i] : whole.starts[i + 1]]
            scale = torch.tensor(item.cell, dtype=torch.float64, device="cpu")
            for time in set(item.times_s):
                here, there = rows[rows[:, 0] == time], own[own[:, 0] == time]
                far = torch.full((len(here),), math.hypot(item.grid.h, item.grid.w), dtype=torch.float64, device="cpu")
                if len(there):
                    far = _nearest(centres(here) / scale, centres(there) / scale)
                found.append(far)
        all_found = torch.cat(found)
        means.append(float(all_found.mean()))
        largest.append(float(all_found.max()))
    return Distance(mean_of(means, seed=seed), mean_of(largest, seed=seed))


def coherence(whole: Packed, kept: Packed, *, seed: int = 0) -> Estimate:
    """Share of kept rows with a kept row beside, above or below them, over what a random choice of as many would have.

    1: as random; above: kept rows cling together. The expectation is exact: of N rows K are kept at random, and a row
    with d neighbours has none of them with probability C(N - 1 - d, K - 1) / C(N - 1, K - 1). Not defined where it is
    0, such as for one kept row. Pooled packs are judged in their own grid.

        >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 1, 4)])
        >>> coherence(p, p.keep(torch.tensor([0, 1]))).value
        2.0
    """
    whole = shown(whole)
    degrees, beside = _neighbours(whole), _neighbours(kept)
    values = []
    for pair in pairs(whole, kept):
        n, k = len(pair.whole), min(len(pair.kept), len(pair.whole))
        expected = sum(
            int(count) * (1 - _none_beside(n, k, d)) for d, count in enumerate(torch.bincount(degrees[pair.whole]))
        )
        share = float((beside[pair.kept] > 0).double().mean()) if k else math.nan
        values.append(share * n / expected if expected > 0 else math.nan)
    return mean_of(values, seed=seed)


# ---- the steps


def _none_beside(n: int, k: int, d: int) -> float:
    """Chance that a kept row has none of its d neighbours kept, when k of n are drawn."""
    if k < 1:
        return 1.0
    if n - 1 - d < k - 1:
        return 0.0
    return math.prod((n - k - i) / (n - 1 - i) for i in range(d))


def _neighbours(p: Packed) -> Tensor:
    """How many rows stand right beside, above and below each row in its frame, on the host."""
    table = cells_of(p)
    around = [(table.neighbour(dh, dw) >= 0).long() for dh, dw in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    return torch.stack(around).sum(dim=0).cpu()


def _nearest(a: Float[Tensor, "n 2"], b: Float[Tensor, "k 2"]) -> Float[Tensor, " n"]:
    step = max(1, _AT_ONCE // len(b))
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, b, compute_mode=exact).amin(dim=1) for part in a.split(step)])


def _ends(p: Packed) -> Tensor:
    return torch.tensor(p.starts[1:], dtype=torch.long, device="cpu")


def _frames(whole: Packed, before: Tensor, pair: Pair) -> tuple[list[float], tuple[float, float, float, float]]:
    """The times of a picture's rows, and the box its views make together."""
    boxes = [_within(item) for item in whole.items if item.picture == pair.picture and _meets(item)]
    frame = (*(min(b[i] for b in boxes) for i in (0, 1)), *(max(b[i] for b in boxes) for i in (2, 3)))
    return sorted(set(before[pair.whole, 0].tolist())), (frame[0], frame[1], frame[2], frame[3])


def _within(item: Item) -> tuple[float, float, float, float]:
    """The part of a view's box that shows the picture."""
    (a, b, c, d), (left, top, right, bottom) = item.box, item.content or item.box
    return max(a, left), max(b, top), min(c, right), min(d, bottom)


def _meets(item: Item) -> bool:
    left, top, right, bottom = _within(item)
    return left < right and top < bottom


def _numbers(cell: Tensor, times: list[float], frame: tuple[float, float, float, float], parts: int) -> Tensor:
    """The region that each row's centre lies in. Raises ShapeError for a kept row of a time there was not."""
    if parts < 1:
        raise InputError(f"parts are 1 or more, got {parts}", limit=1, got=parts)
    known = torch.tensor(times, dtype=torch.float64, device="cpu")
    t = torch.searchsorted(known, cell[:, 0].contiguous()).clamp(max=max(len(times) - 1, 0))
    if len(cell) and bool((known[t] != cell[:, 0]).any()):
        raise ShapeError("a kept row is of a time that was not there", got=float(cell[known[t] != cell[:, 0], 0][0]))
    left, top, right, bottom = frame
    x, y = centres(cell).unbind(1)
    column = ((x - left) / (right - left) * parts).floor().clamp(0, parts - 1)
    row = ((y - top) / (bottom - top) * parts).floor().clamp(0, parts - 1)
    return (t * parts + row.long()) * parts + column.long()


def _regions(
    whole: Packed, before: Tensor, after: Tensor, pair: Pair, parts: int
) -> tuple[Bool[Tensor, " R"], Bool[Tensor, " R"]]:
    """Which regions of a picture had rows, and which have kept ones."""
    times, frame = _frames(whole, before, pair)
    there = torch.zeros(len(times), parts, parts, dtype=torch.bool, device="cpu")
    there.view(-1)[_numbers(before[pair.whole], times, frame, parts)] = True
    left = torch.zeros_like(there)
    own = after[pair.kept]
    left.view(-1)[_numbers(own, times, frame, parts)] = True
    steps = (torch.arange(parts, dtype=torch.float64, device="cpu") + 0.5) / parts
    xs, ys = frame[0] + steps * (frame[2] - frame[0]), frame[1] + steps * (frame[3] - frame[1])
    for t, time in enumerate(times):
        now = own[own[:, 0] == time]
        across = ((now[:, 1, None] <= xs) & (xs < now[:, 3, None])).double()
        down = ((now[:, 2, None] <= ys) & (ys < now[:, 4, None])).double()
        left[t] |= (down.T @ across) > 0
    return there.view(-1), left.view(-1)
