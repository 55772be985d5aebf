"""Spatial-MLLM's strict scores and the weights that make means over questions means over tasks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import ShapeError
from tubelet.inspect.metrics.vsibench import NUMBERS, relative_score, strict_scores, task_weights

COUNT, ORDER = "object_counting", "obj_appearance_order"
KINDS = (*sorted(NUMBERS), *(f"object_rel_direction_{k}" for k in ("easy", "medium", "hard")), "route_planning", ORDER)


@pytest.mark.parametrize(
    ("answer", "wanted", "kind", "score"),
    [
        ("<answer>A</answer>", "a", ORDER, 1.0),
        ("<answer>B</answer> or <answer> a. </answer>", "A", ORDER, 1.0),
        ("A. chair", "A", ORDER, 0.0),
        (" b \r\n", "B", ORDER, 1.0),
        ("1,200", "1200", COUNT, 1.0),
        ("about 3", "3", COUNT, 0.0),
        ("2.5 m", "2.5", COUNT, 0.0),
        ("inf", "3", COUNT, 0.0),
        ("nan", "0", COUNT, 1.0),
        ("3.1", "3", COUNT, 1.0),
        ("6", "4", COUNT, 0.0),
    ],
)
def test_the_whole_answer_counts(answer: str, wanted: str, kind: str, score: float):
    assert strict_scores([answer], [[wanted]], [kind]) == [pytest.approx(score)]
    assert strict_scores([answer], [["none", wanted]], [kind])[0] >= score
    assert strict_scores([answer], [[]], [kind]) == [0.0]


def test_edges_of_tolerances_are_float32():
    """10 % too little scores 0.8 or 0.9 as float32 rounds it; in float64 it is always 0.9."""
    found = {round(relative_score(0.9 * x, float(x)), 3) for x in range(1, 400)}
    assert found == {0.8, 0.9}
    assert relative_score(1e30, 1e-30) == 0.0 and relative_score(0.0, 0.0) == 1.0


@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=40), tasks=st.sampled_from([8, 10]))
def test_weighed_means_are_means_of_means(kinds: list[str], tasks: int):
    values = [float(i % 7) for i in range(len(kinds))]
    of_kind = {k: np.mean([v for v, own in zip(values, kinds, strict=True) if own == k]) for k in set(kinds)}
    if tasks == 8:
        turns = [m for k, m in of_kind.items() if "direction" in k]
        means = [m for k, m in of_kind.items() if "direction" not in k] + ([np.mean(turns)] if turns else [])
    else:
        means = list(of_kind.values())
    weighed = np.mean([w * v for w, v in zip(task_weights(kinds, tasks=tasks), values, strict=True)])
    assert math.isclose(weighed, np.mean(means), abs_tol=1e-9)


def test_what_does_not_fit():
    with pytest.raises(ShapeError):
        task_weights([COUNT], tasks=9)
    with pytest.raises(ShapeError):
        strict_scores(["1"], [["1"]], [])
