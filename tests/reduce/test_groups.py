"""Scores brought to one scale, picture by picture."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, values
from torch import Tensor

from tubelet.errors import NotFinite
from tubelet.packed import Item, Packed, pack
from tubelet.reduce.groups import Groups, Per, by_range, by_rank, checked_rows, groups_of

LAWS = settings(deadline=None)
pers = st.sampled_from(("picture", "item"))


def scores_of(p: Packed, seed: int) -> Tensor:
    scores = torch.randint(-4, 5, (len(p.x),), generator=torch.Generator().manual_seed(seed)).float() / 3
    return scores.masked_fill(scores > 1.2, -torch.inf)


def members(groups: Groups) -> list[list[int]]:
    return [(groups.of_row == g).nonzero().flatten().tolist() for g in range(len(groups))]


@LAWS
@given(packs(), st.integers(0, 99), pers)
def test_by_range_is_the_formula(p: Packed, seed: int, per: Per):
    scores, scaled = scores_of(p, seed), by_range(p, scores_of(p, seed), per=per)
    for rows in members(groups_of(p, per)):
        real = [float(scores[r]) for r in rows if scores[r] > -math.inf]
        for r in rows:
            s = float(scores[r])
            if s == -math.inf:
                expected = -math.inf
            else:
                expected = 0.0 if max(real) == min(real) else (s - min(real)) / (max(real) - min(real))
            assert float(scaled[r]) == pytest.approx(expected, abs=1e-6)


@LAWS
@given(packs(), st.integers(0, 99), pers)
def test_by_rank_counts_who_is_below(p: Packed, seed: int, per: Per):
    scores, ranked = scores_of(p, seed), by_rank(p, scores_of(p, seed), per=per)
    for rows in members(groups_of(p, per)):
        real = [o for o in rows if scores[o] > -math.inf]
        for r in rows:
            below = sum(bool(scores[o] < scores[r]) for o in real)
            same = sum(bool(scores[o] == scores[r]) for o in real)
            expected = (below + (same - 1) / 2) / max(1, len(real) - 1)
            assert float(ranked[r]) == pytest.approx(expected if scores[r] > -math.inf else -math.inf)


def test_groups_are_pictures_in_order_of_their_first_item():
    p = pack(
        [values(2, 1), values(3, 1), values(4, 1)], [Item.of(1, 1, n, picture=k) for n, k in ((2, 5), (3, 1), (4, 5))]
    )
    groups = groups_of(p)
    assert (groups.of_item, groups.sizes) == ((0, 1, 0), (6, 3))
    assert groups.of_row.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0]
    assert groups_of(p, "item").sizes == (2, 3, 4)


def test_not_a_number_stays_in_its_picture():
    p = pack([values(3, 1), values(3, 1)], [Item.of(1, 1, 3, picture=n) for n in (0, 1)])
    scores = torch.tensor([1.0, math.nan, 2.0, 1.0, 2.0, 3.0])
    for scaled in (by_range(p, scores), by_rank(p, scores)):
        assert bool(scaled[:3].isnan().any())
        assert scaled[3:].tolist() == [0.0, 0.5, 1.0]


def test_rows_that_are_no_numbers_name_their_item():
    p = pack([values(2, 3), values(2, 3)], [Item.of(1, 1, 2), Item.of(1, 1, 2)])
    assert torch.equal(checked_rows(p), p.x)
    x = p.x.clone()
    x[3, 1] = math.inf
    with pytest.raises(NotFinite) as caught:
        checked_rows(p.with_x(x))
    assert caught.value.item == 1
