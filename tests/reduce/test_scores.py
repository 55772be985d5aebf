"""Scores of single rows, each against the obvious."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, places, shuffled, thinned, values

from tubelet.errors import InputError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.reduce.scores import covered, edges, norm, random, uniform, variance
from tubelet.reduce.select import select

LAWS = settings(deadline=None)
WORD = (1 << 64) - 1


@LAWS
@given(packs(min_items=1, width=5), st.integers(0, 99))
def test_variance_and_norm_are_torchs(p: Packed, seed: int):
    p = thinned(p, seed)
    torch.testing.assert_close(variance(p), torch.tensor([float(row.var()) if len(row) > 1 else 0.0 for row in p.x]))
    torch.testing.assert_close(norm(p), torch.tensor([float(row.norm()) for row in p.x]))


def test_a_row_of_one_channel_has_no_variance():
    assert variance(pack([values(3, 1)], [Item.of(1, 1, 3)])).tolist() == [0, 0, 0]


@LAWS
@given(packs(min_items=1), st.integers(0, 99))
def test_edges_are_mean_distances_to_the_neighbours_there_are(p: Packed, seed: int):
    p = thinned(p, seed)
    row_at = {place: r for r, place in enumerate(places(p))}
    expected = []
    for r, (i, t, h, w) in enumerate(places(p)):
        near = [row_at.get((i, t, h + a, w + b)) for a, b in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        steps = [float((p.x[r] - p.x[o]).norm()) for o in near if o is not None]
        expected.append(sum(steps) / len(steps) if steps else 0.0)
    torch.testing.assert_close(edges(p), torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8])
def test_scores_of_other_types_are_float32(dtype: torch.dtype):
    p = pack([values(12, 4).mul(20).abs().to(dtype)], [Item.of(1, 3, 4)])
    full = p.with_x(p.x.float())
    for score in (variance, norm, edges):
        if score is not norm or dtype != torch.uint8:
            assert score(p).dtype == torch.float32
            torch.testing.assert_close(score(p), score(full))


# ---- chance and distance


def split_mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def test_random_is_the_published_mixer():
    from tubelet.reduce.scores import _signature

    p = pack([values(24, 1)], [Item.of(2, 3, 4)])
    for row, place in enumerate(p.pos.tolist()):
        state = _signature(p.items[0], 7) & WORD
        for coordinate in place:
            state = split_mix((state + (coordinate + 1) * 0x9E3779B97F4A7C15) & WORD)
        assert float(random(p, seed=7)[row]) == (state >> 11) / 2**53


@LAWS
@given(packs(min_items=1), st.integers(0, 99))
def test_random_depends_on_the_item_alone(p: Packed, seed: int):
    together = random(p, seed=seed).split(p.lengths)
    for i in range(len(p)):
        assert torch.equal(random(p.reorder([i]), seed=seed), together[i])
    moved = shuffled(p, seed)
    by_place = {place: float(r) for place, r in zip(places(p), random(p, seed=seed), strict=True)}
    assert [by_place[place] for place in places(moved)] == random(moved, seed=seed).tolist()


def test_random_is_uniform_and_differs_by_seed_place_and_box():
    p = pack([values(4096, 1)], [Item.of(1, 64, 64)])
    a, b = random(p, seed=0), random(p, seed=1)
    moved = pack([values(4096, 1)], [Item(Grid(1, 64, 64), (0.0,), 0, (1, 0, 65, 64))])
    assert len(set(a.tolist())) == 4096
    for other in (b, random(moved, seed=0)):
        assert abs(float(torch.corrcoef(torch.stack([a, other]))[0, 1])) < 0.06
    counts = torch.histc(a, bins=16, min=0, max=1)
    assert float(((counts - 256) ** 2 / 256).sum()) < 40  # chi squared of 15 degrees: 37.7 at 0.001
    assert float(a.min()) >= 0
    assert float(a.max()) < 1


@LAWS
@given(packs(), st.integers(0, 20), st.sampled_from(("picture", "item")))
def test_uniform_takes_equal_steps(p: Packed, budget: int, per):
    kept = select(p, uniform(p, budget=budget, per=per), budget=budget, per=per)
    names = [item.picture if per == "picture" else i for i, item in enumerate(p.items)]
    rows = [r for r, flag in enumerate(uniform(p, budget=budget, per=per).tolist()) if flag]
    assert len(rows) == len(kept.x)
    owner = [names[place[0]] for place in places(p)]
    for name in set(names):
        own = [r for r, o in enumerate(owner) if o == name]
        steps = [own.index(r) for r in rows if owner[r] == name]
        assert len(steps) == min(budget, len(own))
        gaps = {b - a for a, b in pairwise(steps)}
        assert not gaps or max(gaps) - min(gaps) <= 1


# ---- boxes


@LAWS
@given(packs(min_items=1), st.integers(0, 99))
def test_covered_counts_points(p: Packed, seed: int):
    """The share of a fine raster of points of each cell that lie in a box."""
    p = thinned(p, seed)
    box = tuple(float(v) for v in torch.rand(4, generator=torch.Generator().manual_seed(seed)) * 40)
    box = (box[0], box[1], box[0] + box[2] + 1, box[1] + box[3] + 1)
    picture = p.items[0].picture
    got = covered(p, {picture: [box]})
    n = 24
    for r, (i, _, h, w) in enumerate(places(p)):
        item = p.items[i]
        wide, high = (item.box[2] - item.box[0]) / item.grid.w, (item.box[3] - item.box[1]) / item.grid.h
        xs = [item.box[0] + (w + (k + 0.5) / n) * wide for k in range(n)]
        ys = [item.box[1] + (h + (k + 0.5) / n) * high for k in range(n)]
        inside = sum(box[0] <= x < box[2] for x in xs) * sum(box[1] <= y < box[3] for y in ys) / n**2
        expected = inside if item.picture == picture else 0.0
        assert float(got[r]) == pytest.approx(expected, abs=2.2 / n)


def test_the_most_of_several_boxes_counts_and_boxes_can_grow():
    p = pack([values(4, 1)], [Item.of(1, 1, 4)])
    boxes = [(0.0, 0.0, 1.0, 0.5), (0.0, 0.0, 2.0, 1.0), (3.5, 0.0, 9.0, 1.0)]
    assert covered(p, {0: boxes}).tolist() == [1.0, 1.0, 0.0, 0.5]
    assert covered(p, {0: boxes[2:]}, grow=0.5).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert covered(p, {1: boxes}).tolist() == [0.0] * 4
    for bad in ((1.0, 0.0, 1.0, 1.0), (0.0, 0.0, math.nan, 1.0)):
        with pytest.raises(InputError, match="some area"):
            covered(p, {0: [bad]})


def test_scores_of_nothing():
    empty = concat([])
    for scores in (variance(empty), norm(empty), edges(empty), random(empty), uniform(empty, budget=3)):
        assert scores.shape == (0,)
    assert covered(empty, {}).shape == (0,)
