"""Scores of answers: against recursion and enumeration, and what the papers' rules say of known answers."""

import math
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import ShapeError
from tubelet.inspect.metrics.answers import (
    anls,
    edits,
    exact_match,
    option_accuracy,
    paired,
    refined_match,
    relative_accuracy,
    relaxed_accuracy,
    vqa_accuracy,
)

letters = st.text("abc ", max_size=7)


@cache
def slow_edits(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(slow_edits(a[1:], b) + 1, slow_edits(a, b[1:]) + 1, slow_edits(a[1:], b[1:]) + (a[0] != b[0]))


@given(letters, letters)
def test_edits_are_the_recursion(a: str, b: str):
    assert edits(a, b) == slow_edits(a, b)


def test_anls_of_known_answers():
    assert anls(["Total", "total ", "tot", "xx", ""], [["total"]] * 5) == [1.0, 1.0, pytest.approx(0.6), 0.0, 0.0]
    assert anls(["ab"], [["abcd"]]) == [0.0]  # half the letters: nothing
    assert anls(["abc"], [["abcd", "abc"]]) == [1.0]
    assert anls([""], [[""]]) == [1.0]
    assert anls(["a"], [[]]) == [0.0]


@pytest.mark.parametrize(
    ("answer", "wanted", "score"),
    [
        ("105", "100", 1), ("105.1", "100", 0), ("-95", "-100", 1), ("95", "-100", 0), ("0.31", "30%", 1),
        ("31%", "30%", 1), ("30", "30%", 0), ("0", "0", 1), ("0.01", "0", 0), ("Blue ", "blue", 1), ("blue", "red", 0),
        ("nan", "nan", 1), ("inf", "5", 0), ("12 kg", "12", 0),
    ],
)  # fmt: skip
def test_relaxed_accuracy(answer: str, wanted: str, score: int):
    assert relaxed_accuracy([answer], [[wanted]]) == [score]


@pytest.mark.parametrize("said", range(11))
def test_vqa_accuracy_leaves_out_one_at_a_time(said: int):
    people = ["stop"] * said + ["go"] * (10 - said)
    wanted = sum(min(sum(p == "stop" for p in some) / 3, 1) for some in combinations(people, 9)) / 10
    assert vqa_accuracy(["Stop!"], [people]) == [pytest.approx(wanted)]


def test_articles_and_marks_do_not_count():
    assert vqa_accuracy(["a red  bus."], [["The red bus"] * 10]) == [1.0]
    assert vqa_accuracy(["it's"], [["its"] * 10]) == [0.0]
    assert vqa_accuracy(["x"], [[]]) == [0.0]


def test_the_sign_test_of_the_recorded_run():
    """7 losses and 1 win among 40 answers: p = 0.070."""
    theirs = [1.0] * 16 + [0.0] * 24
    ours = [0.0] * 7 + [1.0] * 9 + [1.0] + [0.0] * 23
    found = paired(ours, theirs)
    assert (found.wins, found.losses) == (1, 7)
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8)
    assert found.difference.value == pytest.approx(-6 / 40)
    assert found.difference.low < -6 / 40 < found.difference.high
    assert found.difference.n == 40


def test_nothing_to_tell_apart():
    assert paired([1.0, 0.0], [1.0, 0.0]).p == 1.0
    assert paired([], []).difference.n == 0
    assert paired([1.0], [0.0]).p == 1.0
    assert not paired([1.0], [0.0]).difference.known
    assert paired([1.0, 1.0], [0.0, 1.0]).wins == 1
    assert math.isnan(paired([], []).difference.value)


def test_answers_and_questions_go_together():
    for score in (anls, relaxed_accuracy, vqa_accuracy):
        with pytest.raises(ShapeError, match="2 answers to 1"):
            score(["a", "b"], [["a"]])
    with pytest.raises(ShapeError):
        paired([1.0], [])


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "refined"),
    [
        ("Chair", ["chair"], 1, 1), ("the chair.", ["a chair"], 1, 1), ("brown chair", ["chair", "sofa"], 0, 1),
        ("chair", ["arm chair"], 0, 1), ("arm  chair", ["armchair"], 0, 1), ("table", ["chair"], 0, 0),
        ("", ["chair"], 0, 0), (".", ["chair"], 0, 0), ("yes", [], 0, 0),
    ],
)  # fmt: skip
def test_exact_and_refined_match(answer: str, accepted: list[str], exact: int, refined: int):
    assert (exact_match([answer], [accepted]), refined_match([answer], [accepted])) == ([exact], [refined])


@pytest.mark.parametrize(
    ("answer", "score"), [("B", 1), ("b.", 1), ("B. sofa", 1), ("sofa", 0), ("", 0), ("(B)", 0), (" B", 1)]
)
def test_option_accuracy(answer: str, score: int):
    assert option_accuracy([answer], [["B"]]) == [score]


@given(st.floats(-20, 20), st.floats(0.25, 20))
def test_relative_accuracy_counts_tolerances(said: float, true: float):
    """Slow twin: tolerances 50 % to 5 % in steps of 5, each met or not; borders, where rounding decides, left out."""
    error = abs(said - true) / true
    met = [error <= percent / 100 for percent in range(50, 0, -5)]
    if min(abs(error - percent / 100) for percent in range(50, 0, -5)) > 1e-9:
        assert relative_accuracy([repr(said)], [[repr(true)]]) == [sum(met) / 10]


@pytest.mark.parametrize(
    ("answer", "true", "score"),
    [("3", "3", 1.0), ("2.", "3", 0.4), ("three", "3", 0.0), ("4 meters", "4", 1.0), ("0", "0", 1.0), ("1", "0", 0.0)],
)
def test_relative_accuracy_of_known_answers(answer: str, true: str, score: float):
    assert relative_accuracy([answer], [[true]]) == [score]
