"""Several choices on one page: pictures, names, the table."""

import numpy as np
import pytest
import torch
from tests.inspect.draw.test_draw_kept import TILES, WHOLE, clip, rows

from tubelet.errors import ShapeError
from tubelet.inspect.draw.cells import layers_of
from tubelet.inspect.draw.compare import ROW, Entry, _head, _table, draw_comparison
from tubelet.inspect.draw.lettering import INK, TextLine, arrow
from tubelet.inspect.draw.veil import veiled
from tubelet.inspect.metrics import Estimate
from tubelet.inspect.metrics.comparison import MEASURES, Comparison
from tubelet.packed import Grid, Item, pack
from tubelet.reduce.condense import pool_to

NUMBERS = Comparison({"one": {"coverage": Estimate(0.5, 0.4, 0.6, 3)}, "two": {"coverage": Estimate(0.2, 0.1, 0.3, 3)}})
VEIL = veiled(np.full((1, 1, 3), 240, np.uint8), page=True)[0, 0]  # of the clips below


def entries(count: int = 2) -> list[Entry]:
    p = rows(WHOLE)
    return [Entry(f"m{i}", ("1 token",), tuple(layers_of(p, p.keep(torch.tensor([i % 16])), 0))) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (20, 900), (900, 20)])
def test_every_entry_is_on_the_page(count: int, height: int, width: int):
    item = Item(Grid(1, 4, 4), (0.0,), 0, (0, 0, width, height))
    p = rows(item)
    several = [Entry(f"m{i}", ("note",), tuple(layers_of(p, p.keep(torch.arange(0)), 0))) for i in range(count)]
    page = draw_comparison(clip(height, width), several, NUMBERS, [TextLine(("name",))], max_side=900)
    assert page.width <= 900
    dim = (np.asarray(page) == VEIL).all(axis=2).sum()
    one = draw_comparison(clip(height, width), several[:1], NUMBERS, [TextLine(("name",))], max_side=900)
    assert dim > 0
    assert (np.asarray(one) == VEIL).all(axis=2).sum() > 0


def test_a_narrow_page_is_as_wide_as_its_table():
    wide = Comparison({"m0": {m.key: Estimate(0.123, 0.1, 0.2, 12) for m in MEASURES}})
    page = draw_comparison(clip(), entries(1), wide, [], max_side=600)
    assert page.width > 800


def ink(page: np.ndarray) -> int:
    return int((np.abs(page.astype(int) - np.array(INK)).sum(axis=2) < 60).sum())


def test_the_table_is_written_whole():
    """Words of the last row leave ink; and more of it where it is the best, which is bold."""
    found = {}
    for name, value in (("better", 0.9), ("worse", 0.1)):
        one = Comparison(
            {"one": {"coverage": Estimate(0.5, 0.4, 0.6, 3)}, "two": {"coverage": Estimate(value, 0.0, 1.0, 3)}}
        )
        page = np.asarray(_table(one))
        found[name] = ink(page[-ROW:]), ink(page[-2 * ROW : -ROW])
    assert found["better"][1] < found["worse"][1]  # the first row is bold where it is the best
    assert min(found["better"]) > 50


def test_arrows_point_to_what_is_better():
    up, down = (np.asarray(arrow(14, INK, up=up)).astype(int) for up in (True, False))
    widest = [int((a < 200).any(axis=2).sum(axis=1).argmax()) for a in (up, down)]
    assert widest[0] < up.shape[0] / 2 < widest[1]  # the wings are near the tip
    measures = {m.key: m for m in MEASURES}
    assert _head(measures["coverage"]).width > _head(measures["coherence"]._replace(name="coverage")).width


def test_pooled_smaller_and_viewed():
    p = rows(WHOLE, width=2)
    views = pack([torch.zeros(16, 1)] * 5, [WHOLE, *TILES])
    several = [
        Entry("pool", ("4",), tuple(layers_of(p, pool_to(p, budget=4), 0)), 1),
        Entry("smaller", ("4",), tuple(layers_of(p, pool_to(p, budget=4), 0)), 4),
        Entry("views", ("2",), tuple(layers_of(views, views.keep(torch.tensor([3, 40])), 0))),
    ]
    assert draw_comparison(clip(), several, NUMBERS, [], max_side=900).mode == "RGB"


def test_a_clip_shows_some_frames_of_each():
    frames = clip(24, 32, frames=9)
    p = rows(Item(Grid(9, 2, 2), frames.times_s, 0, (0, 0, 32, 24)))
    entry = Entry("one", ("36",), tuple(layers_of(p, p, 0)))
    page = draw_comparison(frames, [entry, entry], NUMBERS, [], max_side=900)
    assert page.width <= 900


def test_nothing_to_compare():
    with pytest.raises(ShapeError, match="nothing"):
        draw_comparison(clip(), [], NUMBERS, [])
