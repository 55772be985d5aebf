"""Coverage, distance, concentration, coherence: against loops over cells, and cases worked out by hand."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inspect.metrics.metric_cases import choices, picture, told

from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.inspect.metrics import coherence, concentration, coverage, distance, gini, selectivity
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.reduce.condense import pool_to
from tubelet.reduce.scores import random
from tubelet.reduce.select import select

LAWS = settings(deadline=None)


def mean(values: list[float]) -> float:
    values = [v for v in values if not math.isnan(v)]
    return sum(values) / len(values) if values else math.nan


def frame_of(p: Packed, number: int) -> tuple[float, float, float, float]:
    boxes = [i.box for i in p.items if i.picture == number]
    return min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)


def region(cell: tuple[float, ...], frame: tuple[float, ...], parts: int) -> tuple[float, int, int]:
    _, time, left, top, right, bottom = cell
    x, y = (left + right) / 2, (top + bottom) / 2
    column = min(int((x - frame[0]) / (frame[2] - frame[0]) * parts), parts - 1)
    row = min(int((y - frame[1]) / (frame[3] - frame[1]) * parts), parts - 1)
    return time, row, column


@LAWS
@given(choices(), st.integers(1, 4))
def test_coverage_is_the_loop_over_regions(pair: tuple[Packed, Packed], parts: int):
    whole, kept = pair
    values = []
    for number in dict.fromkeys(i.picture for i in whole.items):
        frame = frame_of(whole, number)
        there = {region(c, frame, parts) for c in told(whole) if c[0] == number}
        own = [c for c in told(kept) if c[0] == number]
        left = {region(c, frame, parts) for c in own}
        for time, row, column in there:
            x = frame[0] + (column + 0.5) / parts * (frame[2] - frame[0])
            y = frame[1] + (row + 0.5) / parts * (frame[3] - frame[1])
            if any(c[1] == time and c[2] <= x < c[4] and c[3] <= y < c[5] for c in own):
                left.add((time, row, column))
        values.append(len(left & there) / len(there))
    assert coverage(whole, kept, parts=parts).value == pytest.approx(mean(values))


@LAWS
@given(choices(), st.integers(1, 4))
def test_concentration_is_the_gini_of_the_counts(pair: tuple[Packed, Packed], parts: int):
    whole, kept = pair
    values = []
    for number in dict.fromkeys(i.picture for i in whole.items):
        frame = frame_of(whole, number)
        counts = dict.fromkeys((region(c, frame, parts) for c in told(whole) if c[0] == number), 0)
        for c in told(kept):
            if c[0] == number:
                counts[region(c, frame, parts)] += 1
        values.append(gini(list(counts.values())) if sum(counts.values()) else math.nan)
    assert concentration(whole, kept, parts=parts).value == pytest.approx(mean(values), nan_ok=True)


@LAWS
@given(choices())
def test_distance_is_the_loop_over_pairs(pair: tuple[Packed, Packed]):
    whole, kept = pair
    all_means, all_largest = [], []
    for number in dict.fromkeys(i.picture for i in whole.items):
        found = []
        for i, item in enumerate(whole.items):
            if item.picture != number:
                continue
            wide = (item.box[2] - item.box[0]) / item.grid.w
            high = (item.box[3] - item.box[1]) / item.grid.h
            for c in told(whole)[whole.starts[i] : whole.starts[i + 1]]:
                x, y = (c[2] + c[4]) / 2, (c[3] + c[5]) / 2
                near = [
                    math.hypot((x - (k[2] + k[4]) / 2) / wide, (y - (k[3] + k[5]) / 2) / high)
                    for k in told(kept)
                    if k[0] == number and k[1] == c[1]
                ]
                found.append(min(near, default=math.hypot(item.grid.h, item.grid.w)))
        all_means.append(mean(found))
        all_largest.append(max(found))
    got = distance(whole, kept)
    assert got.mean.value == pytest.approx(mean(all_means))
    assert got.largest.value == pytest.approx(mean(all_largest))


def share_beside(h: int, w: int, rows: tuple[int, ...]) -> float:
    places = {(r // w, r % w) for r in rows}
    beside = [any((a + i, b + j) in places for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0))) for a, b in places]
    return sum(beside) / len(beside)


@pytest.mark.parametrize(("h", "w"), [(3, 3), (2, 4), (1, 6)])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_expectation_of_coherence_is_that_of_every_choice(h: int, w: int, k: int):
    """All choices of k cells, one by one: their mean share is what coherence divides by."""
    every = list(combinations(range(h * w), k))
    expected = sum(share_beside(h, w, rows) for rows in every) / len(every)
    p = picture(h, w)
    for rows in every[:: max(1, len(every) // 7)]:
        found = coherence(p, p.keep(torch.tensor(rows))).value
        assert found == pytest.approx(share_beside(h, w, rows) / expected)
    every_value = [coherence(p, p.keep(torch.tensor(rows))).value for rows in every]
    assert sum(every_value) / len(every) == pytest.approx(1.0)


def test_coherence_of_blocks_chance_and_chess():
    p = picture(16, 16)
    block = torch.tensor([r for r in range(256) if r // 16 < 6 and r % 16 < 6])
    chess = torch.tensor([r for r in range(256) if (r // 16 + r % 16) % 2 == 0])
    assert coherence(p, p.keep(block)).value > 2
    assert coherence(p, p.keep(chess)).value == 0
    draws = [coherence(p, select(p, random(p, seed=i), budget=36)).value for i in range(200)]
    assert sum(draws) / 200 == pytest.approx(1.0, abs=0.06)
    assert math.isnan(coherence(p, p.keep(torch.tensor([3]))).value)
    assert math.isnan(coherence(p, p.keep(torch.tensor([], dtype=torch.long))).value)
    assert coherence(p, p).value == 1


def test_gini_of_known_vectors():
    assert gini([5.0] * 7) == pytest.approx(0)
    assert gini([0.0] * 9 + [1.0]) == pytest.approx(0.9)
    assert gini([1.0, 3.0]) == pytest.approx(0.25)
    values = [0.2, 0.9, 0.4, 0.1]
    pairs = sum(abs(a - b) for a in values for b in values) / (2 * 16 * (sum(values) / 4))
    assert gini(values) == pytest.approx(pairs)
    assert gini([0.0, 0.0]) == 0
    assert math.isnan(gini([]))
    with pytest.raises(InputError, match="0 or more"):
        gini([-0.1, 1.0])
    with pytest.raises(NotFinite):
        gini([math.nan])


def test_selectivity_is_of_each_picture_alone():
    p = concat([picture(2, 2), picture(1, 2)])
    found = selectivity(p, torch.tensor([0.0, 0, 0, 1, 1, 1]))
    assert (found.value, found.n) == (pytest.approx(0.75 / 2), 2)
    left_out = selectivity(picture(1, 3), torch.tensor([-math.inf, 1.0, 3.0]))
    assert left_out.value == pytest.approx(0.25)
    with pytest.raises(InputError):
        selectivity(p, -torch.ones(6))
    with pytest.raises(ShapeError):
        selectivity(p, torch.ones(5))


def test_everything_kept_and_nothing_kept():
    p = picture(6, 5)
    none = p.keep(torch.tensor([], dtype=torch.long))
    assert coverage(p, p).value == 1
    assert coverage(p, none).value == 0
    assert distance(p, p).largest.value == 0
    assert distance(p, none).mean.value == pytest.approx(math.hypot(6, 5))
    assert math.isnan(concentration(p, none).value)
    assert math.isnan(coverage(pack([], []), pack([], [])).value)


def test_a_pooled_picture_is_covered_everywhere():
    p = picture(12, 9, width=2)
    small = pool_to(p, budget=12)
    assert coverage(p, small).value == 1
    assert distance(p, small).largest.value < 2.5


def test_views_share_a_picture():
    """Four tiles and a coarse whole: a row of a tile covers the place of the whole's row and lies near it."""
    boxes = [(0, 0, 8, 8), (0, 0, 4, 4), (4, 0, 8, 4), (0, 4, 4, 8), (4, 4, 8, 8)]
    p = pack([torch.zeros(16, 1)] * 5, [Item(Grid(1, 4, 4), (0.0,), 0, b) for b in boxes])
    kept = p.keep(torch.tensor([16]))  # the first row of the first tile
    assert coverage(p, kept, parts=2).value == 0.25
    assert distance(p, kept).mean.n == 1
    far = distance(p, kept).largest.value
    assert far == pytest.approx(math.hypot(7, 7))  # from the last tile's last row, in cells of a tile


