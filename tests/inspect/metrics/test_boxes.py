"""Rows in boxes: against loops over cells, and cases worked out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inspect.metrics.metric_cases import choices, picture, told

from tubelet.errors import InputError, ShapeError
from tubelet.inspect.metrics import recall, relevance_over_random
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.reduce.condense import pool_to

LAWS = settings(deadline=None)
BOX = (10.0, 5.0, 60.0, 40.0)


def touched(cell: tuple[float, ...], box: tuple[float, ...]) -> bool:
    _, _, left, top, right, bottom = cell
    return min(right, box[2]) > max(left, box[0]) and min(bottom, box[3]) > max(top, box[1])


@LAWS
@given(choices(), st.sampled_from((BOX, (0.0, 0.0, 500.0, 500.0), (-9.0, -9.0, -1.0, -1.0))))
def test_relevance_over_random_is_the_loop(pair: tuple[Packed, Packed], box: tuple[float, float, float, float]):
    whole, kept = pair
    numbers = sorted({i.picture for i in whole.items})
    boxes = {n: [box] for n in numbers[:2]}
    values = []
    for n in numbers[:2]:
        before = [touched(c, box) for c in told(whole) if c[0] == n]
        after = [touched(c, box) for c in told(kept) if c[0] == n]
        if after:
            values.append(sum(after) / len(after) - sum(before) / len(before))
    got = relevance_over_random(whole, kept, boxes)
    assert got.n == len(values)
    assert got.value == pytest.approx(sum(values) / len(values) if values else math.nan, nan_ok=True)


def test_recall_counts_rows_of_boxes():
    p = picture(4, 4)
    boxes = {0: [(0.0, 0.0, 2.0, 1.0), (3.0, 3.0, 4.0, 4.0)]}  # rows 0, 1 and 15
    assert recall(p, p.keep(torch.tensor([0, 7, 15])), boxes).share.value == pytest.approx(2 / 3)
    found = recall(p, p.keep(torch.tensor([0, 1, 15])), boxes)
    assert (found.share.value, found.whole.value) == (1.0, 1.0)
    assert recall(p, p.keep(torch.tensor([5])), boxes).share.value == 0
    assert recall(p, p.keep(torch.tensor([], dtype=torch.long)), boxes).share.value == 0


def test_a_box_smaller_than_a_cell_is_the_cell_it_is_in():
    p = picture(4, 4)
    boxes = {0: [(1.4, 2.4, 1.6, 2.6)]}
    assert recall(p, p.keep(torch.tensor([9])), boxes).share.value == 1
    assert recall(p, p.keep(torch.tensor([8, 10])), boxes).share.value == 0


def test_pictures_in_which_all_is_kept_are_counted_exactly():
    many = concat([picture(2, 2, seed=i) for i in range(10)])
    boxes = {i: [(0.0, 0.0, 1.0, 1.0)] for i in range(10)}
    rows = torch.tensor([4 * i + (0 if i < 8 else 1) for i in range(10)])
    found = recall(many, many.keep(rows), boxes)
    assert found.whole.value == 0.8
    assert (found.whole.low, found.whole.high) == (pytest.approx(0.4439, abs=1e-4), pytest.approx(0.9748, abs=1e-4))
    assert found.share.value == pytest.approx(0.8)
    assert found.share.low < 0.8 < found.share.high


def test_pictures_without_boxes_do_not_count():
    p = concat([picture(2, 2), picture(2, 2)])
    kept = p.keep(torch.tensor([0, 5]))
    assert recall(p, kept, {1: [(1.0, 0.0, 2.0, 1.0)]}).share.n == 1
    assert recall(p, kept, {}).share.n == 0
    assert relevance_over_random(p, kept, {}).n == 0


def test_of_several_scales_the_finest_counts():
    whole = Item(Grid(1, 2, 2), (0.0,), 0, (0, 0, 8, 8))
    tile = Item(Grid(1, 4, 4), (0.0,), 0, (0, 0, 8, 8))
    p = pack([torch.zeros(4, 1), torch.zeros(16, 1)], [whole, tile])
    boxes = {0: [(0.0, 0.0, 4.0, 4.0)]}  # row 0 of the coarse view; rows 0, 1, 4, 5 of the fine one
    assert recall(p, p.keep(torch.tensor([0])), boxes).share.value == 0
    assert recall(p, p.keep(torch.tensor([4, 5, 8, 9])), boxes).share.value == 1


def test_a_pooled_picture_keeps_boxes_at_its_scale():
    p = picture(8, 8, width=2)
    found = recall(p, pool_to(p, budget=16), {0: [(0.0, 0.0, 4.0, 4.0)]})
    assert found.share.value == pytest.approx(4 / 16)
    assert found.whole.value == 0


def test_bad_boxes_and_packs_are_named():
    p = picture(2, 2)
    with pytest.raises(InputError, match="area"):
        recall(p, p, {0: [(1.0, 1.0, 1.0, 2.0)]})
    with pytest.raises(ShapeError, match="picture 3"):
        recall(p, picture(2, 2, number=3), {0: [(0.0, 0.0, 1.0, 1.0)]})
