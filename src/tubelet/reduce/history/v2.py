"""SHIRG versions 1b, 2 and 3: variance, text and edges; then mean similarity called attention.

Faults kept. 2: the weights sum to 1.15 and the cosine is not rescaled, so variance and edges decide; "coverage" is
every n-th entry of the score ranking of the first image, used for all images. 3: a token like all others scores high,
which is background; more than two images in a batch get another method.
Source: rkawamura0483/LaViDa_mod:llava/model/multimodal_encoder/siglip_encoder.py at the commits named below.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.reduce.history.parts import (
    Chosen,
    best,
    cosmax,
    dotmax,
    dropped,
    first_then_best,
    image,
    laplacian,
    mm,
    side_of,
    taken,
    with_summary,
)
from tubelet.shapes import Bool, Float, Int64

_EDGE_CHANNELS = 64
_VIEWS = ((24, 576),) * 4 + ((48, 2304),)  # side and tokens of each view
_EXACT = 1024  # tokens up to which version 3 compares all pairs


def v1b(x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"] | None = None, *, budget: int = 980) -> Chosen:
    """0.7 variance + 0.3 largest dot product, unscaled; variance alone without text. Source: 0330d4f."""
    scores = x.var(dim=2) if text is None else 0.7 * x.var(dim=2) + 0.3 * dotmax(x, text)
    index = best(scores, budget)
    return Chosen(taken(x, index), index)


# ---- version 2


def v2_scores(x: Float[Tensor, "B N D"], text: Tensor | None, edge: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    relevance = 0.0 if text is None else 0.75 * cosmax(x, text)
    return 0.25 * mm(x.var(dim=2)) + relevance + 0.15 * edge


def v2_edge(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """One view: of the first 64 channels. Raises ShapeError for fewer."""
    if x.shape[2] < _EDGE_CHANNELS:
        raise ShapeError(f"this version needs {_EDGE_CHANNELS} channels, got {x.shape[2]}", limit=_EDGE_CHANNELS)
    return mm(laplacian(x[..., :_EDGE_CHANNELS], side_of(x)))


def v2_multiview_edge(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """4 x 576 + 2304 tokens: view by view, of all channels."""
    sizes = [n for _, n in _VIEWS]
    if x.shape[1] != sum(sizes):
        raise ShapeError(f"this version needs {sum(sizes)} tokens, got {x.shape[1]}", expected=sum(sizes))
    views = zip(x.split(sizes, dim=1), _VIEWS, strict=True)
    return mm(torch.cat([laplacian(view, side) for view, (side, _) in views], dim=1))


def v2_coverage(scores: Float[Tensor, "B N"], regions: int) -> Int64[Tensor, " R"]:
    """Every (N // regions)-th of the ranking of the first image."""
    if regions < 1:
        return torch.zeros(0, dtype=torch.long)
    order = best(scores[:1], scores.shape[1])[0]
    return order[:: max(1, len(order) // regions)][:regions]


def v2(
    x: Float[Tensor, "B N D"],
    text: Float[Tensor, "B S D"] | None = None,
    *,
    budget: int = 768,
    views: Literal["one", "five"] = "one",
    summary: Literal["mean", "weighted"] = "mean",
) -> Chosen:
    """budget tokens and a summary of the dropped ones. Source: 2743569 (one view), 618581d and 9e6ac02 (five),
    a1a6039 (summary="weighted")."""
    edge = v2_multiview_edge(x) if views == "five" else v2_edge(x)
    scores = v2_scores(x, text, edge)
    if budget >= x.shape[1]:
        every = torch.arange(x.shape[1]).expand(len(x), -1)
        if summary == "mean":
            return with_summary(x, every, x.mean(dim=1))
        gone = torch.ones(x.shape[1], dtype=torch.bool)
        return with_summary(x, every, torch.stack([_weighted(t, gone, t.var(dim=1)) for t in x]))
    first = v2_coverage(scores, budget // 4).expand(len(x), -1)
    index = first_then_best(scores, first, budget)
    gone = dropped(index, x.shape[1])
    of = _weighted if summary == "weighted" else lambda tokens, left, _: tokens[left].mean(dim=0)
    return with_summary(x, index, torch.stack([of(*each) for each in zip(x, gone, scores, strict=True)]))


def _weighted(x: Float[Tensor, "N D"], gone: Bool[Tensor, " N"], scores: Float[Tensor, " N"]) -> Float[Tensor, " D"]:
    """0.60 of the dropped by softmax(5 score), 0.25 of them by dropped neighbours, 0.15 of dropped minus kept."""
    side = math.isqrt(len(x))
    around = F.conv2d(gone.float().view(1, 1, side, side), torch.ones(1, 1, 3, 3), padding=1).flatten()
    by_score = (x[gone] * (scores[gone] * 5.0).softmax(dim=0)[:, None]).sum(dim=0)
    by_place = (x[gone] * (around[gone] / around[gone].sum())[:, None]).sum(dim=0)
    context = torch.zeros_like(by_score) if bool(gone.all()) else x[gone].mean(dim=0) - x[~gone].mean(dim=0)
    return 0.60 * by_score + 0.25 * by_place + 0.15 * context


# ---- version 3


def v3_importance(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """0.6 mm(similarity to the others) + 0.25 mm(length) + 0.15 mm(gradient)."""
    unit, n = F.normalize(x, dim=2), x.shape[1]
    if n > _EXACT:
        some = min(512, n // 4)
        others = unit[:, :: max(1, n // some)][:, :some]
        alike = (unit @ others.transpose(1, 2)).mean(dim=2)
    else:
        alike = (unit @ unit.transpose(1, 2)).sum(dim=2)
    return 0.6 * mm(alike) + 0.25 * mm(x.norm(dim=2)) + 0.15 * v3_gradient(x)


def v3_gradient(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """mm of the distances to the right and lower neighbour, 0 where there is none."""
    grid = image(x, side_of(x))
    right = F.pad((grid[..., 1:] - grid[..., :-1]).norm(dim=1), (0, 1))
    below = F.pad((grid[..., 1:, :] - grid[..., :-1, :]).norm(dim=1), (0, 0, 0, 1))
    return mm((right + below).flatten(1))


def v3_coverage(scores: Float[Tensor, "B N"], regions: int) -> Int64[Tensor, "B R"]:
    """The upper left token of every cell of a lattice; the best `regions` of them where there are more."""
    side = math.isqrt(scores.shape[1])
    if regions < 1:
        return torch.zeros(len(scores), 0, dtype=torch.long)
    steps = torch.arange(0, side, max(1, side // max(1, int(math.sqrt(regions)))))
    lattice = (steps[:, None] * side + steps).flatten()
    if len(lattice) <= regions:
        return lattice.expand(len(scores), -1)
    return lattice[best(scores[:, lattice], regions)]


def v3(x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"] | None = None, *, budget: int = 768) -> Chosen:
    """budget tokens and a summary. More than two images: no coverage, another summary. Source: a23daf3."""
    importance = v3_importance(x)
    scores = importance if text is None else 0.7 * importance + 0.3 * cosmax(x, text)
    many = len(x) > 2
    if many:
        index = best(scores, budget)
    elif budget >= x.shape[1]:
        index = torch.arange(x.shape[1]).expand(len(x), -1)
    else:
        index = first_then_best(scores, v3_coverage(scores, budget // 6), budget)
    gone = dropped(index, x.shape[1])
    of = _mean if many else _by_score
    return with_summary(x, index, torch.stack([of(*each) for each in zip(x, gone, scores, strict=True)]))


def _mean(x: Tensor, gone: Tensor, _: Tensor) -> Float[Tensor, " D"]:
    return (x[gone] if bool(gone.any()) else x).mean(dim=0)


def _by_score(x: Tensor, gone: Tensor, scores: Tensor) -> Float[Tensor, " D"]:
    if not bool(gone.any()):
        return x.mean(dim=0)
    return (x[gone] * (scores[gone] * 5.0).softmax(dim=0)[:, None]).sum(dim=0)
