"""A number with how well it is known. It cannot be printed without that."""

import math
from dataclasses import dataclass
from typing import Any

from tubelet.errors import InputError


@dataclass(frozen=True, repr=False)
class Estimate:
    """value, the interval low..high that is said to hold it (95 % unless told otherwise), and over how many it is.

    What is not known is NaN: the interval of one picture, or the value where nothing defines it (n = 0). An end that
    no sample of this size can give is infinite. str, repr and format always show the interval; a format applies to its
    numbers. Raises InputError for an interval that does not hold its value.

        >>> print(Estimate(0.5, 0.25, 0.75, 12), Estimate(0.5, math.nan, math.nan, 1), sep=" | ")
        0.500 [0.250, 0.750] n=12 | 0.500 [unknown] n=1
        >>> f"{Estimate(0.5, 0.25, 0.75, 12):.1f}"
        '0.5 [0.2, 0.8] n=12'
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        unknown = math.isnan(self.low) and math.isnan(self.high)
        if not (unknown or self.low <= self.value <= self.high):
            raise InputError(
                f"{self.low}..{self.high} does not hold {self.value}", got=(self.value, self.low, self.high)
            )
        if self.n < 0 or (self.n == 0 and not math.isnan(self.value)):
            raise InputError(f"a value over {self.n} of anything", limit=0, got=self.n)

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    def __format__(self, spec: str) -> str:
        value, low, high = (format(v, spec) if spec else _plain(v) for v in (self.value, self.low, self.high))
        if math.isnan(self.value):
            return f"undefined [unknown] n={self.n}"
        return f"{value} [{low}, {high}] n={self.n}" if self.known else f"{value} [unknown] n={self.n}"

    def __str__(self) -> str:
        return format(self, "")

    def __repr__(self) -> str:
        return f"Estimate({self})"

    def _repr_html_(self) -> str:
        value, _, rest = str(self).partition(" ")
        return f"<b>{value}</b> <small>{rest}</small>"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not known, and an end that is infinite, is None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {**{k: v if math.isfinite(v) else None for k, v in numbers.items()}, "n": self.n}


def undefined() -> Estimate:
    """Nothing defines a value."""
    return Estimate(math.nan, math.nan, math.nan, 0)


def _plain(value: float) -> str:
    """Three digits after the point, or three that count where that would show none or too many."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"
