"""SHIRG version 1, the first: variance and text, groups of tokens by Ward clustering, a budget for each group.

Faults kept: text of another width is compared by its statistics, which say nothing; group budgets shrink while their
shares do not, so late groups starve; above 3000 tokens four blocks of 576 are assumed, whatever the views are; the
summary is the mean of all tokens, not of the dropped ones.
Source: rkawamura0483/LaViDa_mod:shirg/shirg_selector.py@fa9178b. Left out: the guard that changed the method after
1000 ms, and the cache that could give one image the tokens of another.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError
from tubelet.reduce.history.parts import SUMMARY, Chosen
from tubelet.reduce.history.ward import ward
from tubelet.shapes import Float, Int64

ALPHA = 0.3
_STATISTICS = 8  # narrowest width whose mean, deviation, minimum and maximum upstream compares
_VIEW, _VIEW_SIDE, _VIEWS = 576, 24, 4
_MANY, _FAST = 3000, 500  # tokens from which views are assumed; from which rows replace clusters


def v1_saliency(x: Float[Tensor, "N D"], text: Float[Tensor, "S E"], alpha: float = ALPHA) -> Float[Tensor, " N"]:
    """alpha mm(variance) + (1 - alpha) mm(relevance); a term that is constant becomes 0.5."""
    if text.numel() == 0:
        relevance = torch.zeros(len(x))
    elif text.shape[1] == x.shape[1]:
        relevance = (F.normalize(x, dim=1) @ F.normalize(text, dim=1).T).amax(dim=1)
    else:
        relevance = _alike(x, text).amax(dim=1)
    return alpha * _spread(x.var(dim=1)) + (1 - alpha) * _spread(relevance)


def v1_groups(n: int, budget: int) -> Int64[Tensor, " N"]:
    """The group of each of n tokens, numbered in the order upstream visits them."""
    if n > _MANY:
        views = [(_VIEW, _VIEW_SIDE)] * _VIEWS + [(n - _VIEWS * _VIEW, math.isqrt(n - _VIEWS * _VIEW))]
        labels, first = [], 0
        for size, wide in views:
            labels.append(_clusters(size, wide, max(1, size // 16)) + first)
            first = int(labels[-1].max()) + 1
        return torch.from_numpy(np.concatenate(labels))
    side = math.isqrt(n)
    if side * side != n:
        return torch.arange(n) // max(1, n // max(1, budget // 8))
    wanted = min(max(1, budget // 8), n // 4, n)
    if n > _FAST:
        return torch.arange(n) // max(1, n // wanted)
    return torch.from_numpy(_clusters(n, side, wanted))


def v1(
    x: Float[Tensor, "B N D"],
    text: Float[Tensor, "C S E"] | None = None,
    *,
    budget: int = 729,
    alpha: float = ALPHA,
    groups: Int64[Tensor, " N"] | None = None,
) -> Chosen:
    """budget - 1 tokens by group and one summary; a short choice is filled with copies of the summary."""
    if budget < 1:
        raise InputError(f"version 1 gives one summary at least, budget is {budget}", limit=1, got=budget)
    groups = v1_groups(x.shape[1], budget) if groups is None else groups
    text = x.new_zeros(1, 0, x.shape[2]) if text is None else text
    tokens, indices = [], []
    for b, image in enumerate(x):
        scores = v1_saliency(image, text[min(b, len(text) - 1)], alpha)
        index = torch.tensor(_by_group(scores, groups, budget - 1), dtype=torch.long)
        more = budget - len(index)
        tokens.append(torch.cat([image[index], image.mean(dim=0, keepdim=True).expand(more, -1)]))
        indices.append(F.pad(index, (0, more), value=SUMMARY))
    return Chosen(torch.stack(tokens), torch.stack(indices))


def _spread(s: Tensor) -> Tensor:
    low, high = s.aminmax()
    return (s - low) / (high - low + 1e-8) if high > low else torch.full_like(s, 0.5)


def _alike(x: Tensor, text: Tensor) -> Float[Tensor, "N S"]:
    """How like tokens and words of different widths are, by their lengths and statistics."""
    u, w = (F.normalize(v.norm(dim=1), dim=0) for v in (x, text))
    lengths = 1.0 - (u[:, None] - w[None]).abs()
    if min(x.shape[1], text.shape[1]) < _STATISTICS:
        return lengths
    a, b = (
        F.normalize(torch.stack([v.mean(dim=1), v.std(dim=1), v.amin(dim=1), v.amax(dim=1)], dim=1), dim=1)
        for v in (x, text)
    )
    return (lengths + a @ b.T) / 2


def _clusters(n: int, wide: int, clusters: int) -> np.ndarray:
    if n <= clusters:
        return np.arange(n)
    i = np.arange(n)
    return ward(np.stack([i // wide, i % wide], axis=1), clusters)


def _by_group(scores: Tensor, groups: Tensor, budget: int) -> list[int]:
    members = [(groups == g).nonzero().flatten() for g in range(int(groups.max()) + 1)]
    sums = [float(scores[m].sum()) for m in members]
    total, left, out = sum(sums), budget, []
    for group, sum_of in zip(members, sums, strict=True):
        share = sum_of / total if total > 0 else 1.0 / len(members)
        k = min(max(1, int(share * left)), len(group), left)
        if k <= 0:
            continue
        out += group[scores[group].argsort(descending=True, stable=True)[:k]].tolist()
        left -= k
    if left > 0:
        rest = torch.ones(len(scores), dtype=torch.bool).index_fill(0, torch.tensor(out, dtype=torch.long), False)
        rest = rest.nonzero().flatten()
        out += rest[scores[rest].argsort(descending=True, stable=True)[:left]].tolist()
    return out
