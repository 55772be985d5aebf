"""Numbers of several methods as one table to read at a glance: columns that say which way is better, the best of each,
and footnotes in place of an interval that is not known.

               coverage ^   distance v
    divprune     0.47         2.63
    pool         1.00*        1.41*        * the best
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from tubelet.inspect.metrics.estimate import Estimate


class Measure(NamedTuple):
    """One column."""

    key: str  # in `summary`, or "time"
    name: str  # for people
    better: Literal["higher", "lower"] | None  # None: neither, as there is a value that means chance
    about: str  # what it says, in a line


MEASURES = (
    Measure("coverage", "coverage", "higher", "share of 8 x 8 regions with a kept token"),
    Measure("distance", "distance", "lower", "cells from each token to the nearest kept one"),
    Measure("coherence", "coherence", None, "kept tokens beside each other, over chance: 1 is chance"),
    Measure("rebuilt", "rebuilt", "higher", "R2 of all tokens out of the kept ones"),
    Measure("in_boxes", "in boxes", "higher", "share of the tokens in the boxes that are kept"),
    Measure("time", "time", "lower", "of the encoder and the method, over the encoder alone"),
)
ORACLE = "boxes"  # it has seen what others are judged by


@dataclass(frozen=True)
class Comparison:
    """The numbers of each method by name, as `summary` gives them.

    >>> from tubelet.inspect.metrics import mean_of
    >>> one = Comparison({"edges": {"coverage": mean_of([0.25])}, "pool": {"coverage": mean_of([1.0])}})
    >>> one.cell("edges", "coverage"), one.best("coverage"), one.footnotes
    ('0.25', ('pool',), ('one input: no number has an interval',))
    """

    rows: Mapping[str, Mapping[str, Estimate]]
    draws: int = 0  # random choices of one picture that the row "random" is the mean of

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The columns that some method has."""
        return tuple(m for m in MEASURES if any(m.key in numbers for numbers in self.rows.values()))

    @cached_property
    def pictures(self) -> int:
        """Over how many the numbers are, times and drawn chance left out."""
        own = [(name, key, e.n) for name, row in self.rows.items() for key, e in row.items()]
        return max((n for name, key, n in own if key != "time" and not (self.draws and name == "random")), default=0)

    def number(self, name: str, key: str) -> str:
        """A value in two digits; empty where a method has none, a dash where nothing defines it."""
        found = self.rows[name].get(key)
        return "" if found is None else "-" if math.isnan(found.value) else f"{found.value:.2f}"

    def interval(self, name: str, key: str) -> str:
        """[low, high], and n where it is over fewer pictures than others; empty where one picture has none."""
        found = self.rows[name].get(key)
        if found is None or not found.known or (self.draws and name == "random" and key != "time"):
            return ""
        fewer = f" n={found.n}" if key != "time" and found.n != self.pictures else ""
        return f"[{found.low:.2f}, {found.high:.2f}]{fewer}"

    def cell(self, name: str, key: str) -> str:
        """Number and interval on one line."""
        return f"{self.number(name, key)} {self.interval(name, key)}".strip()

    def best(self, key: str) -> tuple[str, ...]:
        """Who has the best value as it is shown, among those that do not know the answer; nobody where all are alike
        or neither way is better."""
        better = next(m.better for m in MEASURES if m.key == key)
        known = {
            n: float(self.number(n, key)) for n, row in self.rows.items() if _defined(row.get(key)) and n != ORACLE
        }
        if better is None or len(set(known.values())) < 2:
            return ()
        goal = max(known.values()) if better == "higher" else min(known.values())
        return tuple(name for name, value in known.items() if value == goal)

    @property
    def legend(self) -> tuple[str, ...]:
        """What each column that is there says."""
        return tuple(f"{m.name}: {m.about}" for m in self.measures)

    @cached_property
    def footnotes(self) -> tuple[str, ...]:
        """How far the numbers can be trusted, once for all."""
        many = self.pictures > 1
        out = [f"95 % intervals over {self.pictures} inputs" if many else "one input: no number has an interval"]
        if self.draws and "random" in self.rows:
            random = [(m.name, self.rows["random"][m.key]) for m in self.measures if m.key in self.rows["random"]]
            known = ", ".join(f"{name} {e.low:.2f} to {e.high:.2f}" for name, e in random if e.known and name != "time")
            out.append(f"random: the mean of {self.draws} draws; 95 % of it: {known}" if known else "random: one draw")
        runs = {row["time"].n for row in self.rows.values() if "time" in row}
        if runs:
            out.append(f"time: the median of {max(runs)} runs, with its 95 % interval where there is one")
        return tuple(out)


def _defined(found: Estimate | None) -> bool:
    return found is not None and not math.isnan(found.value)
