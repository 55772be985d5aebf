"""Whether the rows that matter are kept: those that annotated boxes touch, which no score has seen.

Boxes are left, top, right, bottom in upright pixels, by picture. Where views of a picture show a place at several
scales, only the finest rows count. Pictures without boxes do not count; n says how many do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import mean_of, share_of
from tubelet.inspect.metrics.pictures import pairs, shown
from tubelet.packed import Packed
from tubelet.packed.order import rows_in
from tubelet.reduce.scores import Box, covered
from tubelet.reduce.shirg import finest
from tubelet.shapes import Bool

Boxes = Mapping[int, Sequence[Box]]


class Recall(NamedTuple):
    """share: of the rows that boxes touch, how many are kept. whole: of the pictures, in how many all of them are."""

    share: Estimate
    whole: Estimate


def relevance_over_random(whole: Packed, kept: Packed, boxes: Boxes, *, seed: int = 0) -> Estimate:
    """Share of kept rows that a box touches, less that share of all rows: what a random choice has on average.

    The boxes are the relevance, not the score that chose. Mean over pictures with boxes and kept rows, bootstrap.

        >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)])
        >>> relevance_over_random(p, p.keep(torch.tensor([0, 1])), {0: [(0, 0, 2, 1)]}).value
        0.5
    """
    whole = shown(whole)
    before, after = _touched(whole, boxes), _touched(kept, boxes)
    values = [
        float(after[pair.kept].double().mean()) - float(before[pair.whole].double().mean())
        for pair in pairs(whole, kept)
        if boxes.get(pair.picture) and len(pair.kept)
    ]
    return mean_of(values, seed=seed)


def recall(whole: Packed, kept: Packed, boxes: Boxes, *, seed: int = 0) -> Recall:
    """Of the rows that boxes touch, the share that is kept, with a bootstrap over pictures; and of the pictures, the
    share in which all are kept, exact.

    Kept rows count at the scale there was: the same row, or for packs with grids of their own (pooled, made smaller)
    the number of rows the boxes touch, over that of before.

        >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)])
        >>> recall(p, p.keep(torch.tensor([0, 2])), {0: [(0, 0, 2, 1)]}).share.value
        0.5
    """
    every, whole = whole, shown(whole)
    wanted = _touched(whole, boxes) & finest(whole).cpu()
    found = None
    if kept.items == whole.items:
        left = torch.zeros(len(every.x), dtype=torch.bool, device="cpu")
        left[rows_in(every, kept).cpu()] = True
        found = wanted & left[rows_in(every, whole).cpu()]
    after = _touched(kept, boxes)
    shares, complete = [], 0
    for pair in pairs(whole, kept):
        there = int(wanted[pair.whole].sum())
        if not there:
            shares.append(math.nan)
            continue
        left = int(after[pair.kept].sum()) if found is None else int(found[pair.whole].sum())
        shares.append(min(left / there, 1.0))
        complete += left >= there
    n = sum(not math.isnan(s) for s in shares)
    return Recall(mean_of(shares, seed=seed), share_of(complete, n))


def _touched(p: Packed, boxes: Boxes) -> Bool[Tensor, " T"]:
    if not len(p.x):
        return torch.zeros(0, dtype=torch.bool, device="cpu")
    return (covered(p, boxes) > 0).cpu()
