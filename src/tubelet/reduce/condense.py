"""Fewer rows that carry what the dropped ones said: VisionZip, PruMerge, ToMe, and pooling to a budget.

Unlike `select`, these change rows. What is left keeps the place of the row it grew from. Blank rows
(tubelet.reduce.blank) are neither kept nor merged into others. Scores and keys come from a
layer of the encoder (tubelet.encoder.attention_scores) or from anywhere else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError, LimitError, ShapeError
from tubelet.packed import Grid, Item, Packed, positions
from tubelet.packed.order import rows_by_place
from tubelet.reduce.blank import seen_rows
from tubelet.reduce.groups import Per, checked_scores, groups_of
from tubelet.reduce.select import budgets_of
from tubelet.shapes import Float, Int64, Shaped

CONTEXTUAL = 10 / 64  # VisionZip's 54 dominant and 10 contextual of 64

Kept = tuple[Int64[Tensor, " k"], Float[Tensor, "k D"]]  # rows of a group, ascending, and what they become


def visionzip(
    p: Packed,
    received: Float[Tensor, " T"],
    keys: Shaped[Tensor, "T K"],
    *,
    budget: int | Sequence[int],
    contextual: float = CONTEXTUAL,
    per: Per = "item",
) -> Packed:
    """The rows that get most attention as they are, and evenly spread others that take the rest in.

    floor(contextual * budget) rows at equal steps among the rest are targets; each row still left goes to the target
    with the nearest key (cosine), and a target becomes itself plus the mean of its rows. Differentiable in x.
    Raises ShapeError, InputError, NotFinite.
    Source: dvlab-research/VisionZip:visionzip/clip_encoder.py@3151f6d, where rows come out in two parts, the class
    token first; CVPR 2025, arXiv 2412.04467. Without a class token: mean attention received, as upstream for SigLIP.
    """
    if not 0 <= contextual <= 1:
        raise InputError(f"contextual is a share of the budget, 0..1, got {contextual}", got=contextual)
    s, keys = checked_scores(p, received), _unit(p, keys)

    def kept(own: Tensor, k: int) -> Kept:
        few = min(math.floor(contextual * k), k)
        order = own[s[own].argsort(descending=True, stable=True)]
        best, rest = order[: k - few], order[k - few :].sort().values
        x = p.x.float()
        if few == 0 or len(rest) <= few:
            rows = torch.cat([best, rest[:few]])
            return rows, x[rows]
        is_target = torch.zeros(len(rest), dtype=torch.bool, device=p.device)
        is_target[:: max(1, len(rest) // few)] = True
        is_target &= is_target.cumsum(0) <= few
        targets, others = rest[is_target], rest[~is_target]
        nearest = (keys[others] @ keys[targets].T).argmax(dim=1)
        share = F.one_hot(nearest, few).float()
        mean = (share.T @ x[others]) / share.sum(dim=0).clamp(min=1)[:, None]
        return torch.cat([best, targets]), torch.cat([x[best], x[targets] + mean])

    return _condensed(p, budget, per, kept)


def prumerge(
    p: Packed,
    received: Float[Tensor, " T"],
    keys: Shaped[Tensor, "T K"],
    *,
    budget: int | Sequence[int] | None = None,
    neighbours: int = 32,
    per: Per = "item",
) -> Packed:
    """The rows that get most attention, each with its nearest rows added, weighted by the attention these get.

        y_i = x_i + sum over the `neighbours` rows j with the nearest keys of  a_j x_j

    budget=None takes as many as lie above Q3 + 1.5 (Q3 - Q1) of the attention of the item: a count known only from
    values. Raises ShapeError, InputError, NotFinite.
    Source: 42Shawn/LLaVA-PruMerge:llava/model/multimodal_encoder/clip_encoder.py@097c041 (token_prune_merge_advanced);
    ICCV 2025, arXiv 2403.15388. Upstream appends the attention-weighted sum of all dropped rows, which has no place and
    is left out here, and does not divide by the weights, which is kept.
    """
    s, keys = checked_scores(p, received), _unit(p, keys)
    if neighbours < 0:
        raise InputError(f"neighbours are 0 or more, got {neighbours}", limit=0, got=neighbours)
    if budget is None:
        groups = groups_of(p, per)
        budget = [_outliers(s[own]) for own in seen_rows(p, groups)]

    def kept(own: Tensor, k: int) -> Kept:
        rows = own[s[own].argsort(descending=True, stable=True)[:k]]
        near = keys[rows] @ keys[own].T
        near = near.masked_fill(rows[:, None] == own, -torch.inf)
        found = own[near.argsort(dim=1, descending=True, stable=True)[:, : min(neighbours, len(own) - 1)]]
        x = p.x.float()
        return rows, x[rows] + (x[found] * s[found].float()[..., None]).sum(dim=1)

    return _condensed(p, budget, per, kept)


def tome(
    p: Packed, *, budget: int | Sequence[int], keys: Shaped[Tensor, "T K"] | None = None, per: Per = "item"
) -> Packed:
    """Pairs of like rows become their mean until the budget is met: bipartite soft matching, round after round.

    In each round every second row is offered to the others; the pairs with the nearest keys (the rows themselves if
    None) become one row, at the place of the one that was not offered, its mean weighted by how many rows each stands
    for. A round removes half of the rows at most. Differentiable in x. Raises ShapeError, InputError.
    Source: facebookresearch/ToMe:tome/merge.py@af95e4b (bipartite_soft_matching, merge_wavg); ICLR 2023,
    arXiv 2210.09461. There a few rows in each layer, here all at once after the encoder.
    """
    metric = p.x.float() if keys is None else _unit(p, keys)

    def kept(own: Tensor, k: int) -> Kept:
        x, near, size = p.x.float()[own], metric[own], p.x.new_ones(len(own), dtype=torch.float32)
        while len(own) > k > 0:
            step = min(len(own) - k, len(own) // 2)
            unit = F.normalize(near, dim=1)
            best, to = (unit[::2] @ unit[1::2].T).max(dim=1)
            gone = best.argsort(descending=True, stable=True)[:step]
            weight = torch.cat([size[1::2], size[::2][gone]])
            target = torch.cat([torch.arange(len(own) // 2, device=p.device), to[gone]])
            total = size.new_zeros(len(own) // 2).index_add(0, target, weight)
            stays = torch.ones(len(own), dtype=torch.bool, device=p.device).index_fill(0, 2 * gone, False)
            x, near = (
                v.index_copy(
                    0, torch.arange(1, len(own), 2, device=p.device), _weighted(v, gone, target, weight, total)
                )
                for v in (x, near)
            )
            size = size.index_copy(0, torch.arange(1, len(own), 2, device=p.device), total)
            own, x, near, size = own[stays], x[stays], near[stays], size[stays]
        return own[:k], x[:k]

    return _condensed(p, budget, per, kept)


def pool_to(p: Packed, *, budget: int | Sequence[int], per: Per = "item") -> Packed:
    """Each item average-pooled to the largest grid of nearly its shape that its share of the budget holds.

    The reference every choice of rows has to beat. Frames stay apart; views of one picture (per="picture") share the
    budget by their rows, rounded down. Cells are those of torch's adaptive_avg_pool2d: they overlap by a row where
    sides do not divide. A view's blank border is cut off first, and an item that is all border has no rows. Raises
    ShapeError for an item that has lost rows, LimitError where a frame would get no row.

        >>> p = tubelet.pack([torch.arange(16.0)[:, None]], [tubelet.Item.of(1, 4, 4)])
        >>> pool_to(p, budget=5).x.flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    groups, by_place = groups_of(p, per), rows_by_place(p)
    budgets = budgets_of(groups, budget)
    if not len(p):
        return p
    items, pos, parts = [], [], []
    seen = [item.grid.t * len(rows) * len(cols) for item in p.items for rows, cols in (item.seen,)]
    totals = [sum(n for n, g in zip(seen, groups.of_item, strict=True) if g == group) for group in range(len(groups))]
    for i, (item, x) in enumerate(zip(p.items, p.x.index_select(0, by_place).split(p.lengths), strict=True)):
        if not seen[i]:
            items.append(item)
            continue
        group = groups.of_item[i]
        share = min(budgets[group], totals[group]) * seen[i] // totals[group]
        if share < item.grid.t:
            raise LimitError(f"{share} rows for {item.grid.t} frames", item=i, limit=share, got=item.grid.t)
        part = _seen_part(item)
        (top, bottom), (left, right) = ((r.start, r.stop) for r in item.seen)
        small = fitting_grid(part.grid, share)
        frames = x.view(*item.grid, -1)[:, top:bottom, left:right].permute(0, 3, 1, 2)
        parts.append(F.adaptive_avg_pool2d(frames.float(), small[1:]).permute(0, 2, 3, 1).flatten(0, 2).to(p.dtype))
        items.append(replace(part, grid=small))
        pos.append(positions(small))
    lengths = tuple(i.grid.rows if n else 0 for i, n in zip(items, seen, strict=True))
    where = torch.cat([p.pos[:0].cpu(), *pos]).to(p.device)
    return Packed(torch.cat([p.x[:0], *parts]), where, tuple(items), lengths)


