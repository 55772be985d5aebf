"""Fewer rows, chosen: within a budget, by score, with regions and rows that must not be lost.

    scores    9 1 | 8 7        budget=3                     9 8 7     the three best
              2 1 | 3 1        budget=3, coverage=2         9 8 .     the best of each 2 x 2 region first, as far as
                                                                      their share of the budget goes

Whatever a score means and wherever it comes from (tubelet.reduce.scores, relevance, diverse), choosing is done here.
Rows are real rows with their true places, in the order in which they came; raster order stays raster order.
"""

from collections.abc import Sequence
from math import floor
from operator import index
from typing import Literal, overload

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, LimitError, ShapeError
from tubelet.packed import Packed
from tubelet.reduce.blank import blank_rows
from tubelet.reduce.groups import Groups, Per, checked_scores, groups_of, item_values, sorted_by
from tubelet.reduce.settings import COVERAGE_SHARE
from tubelet.shapes import Bool, Int64


@overload
def select(
    p: Packed,
    scores: Tensor,
    *,
    budget: int | Sequence[int],
    coverage: int = ...,
    coverage_share: float = ...,
    always: Tensor | None = ...,
    per: Per = ...,
    indices: Literal[False] = ...,
) -> Packed: ...


@overload
def select(
    p: Packed,
    scores: Tensor,
    *,
    budget: int | Sequence[int],
    coverage: int = ...,
    coverage_share: float = ...,
    always: Tensor | None = ...,
    per: Per = ...,
    indices: Literal[True],
) -> tuple[Packed, Tensor]: ...


@door
def select(
    p: Packed,
    scores: Tensor,
    *,
    budget: int | Sequence[int],
    coverage: int = 0,
    coverage_share: float = COVERAGE_SHARE,
    always: Tensor | None = None,
    per: Per = "picture",
    indices: bool = False,
) -> Packed | tuple[Packed, Tensor]:
    """The rows of each picture with the highest scores: exactly `budget`, or all where there are fewer.

    Views of one picture share its budget (per="item": each item has its own); a sequence gives one number to each
    picture in the order of their first items. Equal scores: the row that comes first. A score of -inf means never, and
    so does a place on the black border of a view (tubelet.reduce.blank), whatever its score. Nothing depends on other
    pictures in the pack. Items stay, also those that are left without rows.

    coverage: side of the square regions whose best row is taken before all others, 0 for none; at most
    `coverage_share` of the budget goes to them, the best first. always: rows, as a mask (T,) or indices, that are
    kept whatever their score; they count towards the budget. indices: also give the rows of p that are kept, (K,)
    ascending, for tensors that go with them.

    Cost: three stable sorts of T numbers. Differentiable in x. Syncs with the device, because how many rows each view
    keeps is known only there. Raises: InputError for a negative budget, or a blank row among `always`; LimitError when
    more rows are `always` than the budget holds; ShapeError for scores or masks of another shape; NotFinite naming the
    item of a NaN.

        >>> p = tubelet.pack([torch.arange(6.0)[:, None]], [tubelet.Item.of(1, 2, 3)])
        >>> scores = torch.tensor([9.0, 1, 8, 2, 2, 7])
        >>> tubelet.select(p, scores, budget=3).x.flatten().tolist()
        [0.0, 2.0, 5.0]
    """
    rows = chosen(p, scores, budget=budget, coverage=coverage, coverage_share=coverage_share, always=always, per=per)
    return (p.keep(rows), rows) if indices else p.keep(rows)


def chosen(
    p: Packed,
    scores: Tensor,
    *,
    budget: int | Sequence[int],
    coverage: int = 0,
    coverage_share: float = COVERAGE_SHARE,
    always: Tensor | None = None,
    per: Per = "picture",
) -> Int64[Tensor, " K"]:
    """What `select` keeps, as ascending row indices of the pack: for tensors that go with the rows."""
    groups = groups_of(p, per)
    s = checked_scores(p, scores)
    budgets = budgets_of(groups, budget)
    blank = blank_rows(p)
    first = _mask(p, always)
    if always is not None:
        _require_seen(p, blank & first)
    room = _room(p, groups, budgets, first)
    order = sorted_by(groups.of_row, s)
    never = blank | ((s == -torch.inf) & ~first)
    tier = torch.where(first, 0, 2)
    if index(coverage) < 0 or not 0 <= coverage_share <= 1:
        raise InputError(
            f"coverage is a side of 0 or more and its share 0..1, got {coverage} and {coverage_share}",
            got=(coverage, coverage_share),
        )
    if coverage:
        shares = torch.tensor([floor(coverage_share * b) for b in budgets], device="cpu").long().to(p.device)
        tier[_covering(p, groups, order, first, never, coverage, torch.minimum(shares, room))] = 1
    tier = tier.masked_fill(never, 3)
    order = order[(groups.of_row * 4 + tier)[order].argsort(stable=True)]
    limits = torch.tensor(budgets, dtype=torch.long, device="cpu").to(p.device)
    kept = (_rank(groups, order) < limits[groups.of_row[order]]) & ~never[order]
    return order[kept].sort().values


