"""Rows that show nothing: known from boxes, and never kept, merged or counted by anything that chooses."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import shuffled, values
from torch import Tensor

from tubelet.errors import InputError, LimitError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import LAVIDA, view_items
from tubelet.reduce.blank import blank_rows, has_blank
from tubelet.reduce.condense import pool_to, prumerge, tome, visionzip
from tubelet.reduce.diverse import cdpruner, divprune
from tubelet.reduce.scores import edges, uniform
from tubelet.reduce.select import select
from tubelet.reduce.settings import Settings, Weights
from tubelet.reduce.shirg import shirg, shirg_score

LAWS = settings(deadline=None, max_examples=40)
TEXT = torch.eye(4)[:2]
RECIPE = PixelRecipe(32)  # 12 x 12 cells of a view of 384


def views(height: int, width: int, *, picture: int = 0, seed: int = 0) -> Packed:
    items = [item for _, item in view_items(height, width, (0.0,), picture, RECIPE, LAVIDA)]
    return pack([values(item.grid.rows, 4, seed=seed + i) for i, item in enumerate(items)], items)


def slow_blank(p: Packed) -> Tensor:
    """Cell by cell: does it share any area with its picture?"""
    out = []
    for item, pos in zip(p.items, p.pos.split(p.lengths), strict=True):
        left, top, right, bottom = item.box
        wide, high = (right - left) / item.grid.w, (bottom - top) / item.grid.h
        for _, h, w in pos.tolist():
            if item.content is None:
                out.append(False)
                continue
            x, y = left + w * wide, top + h * high
            over_x = min(x + wide, item.content[2]) - max(x, 0)
            over_y = min(y + high, item.content[3]) - max(y, 0)
            out.append(over_x <= 1e-6 * wide or over_y <= 1e-6 * high)
    return torch.tensor(out, dtype=torch.bool)


sides = st.integers(10, 2000)


@LAWS
@given(sides, sides, st.integers(0, 9))
def test_blank_rows_are_the_cells_beyond_the_picture(height: int, width: int, seed: int):
    p = shuffled(concat([views(height, width), pack([values(6, 4)], [Item.of(1, 2, 3)])]), seed)
    assert torch.equal(blank_rows(p), slow_blank(p))
    assert has_blank(p) == bool(slow_blank(p).any())


KEPT: dict[str, Callable[[Packed, int], Packed]] = {
    "select": lambda p, k: select(p, p.x[:, 0], budget=k),
    "select with regions": lambda p, k: select(p, p.x[:, 0], budget=k, coverage=2, coverage_share=1.0),
    "shirg": lambda p, k: shirg(p, TEXT, Settings(weights=Weights(1.0, 0.5, 0.5, 0.5)), budget=k, attention=p.x[:, 1]),
    "shirg by rank": lambda p, k: shirg(p, TEXT, Settings(scale="rank"), budget=k),
    "divprune": lambda p, k: select(p, divprune(p, budget=k), budget=k),
    "cdpruner": lambda p, k: select(p, cdpruner(p, p.x[:, 1], budget=k), budget=k),
    "visionzip": lambda p, k: visionzip(p, p.x[:, 0], p.x, budget=k, per="picture"),
    "prumerge": lambda p, k: prumerge(p, p.x[:, 0].abs(), p.x, budget=k, per="picture"),
    "tome": lambda p, k: tome(p, budget=k, per="picture"),
    "uniform": lambda p, k: select(p, uniform(p, budget=k), budget=k),
}
# of the cells of either, more than a fifth is blank
SIZES = [(200, 1000), (1000, 150)]


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("size", SIZES)
def test_nothing_blank_is_ever_kept(name: str, size: tuple[int, int]):
    p = views(*size)
    assert float(blank_rows(p).float().mean()) > 0.2
    p = p.with_x(torch.where(blank_rows(p)[:, None], p.x + 50, p.x))  # where blank rows would win everything
    for budget in (1, 20, 10_000):
        kept = KEPT[name](p, budget)
        assert not bool(blank_rows(kept).any())
    if name not in ("shirg", "shirg by rank"):  # which leave out what a finer view shows, too
        assert sum(kept.lengths) == int((~blank_rows(p)).sum())


@pytest.mark.parametrize("name", KEPT)
def test_what_stands_on_the_border_changes_nothing(name: str):
    p = views(200, 1000)
    other = p.with_x(torch.where(blank_rows(p)[:, None], values(len(p.x), 4, seed=99), p.x))
    a, b = KEPT[name](p, 25), KEPT[name](other, 25)
    assert a.equal(b)


@pytest.mark.parametrize("name", [n for n in KEPT if not n.startswith("shirg")])
def test_it_is_as_if_blank_rows_were_not_there(name: str):
    p = views(200, 1000)
    assert KEPT[name](p, 25).equal(KEPT[name](p.keep(~blank_rows(p)), 25))


def test_shirg_scores_are_as_if_blank_rows_were_not_there():
    p = views(1000, 150)
    seen = ~blank_rows(p)
    for scale in ("range", "rank"):
        for weights in (Weights(1.0), Weights(0.0, 1.0), Weights(0.0, 0.0, 1.0)):
            whole = shirg_score(p, TEXT, Settings(weights=weights, scale=scale, radius=0))
            alone = shirg_score(p.keep(seen), TEXT, Settings(weights=weights, scale=scale, radius=0))
            torch.testing.assert_close(whole[seen], alone)
            assert bool((whole[~seen] == -torch.inf).all())


def test_a_border_is_no_edge():
    item = Item(Grid(1, 2, 3), (0.0,), 0, (0, -4, 12, 4), content=(0, 0, 12, 4))
    x = torch.tensor([[100.0], [100], [100], [1], [1], [1]])
    assert edges(pack([x], [item])).tolist()[3:] == [0.0, 0.0, 0.0]


def test_a_blank_row_cannot_be_kept_always():
    p = views(200, 1000)
    p = concat([pack([values(6, 4)], [Item.of(1, 2, 3)]), p])
    row = int(blank_rows(p).nonzero()[0])
    mask = torch.zeros(len(p.x), dtype=torch.bool)
    mask[row] = True
    for always in (mask, torch.tensor([row])):
        with pytest.raises(InputError) as caught:
            select(p, p.x[:, 0], budget=5, always=always)
        assert caught.value.item == next(i for i, end in enumerate(p.starts[1:]) if row < end)
    with pytest.raises(InputError):
        shirg(p, TEXT, Settings(scaffold=(caught.value.item,)), budget=9999)


# ---- pooling to a budget


@pytest.mark.parametrize("size", SIZES)
def test_pooling_pools_what_is_seen(size: tuple[int, int]):
    p = views(*size)
    got = pool_to(p, budget=16, per="item").check()
    assert not bool(blank_rows(got).any()) and max(got.lengths) <= 16
    for item, old, x, rows in zip(got.items, p.items, p.unpack(), got.unpack(), strict=True):
        (top, bottom), (left, right) = ((r.start, r.stop) for r in old.seen)
        part = x.view(old.grid.h, old.grid.w, -1)[top:bottom, left:right].permute(2, 0, 1)
        torch.testing.assert_close(rows, F.adaptive_avg_pool2d(part, item.grid[1:]).flatten(1).T)
        wide, high = (old.box[2] - old.box[0]) / old.grid.w, (old.box[3] - old.box[1]) / old.grid.h
        assert item.box == pytest.approx(
            (old.box[0] + left * wide, old.box[1] + top * high, old.box[0] + right * wide, old.box[1] + bottom * high)
        )


def test_a_view_that_is_all_border_has_no_rows_and_takes_no_budget():
    item = Item(Grid(1, 2, 2), (0.0,), 0, (0, 0, 4, 4), content=(0, 0, 4, 4))
    beyond = Item(Grid(1, 2, 2), (0.0,), 0, (0, 4, 4, 8), content=(0, 0, 4, 4))
    p = pack([values(4, 2), values(4, 2)], [beyond, item])
    assert pool_to(p, budget=4, per="picture").lengths == (0, 4)
    assert select(p, p.x[:, 0], budget=8).lengths == (0, 4)
    with pytest.raises(LimitError):
        pool_to(p, budget=0, per="picture")
