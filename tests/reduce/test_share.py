"""Budgets shared over pictures: the total and nothing above it, more to what holds more, each by itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet import Item, PixelRecipe, pack, patchify, select
from tubelet.errors import InputError, ShapeError
from tubelet.reading.clip import Clip
from tubelet.reduce.scores import edges
from tubelet.reduce.share import LEAST, held, shared_budgets

pictures = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 300)), min_size=1, max_size=8)


@given(pictures=pictures, total=st.integers(0, 2_000))
def test_the_total_is_given_out_and_no_picture_has_more_than_its_rows(pictures: list[tuple[int, int]], total: int):
    amounts, rows = [a for a, _ in pictures], [n for _, n in pictures]
    budgets = shared_budgets(amounts, rows, total)
    assert sum(budgets) == min(total, sum(rows))
    assert all(0 <= b <= n for b, n in zip(budgets, rows, strict=True))
    if total >= len(rows):
        assert all(b >= 1 for b, n in zip(budgets, rows, strict=True) if n)


@given(pictures=pictures, total=st.integers(0, 2_000))
def test_what_holds_more_has_no_less(pictures: list[tuple[int, int]], total: int):
    amounts = sorted(a for a, _ in pictures)
    budgets = shared_budgets(amounts, [1_000] * len(amounts), total)
    assert all(low <= high + 1 for low, high in pairwise(budgets))
    same = shared_budgets([7] * len(amounts), [1_000] * len(amounts), total)
    assert max(same) - min(same) <= 1


def test_shares_are_in_proportion_above_the_least():
    """By hand: 512 - 3 over weights 300, 100, 0, each with a quarter of 400 / 3 more."""
    more = LEAST * 400 / 3
    exact = [1 + 509 * (a + more) / (400 + 3 * more) for a in (300, 100, 0)]
    assert all(abs(b - e) < 1 for b, e in zip(shared_budgets([300, 100, 0], [640] * 3, 512), exact, strict=True))
    assert shared_budgets([300, 100, 0], [100, 640, 640], 512)[0] == 100  # what it cannot take goes to the others
    assert shared_budgets([], [], 9) == ()


def test_a_picture_holds_what_it_shows_whatever_is_beside_it():
    """Blank paper with the noise of a scan, print on half of it, and all of it."""
    random = np.random.default_rng(2)
    paper = np.full((96, 96, 3), 235.0) + random.normal(0, 3, (96, 96, 3))
    print_ = np.where(random.random((96, 96, 1)) < 0.3, 30.0, paper)
    half = paper.copy()
    half[:48] = print_[:48]
    frames = [picture.clip(0, 255).astype(np.uint8)[None] for picture in (paper, half, print_)]
    clips = [Clip(frame, (0.0,)) for frame in frames]
    recipe = PixelRecipe(16)
    together = held(patchify(clips, recipe))
    assert together == tuple(held(patchify([clip], recipe))[0] for clip in clips)
    assert together[0] == 0
    assert together[2] == 36
    assert 18 <= together[1] <= 24


def test_budgets_go_to_select_as_they_are():
    frames = np.random.default_rng(1).integers(0, 256, (2, 1, 64, 96, 3), np.uint8)
    frames[1] = 200
    p = patchify([Clip(frame, (0.0,)) for frame in frames], PixelRecipe(16))
    budgets = shared_budgets(held(p), p.lengths, 24)
    assert sum(budgets) == 24
    assert budgets[0] > budgets[1] >= 1
    assert select(p, edges(p), budget=budgets).lengths == budgets


def test_what_is_no_amount_is_refused():
    with pytest.raises(ShapeError, match="2 amounts for 1"):
        shared_budgets([1, 2], [3], 4)
    for amounts, rows, total in (([-1.0], [3], 4), ([float("nan")], [3], 4), ([1.0], [3], -1), ([1.0], [-3], 4)):
        with pytest.raises(InputError):
            shared_budgets(amounts, rows, total)
    with pytest.raises(InputError, match="bytes"):
        held(pack([torch.zeros(4, 3)], [Item.of(1, 2, 2)]))
