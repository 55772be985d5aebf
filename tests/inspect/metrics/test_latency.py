"""Times by a clock that the test holds: turns, stages, warm-up, ratios. Nothing here depends on real time."""

import math
from collections.abc import Callable

import pytest

from tubelet.errors import InputError
from tubelet.inspect.metrics import latency_ratio, timed


class Clock:
    """Time that passes only when a stage says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def stage(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.ran.append(name)
            self.now += seconds

        return run


def test_stages_are_timed_apart_and_in_turns():
    clock = Clock()
    ours = {"encode": clock.stage("a1", 2.0), "select": clock.stage("a2", 0.5)}
    out = timed({"ours": ours, "plain": {"encode": clock.stage("b", 2.0)}}, runs=20, warmup=2, clock=clock)
    assert clock.ran[:6] == ["a1", "a2", "b", "b", "a1", "a2"]
    assert len(clock.ran) == 3 * 22
    assert out["ours"].stages == {"encode": (2.0,) * 20, "select": (0.5,) * 20}
    assert out["ours"].total_s == (2.5,) * 20
    assert out["ours"].median("select").value == 0.5
    found = latency_ratio(out["ours"].total_s, out["plain"].total_s)
    assert (found.median.value, found.p95.value, found.median.n) == (1.25, 1.25, 20)
    assert found.p95.high == math.inf


def test_what_settles_is_called_before_the_clock_is_read():
    clock, calls = Clock(), []
    work = clock.stage("work", 0.0)

    def settle() -> None:
        calls.append(len(clock.ran))
        clock.now += 1.0 if len(calls) % 2 == 0 else 100.0  # work that was still under way counts, what was before not

    out = timed({"one": {"work": work}}, runs=3, warmup=0, settle=settle, clock=clock)
    assert calls == [0, 1, 1, 2, 2, 3]
    assert out["one"].stages["work"] == (1.0, 1.0, 1.0)


def test_a_slow_machine_hits_both():
    """Drift over the run leaves the ratio of each turn as it was."""
    theirs = [1.0 + 0.1 * i for i in range(20)]
    found = latency_ratio([1.05 * t for t in theirs], theirs)
    assert found.median.value == pytest.approx(1.05)
    assert found.median.low == pytest.approx(1.05)


def test_too_few_runs_have_no_tail():
    with pytest.raises(InputError, match="20 runs"):
        latency_ratio([1.0] * 19, [1.0] * 19)
    with pytest.raises(InputError):
        latency_ratio([1.0] * 20, [1.0] * 21)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="above 0"):
            latency_ratio([bad] * 20, [1.0] * 20)
    for wrong in ({}, {"one": {}}):
        with pytest.raises(InputError):
            timed(wrong)
    with pytest.raises(InputError):
        timed({"one": {"stage": int}}, runs=0)
