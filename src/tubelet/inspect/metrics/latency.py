"""How long the stages of one run take, and the whole beside another: interleaved, with intervals."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tubelet.errors import InputError
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import quantile_of

LEAST = 20  # runs below which a 95th percentile is only the slowest run


@dataclass(frozen=True)
class Times:
    """Seconds of each run's stages, in the order in which they ran: stages[name][run]."""

    stages: dict[str, tuple[float, ...]]

    @property
    def total_s(self) -> tuple[float, ...]:
        """The sum of the stages of each run."""
        return tuple(math.fsum(run) for run in zip(*self.stages.values(), strict=True))

    def median(self, stage: str | None = None) -> Estimate:
        """Of a stage, or of the whole; seconds, with the interval of order statistics."""
        return quantile_of(self.total_s if stage is None else self.stages[stage], 0.5)

    def p95(self, stage: str | None = None) -> Estimate:
        """The 95th percentile; without an upper end below 72 runs."""
        return quantile_of(self.total_s if stage is None else self.stages[stage], 0.95)


@dataclass(frozen=True)
class Ratio:
    """How long one takes beside the other, run by run in turns: median and 95th percentile of the quotients."""

    median: Estimate
    p95: Estimate


Stages = Mapping[str, Callable[[], object]]


def timed(
    contenders: Mapping[str, Stages],
    *,
    runs: int = LEAST,
    warmup: int = 3,
    settle: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Each contender's stages, timed `runs` times in turns (A B, B A, A B ...) after `warmup` unmeasured turns.

    A stage is a function; what it needs of the one before it, it keeps itself. settle: is called before the clock is
    read, such as torch.cuda.synchronize, because a device runs on while the host goes ahead. Same process, same inputs;
    check that the contenders give the same result first. Raises InputError for no contenders, stages or runs.

        >>> out = timed({"one": {"count": lambda: sum(range(9))}}, runs=20)
        >>> len(out["one"].stages["count"])
        20
    """
    if not contenders or not all(contenders.values()) or runs < 1 or warmup < 0:
        raise InputError(f"stages to time, 1 run or more and warm-up of 0 or more, got {runs} and {warmup}", got=runs)
    wait = settle or _nothing
    found = {name: {stage: list[float]() for stage in stages} for name, stages in contenders.items()}
    for name, counts in in_turns(contenders, runs, warmup):
        for stage, run in contenders[name].items():
            wait()
            start = clock()
            run()
            wait()
            if counts:
                found[name][stage].append(clock() - start)
    return {name: Times({s: tuple(v) for s, v in stages.items()}) for name, stages in found.items()}


def in_turns(names: Iterable[str], runs: int, warmup: int) -> Iterator[tuple[str, bool]]:
    """Whose turn it is, A B, B A, A B ..., and whether the turn counts: so that drift hits all alike."""
    order = list(names)
    for turn in range(-warmup, runs):
        yield from ((name, turn >= 0) for name in (order if turn % 2 == 0 else order[::-1]))


def latency_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """ours / theirs of each turn, from totals of runs that were interleaved (`timed`). Above 1: ours is slower.

    Raises InputError for other numbers of runs, fewer than `LEAST` of them, or times that are not above 0.

        >>> latency_ratio([2.0] * 20, [1.0] * 20).median
        Estimate(2.000 [2.000, 2.000] n=20)
    """
    if len(ours) != len(theirs) or len(ours) < LEAST:
        raise InputError(
            f"a ratio needs {LEAST} runs of each, got {len(ours)} and {len(theirs)}", limit=LEAST, got=len(ours)
        )
    if not all(math.isfinite(t) and t > 0 for t in (*ours, *theirs)):
        raise InputError("times are seconds above 0")
    quotients = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(quantile_of(quotients, 0.5), quantile_of(quotients, 0.95))


def _nothing() -> None:
    pass
