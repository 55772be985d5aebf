"""The corrected method: its score written out, what it never does, and how it fails."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, values

from tubelet.errors import InputError, LimitError, NotFinite, ShapeError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.reduce.cells import dilate
from tubelet.reduce.groups import by_range, by_rank
from tubelet.reduce.relevance import relevance
from tubelet.reduce.scores import edges, variance
from tubelet.reduce.select import select
from tubelet.reduce.settings import Scale, Settings, Weights
from tubelet.reduce.shirg import finest, shirg, shirg_score

LAWS = settings(deadline=None)
PAGE = (0.0, 0.0, 64.0, 48.0)


def page(seed: int = 0, picture: int = 0) -> Packed:
    """A global view of 3 x 4 cells of 16 units and four tiles of 3 x 4 cells of 8: one picture."""
    views = [Item(Grid(1, 3, 4), (0.0,), picture, PAGE)]
    corners = [(left, top) for top in (0.0, 24.0) for left in (0.0, 32.0)]
    views += [Item(Grid(1, 3, 4), (0.0,), picture, (left, top, left + 32, top + 24)) for left, top in corners]
    return pack([values(12, 6, seed * 10 + i) for i in range(5)], views)


def with_distinct_pictures(p: Packed) -> Packed:
    """No two views of one picture, so that none hides another."""
    items = tuple(dataclasses.replace(item, picture=i) for i, item in enumerate(p.items))
    return Packed(p.x, p.pos, items, p.lengths)


@LAWS
@given(packs(min_items=1, width=5), st.integers(0, 30), st.sampled_from(("range", "rank")), st.integers(0, 99))
def test_the_score_is_what_it_says(p: Packed, budget: int, scale: Scale, seed: int):
    p = with_distinct_pictures(p)
    text, attention = values(3, 5, seed), values(len(p.x), 1, seed).flatten()
    to_scale = by_range if scale == "range" else by_rank
    score = (
        2.0 * dilate(p, to_scale(p, relevance(p, text, words="logsumexp")), radius=1, falloff=0.2)
        + 0.5 * to_scale(p, attention)
        + 0.25 * to_scale(p, variance(p))
        + 0.125 * to_scale(p, edges(p))
    )
    got = shirg(
        p,
        text,
        Settings(
            weights=Weights(text=2.0, variance=0.25, edges=0.125, attention=0.5),
            words="logsumexp",
            radius=1,
            falloff=0.2,
            scale=scale,
            coverage=2,
            coverage_share=0.5,
        ),
        budget=budget,
        attention=attention,
    )
    assert got.equal(select(p, score, budget=budget, coverage=2, coverage_share=0.5))


@LAWS
@given(packs(min_items=1, width=5), st.integers(0, 9))
def test_keeping_all_is_the_identity_and_neighbours_do_not_matter(p: Packed, budget: int):
    p, text = with_distinct_pictures(p), values(3, 5)
    assert shirg(p, text, budget=len(p.x)).equal(p)
    alone = [shirg(p.reorder([i]), text, budget=budget) for i in range(len(p))]
    assert shirg(p, text, budget=budget).equal(concat(alone, renumber=False))


def test_the_words_neighbours_are_kept_too():
    """A word at one cell of a row: what is chosen are the cells around it, not cells like noise elsewhere."""
    x = values(100, 16) * 0.1
    word = torch.zeros(16)
    word[3] = 1.0
    x[5 * 10 + 2] = word
    p = pack([x], [Item.of(1, 10, 10)])
    kept = shirg(p, word[None], Settings(radius=1, coverage=0), budget=9)
    assert {tuple(place) for place in kept.pos.tolist()} == {(0, h, w) for h in (4, 5, 6) for w in (1, 2, 3)}


def test_views_of_one_page_are_chosen_together_and_the_global_view_does_not_compete():
    p, text = page(), values(2, 6, 9)
    kept = shirg(p, text, budget=20)
    assert kept.lengths[0] == 0
    assert sum(kept.lengths) == 20
    with_scaffold = shirg(p, text, Settings(scaffold=(0,)), budget=20)
    assert with_scaffold.lengths[0] == 12
    assert sum(with_scaffold.lengths) == 20


def test_what_no_finer_view_shows_competes():
    p = page()
    assert finest(p).tolist() == [False] * 12 + [True] * 48
    without_last = p.reorder([0, 1, 2, 3])
    # The lower right tile is missing: its part of the page is rows 1.5 .. 3 and columns 2 .. 4 of the global view.
    centre_in_missing = [(h + 0.5) * 16 >= 24 and (w + 0.5) * 16 >= 32 for h in range(3) for w in range(4)]
    assert finest(without_last)[:12].tolist() == centre_in_missing
    two = concat([page(), page(1)])
    assert finest(two).tolist() == finest(p).tolist() * 2
    clip = Item(Grid(2, 1, 2), (0.0, 1.0), 0, (0, 0, 8, 4))
    still = Item(Grid(1, 2, 4), (0.0,), 0, (0, 0, 8, 4))
    assert bool(finest(pack([values(4, 1), values(8, 1)], [clip, still])).all())


def test_a_view_that_has_lost_its_rows_hides_nothing():
    p = page()
    rows = torch.cat([torch.arange(12), torch.arange(24, 60)])
    kept = p.keep(rows)
    # Of the upper left quarter; the centres of the second row of cells stand on the lower tile's upper edge.
    assert finest(kept)[:12].tolist() == [True, True] + [False] * 10


def test_features_are_for_scoring_only():
    p, text = page(), values(2, 8, 9)
    seen = p.with_x(values(60, 8, 5))
    kept = shirg(p, text, budget=10, features=seen)
    score = dilate(p, by_range(p, relevance(seen, text)), radius=3, falloff=0.1)
    expected = select(p, score.masked_fill(~finest(p), -torch.inf), budget=10, coverage=4)
    assert kept.equal(expected)
    assert kept.x.shape[1] == 6
    torch.testing.assert_close(shirg_score(p, text, features=seen), score.masked_fill(~finest(p), -torch.inf))


@pytest.mark.usefixtures("as_in_production")
def test_nothing_is_replaced_in_silence():
    p: Any = page()
    wrong: Any = "softmax"
    text = values(2, 6)
    for call in (
        lambda: shirg(p, None, budget=5),
        lambda: shirg(p, text, Settings(weights=Weights(attention=1.0)), budget=5),
        lambda: shirg(p, text, Settings(weights=Weights(text=0.0)), budget=5),
        lambda: shirg(p, text, Settings(scale=wrong), budget=5),
        lambda: shirg(p, values(0, 6), budget=5),
        lambda: shirg(p, text, Settings(scaffold=(5,)), budget=5),
        lambda: shirg(p, text, budget=-1),
        lambda: shirg(p, text, Settings(radius=-1), budget=5),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(ShapeError, match="like the rows"):
        shirg(p, values(2, 7), budget=5)
    with pytest.raises(ShapeError, match="same rows"):
        shirg(p, text, budget=5, features=p.reorder([1, 0, 2, 3, 4]))
    with pytest.raises(LimitError, match="12 rows are always kept"):
        shirg(p, text, Settings(scaffold=(0,)), budget=5)
    x = p.x.clone()
    x[30] = math.nan
    with pytest.raises(NotFinite):
        shirg(p.with_x(x), text, budget=5)


def test_without_text_other_terms_choose():
    p = page()
    by_variance = shirg(p, None, Settings(weights=Weights(text=0.0, variance=1.0), coverage=0), budget=7)
    expected = select(p, variance(p).masked_fill(~finest(p), -torch.inf), budget=7)
    assert by_variance.equal(expected)
