"""Several choices on one page: pictures, names, the table."""

import numpy as np
import pytest
import torch
from tests.inspect.draw.test_draw_kept import TILES, WHOLE, clip, rows

from tubelet.errors import ShapeError
from tubelet.inspect.draw.cells import layers_of
from tubelet.inspect.draw.compare import Entry, draw_comparison
from tubelet.inspect.draw.lettering import INK, TextLine
from tubelet.packed import Grid, Item, pack
from tubelet.reduce.condense import pool_to

TABLE = [["", "coverage"], ["one", "0.50 [0.40, 0.60] n=3"], ["two", "0.20 [unknown] n=1"]]


def entries(count: int = 2) -> list[Entry]:
    p = rows(WHOLE)
    return [Entry(f"m{i}", "1 token", tuple(layers_of(p, p.keep(torch.tensor([i % 16])), 0))) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (20, 900), (900, 20)])
def test_every_entry_is_on_the_page(count: int, height: int, width: int):
    item = Item(Grid(1, 4, 4), (0.0,), 0, (0, 0, width, height))
    p = rows(item)
    several = [Entry(f"m{i}", "note", tuple(layers_of(p, p.keep(torch.arange(0)), 0))) for i in range(count)]
    page = draw_comparison(clip(height, width), several, TABLE, [TextLine(("name",))], max_side=900)
    assert page.width <= 900
    dim = (np.asarray(page) == np.asarray([82, 82, 82])).all(axis=2).sum()  # of 240: 0.26 x 240 + 20
    one = draw_comparison(clip(height, width), several[:1], TABLE, [TextLine(("name",))], max_side=900)
    assert dim > 0
    assert (np.asarray(one) == np.asarray([82, 82, 82])).all(axis=2).sum() > 0


def test_a_narrow_page_is_as_wide_as_its_table():
    wide = [["", *(f"measure {i}" for i in range(9))], ["m0", *("0.123 [0.100, 0.200] n=12" for _ in range(9))]]
    page = draw_comparison(clip(), entries(1), wide, [], max_side=600)
    assert page.width > 1200


def test_the_table_is_written_whole():
    """Words of the last cell leave ink in its corner of the page."""
    page = np.asarray(draw_comparison(clip(), entries(2), TABLE, [], max_side=900))
    foot = page[-70:-20]
    assert (np.abs(foot.astype(int) - np.array(INK)).sum(axis=2) < 60).sum() > 50


def test_pooled_smaller_and_viewed():
    p = rows(WHOLE, width=2)
    views = pack([torch.zeros(16, 1)] * 5, [WHOLE, *TILES])
    several = [
        Entry("pool", "4", tuple(layers_of(p, pool_to(p, budget=4), 0)), 0),
        Entry("smaller", "4", tuple(layers_of(p, pool_to(p, budget=4), 0)), 4),
        Entry("views", "2", tuple(layers_of(views, views.keep(torch.tensor([3, 40])), 0))),
    ]
    assert draw_comparison(clip(), several, TABLE, [], max_side=900).mode == "RGB"


def test_a_clip_shows_some_frames_of_each():
    frames = clip(24, 32, frames=9)
    p = rows(Item(Grid(9, 2, 2), frames.times_s, 0, (0, 0, 32, 24)))
    entry = Entry("one", "36", tuple(layers_of(p, p, 0)))
    page = draw_comparison(frames, [entry, entry], TABLE, [], max_side=900)
    assert page.width <= 900


def test_nothing_to_compare():
    with pytest.raises(ShapeError, match="nothing"):
        draw_comparison(clip(), [], TABLE, [])
