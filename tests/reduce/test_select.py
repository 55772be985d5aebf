"""Choosing within a budget: laws over generated packs, against a loop over rows, and what wrong input is told."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, shuffled, values
from torch import Tensor

import tubelet
from tubelet.errors import InputError, LimitError, NotFinite, ShapeError
from tubelet.packed import Item, Packed, concat, pack
from tubelet.reduce.groups import Per
from tubelet.reduce.select import chosen, regions, select

LAWS = settings(deadline=None)
pers = st.sampled_from(("picture", "item"))


def some_scores(p: Packed, seed: int, *, never: bool = False) -> Tensor:
    """Few different numbers, so that many are equal; some are -inf if `never`."""
    scores = torch.randint(-3, 4, (len(p.x),), generator=torch.Generator().manual_seed(seed)).float() / 4
    return scores.masked_fill(scores == 0.75, -torch.inf) if never else scores


def by_loops(
    p: Packed,
    scores: Tensor,
    budgets: list[int],
    per: Per,
    side: int = 0,
    share: float = 0.25,
    always: tuple[int, ...] = (),
) -> list[int]:
    """The rule row by row: always, then the best of regions that have none, then the best."""
    places = [(i, *p.pos[r].tolist()) for i in range(len(p)) for r in range(p.starts[i], p.starts[i + 1])]
    names = [p.items[place[0]].picture if per == "picture" else place[0] for place in places]
    order = list(dict.fromkeys(item.picture if per == "picture" else i for i, item in enumerate(p.items)))
    out: list[int] = []
    for name, budget in zip(order, budgets, strict=True):
        rows = [r for r in range(len(places)) if names[r] == name]
        ranked = sorted((r for r in rows if scores[r] > -math.inf), key=lambda r: (-float(scores[r]), r))
        budget = min(budget, len(rows))
        kept = [r for r in rows if r in always]
        room = budget - len(kept)
        if side:
            seen = {region(places[r], side) for r in kept}
            few = min(math.floor(share * budget), room)
            for r in ranked:
                if few and region(places[r], side) not in seen:
                    seen.add(region(places[r], side))
                    kept.append(r)
                    few -= 1
        kept += [r for r in ranked if r not in kept][: budget - len(kept)]
        out += kept
    return sorted(out)


def region(place: tuple[int, ...], side: int) -> tuple[int, ...]:
    item, t, h, w = place
    return item, t, h // side, w // side


@LAWS
@given(st.data(), st.integers(0, 99), pers, st.integers(0, 3), st.sampled_from((0.0, 0.25, 0.5, 1.0)), st.booleans())
def test_choosing_is_the_loop(data: st.DataObject, seed: int, per: Per, side: int, share: float, never: bool):
    p = shuffled(data.draw(packs(min_items=1)), seed)
    scores = some_scores(p, seed, never=never)
    groups = len(dict.fromkeys(i.picture for i in p.items)) if per == "picture" else len(p)
    budgets = data.draw(st.lists(st.integers(0, 12), min_size=groups, max_size=groups))
    always = tuple(data.draw(st.sets(st.integers(0, len(p.x) - 1), max_size=3)))
    taken = [sum(owner(p, r, per) == g for r in always) for g in range(groups)]
    assume(all(n <= b for n, b in zip(taken, budgets, strict=True)))
    rows = chosen(
        p,
        scores,
        budget=budgets,
        coverage=side,
        coverage_share=share,
        always=torch.tensor(always, dtype=torch.long),
        per=per,
    )
    assert rows.tolist() == by_loops(p, scores, budgets, per, side, share, always)


def owner(p: Packed, row: int, per: Per) -> int:
    item = next(i for i in range(len(p)) if row < p.starts[i + 1])
    names = list(dict.fromkeys(i.picture for i in p.items)) if per == "picture" else list(range(len(p)))
    return names.index(p.items[item].picture if per == "picture" else item)


@LAWS
@given(packs(), st.integers(0, 99), pers, st.integers(0, 40), st.integers(0, 3))
def test_the_count_is_exact(p: Packed, seed: int, per: Per, budget: int, side: int):
    kept = select(p, some_scores(p, seed), budget=budget, per=per, coverage=side).check()
    names = [item.picture if per == "picture" else i for i, item in enumerate(p.items)]
    for name in set(names):
        before, after = (
            sum(n for n, own in zip(pack_.lengths, names, strict=True) if own == name) for pack_ in (p, kept)
        )
        assert after == min(budget, before)
    assert kept.items == p.items


@LAWS
@given(packs(), st.integers(0, 99), pers)
def test_keeping_all_is_the_identity(p: Packed, seed: int, per: Per):
    p = shuffled(p, seed)
    for budget in (len(p.x), len(p.x) + 7):
        assert select(p, some_scores(p, seed), budget=budget, per=per, coverage=2).equal(p)


@LAWS
@given(st.data(), st.integers(0, 99), pers, st.integers(0, 9))
def test_permuting_items_permutes_the_result(data: st.DataObject, seed: int, per: Per, budget: int):
    p = data.draw(packs(min_items=1))
    scores = p.with_x(some_scores(p, seed)[:, None])
    order = data.draw(st.permutations(range(len(p))))
    # Where views share a budget, equal scores go to the view that comes first, so here no two scores are equal.
    scores = scores.with_x(scores.x + torch.arange(len(p.x))[:, None] / 1e4)
    one = select(p, scores.x.flatten(), budget=budget, per=per, coverage=2).reorder(order)
    other = select(p.reorder(order), scores.reorder(order).x.flatten(), budget=budget, per=per, coverage=2)
    assert one.equal(other)


@LAWS
@given(st.lists(packs(min_items=1), min_size=1, max_size=3), st.integers(0, 99), st.integers(0, 9))
def test_pictures_do_not_depend_on_each_other(parts: list[Packed], seed: int, budget: int):
    scores = [some_scores(p, seed + i, never=True) for i, p in enumerate(parts)]
    together = select(concat(parts), torch.cat(scores), budget=budget, coverage=2)
    alone = [select(p, s, budget=budget, coverage=2) for p, s in zip(parts, scores, strict=True)]
    assert together.equal(concat(alone))


def test_views_of_a_picture_share_its_budget():
    p = pack([values(4, 2), values(4, 2), values(4, 2)], [Item.of(1, 2, 2, picture=n) for n in (0, 1, 0)])
    scores = torch.tensor([1.0, 2, 3, 4, 0, 0, 0, 0, 9, 8, 7, 6])
    assert select(p, scores, budget=5).lengths == (1, 4, 4)
    assert select(p, scores, budget=[5, 2]).lengths == (1, 2, 4)
    assert select(p, scores, budget=3, per="item").lengths == (3, 3, 3)


def test_equal_scores_go_to_the_first_rows():
    p = pack([values(9, 2)], [Item.of(1, 3, 3)])
    assert chosen(p, torch.zeros(9), budget=4).tolist() == [0, 1, 2, 3]
    assert chosen(p, torch.tensor([0.0, -0.0] * 4 + [0.0]), budget=3).tolist() == [0, 1, 2]


def test_coverage_comes_first_as_far_as_its_share_goes():
    p = pack([values(16, 2)], [Item.of(1, 4, 4)])
    scores = torch.arange(16.0)
    assert chosen(p, scores, budget=4, coverage=2, coverage_share=1.0).tolist() == [5, 7, 13, 15]
    half = chosen(p, scores, budget=4, coverage=2, coverage_share=0.5).tolist()
    assert half == [12, 13, 14, 15]  # 13 and 15 are the best two regions, 14 and 12 the best of the others
    assert chosen(p, scores, budget=4, coverage=2, coverage_share=0.75).tolist() == [7, 13, 14, 15]
    assert chosen(p, scores, budget=4, coverage=1, coverage_share=1.0).tolist() == [12, 13, 14, 15]
    assert chosen(p, scores, budget=4, coverage=9, coverage_share=1.0).tolist() == [12, 13, 14, 15]


def test_regions_of_odd_grids_are_cut_at_the_edge():
    p = pack([values(30, 2)], [Item.of(2, 3, 5)])
    number, total = regions(p, 2)
    assert total == 2 * 2 * 3
    assert number[:15].tolist() == [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert number[15:].tolist() == [n + 6 for n in number[:15].tolist()]


def test_minus_infinity_is_never_chosen():
    p = pack([values(6, 2)], [Item.of(1, 2, 3)])
    scores = torch.tensor([-torch.inf, 1, -torch.inf, 0, -torch.inf, -torch.inf])
    assert chosen(p, scores, budget=4).tolist() == [1, 3]
    assert chosen(p, scores, budget=4, coverage=1, coverage_share=1.0).tolist() == [1, 3]
    assert chosen(p, scores, budget=4, always=torch.tensor([5])).tolist() == [1, 3, 5]
    assert chosen(p, torch.full((6,), -torch.inf), budget=4).tolist() == []


def test_rows_that_are_always_kept():
    p = pack([values(6, 2)], [Item.of(1, 2, 3)])
    scores = torch.tensor([0.0, 1, 2, 3, 4, 5])
    assert chosen(p, scores, budget=3, always=torch.tensor([0])).tolist() == [0, 4, 5]
    assert chosen(p, scores, budget=3, always=torch.tensor([0, 0])).tolist() == [0, 4, 5]
    mask = torch.tensor([True, True, True, False, False, False])
    assert chosen(p, scores, budget=3, always=mask).tolist() == [0, 1, 2]
    with pytest.raises(LimitError, match="3 rows are always kept and the budget is 2") as caught:
        select(p, scores, budget=2, always=mask)
    assert (caught.value.item, caught.value.limit, caught.value.got) == (0, 2, 3)


def test_a_budget_of_nothing_and_a_pack_of_nothing():
    p = pack([values(6, 2), values(4, 2)], [Item.of(1, 2, 3), Item.of(1, 2, 2)])
    none = select(p, torch.zeros(10), budget=0)
    assert (none.lengths, none.items, none.x.shape) == ((0, 0), p.items, (0, 2))
    empty = pack([], [])
    assert len(select(empty, torch.zeros(0), budget=3, coverage=2)) == 0
    assert select(none, torch.zeros(0), budget=3, coverage=2).lengths == (0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_scores_of_any_type(dtype: torch.dtype):
    p = pack([values(8, 2)], [Item.of(1, 2, 4)])
    scores = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1]).to(dtype)
    assert chosen(p, scores, budget=4).tolist() == [1, 3, 4, 7]


def test_integers_and_doubles_keep_their_order():
    p = pack([values(3, 2)], [Item.of(1, 1, 3)])
    assert chosen(p, torch.tensor([2**40, 2**40 + 1, 2**40]), budget=1).tolist() == [1]
    assert chosen(p, torch.tensor([1.0, 1.0 + 1e-12, 1.0], dtype=torch.float64), budget=1).tolist() == [1]


def test_gradients_reach_the_rows_that_stay():
    p = pack([values(4, 2)], [Item.of(1, 2, 2)])
    x = p.x.clone().requires_grad_()
    scores = torch.tensor([0.0, 3, 1, 2]).requires_grad_()
    select(p.with_x(x), scores, budget=2).x.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert scores.grad is None


def test_scores_that_are_no_numbers_name_their_item():
    p = pack([values(4, 2), values(4, 2)], [Item.of(1, 2, 2), Item.of(1, 2, 2)])
    for bad in (math.nan, math.inf):
        scores = torch.zeros(8)
        scores[6] = bad
        with pytest.raises(NotFinite, match="row 2") as caught:
            select(p, scores, budget=1)
        assert caught.value.item == 1


@pytest.mark.usefixtures("as_in_production")
def test_arguments_are_checked():
    p: Any = pack([values(6, 2)], [Item.of(1, 2, 3)])
    scores: Any = torch.zeros(6)
    wrong: Any
    for wrong in (-1, [-1], 1.5, "3", [1, 2], None, [1.0]):
        with pytest.raises(InputError):
            select(p, scores, budget=wrong)
    for wrong in (torch.zeros(5), torch.zeros(6, 1), torch.zeros(6, dtype=torch.complex64), [0.0] * 6, None):
        with pytest.raises(ShapeError):
            select(p, wrong, budget=1)
    for wrong in (torch.zeros(5, dtype=torch.bool), torch.tensor([6]), torch.tensor([-1]), torch.zeros(6)):
        with pytest.raises(ShapeError):
            select(p, scores, budget=1, always=wrong)
    options: Any
    for options in ({"coverage": -1}, {"coverage": 2, "coverage_share": 1.5}, {"per": "frame"}):
        with pytest.raises(InputError):
            select(p, scores, budget=1, **options)


def test_the_public_name():
    p = pack([values(6, 2)], [Item.of(1, 2, 3)])
    assert tubelet.select(p, torch.arange(6.0), budget=2).equal(p.keep(torch.tensor([4, 5])))


def test_the_kept_rows_can_be_asked_for():
    p = pack([values(6, 2)], [Item.of(1, 2, 3)])
    scores = torch.tensor([9.0, 1, 8, 2, 2, 7])
    kept, rows = select(p, scores, budget=3, indices=True)
    assert kept.equal(p.keep(rows))
    assert rows.tolist() == [0, 2, 5]
    assert select(p, scores, budget=3).equal(kept)
