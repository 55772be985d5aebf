"""Seconds to position steps: how far each row of time of a video lies from its first one, in whole positions.

    times_s   0.0  0.5  1.0  2.5       x tokens_per_second 2       index   0  1  2  5

"exact" is the largest whole number of steps that the true, rational time has reached. "float32" repeats, rounding by
rounding, the arithmetic in which published checkpoints were trained: float32 products, cut off. The two differ where a
product like 21 x 1.3333334 x 3 falls just beside a whole number.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tubelet.errors import InputError, ShapeError
from tubelet.language.placing.rules import ARITHMETIC, Arithmetic
from tubelet.shapes import Float, Int64

Number = float | Fraction | np.floating
LARGEST = 2**31 - 1  # a position beyond this is a unit mistaken for another, not a long video
_MARGIN = 1e-8  # positions; see `from_times`
_EVEN_S = 1e-6  # rows whose spacing differs by less are evenly sampled


def from_times(
    times_s: Float[np.ndarray, " F"],
    rows: Int64[np.ndarray, " N"],
    tokens_per_second: Number,
    arithmetic: Arithmetic = "exact",
) -> Int64[np.ndarray, " F"]:
    """Step index of every row of time of N videos; `rows` says how many of the F `times_s` belong to each.

    Counted from the first time of the same video. "exact" gives floor(t x tokens_per_second) of the rational times that
    the float64 seconds stand for: right for every time base down to 1e-7 s and the first ten days of a video, because
    no product can then lie closer than 1e-7 below a whole number. "float32" takes evenly sampled rows as i x step, as
    the reference does, and others as they are. No loop over videos.
    Raises ShapeError where an index does not fit int32.

        >>> from_times(np.array([0.0, 0.1, 0.2, 0.3]), np.array([4]), 10).tolist()
        [0, 1, 2, 3]
    """
    _known(arithmetic)
    if not len(times_s):
        return np.zeros(0, np.int64)
    rows = rows[rows > 0]
    starts = np.cumsum(rows) - rows
    since = times_s - np.repeat(times_s[starts], rows)
    if arithmetic == "exact":
        return _whole(np.floor(since * float(tokens_per_second) + _MARGIN))
    step = since[starts + rows - 1] / np.maximum(rows - 1, 1)
    number = np.arange(len(since)) - np.repeat(starts, rows)
    even = np.maximum.reduceat(np.abs(since - number * np.repeat(step, rows)), starts) < _EVEN_S
    product = number.astype(np.float32) * np.repeat(step.astype(np.float32), rows)
    seconds = np.where(np.repeat(even, rows), product, since.astype(np.float32))
    return _whole(np.trunc(seconds * np.float32(tokens_per_second)))


def from_steps(
    rows: Int64[np.ndarray, " N"],
    seconds_per_grid: Sequence[Number],
    tokens_per_second: Number,
    arithmetic: Arithmetic = "exact",
    *,
    product_first: bool = False,
) -> Int64[np.ndarray, " F"]:
    """Step index of every row of time of N evenly sampled videos: i x seconds_per_grid x tokens_per_second.

    "exact" counts in integers, taking a float for the simplest fraction that rounds to it (`simplest`). product_first:
    in "float32", multiply the two factors before they meet i, as transformers 5 does.
    Raises ShapeError where a step is not finite or an index does not fit int32.

        >>> from_steps(np.array([4]), [1 / 3], 3).tolist()
        [0, 1, 2, 3]
    """
    _known(arithmetic)
    starts = np.cumsum(rows) - rows
    number = np.arange(int(rows.sum()), dtype=np.int64) - np.repeat(starts, rows)
    for i, each in enumerate(seconds_per_grid):
        if not (math.isfinite(each) and each >= 0):
            raise ShapeError(f"seconds_per_grid must be finite and not negative, got {each}", item=i, got=each)
    if arithmetic == "float32":
        seconds = np.array([float(s) for s in seconds_per_grid], np.float64)
        if product_first:
            factor = np.repeat((seconds * float(tokens_per_second)).astype(np.float32), rows)
            return _whole(np.trunc(number.astype(np.float32) * factor))
        product = number.astype(np.float32) * np.repeat(seconds.astype(np.float32), rows)
        return _whole(np.trunc(product * np.float32(tokens_per_second)))
    steps = [simplest(s) * simplest(tokens_per_second) for s in seconds_per_grid]
    if any(abs(s.numerator) * int(n) >= 2**62 or s.denominator >= 2**62 for s, n in zip(steps, rows, strict=True)):
        counted = [math.floor(i * s) for s, n in zip(steps, rows.tolist(), strict=True) for i in range(n)]
        return _whole(np.array(counted, np.float64))
    numerator = np.array([s.numerator for s in steps], np.int64)
    denominator = np.array([s.denominator for s in steps], np.int64)
    return _whole(number * np.repeat(numerator, rows) // np.repeat(denominator, rows))


def simplest(value: Number) -> Fraction:
    """The fraction of the smallest denominator that rounds to `value`, in float32 for a numpy float32, else in float64.

    Raises ShapeError for what is not finite.

        >>> simplest(1001 / 30000), simplest(np.float32(1.3))
        (Fraction(1001, 30000), Fraction(13, 10))
    """
    if isinstance(value, int | Fraction):
        return Fraction(value)
    if not math.isfinite(value):
        raise ShapeError(f"a number of seconds must be finite, got {value}", got=float(value))
    exact = Fraction(float(value))
    if exact < 0:
        return -simplest(-value)
    single = isinstance(value, np.floating) and value.dtype == np.float32
    kind = np.float32 if single else np.float64
    gap = Fraction(float(np.spacing(kind(value)))) / 2
    found = _between(exact - gap, exact + gap) if exact else exact
    return found if kind(float(found)) == kind(value) else exact


def _between(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of the smallest denominator in [low, high], 0 <= low <= high: continued fractions, step by step."""
    whole = low.numerator // low.denominator
    if whole == low or whole + 1 <= high:
        return Fraction(whole if whole == low else whole + 1)
    return whole + 1 / _between(1 / (high - whole), 1 / (low - whole))


def _known(arithmetic: str) -> None:
    if arithmetic not in ARITHMETIC:
        raise InputError(f"arithmetic is one of {', '.join(ARITHMETIC)}", expected=ARITHMETIC, got=arithmetic)


def _whole(steps: np.ndarray) -> Int64[np.ndarray, " F"]:
    if len(steps) and not np.abs(steps).max() <= LARGEST:
        raise ShapeError("times reach further than int32 positions", limit=LARGEST, got=float(np.abs(steps).max()))
    return steps.astype(np.int64)
