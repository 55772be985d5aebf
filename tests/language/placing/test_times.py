"""Seconds to steps: exact against fractions, float32 against the reference's own arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import InputError, ShapeError
from tubelet.language.placing.times import from_steps, from_times, simplest

BASES = [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 1000), Fraction(1, 600), Fraction(1, 12_800)]


@given(
    st.sampled_from(BASES),
    st.lists(st.integers(0, 10**7), min_size=1, max_size=12),
    st.integers(0, 10**7),
    st.sampled_from([1, 2, 4, 25]),
)
def test_exact_times_are_those_of_the_time_base(base: Fraction, ticks: list[int], first: int, rate: int):
    true = [base * (first + n) for n in sorted([0, *ticks])]
    times = np.array([float(t) for t in true])
    want = [math.floor((t - true[0]) * rate) for t in true]
    assert from_times(times, np.array([len(times)]), rate).tolist() == want


@given(st.integers(1, 200), st.fractions(Fraction(1, 60), 60, max_denominator=1000), st.sampled_from([1, 2, 4, 25]))
def test_exact_steps_are_those_of_the_fraction(rows: int, seconds: Fraction, rate: int):
    want = [math.floor(i * seconds * rate) for i in range(rows)]
    for given_as in (seconds, float(seconds)):
        assert from_steps(np.array([rows]), [given_as], rate).tolist() == want


@given(st.integers(1, 300), st.floats(2**-6, 40, width=32), st.sampled_from([1, 2, 3, 25]))
def test_float32_is_the_arithmetic_of_the_reference(rows: int, seconds: float, rate: int):
    reference = (torch.arange(rows) * torch.tensor(seconds, dtype=torch.float32) * rate).long()
    got = from_steps(np.array([rows]), [seconds], rate, "float32")
    assert got.tolist() == reference.tolist()
    theirs = (torch.arange(rows) * (torch.tensor(seconds, dtype=torch.float32) * rate)).long()
    got = from_steps(np.array([rows]), [np.float32(seconds)], np.float32(rate), "float32", product_first=True)
    assert got.tolist() == theirs.tolist()


def test_float32_of_even_times_is_that_of_their_step():
    for fps in np.arange(0.25, 12, 0.11):
        step = 2 / float(fps)
        times = np.arange(96) * step
        want = from_steps(np.array([96]), [step], 2, "float32")
        assert from_times(times, np.array([96]), 2, "float32").tolist() == want.tolist()


def test_the_two_arithmetics_differ_where_a_product_falls_beside_a_whole_number():
    rows, differ = np.array([256]), 0
    for hundredth in range(5, 6000, 5):
        step = Fraction(200, hundredth)
        exact = from_steps(rows, [step], 2)
        assert exact.tolist() == [math.floor(i * step * 2) for i in range(256)]
        differ += int((exact != from_steps(rows, [float(step)], 2, "float32")).sum())
    assert 0 < differ < 1000  # of 307,200 positions


def test_uneven_times_are_taken_as_they_are():
    times = np.array([3.0, 3.5, 3.5, 7.25, 100.0, 0.0, 1 / 3, 2 / 3, 1.0])
    want = [0, 1, 1, 8, 194, 0, 0, 1, 2]
    assert from_times(times, np.array([5, 4]), 2).tolist() == want
    assert from_times(times, np.array([5, 4]), 2, "float32").tolist() == want
    assert from_times(times, np.array([5, 4]), 3).tolist()[5:] == [0, 1, 2, 3]


def test_items_without_rows_of_time_change_nothing():
    assert from_times(np.zeros(0), np.zeros(0, np.int64), 2).tolist() == []
    assert from_times(np.array([0.0, 1.0]), np.array([0, 2, 0]), 2).tolist() == [0, 2]
    assert from_steps(np.zeros(0, np.int64), [], 2).tolist() == []


@given(st.fractions(0, 1000, max_denominator=5000))
def test_simplest_finds_the_fraction_a_float_was_made_from(fraction: Fraction):
    assert simplest(float(fraction)) == fraction
    assert simplest(-float(fraction)) == -fraction


@given(st.floats(0, 1e12))
def test_simplest_rounds_back(value: float):
    assert float(simplest(value)) == value
    assert np.float32(float(simplest(np.float32(value)))) == np.float32(value)


def test_a_large_fraction_is_counted_without_overflow():
    seconds = Fraction(10**18 + 1, 3 * 10**18)
    assert from_steps(np.array([10]), [seconds], 3).tolist() == list(range(10))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_seconds_that_are_none_are_refused(seconds: float):
    with pytest.raises(ShapeError, match="seconds_per_grid"):
        from_steps(np.array([3]), [seconds], 2)
    with pytest.raises(ShapeError, match="finite"):
        simplest(float("nan"))


@pytest.mark.usefixtures("as_in_production")
def test_times_beyond_int32_and_other_arithmetics_are_refused():
    with pytest.raises(ShapeError, match="int32"):
        from_times(np.array([0.0, 1e300]), np.array([2]), 2)
    with pytest.raises(InputError, match="exact, float32"):
        from_times(np.array([0.0]), np.array([1]), 2, "bfloat16")  # pyright: ignore[reportArgumentType]
