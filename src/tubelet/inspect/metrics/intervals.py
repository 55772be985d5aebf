"""How far a value can be trusted: 95 % intervals of means, shares and quantiles, each by a stated method.

    mean_of       over pictures: the bootstrap, seeded, its percentiles moved outwards for small n
    share_of      successes of n: exact (Clopper and Pearson)
    quantile_of   medians and tails of times: exact for any distribution, from order statistics

One value has no interval. No method knows how alike the pictures of one data set are.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from tubelet.errors import InputError
from tubelet.inspect.metrics.estimate import Estimate, undefined

LEVEL = 0.95
RESAMPLES = 4000
_AT_ONCE = 1 << 20  # numbers drawn together, which bounds memory


def mean_of(values: Sequence[float], *, level: float = LEVEL, seed: int = 0) -> Estimate:
    """The mean of one value for each picture, with a bootstrap interval over pictures. NaN, not defined, is left out.

    Percentiles of `RESAMPLES` resampled means. The bootstrap of few values is too narrow: its percentiles are moved to
    those that Student's t would ask for. No end passes the least or greatest value, so of two or three values it stays
    too narrow. The same seed gives the same interval. Raises InputError for an infinite value.
    Source: Hesterberg, "What teachers should know about the bootstrap", American Statistician 69, 2015, section 3.3
    (expanded percentile).

        >>> mean_of([0.2, 0.4, 0.6]).n, mean_of([0.4])
        (3, Estimate(0.400 [unknown] n=1))
    """
    _checked_level(level)
    x = np.asarray([v for v in values if not math.isnan(v)], dtype=np.float64)
    if not np.isfinite(x).all():
        raise InputError("a value is infinite", got=float(x[~np.isfinite(x)][0]))
    n = len(x)
    if n == 0:
        return undefined()
    value = float(x.mean())
    if n == 1:
        return Estimate(value, math.nan, math.nan, 1)
    rng, step = np.random.default_rng(seed), max(1, _AT_ONCE // n)
    means = np.concatenate(
        [x[rng.integers(0, n, (min(step, RESAMPLES - a), n))].mean(axis=1) for a in range(0, RESAMPLES, step)]
    )
    tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(1 - (1 - level) / 2, n - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value), n)


def share_of(successes: int, n: int, *, level: float = LEVEL) -> Estimate:
    """successes / n with the exact binomial interval. Raises InputError for successes outside 0..n.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934.

        >>> share_of(0, 10)
        Estimate(0.000 [0.000, 0.308] n=10)
    """
    _checked_level(level)
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n}", limit=n, got=successes)
    if n == 0:
        return undefined()
    half = (1 - level) / 2
    low = 0.0 if successes == 0 else _root(lambda p: at_least(successes, n, p) - half)
    high = 1.0 if successes == n else _root(lambda p: half - (1 - at_least(successes + 1, n, p)))
    return Estimate(successes / n, low, high, n)


def quantile_of(values: Sequence[float], q: float, *, level: float = LEVEL) -> Estimate:
    """A quantile with the interval between two of the values that holds the true one, whatever the distribution.

    An end that n values cannot give is infinite: the 95th percentile of fewer than 72 values has no upper one. For
    independent values. Raises InputError for q outside 0..1 or a value that is no number.

        >>> quantile_of([float(i) for i in range(1, 22)], 0.5)
        Estimate(11.000 [6.000, 16.000] n=21)
    """
    _checked_level(level)
    if not 0 < q < 1 or not all(math.isfinite(v) for v in values):
        raise InputError(f"a quantile between 0 and 1 of finite values, got {q}", got=q)
    x, n = sorted(values), len(values)
    if n == 0:
        return undefined()
    value = float(np.quantile(x, q))
    if n == 1:
        return Estimate(value, math.nan, math.nan, 1)
    half = (1 - level) / 2
    below = [i for i in range(1, n + 1) if 1 - at_least(i, n, q) <= half]
    above = [i for i in range(1, n + 1) if at_least(i, n, q) <= half]
    return Estimate(value, x[below[-1] - 1] if below else -math.inf, x[above[0] - 1] if above else math.inf, n)


# ---- distributions


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) of n trials of probability p."""
    if k <= 0 or p >= 1:
        return 1.0
    if k > n or p <= 0:
        return 0.0
    i = np.arange(k, n + 1)
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    ways = log_factorial[n] - log_factorial[i] - log_factorial[n - i]
    return min(1.0, float(np.exp(ways + i * math.log(p) + (n - i) * math.log1p(-p)).sum()))


def t_quantile(q: float, freedom: int) -> float:
    """Where Student's t with so many degrees of freedom has q of its mass below, for q in 0.5..1.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

        >>> round(t_quantile(0.975, 9), 3)
        2.262
    """
    if freedom > 1000:
        return NormalDist().inv_cdf(q)
    high = 1.0
    while _inside(high, freedom) < 2 * q - 1:
        high *= 2
    return _root(lambda t: _inside(t, freedom) - (2 * q - 1), high=high)


def _inside(t: float, freedom: int) -> float:
    """P(-t <= T <= t)."""
    angle = math.atan(t / math.sqrt(freedom))
    first, odd = (math.cos(angle), 1) if freedom % 2 else (1.0, 0)
    total, term = 0.0, first
    for i in range(odd, freedom - 1, 2):
        total += term
        term *= (i + 1) / (i + 2) * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def _root(f: Callable[[float], float], *, low: float = 0.0, high: float = 1.0) -> float:
    """Where a function that rises from below 0 crosses it: halving until the numbers are neighbours."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if f(middle) > 0 else (middle, high)
    return (low + high) / 2


def _checked_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"a level is between 0 and 1, got {level}", got=level)
