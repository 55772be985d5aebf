"""The table of a comparison: columns, best ones, footnotes."""

import math

import pytest

from tubelet.inspect.metrics import Estimate
from tubelet.inspect.metrics.comparison import Comparison


def one(value: float) -> Estimate:
    return Estimate(value, math.nan, math.nan, 1)


def several(value: float, n: int = 3) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, n)


def test_the_best_is_told_by_what_is_better():
    rows = {
        "a": {"coverage": one(0.5), "distance": one(1.5), "coherence": one(3.0)},
        "b": {"coverage": one(0.9), "distance": one(1.1), "coherence": one(1.0)},
        "c": {"coverage": one(0.901), "distance": one(9.0), "coherence": one(2.0)},
    }
    table = Comparison(rows)
    assert table.best("coverage") == ("b", "c")  # alike in the digits that are shown
    assert table.best("distance") == ("b",)
    assert table.best("coherence") == ()  # 1 is chance: neither way is better


def test_nobody_is_best_where_all_are_alike_and_an_oracle_never_is():
    alike = Comparison({"a": {"coverage": one(1.0)}, "b": {"coverage": one(1.0)}})
    assert alike.best("coverage") == ()
    oracle = Comparison({"boxes": {"in_boxes": one(1.0)}, "a": {"in_boxes": one(0.3)}, "b": {"in_boxes": one(0.2)}})
    assert oracle.best("in_boxes") == ("a",)


def test_what_nothing_defines_is_a_dash_and_never_the_best():
    table = Comparison({"a": {"coherence": one(math.nan)}, "b": {"rebuilt": one(-1.234)}, "c": {"rebuilt": one(0.2)}})
    assert table.cell("a", "coherence") == "-"
    assert table.cell("a", "rebuilt") == ""
    assert table.cell("b", "rebuilt") == "-1.23"
    assert table.best("rebuilt") == ("c",)


@pytest.mark.parametrize(
    ("numbers", "cell", "note"),
    [
        (one(0.5), "0.50", "one input: no number has an interval"),
        (several(0.5), "0.50 [0.40, 0.60]", "95 % intervals over 3 inputs"),
    ],
)
def test_footnotes_say_once_what_cells_leave_out(numbers: Estimate, cell: str, note: str):
    table = Comparison({"a": {"coverage": numbers}})
    assert table.cell("a", "coverage") == cell
    assert table.footnotes == (note,)
    assert table.legend == ("coverage: share of 8 x 8 regions with a kept token",)


def test_a_number_over_fewer_pictures_says_so():
    table = Comparison({"a": {"coverage": several(0.5, 5), "in_boxes": several(0.5, 2)}})
    assert table.cell("a", "in_boxes") == "0.50 [0.40, 0.60] n=2"


def test_drawn_chance_and_times_have_their_own_footnotes():
    rows = {
        "a": {"coverage": one(0.5), "time": Estimate(1.1, 1.0, 1.2, 6)},
        "random": {"coverage": Estimate(0.4, 0.38, 0.42, 20), "time": Estimate(1.0, 0.9, 1.1, 6)},
    }
    table = Comparison(rows, draws=20)
    assert table.cell("random", "coverage") == "0.40"
    assert table.cell("random", "time") == "1.00 [0.90, 1.10]"
    assert table.footnotes == (
        "one input: no number has an interval",
        "random: the mean of 20 draws; 95 % of it: coverage 0.38 to 0.42",
        "time: the median of 6 runs, with its 95 % interval where there is one",
    )
