"""DivPrune and CDPruner against their definitions, written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, shuffled, values
from torch import Tensor

from tubelet.errors import NotFinite
from tubelet.packed import Item, Packed, concat, pack
from tubelet.reduce import diverse
from tubelet.reduce.diverse import cdpruner, divprune
from tubelet.reduce.groups import Per, groups_of
from tubelet.reduce.select import chosen, select

LAWS = settings(deadline=None, max_examples=40)
pers = st.sampled_from(("picture", "item"))


def picks_of(scores: Tensor, rows: list[int], k: int) -> list[int]:
    """The rows of a group by their scores k, k - 1 .. 1, in the order they were picked."""
    found = {int(scores[r]): r for r in rows if scores[r] > 0}
    assert sorted(found) == list(range(1, k + 1))
    return [found[n] for n in range(k, 0, -1)]


def farthest_first(x: Tensor, k: int, picks: list[int]) -> None:
    """Max-min distance, checked pick by pick: no other row would have been farther than rounding."""
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    distance = 1 - unit @ unit.T
    for n, pick in enumerate(picks):
        worth = {
            i: min(float(distance[i, j]) for j in (picks[:n] if n else [o for o in range(len(x)) if o != i]))
            for i in range(len(x))
            if i not in picks[:n]
        }
        assert worth[pick] >= max(worth.values()) - 1e-5, (n, pick)
    assert len(set(picks)) == k


@LAWS
@given(packs(min_items=1, width=4), st.integers(0, 99), pers, st.integers(1, 9))
def test_divprune_takes_the_farthest(p: Packed, seed: int, per: Per, budget: int):
    p = shuffled(p, seed)
    scores = divprune(p, budget=budget, per=per)
    groups = groups_of(p, per)
    for g, size in enumerate(groups.sizes):
        rows = (groups.of_row == g).nonzero().flatten().tolist()
        k = min(budget, size)
        picks = picks_of(scores, rows, k)
        if size > 1:
            farthest_first(p.x[rows], k, [rows.index(r) for r in picks])
    assert len(select(p, scores, budget=budget, per=per).x) == sum(min(budget, n) for n in groups.sizes)


def log_det_first(x: Tensor, relevance: Tensor, picks: list[int]) -> None:
    """Greedy log-determinant by determinants, pick by pick."""
    low, high = float(relevance.min()), float(relevance.max())
    r = (relevance.double() - low + 1e-6) / (high - low) if high > low else torch.ones(len(x), dtype=torch.float64)
    unit = torch.nn.functional.normalize(x.double(), dim=1) * r[:, None]
    kernel = unit @ unit.T
    for n, pick in enumerate(picks):
        gains = {}
        for i in range(len(x)):
            if i not in picks[:n]:
                both = [*picks[:n], i]
                gains[i] = float(kernel[both][:, both].det()) / (
                    float(kernel[picks[:n]][:, picks[:n]].det()) if n else 1
                )
        assert gains[pick] >= max(gains.values()) * (1 - 1e-3) - 1e-9, (n, pick)


@LAWS
@given(st.integers(2, 14), st.integers(1, 5), st.integers(0, 999))
def test_cdpruner_is_the_greedy_determinant(n: int, budget: int, seed: int):
    p = pack([values(n, 8, seed)], [Item.of(1, 1, n)])
    relevance = values(n, 1, seed + 1).flatten()
    picks = picks_of(cdpruner(p, relevance, budget=budget), list(range(n)), min(budget, n))
    log_det_first(p.x, relevance, picks)


def test_cdpruner_takes_more_rows_than_there_are_directions():
    """The determinant is 0 from the third row on; the count is exact nonetheless, and no row comes twice."""
    p = pack([values(12, 2)], [Item.of(1, 3, 4)])
    for relevance in (torch.ones(12), torch.arange(12.0), values(12, 1).flatten()):
        for budget in (2, 5, 12):
            assert len(chosen(p, cdpruner(p, relevance, budget=budget), budget=budget)) == budget
            picks_of(cdpruner(p, relevance, budget=budget), list(range(12)), budget)


def test_copies_of_one_row_are_chosen_in_order():
    p = pack([values(1, 4).expand(6, 4)], [Item.of(1, 2, 3)])
    assert chosen(p, divprune(p, budget=3), budget=3).tolist() == [0, 1, 2]
    assert chosen(p, cdpruner(p, torch.ones(6), budget=3), budget=3).tolist() == [0, 1, 2]
    zeros = pack([torch.zeros(6, 4)], [Item.of(1, 2, 3)])
    for scores in (divprune(zeros, budget=3), cdpruner(zeros, torch.ones(6), budget=3)):
        assert len(chosen(zeros, scores, budget=3)) == 3


def test_picks_do_not_depend_on_how_many_follow_nor_on_neighbours():
    p = pack([values(30, 6), values(20, 6, seed=1)], [Item.of(1, 5, 6), Item.of(1, 4, 5, picture=1)])
    relevance = values(50, 1).flatten()
    for scores in (lambda q, r, k: divprune(q, budget=k), lambda q, r, k: cdpruner(q, r, budget=k)):
        whole = scores(p, relevance, 12)
        few = scores(p, relevance, 5)
        assert torch.equal((whole - 7).clamp(min=0), few)
        assert torch.equal(whole[30:], scores(p.reorder([1]), relevance[30:], 12))


def test_edges_of_the_range():
    one = pack([values(1, 3)], [Item.of(1, 1, 1)])
    assert divprune(one, budget=4).tolist() == [1.0]
    assert cdpruner(one, torch.zeros(1), budget=4).tolist() == [1.0]
    assert divprune(one, budget=0).tolist() == [0.0]
    empty = concat([])
    assert divprune(empty, budget=3).shape == cdpruner(empty, torch.zeros(0), budget=3).shape == (0,)


def test_rows_that_are_no_numbers_name_their_item():
    p = pack([values(4, 3), values(4, 3)], [Item.of(1, 2, 2), Item.of(1, 2, 2)])
    x = p.x.clone()
    x[6, 0] = math.nan
    bad = p.with_x(x)
    for call in (lambda: divprune(bad, budget=2), lambda: cdpruner(bad, torch.zeros(8), budget=2)):
        with pytest.raises(NotFinite) as caught:
            call()
        assert caught.value.item == 1
    with pytest.raises(NotFinite):
        cdpruner(p, torch.full((8,), math.nan), budget=2)


@pytest.mark.parametrize("held", [1, 40, 10_000])
def test_pictures_too_large_for_all_pairs_are_compared_row_by_row(held: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diverse, "MOST_HELD", held)
    x = values(23, 6)
    p = pack([x], [Item.of(1, 1, 23)])
    farthest_first(x, 9, picks_of(divprune(p, budget=9), list(range(23)), 9))
    few = pack([x[:12]], [Item.of(1, 1, 12)])
    relevance = values(12, 1, 3).flatten()
    log_det_first(x[:12], relevance, picks_of(cdpruner(few, relevance, budget=5), list(range(12)), 5))
    copies = pack([values(1, 4).expand(6, 4)], [Item.of(1, 2, 3)])
    assert chosen(copies, divprune(copies, budget=3), budget=3).tolist() == [0, 1, 2]