# ---- the steps


def _seen_part(item: Item) -> Item:
    """The item without its blank rows and columns: that grid and its box."""
    rows, cols = item.seen
    if (len(rows), len(cols)) == (item.grid.h, item.grid.w):
        return item
    (left, top, _, _), (wide, high) = item.box, item.cell
    box = (left + cols.start * wide, top + rows.start * high, left + cols.stop * wide, top + rows.stop * high)
    return replace(item, grid=Grid(item.grid.t, len(rows), len(cols)), box=box)


def fitting_grid(grid: Grid, rows: int) -> Grid:
    """The grid of as many frames and at most `rows` cells that loses least: cells times how near its shape is to the
    frame's. `rows` must be no fewer than its frames.

        >>> fitting_grid(Grid(1, 56, 37), 64)
        Grid(t=1, h=10, w=6)
    """
    each, wanted = rows // grid.t, grid.h / grid.w

    def worth(size: tuple[int, int]) -> float:
        ratio = size[0] / size[1] / wanted
        return size[0] * size[1] * min(ratio, 1 / ratio)

    sizes = [(h, min(grid.w, each // h)) for h in range(1, min(grid.h, each) + 1)]
    return Grid(grid.t, *max(sizes, key=worth))


def _unit(p: Packed, keys: Tensor) -> Float[Tensor, "T K"]:
    if keys.ndim != 2 or len(keys) != p.x.shape[0]:
        raise ShapeError(f"keys are one vector for each of {p.x.shape[0]} rows, got {tuple(keys.shape)}")
    return F.normalize(keys.to(p.device).float(), dim=1)


def _outliers(a: Tensor) -> int:
    if not len(a):
        return 0
    low, high = torch.quantile(a, torch.tensor([0.25, 0.75], dtype=a.dtype, device=a.device))
    return int((a > high + 1.5 * (high - low)).sum())


def _weighted(v: Tensor, gone: Tensor, target: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    rows = torch.cat([v[1::2], v[::2][gone]]) * weight[:, None]
    return v.new_zeros(len(total), v.shape[1]).index_add(0, target, rows) / total[:, None]


def _condensed(p: Packed, budget: int | Sequence[int], per: Per, kept: Callable[[Tensor, int], Kept]) -> Packed:
    """The rows that `kept` names of each group, blank ones aside, with the values it gives them, in their order."""
    groups = groups_of(p, per)
    pairs = zip(seen_rows(p, groups), budgets_of(groups, budget), strict=True)
    found = [kept(own, k) for own, k in ((own, min(k, len(own))) for own, k in pairs) if k]
    if not found:
        return p.keep(torch.zeros(0, dtype=torch.long, device=p.device))
    rows, place = torch.cat([r for r, _ in found]).sort()
    return p.keep(rows).with_x(torch.cat([x for _, x in found])[place].to(p.dtype))
