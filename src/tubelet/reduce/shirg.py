"""SHIRG: tokens chosen by text, variety and edges before the language model. The corrected method.

`shirg` is the method as it should be: real views, one scale for all terms, a text in the rows' space, dilation because
answers stand next to the words asked for, the best row of each region, exact counts, nothing that depends on other
pictures. reduce/history has the designs that went by the name, with their faults.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.packed import Packed
from tubelet.reduce.blank import blank_rows
from tubelet.reduce.cells import dilate
from tubelet.reduce.groups import Per, by_range, by_rank, groups_of, item_values
from tubelet.reduce.relevance import relevance
from tubelet.reduce.scores import edges, variance
from tubelet.reduce.select import select
from tubelet.reduce.settings import RADIUS, REGION, SCALES, Settings
from tubelet.shapes import Bool, Float

Text = Float[Tensor, "S E"] | Sequence[Float[Tensor, "_ E"]] | None


def shirg(
    p: Packed,
    text: Text = None,
    settings: Settings = Settings(),
    *,
    budget: int | Sequence[int],
    attention: Float[Tensor, " T"] | None = None,
    features: Packed | None = None,
    per: Per = "picture",
) -> Packed:
    """Rows near the words of `text`, and around them, with the best row of each region; `budget` rows of each picture.

    The scores are those of `shirg_score`, the choice is `select`'s. settings.scaffold: items, such as pooled global
    views, that are kept whole and count towards the budget. Deterministic; nothing depends on other pictures.
    Raises what `shirg_score` and `select` raise, and InputError for a scaffold that is no item.

        >>> p = tubelet.pack([torch.eye(4).repeat(4, 1)], [tubelet.Item.of(1, 4, 4)])
        >>> shirg(p, torch.eye(4)[1:2], Settings(radius=0), budget=4).pos[:, 2].tolist()
        [1, 1, 1, 1]
    """
    scores = shirg_score(p, text, settings, attention=attention, features=features, per=per)
    side = REGION if settings.coverage is None else settings.coverage
    always, share = rows_of(p, settings.scaffold), settings.coverage_share
    return select(p, scores, budget=budget, coverage=side, coverage_share=share, always=always, per=per)


def shirg_score(
    p: Packed,
    text: Text = None,
    settings: Settings = Settings(),
    *,
    attention: Float[Tensor, " T"] | None = None,
    features: Packed | None = None,
    per: Per = "picture",
) -> Float[Tensor, " T"]:
    """What `shirg` chooses by; -inf for blank rows, and for rows whose place a finer view of the picture shows
    (`finest`). No term's range or ranks count blank rows.

        score = w_t dilate(T) + w_v V + w_e E + w_a A        each term between 0 and 1 in its picture

    T: cosine to the words (`relevance`), dilated (`dilate`); V: variance; E: edges; A: `attention`, such as that
    received in a layer. A term without weight is not computed. p: what is chosen from, such as states of the layer a
    projector reads. features: the same rows in the text's space, for scoring only; p itself if None.
    Cost: 2 T S D FLOPs and a few passes over the rows.

    Raises InputError where a term has weight and no input, or none has weight; ShapeError where features are not of the
    same rows; what `relevance` raises.
    Source: the idea of rkawamura0483/LaViDa_mod:shirg/SHIRG_RESEARCH_IDEA.md; its faults: reduce/history/versions.py.
    """
    seen = p if features is None else features
    if seen.items != p.items or seen.lengths != p.lengths:
        raise ShapeError("features are not those of the same rows", expected=repr(p), got=repr(seen))
    if settings.scale not in SCALES:
        raise InputError(f"scale is one of {', '.join(SCALES)}", expected=SCALES, got=settings.scale)
    weights, radius = settings.weights, RADIUS if settings.radius is None else settings.radius
    blank = blank_rows(p)
    terms: list[Tensor] = []

    def to_scale(scores: Tensor) -> Tensor:
        seen = scores.to(p.device).masked_fill(blank, -torch.inf)
        return by_range(p, seen, per=per) if settings.scale == "range" else by_rank(p, seen, per=per)

    if weights.text:
        if text is None:
            raise InputError("the text has weight and there is none; give one, or weights without text")
        near = to_scale(relevance(seen, text, words=settings.words, per=per))
        terms.append(weights.text * dilate(p, near, radius=radius, falloff=settings.falloff))
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
            wide, high = item.cell
            x, y = item.box[0] + (pos[:, 2] + 0.5) * wide, item.box[1] + (pos[:, 1] + 0.5) * high
            for j in members:
                other = p.items[j]
                finer = math.prod(other.cell) < wide * high
                if finer and other.times_s == item.times_s and p.lengths[j]:
                    left, top, right, bottom = other.box
                    out[rows] &= ~((x >= left) & (x < right) & (y >= top) & (y < bottom))
    return out
