"""Bars with intervals: as long as their values, with an interval over the end."""

import math

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import ShapeError
from tubelet.inspect.draw.bars import BAR, GAP, HEIGHT, MARGIN, NAME, WIDTH, bars
from tubelet.inspect.draw.chart import LINE
from tubelet.inspect.draw.lettering import INK, TextLine
from tubelet.inspect.metrics.estimate import Estimate, undefined

TITLE = [TextLine(("scores",), 19, INK)]


def rows_of(page: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(page)[:, MARGIN + NAME :] == np.asarray(colour)).all(axis=2)


def test_a_bar_is_as_long_as_its_value():
    page = bars([("all", Estimate(1.0, 1.0, 1.0, 9)), ("half", Estimate(0.5, math.nan, math.nan, 1))], TITLE)
    painted = rows_of(page, BAR)
    lengths = [int(row.sum()) for row in painted if row.any()]
    assert max(lengths) == pytest.approx(WIDTH, abs=3) and min(lengths) == pytest.approx(WIDTH / 2, abs=3)
    assert sum(length < 0.75 * WIDTH for length in lengths) == pytest.approx(HEIGHT, abs=2)


def test_the_interval_lies_over_the_end_and_is_missing_where_nothing_is_known():
    page = bars([("a", Estimate(0.5, 0.25, 1.0, 9))], TITLE)
    columns = np.flatnonzero(rows_of(page, LINE).any(axis=0))
    assert columns.min() == pytest.approx(WIDTH / 4, abs=3) and columns.max() == pytest.approx(WIDTH, abs=3)
    for estimate in (Estimate(0.5, math.nan, math.nan, 1), undefined()):
        assert not rows_of(bars([("a", estimate)], TITLE), LINE).any()


def test_any_number_of_bars_and_any_name():
    one, many = (bars([("\x07" + "x" * 400, Estimate(0.1, 0.0, 0.2, 5))] * n, TITLE) for n in (1, 6))
    assert many.width == one.width and many.height - one.height == 5 * (HEIGHT + GAP)
    assert bars([("a", Estimate(0.2, 0.1, math.inf, 5))], TITLE).mode == "RGB"


def test_what_cannot_be_drawn():
    with pytest.raises(ShapeError, match="0 values"):
        bars([], TITLE)
    with pytest.raises(ShapeError, match="from 0 up"):
        bars([("a", Estimate(-0.1, -0.2, 0.0, 5))], TITLE)