def budgets_of(groups: Groups, budget: int | Sequence[int]) -> tuple[int, ...]:
    """One budget for each group, no greater than the rows it has. Raises InputError, ShapeError."""
    many = isinstance(budget, Sequence)
    try:
        budgets = tuple(index(b) for b in budget) if many else (index(budget),) * len(groups)
    except TypeError as e:
        raise InputError(f"a budget is a whole number of rows, got {budget!r}", got=budget) from e
    if len(budgets) != len(groups):
        raise ShapeError(f"{len(budgets)} budgets for {len(groups)} pictures", expected=len(groups), got=len(budgets))
    if any(b < 0 for b in budgets):
        raise InputError(f"a budget is 0 rows or more, got {min(budgets)}", limit=0, got=min(budgets))
    return tuple(min(b, n) for b, n in zip(budgets, groups.sizes, strict=True))


def _mask(p: Packed, always: Tensor | None) -> Bool[Tensor, " T"]:
    total = p.x.shape[0]
    if always is None:
        return torch.zeros(total, dtype=torch.bool, device=p.device)
    always = always.to(p.device)
    if always.dtype == torch.bool and always.shape == (total,):
        return always
    if always.dtype == torch.bool or always.ndim != 1 or always.is_floating_point() or always.is_complex():
        raise ShapeError(
            f"always is a mask of {total} or a list of rows, got {always.dtype} {tuple(always.shape)}",
            expected=(total,),
            got=tuple(always.shape),
        )
    outside = always[(always < 0) | (always >= total)]
    if len(outside):
        raise ShapeError(f"row {int(outside[0])} is outside 0..{total - 1}", limit=total, got=int(outside[0]))
    return torch.zeros(total, dtype=torch.bool, device=p.device).index_fill(0, always.long(), True)


def _require_seen(p: Packed, wrong: Bool[Tensor, " T"]) -> None:
    if len(rows := wrong.nonzero()):
        row = int(rows[0])
        item = next(i for i, end in enumerate(p.starts[1:]) if row < end)
        raise InputError(
            f"row {row - p.starts[item]} lies on the border of its picture and shows nothing: it cannot be kept always",
            item=item,
            got=row,
        )


def _room(p: Packed, groups: Groups, budgets: tuple[int, ...], first: Bool[Tensor, " T"]) -> Int64[Tensor, " G"]:
    """How much of each budget the rows that are always kept leave."""
    taken = torch.bincount(groups.of_row[first], minlength=len(groups))
    room = torch.tensor(budgets, dtype=torch.long, device="cpu").to(p.device) - taken
    over = (room < 0).nonzero()
    if len(over):
        group = int(over[0])
        raise LimitError(
            f"{int(taken[group])} rows are always kept and the budget is {budgets[group]}",
            item=groups.of_item.index(group),
            limit=budgets[group],
            got=int(taken[group]),
        )
    return room


def _covering(
    p: Packed,
    groups: Groups,
    order: Int64[Tensor, " T"],
    first: Bool[Tensor, " T"],
    never: Bool[Tensor, " T"],
    side: int,
    limits: Int64[Tensor, " G"],
) -> Int64[Tensor, " R"]:
    """The best row of each region that has no row yet, the best of these as far as `limits` go."""
    region, total = regions(p, side)
    covered = torch.zeros(total, dtype=torch.bool, device=p.device).index_fill(0, region[first], True)
    order = order[(~never & ~covered[region])[order]]
    by_region = order[region[order].argsort(stable=True)]
    best = torch.ones_like(by_region, dtype=torch.bool)
    best[1:] = region[by_region].diff() != 0
    is_best = torch.zeros_like(first).index_fill(0, by_region[best], True)
    order = order[is_best[order]]
    return order[_rank(groups, order) < limits[groups.of_row[order]]]


def regions(p: Packed, side: int) -> tuple[Int64[Tensor, " T"], int]:
    """The number of the side x side region of one frame that each row is in, and how many regions there are.

    Regions at the right and lower edge are smaller where the side does not divide the grid.
    """
    shapes = [(i.grid.t, -(-i.grid.h // side), -(-i.grid.w // side)) for i in p.items]
    counts = [t * h * w for t, h, w in shapes]
    starts = torch.tensor([0, *counts], device="cpu").cumsum(0)
    base, h, w = (
        item_values(p, tuple(v)) for v in (starts[:-1].tolist(), [s[1] for s in shapes], [s[2] for s in shapes])
    )
    pos = p.pos.long()
    return base + (pos[:, 0] * h + pos[:, 1] // side) * w + pos[:, 2] // side, int(starts[-1])


def _rank(groups: Groups, order: Int64[Tensor, " R"]) -> Int64[Tensor, " R"]:
    """The place of each row in its group, for rows that stand group after group."""
    of = groups.of_row[order]
    sizes = torch.bincount(of, minlength=len(groups))
    return torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[of]
