"""Intervals: against tables, closed forms, and how often they hold the truth."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import InputError
from tubelet.inspect.metrics.intervals import at_least, mean_of, quantile_of, share_of, t_quantile

# Student's t, two-sided 95 %: any printed table.
T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 5: 2.5706, 9: 2.2622, 10: 2.2281, 29: 2.0452, 120: 1.9799}


def test_students_t_is_the_tables():
    for freedom, wanted in T_TABLE.items():
        assert t_quantile(0.975, freedom) == pytest.approx(wanted, abs=5e-5)
    assert t_quantile(0.995, 9) == pytest.approx(3.2498, abs=5e-5)
    assert t_quantile(0.975, 5000) == pytest.approx(1.9600, abs=5e-4)


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 9))
def test_binomial_tails_are_exact(k: int, n: int, tenths: int):
    p = Fraction(tenths, 10)
    wanted = sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)), Fraction(0))
    assert at_least(k, n, tenths / 10) == pytest.approx(float(wanted), abs=1e-12)


def test_shares_are_the_exact_ones():
    assert share_of(0, 10).high == pytest.approx(1 - 0.025**0.1)
    assert share_of(10, 10).low == pytest.approx(0.025**0.1)
    half = share_of(5, 10)
    assert (half.low, half.high) == (pytest.approx(0.18709, abs=1e-5), pytest.approx(0.81291, abs=1e-5))
    assert share_of(16, 40, level=0.9).low < 16 / 40 < share_of(16, 40, level=0.9).high < share_of(16, 40).high
    assert math.isnan(share_of(0, 0).value)


@given(st.integers(0, 30), st.integers(1, 30))
def test_the_ends_of_a_share_are_where_the_tails_are(k: int, n: int):
    k = min(k, n)
    found = share_of(k, n)
    if k:
        assert at_least(k, n, found.low) == pytest.approx(0.025, abs=1e-9)
    if k < n:
        assert 1 - at_least(k + 1, n, found.high) == pytest.approx(0.025, abs=1e-9)


def test_quantiles_are_order_statistics():
    found = quantile_of([float(i) for i in range(1, 21)], 0.5)
    assert (found.value, found.low, found.high) == (10.5, 6.0, 15.0)  # n = 20: the 6th and the 15th
    assert quantile_of([3.0, 1.0, 2.0], 0.5).low == -math.inf  # too few for any
    assert quantile_of(range(71), 0.95).high == math.inf
    assert quantile_of(range(72), 0.95).high == 71
    assert not quantile_of([1.0], 0.5).known
    assert quantile_of([], 0.5).n == 0


def test_quantiles_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = [
        f.low <= math.log(2) <= f.high
        for f in (quantile_of(rng.exponential(size=25).tolist(), 0.5) for _ in range(400))
    ]
    assert np.mean(held) > 0.93


@pytest.mark.parametrize("n", [8, 20, 40])
def test_means_hold_the_truth_about_as_often_as_they_say(n: int):
    """A plain percentile bootstrap of 8 normal values holds it in about 88 of 100 cases."""
    rng = np.random.default_rng(n)
    held = [f.low <= 1.0 <= f.high for f in (mean_of(rng.normal(1.0, 1.0, n).tolist()) for _ in range(300))]
    assert 0.91 <= np.mean(held) <= 0.985


def test_a_mean_of_few_is_wider_than_plain_percentiles():
    x = np.array([0.1, 0.5, 0.4, 0.9, 0.2, 0.6])
    rng = np.random.default_rng(0)
    plain = np.quantile(x[rng.integers(0, 6, (4000, 6))].mean(axis=1), [0.025, 0.975])
    found = mean_of(x.tolist())
    assert found.low < plain[0] < found.value < plain[1] < found.high
    assert found.value == pytest.approx(0.45)


def test_the_same_seed_gives_the_same_interval():
    values = [0.1, 0.7, 0.3, 0.9, 0.25, 0.5, 0.62, 0.81]
    assert mean_of(values) == mean_of(values)
    assert mean_of(values, seed=1) != mean_of(values, seed=2)


def test_what_is_not_defined_does_not_count():
    found = mean_of([0.5, math.nan, 0.7])
    assert (found.value, found.n) == (pytest.approx(0.6), 2)
    assert mean_of([math.nan]).n == 0
    assert not mean_of([0.4, math.nan]).known
    same = mean_of([0.5, 0.5, 0.5])
    assert (same.low, same.high) == (0.5, 0.5)


def test_what_is_no_sample_is_refused():
    for call in (
        lambda: mean_of([math.inf, 1.0]),
        lambda: mean_of([1.0, 2.0], level=1.0),
        lambda: share_of(3, 2),
        lambda: share_of(-1, 2),
        lambda: quantile_of([1.0, math.nan], 0.5),
        lambda: quantile_of([1.0, 2.0], 1.0),
    ):
        with pytest.raises(InputError):
            call()
