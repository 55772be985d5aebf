"""What takes the place of a sample that cannot be used: decided by the seed, counted, listed, and stopped above 1 %."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tubelet.errors import DataError, InputError, TubeletError
from tubelet.shapes import Int64
from tubelet.train.data.mixture import generator

T = TypeVar("T")
ATTEMPTS = 16  # spares tried for one sample


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and why."""

    index: int  # its number in the data set
    where: str  # file and line or member
    error: str  # the class of the error
    reason: str

    @classmethod
    def of(cls, index: int, error: TubeletError, where: str = "") -> "BadSample":
        return cls(index, error.source or where, type(error).__name__, error.message)


@dataclass(frozen=True, eq=False)
class Spares:
    """The spare list of every sample: a pure function of the seed and its number, so that it is the same in every
    process and after every restart.

    Raises InputError without a sample.
    """

    count: int  # samples of the data set
    seed: int
    tokens: Int64[np.ndarray, " n"] | None = None  # of each, where counted; -1 for one that is known to be bad

    def __post_init__(self) -> None:
        if self.count < 1 or (self.tokens is not None and len(self.tokens) != self.count):
            got = None if self.tokens is None else len(self.tokens)
            raise InputError("spares are of one sample or more, with as many token counts", limit=self.count, got=got)

    def limit(self, index: int) -> int | None:
        """Tokens that a spare of `index` may have at most; None where they are not counted."""
        return None if self.tokens is None else int(planned(self.tokens)[index])

    def of(self, index: int) -> Iterator[int]:
        """Numbers of the samples to try in turn in place of `index`, all others. With token counts, those that are
        known to be good and have no more than were planned for it; so a batch never grows.

            >>> list(Spares(3, seed=0).of(1))
            [0, 2]
        """
        candidates = np.arange(self.count)
        if self.tokens is not None:
            candidates = np.flatnonzero((self.tokens >= 0) & (self.tokens <= self.limit(index)))
        candidates = candidates[candidates != index]
        if len(candidates):
            start = int(generator("spare", self.seed, index).integers(len(candidates)))
            yield from np.roll(candidates, -start).tolist()


def planned(tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Tokens to make batches with: a bad sample (-1) counts as the median of the good ones.

    Raises DataError without a good sample.
    """
    good = tokens[tokens >= 0]
    if not len(good):
        raise DataError("not one sample can be used", got=len(tokens))
    return np.where(tokens < 0, np.sort(good)[(len(good) - 1) // 2], tokens)


def first_usable(index: int, spares: Spares, load: Callable[[int], T], name: str) -> tuple[T, tuple[BadSample, ...]]:
    """What `load` gives of a sample, or of the first of its spares that can be used, and what could not.

    name: the data set's, for messages. Raises DataError where none of ATTEMPTS spares can be used; DataError of `load`
    goes through.
    """
    bad: list[BadSample] = []
    others = spares.of(index)
    other: int | None = index
    last: TubeletError | None = None
    while other is not None and len(bad) <= ATTEMPTS:
        try:
            return load(other), tuple(bad)
        except DataError:
            raise
        except TubeletError as error:
            last = error
            bad.append(BadSample.of(other, error, name))
            other = next(others, None)
    text = f"sample {index} and {len(bad) - 1} spares cannot be used; the last: {bad[-1].error}: {bad[-1].reason}"
    raise DataError(text, source=bad[-1].where, got=index) from last


@dataclass
class Tally:
    """Bad samples of a run, each counted once. Above `share` of the data set it stops."""

    count: int  # samples of the data set
    share: float = 0.01
    bad: dict[int, BadSample] = field(default_factory=dict)

    def add(self, found: Iterable[BadSample]) -> None:
        """Count them. Raises DataError where they are too many, telling the first and how many of which kind."""
        for one in found:
            self.bad.setdefault(one.index, one)
        if len(self.bad) > self.share * self.count:
            first = next(iter(self.bad.values()))
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in self.kinds().items())
            raise DataError(
                f"{len(self.bad):,} of {self.count:,} samples cannot be used, more than {self.share:.2%} ({kinds}); "
                f"the first: {first.error}: {first.reason}",
                source=first.where or None,
                limit=self.share,
                got=len(self.bad),
            )

    def kinds(self) -> dict[str, int]:
        """How many of each class of error, most first."""
        names = [one.error for one in self.bad.values()]
        return dict(sorted(((n, names.count(n)) for n in set(names)), key=lambda pair: (-pair[1], pair[0])))
