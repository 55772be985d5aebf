"""Which rows compete with each other, and what can be said of each row among them: its share of the range, its rank.

A group is a picture with all its views, or one item. Nothing here mixes groups, so a row's value does not depend on
what else is in the pack, and NaN stays in its group.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.packed import Packed
from tubelet.shapes import Float, Int64, Shaped

Per = Literal["picture", "item"]
PER: tuple[Per, ...] = ("picture", "item")


@dataclass(frozen=True)
class Groups:
    """of_row: the group of each row, on the rows' device. of_item, sizes: group of each item and rows of each group."""

    of_row: Int64[Tensor, " T"]
    of_item: tuple[int, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sizes)


def groups_of(p: Packed, per: Per = "picture") -> Groups:
    """Groups in the order in which their first item comes. Host sizes only; no sync. Raises InputError."""
    if per not in PER:
        raise InputError(f"per is one of {', '.join(PER)}", expected=PER, got=per)
    number: dict[int, int] = {}
    keys = [item.picture if per == "picture" else i for i, item in enumerate(p.items)]
    of_item = tuple(number.setdefault(key, len(number)) for key in keys)
    sizes = [0] * len(number)
    for group, length in zip(of_item, p.lengths, strict=True):
        sizes[group] += length
    return Groups(item_values(p, of_item), of_item, tuple(sizes))


def item_values(p: Packed, values: tuple[int, ...]) -> Int64[Tensor, " T"]:
    """An integer of each item, given to each of its rows."""
    lengths = torch.tensor(p.lengths, dtype=torch.long, device="cpu").to(p.device)
    each = torch.tensor(values, dtype=torch.long, device="cpu").to(p.device)
    return each.repeat_interleave(lengths, output_size=p.x.shape[0])


def sorted_by(groups: Int64[Tensor, " T"], scores: Shaped[Tensor, " T"]) -> Int64[Tensor, " T"]:
    """Rows group after group, the highest score first, equal scores in the order of rows."""
    order = scores.argsort(descending=True, stable=True)
    return order[groups[order].argsort(stable=True)]


def checked_scores(p: Packed, scores: Tensor) -> Float[Tensor, " T"]:
    """Scores as float32 (float64 stays), on the rows' device, detached. -inf may stand for rows not to be chosen.

    Syncs with the device. Raises ShapeError for another shape, NotFinite naming the item of a NaN or +inf.
    """
    if not isinstance(scores, Tensor) or scores.shape != (p.x.shape[0],) or scores.is_complex():
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ShapeError(f"scores are one number for each of {p.x.shape[0]} rows, got {got}", got=got)
    exact = not scores.is_floating_point() or scores.dtype == torch.float64
    s = scores.detach().to(p.device, torch.float64 if exact else torch.float32)
    bad = (s.isnan() | (s == torch.inf)).nonzero()
    if len(bad):
        row = int(bad[0])
        item = _item_of(p, row)
        raise NotFinite(f"the score of row {row - p.starts[item]} is {float(s[row])}", item=item, got=float(s[row]))
    return s


def checked_rows(p: Packed) -> Float[Tensor, "T D"]:
    """The rows as float32. Syncs with the device. Raises NotFinite naming the first item with NaN or infinity."""
    rows = p.x.float()
    bad = (~rows.isfinite().all(dim=1)).nonzero()
    if len(bad):
        raise NotFinite("NaN or infinity in its rows", item=_item_of(p, int(bad[0])))
    return rows


def _item_of(p: Packed, row: int) -> int:
    return next(i for i, end in enumerate(p.starts[1:]) if row < end)


def by_range(p: Packed, scores: Float[Tensor, " T"], *, per: Per = "picture") -> Float[Tensor, " T"]:
    """Each score as its place between the least (0) and the greatest (1) of its group; 0 where all are equal.

    -inf stays and does not count as the least.

        >>> p = tubelet.pack([torch.zeros(3, 1)], [tubelet.Item.of(1, 1, 3)])
        >>> by_range(p, torch.tensor([2.0, 4.0, 3.0])).tolist()
        [0.0, 1.0, 0.5]
    """
    groups, s = groups_of(p, per), _real(scores)
    low = _extreme(groups, s.masked_fill(s == -torch.inf, torch.inf), "amin")
    span = _extreme(groups, s, "amax") - low
    scaled = torch.where(span == 0, torch.zeros_like(s), (s - low) / span)
    return torch.where(s == -torch.inf, s, scaled)


def by_rank(p: Packed, scores: Float[Tensor, " T"], *, per: Per = "picture") -> Float[Tensor, " T"]:
    """Each score as its rank in its group, least 0 and greatest 1; equal scores share the mean of their ranks.

    -inf stays and has no rank.

    >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 1, 4)])
    >>> by_rank(p, torch.tensor([0.1, 90.0, 0.2, 0.3])).tolist()
    [0.0, 1.0, 0.3333333432674408, 0.6666666865348816]
    """
    groups, s = groups_of(p, per), _real(scores)
    order = sorted_by(groups.of_row, -s)  # ascending
    of, sizes = groups.of_row[order], torch.tensor(groups.sizes, dtype=torch.long, device="cpu").to(s.device)
    below = torch.zeros_like(sizes).index_add(0, groups.of_row, (s == -torch.inf).long())
    start = sizes.cumsum(0) - sizes + below  # of ranks: -inf stands first
    rank = torch.arange(len(s), device=s.device) - start[of]
    new = torch.ones_like(of, dtype=torch.bool)
    new[1:] = (of.diff() != 0) | (s[order].diff() != 0)
    run = new.long().cumsum(0) - 1  # which run of equal scores
    first = torch.zeros_like(rank).scatter_reduce_(0, run, rank, "amin", include_self=False)
    last = torch.zeros_like(rank).scatter_reduce_(0, run, rank, "amax", include_self=False)
    mean = (first + last)[run].to(s.dtype) / 2
    out = torch.empty_like(s)
    out[order] = mean / (sizes - below - 1)[of].clamp(min=1).to(s.dtype)
    return torch.where((s == -torch.inf) | s.isnan(), s, out)


def _real(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()


def _extreme(groups: Groups, s: Tensor, kind: Literal["amin", "amax"]) -> Tensor:
    out = s.new_zeros(len(groups)).scatter_reduce(0, groups.of_row, s, kind, include_self=False)
    return out[groups.of_row]