def test_frames_are_places_of_their_own():
    p = pack([torch.zeros(8, 1)], [Item.of(2, 2, 2)])
    kept = p.keep(torch.tensor([0]))
    assert coverage(p, kept, parts=2).value == pytest.approx(1 / 8)
    assert distance(p, kept).mean.value == pytest.approx((0 + 1 + 1 + math.sqrt(2) + 4 * math.hypot(2, 2)) / 8)


def test_several_pictures_give_an_interval():
    many = concat([picture(4, 4, seed=i) for i in range(6)])
    rows = torch.tensor([16 * i + j for i in range(6) for j in range(i + 1)])
    found = coverage(many, many.keep(rows), parts=4)
    assert found.n == 6
    assert found.low < found.value < found.high
    assert not coverage(picture(4, 4), picture(4, 4)).known


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ShapeError, match="picture 3"):
        coverage(picture(2, 2), picture(2, 2, number=3))
    other_time = pack([torch.zeros(4, 1)], [Item(Grid(1, 2, 2), (9.0,), 0, (0, 0, 2, 2))])
    with pytest.raises(ShapeError, match="time"):
        coverage(picture(2, 2), other_time)
    with pytest.raises(InputError, match="parts"):
        coverage(picture(2, 2), picture(2, 2), parts=0)


def test_the_black_border_of_a_view_counts_nowhere():
    """A picture of 8 x 4 in the middle of a square view: the same numbers as without the border."""
    bordered = pack([torch.zeros(64, 1)], [Item(Grid(1, 8, 8), (0.0,), 0, (0, -2, 8, 6), content=(0, 0, 8, 4))])
    plain = picture(4, 8)
    rows = torch.tensor([0, 1, 9, 30])
    for measure in (coverage, concentration, coherence):
        assert measure(bordered, bordered.keep(rows + 16)).value == pytest.approx(
            measure(plain, plain.keep(rows)).value
        )
    far, near = distance(bordered, bordered.keep(rows + 16)), distance(plain, plain.keep(rows))
    assert (far.mean.value, far.largest.value) == (pytest.approx(near.mean.value), near.largest.value)
