"""How methods choose, as one value: `shirg` and every method behind `choose` read what concerns them of it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Scale = Literal["range", "rank"]
SCALES: tuple[Scale, ...] = ("range", "rank")
COVERAGE_SHARE = 0.25  # of the budget, at most, for the best rows of regions
Words = Literal["max", "logsumexp", "mean"]  # how scores of words become one
WORDS: tuple[Words, ...] = ("max", "logsumexp", "mean")
TEMPERATURE = 0.05  # of words that are weighed against each other
RADIUS, REGION = 3, 4  # of shirg, where settings leave them open


class Weights(NamedTuple):
    """What each term counts, once all are between 0 and 1. Text alone unless said."""

    text: float = 1.0
    variance: float = 0.0
    edges: float = 0.0
    attention: float = 0.0


TEXT_ONLY = Weights()


@dataclass(frozen=True)
class Settings:
    """How methods choose; each reads what concerns it, and one that cannot follow a setting refuses it."""

    coverage: int | None = None  # side of the square regions that keep their best row; None: 4 for shirg, 0 otherwise
    coverage_share: float = COVERAGE_SHARE  # at most this part of the budget goes to regions
    scaffold: tuple[int, ...] = ()  # items kept whole, such as pooled global views
    words: Words = "max"  # how the words of a text become one score
    temperature: float = TEMPERATURE  # of words that are weighed against each other
    radius: int | None = None  # cells around a row near the text that count too; None: 3 for shirg, 0 otherwise
    falloff: float = 0.1  # what each further cell of that radius loses
    weights: Weights = TEXT_ONLY  # of shirg's terms
    scale: Scale = "range"  # how shirg brings its terms to 0..1, by range or by rank
    seed: int = 0  # of random
