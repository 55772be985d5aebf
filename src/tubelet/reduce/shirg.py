"""SHIRG: tokens chosen by text, variety and edges before the language model. The corrected method, and its past.

`shirg` is the method as it should be: real views, one scale for all terms, a text in the rows' space, dilation because
answers stand next to the words asked for, the best row of each region, exact counts, nothing that depends on other
pictures. `VERSIONS` are the designs that went by the name, with their faults, each equal to its golden cases.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.packed import Item, Packed
from tubelet.reduce.blank import blank_rows
from tubelet.reduce.cells import dilate
from tubelet.reduce.groups import Per, by_range, by_rank, groups_of, item_values
from tubelet.reduce.relevance import Words, relevance
from tubelet.reduce.scores import edges, variance
from tubelet.reduce.select import COVERAGE_SHARE, select
from tubelet.shapes import Bool, Float

Scale = Literal["range", "rank"]
SCALES: tuple[Scale, ...] = ("range", "rank")
RADIUS, FALLOFF = 3, 0.1
REGION = 4


class Weights(NamedTuple):
    """What each term counts, once all are between 0 and 1. Text alone unless said."""

    text: float = 1.0
    variance: float = 0.0
    edges: float = 0.0
    attention: float = 0.0


TEXT_ONLY = Weights()


def shirg(
    p: Packed,
    text: Float[Tensor, "S E"] | Sequence[Float[Tensor, "_ E"]] | None = None,
    *,
    budget: int | Sequence[int],
    weights: Weights = TEXT_ONLY,
    attention: Float[Tensor, " T"] | None = None,
    features: Packed | None = None,
    words: Words = "max",
    radius: int = RADIUS,
    falloff: float = FALLOFF,
    scale: Scale = "range",
    coverage: int = REGION,
    coverage_share: float = COVERAGE_SHARE,
    scaffold: Sequence[int] = (),
    per: Per = "picture",
) -> Packed:
    """Rows near the words of `text`, and around them, with the best row of each region; `budget` rows of each picture.

    The scores are those of `shirg_score`, the choice is `select`'s. scaffold: items, such as pooled global views, that
    are kept whole and count towards the budget. Deterministic; nothing depends on other pictures.
    Raises what `shirg_score` and `select` raise, and InputError for a scaffold that is no item.

        >>> p = tubelet.pack([torch.eye(4).repeat(4, 1)], [tubelet.Item.of(1, 4, 4)])
        >>> shirg(p, torch.eye(4)[1:2], budget=4, radius=0).pos[:, 2].tolist()
        [1, 1, 1, 1]
    """
    scores = shirg_score(
        p,
        text,
        weights=weights,
        attention=attention,
        features=features,
        words=words,
        radius=radius,
        falloff=falloff,
        scale=scale,
        per=per,
    )
    always = rows_of(p, scaffold)
    return select(p, scores, budget=budget, coverage=coverage, coverage_share=coverage_share, always=always, per=per)


def shirg_score(
    p: Packed,
    text: Float[Tensor, "S E"] | Sequence[Float[Tensor, "_ E"]] | None = None,
    *,
    weights: Weights = TEXT_ONLY,
    attention: Float[Tensor, " T"] | None = None,
    features: Packed | None = None,
    words: Words = "max",
    radius: int = RADIUS,
    falloff: float = FALLOFF,
    scale: Scale = "range",
    per: Per = "picture",
) -> Float[Tensor, " T"]:
    """What `shirg` chooses by; -inf for blank rows, and for rows whose place a finer view of the picture shows
    (`finest`). No term's range or ranks count blank rows.

        score = w_t dilate(T) + w_v V + w_e E + w_a A        each term between 0 and 1 in its picture

    T: cosine to the words (`relevance`), dilated (`dilate`); V: variance; E: edges; A: `attention`, such as that
    received in a layer. A term without weight is not computed. p: what is chosen from, such as states of the layer a
    projector reads. features: the same rows in the text's space, for scoring only; p itself if None. scale: how terms
    are brought to 0..1, by range or by rank. Cost: 2 T S D FLOPs and a few passes over the rows.

    Raises InputError where a term has weight and no input, or none has weight; ShapeError where features are not of the
    same rows; what `relevance` raises.
    Source: the idea of rkawamura0483/LaViDa_mod:shirg/SHIRG_RESEARCH_IDEA.md, whose faults `VERSIONS` lists.
    """
    seen = p if features is None else features
    if seen.items != p.items or seen.lengths != p.lengths:
        raise ShapeError("features are not those of the same rows", expected=repr(p), got=repr(seen))
    if scale not in SCALES:
        raise InputError(f"scale is one of {', '.join(SCALES)}", expected=SCALES, got=scale)
    blank = blank_rows(p)
    terms: list[Tensor] = []

    def to_scale(scores: Tensor) -> Tensor:
        seen = scores.to(p.device).masked_fill(blank, -torch.inf)
        return by_range(p, seen, per=per) if scale == "range" else by_rank(p, seen, per=per)

    if weights.text:
        if text is None:
            raise InputError("the text has weight and there is none; give one, or weights without text")
        near = to_scale(relevance(seen, text, words=words, per=per))
        terms.append(weights.text * dilate(p, near, radius=radius, falloff=falloff))
    if weights.attention:
        if attention is None:
            raise InputError("attention has weight and there is none")
        terms.append(weights.attention * to_scale(attention))
    for weight, score in ((weights.variance, variance), (weights.edges, edges)):
        if weight:
            terms.append(weight * to_scale(score(seen)))
    if not terms:
        raise InputError("no term has weight", got=weights)
    return torch.stack(terms).sum(dim=0).masked_fill(blank | ~finest(p), -torch.inf)


def rows_of(p: Packed, items: Sequence[int]) -> Bool[Tensor, " T"]:
    """True for the rows of the items of these numbers. Raises InputError for a number there is none of."""
    for i in items:
        if not 0 <= i < len(p):
            raise InputError(f"there is no item {i} among {len(p)}", limit=len(p), got=i)
    return item_values(p, tuple(int(i in set(items)) for i in range(len(p)))).bool()


def finest(p: Packed) -> Bool[Tensor, " T"]:
    """True for the rows that show their place of the picture at least as finely as every other view of it.

    A row's place is its centre; another view shows it if that lies in its box. Views of other times (clips) never hide
    each other. Cost: views of one picture, squared.

        >>> whole = tubelet.Item(tubelet.Grid(1, 1, 2), (0.0,), 0, (0, 0, 8, 4))
        >>> tile = tubelet.Item(tubelet.Grid(1, 2, 2), (0.0,), 0, (0, 0, 4, 4))
        >>> finest(tubelet.pack([torch.zeros(2, 1), torch.zeros(4, 1)], [whole, tile])).tolist()
        [False, True, True, True, True, True]
    """
    out = torch.ones(p.x.shape[0], dtype=torch.bool, device=p.device)
    groups = groups_of(p)
    views: list[list[int]] = [[] for _ in range(len(groups))]
    for i, group in enumerate(groups.of_item):
        views[group].append(i)
    for members in views:
        for i in members if len(members) > 1 else ():
            rows = slice(p.starts[i], p.starts[i + 1])
            item, pos = p.items[i], p.pos[rows]
            wide, high = _cell(item)
            x, y = item.box[0] + (pos[:, 2] + 0.5) * wide, item.box[1] + (pos[:, 1] + 0.5) * high
            for j in members:
                other = p.items[j]
                finer = _cell(other)[0] * _cell(other)[1] < wide * high
                if finer and other.times_s == item.times_s and p.lengths[j]:
                    left, top, right, bottom = other.box
                    out[rows] &= ~((x >= left) & (x < right) & (y >= top) & (y < bottom))
    return out


def _cell(item: Item) -> tuple[float, float]:
    left, top, right, bottom = item.box
    return (right - left) / item.grid.w, (bottom - top) / item.grid.h


# ---- the past
