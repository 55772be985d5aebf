"""Rows that differ from each other: greedy choices, as scores that `select` follows.

The row picked first has the highest score, and what was not picked has 0, blank rows among them, so
`select(p, divprune(p, budget=k), budget=k)` keeps exactly the picks. Picks do not depend on how many follow.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.packed import Packed
from tubelet.reduce.blank import seen_rows
from tubelet.reduce.groups import Per, checked_rows, checked_scores, groups_of
from tubelet.reduce.select import budgets_of
from tubelet.shapes import Float, Int64

MOST_HELD = 1 << 26  # cosines of one picture that are held together, 256 MiB
_ROUNDING = 1e-5
_FLOOR = 1e-6  # CDPruner's: the least relevance of a picture, as a share of its range


def divprune(p: Packed, *, budget: int | Sequence[int], per: Per = "picture") -> Float[Tensor, " T"]:
    """Each picture's picks that keep the smallest cosine distance between two of them large, one after the other.

        first: the row farthest from its nearest row;  then: argmax over i of  min over picks j of  1 - cos(x_i, x_j)

    Equal distances: the row that comes first. Cost: 2 n^2 D FLOPs and n^2 floats for a picture of n rows, then one
    row of that matrix for each pick; above 8,192 rows it is not held, and each pick costs 2 n D FLOPs. Raises NotFinite
    naming an item with NaN or infinity.
    Source: vbdi/divprune:LLaVA/llava/model/llava_arch.py@799e2d9 (DivPrune); CVPR 2025, arXiv 2503.02175.

        >>> p = tubelet.pack([torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])], [tubelet.Item.of(1, 1, 3)])
        >>> divprune(p, budget=2).tolist()
        [1.0, 0.0, 2.0]
    """
    rows = F.normalize(checked_rows(p), dim=1)
    return _picked(p, budget, per, lambda own, k: _farthest(_Products(rows[own]), k))


def cdpruner(
    p: Packed, relevance: Float[Tensor, " T"], *, budget: int | Sequence[int], per: Per = "picture"
) -> Float[Tensor, " T"]:
    """Picks that are relevant and differ: greedy MAP of a determinantal point process, one pick after the other.

        L_ij = r_i cos(x_i, x_j) r_j,    next: argmax over i of  log det L(picks + i) - log det L(picks)

    r is `relevance`, brought between 1e-6 and 1 + 1e-6 by the least and greatest of its picture (1 where all are
    equal). The published one is minus the mean cosine to the instruction: -relevance(p, text, words="mean").
    Cost: 2 n^2 D + k^2 n FLOPs. Raises NotFinite naming the item of a NaN.
    Source: Theia-4869/CDPruner:llava/model/llava_arch.py@9541616, where x are projected features and the range of r is
    that of the batch; Chen et al., "Fast greedy MAP inference for determinantal point process", NeurIPS 2018,
    algorithm 1.

        >>> p = tubelet.pack([torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])], [tubelet.Item.of(1, 1, 3)])
        >>> cdpruner(p, torch.tensor([0.0, 1.0, 0.5]), budget=2).tolist()
        [0.0, 2.0, 1.0]
    """
    rows, r = F.normalize(checked_rows(p), dim=1), checked_scores(p, relevance).float()

    def picks(own: Int64[Tensor, " n"], k: int) -> Int64[Tensor, " k"]:
        low, high = r[own].aminmax()
        weight = (r[own] - low + _FLOOR) / (high - low) if high > low else torch.ones_like(r[own])
        return _greedy_map(rows[own], weight, k)

    return _picked(p, budget, per, picks)


def _picked(
    p: Packed, budget: int | Sequence[int], per: Per, picks: Callable[[Tensor, int], Tensor]
) -> Float[Tensor, " T"]:
    """k for the first pick of each group, k - 1 for the next ..., 0 for what was not picked."""
    groups = groups_of(p, per)
    out = torch.zeros(p.x.shape[0], device=p.device)
    for own, budgeted in zip(seen_rows(p, groups), budgets_of(groups, budget), strict=True):
        if k := min(budgeted, len(own)):
            out[own[picks(own, k)]] = torch.arange(k, 0, -1, dtype=out.dtype, device=p.device)
    return out


class _Products:
    """Rows of x x^T: held whole where they are few, made one by one where n^2 numbers would not fit."""

    def __init__(self, x: Float[Tensor, "n D"]) -> None:
        self.x = x
        self.whole = x @ x.T if len(x) ** 2 <= MOST_HELD else None

    def row(self, i: Tensor) -> Float[Tensor, " n"]:
        return self.x @ self.x[i] if self.whole is None else self.whole[i]

    def diagonal(self) -> Float[Tensor, " n"]:
        return self.x.square().sum(dim=1) if self.whole is None else self.whole.diagonal().clone()

    def second_largest(self) -> Float[Tensor, " n"]:
        """Of each row; the largest is usually the row with itself."""
        if self.whole is not None:
            return self.whole.topk(2, dim=0).values[1]
        parts = self.x.split(max(1, MOST_HELD // len(self.x)))
        return torch.cat([(part @ self.x.T).topk(2, dim=1).values[:, 1] for part in parts])


def _farthest(products: _Products, k: int) -> Int64[Tensor, " k"]:
    device, n = products.x.device, len(products.x)
    picks = torch.empty(k, dtype=torch.long, device=device)
    if n == 1:
        return picks.zero_()
    # Upstream takes the second smallest distance of each column, the smallest being the row's distance to itself.
    nearest = 1 - products.second_largest()
    taken = torch.zeros(n, device=device)
    for i in range(k):
        picks[i] = (nearest + taken).argmax()
        taken[picks[i]] = -torch.inf
        mine = 1 - products.row(picks[i])
        nearest = mine if i == 0 else torch.minimum(nearest, mine)
    return picks


def _greedy_map(rows: Float[Tensor, "n D"], weight: Float[Tensor, " n"], k: int) -> Int64[Tensor, " k"]:
    kernel = _Products(rows * weight[:, None])
    scale = kernel.diagonal()
    gain = scale.clone()
    basis = torch.zeros(k, len(rows), device=rows.device)  # what the picks so far explain of each row
    picks = torch.empty(k, dtype=torch.long, device=rows.device)
    for i in range(k):
        j = picks[i] = gain.argmax()
        left = kernel.row(j) - basis[:i, j] @ basis[:i]
        # A pick that the others explain up to rounding adds no direction of its own.
        new = gain[j] > _ROUNDING * scale[j]
        basis[i] = torch.where(new, left / torch.where(new, gain[j], 1.0).sqrt(), 0.0)
        gain = (gain - basis[i].square()).index_fill(0, j[None], -torch.inf)
    return picks
