"""Sampling by time: the rules, their edges, and the slow obvious twin of the search."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import InputError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import DEFAULT_MOST, Sampling, shown_at


def constant(frames: int, rate: float) -> tuple[list[float], float]:
    return [k / rate for k in range(frames)], frames / rate


def uneven() -> tuple[list[float], float]:
    """120 frames a second for one second, then one a second for nine."""
    return [k / 120 for k in range(120)] + [1.0 + k for k in range(9)], 10.0


@pytest.mark.parametrize("rate", [1.0, 23.976, 25.0, 30.0, 30000 / 1001, 59.94, 120.0])
def test_asking_for_the_clips_own_rate_gives_every_frame_once(rate: float) -> None:
    starts, duration = constant(300, rate)
    assert Sampling(fps=rate).choose(starts, duration) == list(range(300))


@pytest.mark.parametrize("tick_s", [0.001, 1 / 600])
def test_a_coarse_clock_neither_skips_nor_repeats(tick_s: float) -> None:
    starts, duration = constant(300, 30.0)
    rounded = [round(s / tick_s) * tick_s for s in starts]
    assert Sampling(fps=30.0).choose(rounded, duration, slack_s=tick_s / 2) == list(range(300))


def test_num_frames_takes_the_middles_of_equal_parts() -> None:
    starts, duration = constant(100, 10.0)
    assert Sampling(num_frames=5).choose(starts, duration) == [10, 30, 50, 70, 90]
    assert Sampling(num_frames=1).choose(starts, duration) == [50]


@pytest.mark.parametrize("wanted", [100, 101, 1000, 10**9])
def test_num_frames_above_the_count_gives_every_frame_once(wanted: int) -> None:
    starts, duration = constant(100, 10.0)
    assert Sampling(num_frames=wanted).choose(starts, duration) == list(range(100))


def test_uneven_frames_are_chosen_by_time_not_by_number() -> None:
    starts, duration = uneven()
    chosen = Sampling(num_frames=8).choose(starts, duration)
    assert [starts[i] for i in chosen] == [75 / 120, 1.0, 3.0, 4.0, 5.0, 6.0, 8.0, 9.0]
    assert Sampling(fps=1.0).choose(starts, duration) == [0, *range(120, 129)]


def test_a_frame_still_shown_is_taken_once_by_rate_and_twice_by_name() -> None:
    starts = [0.0, 4.0]
    assert Sampling(fps=1.0).choose(starts, 8.0) == [0, 1]
    assert Sampling(times_s=(0.0, 1.0, 4.0, 8.0)).choose(starts, 8.0) == [0, 0, 1, 1]


def test_the_default_is_two_a_second_and_at_most_64() -> None:
    starts, duration = constant(300, 30.0)
    assert [starts[i] for i in Sampling().choose(starts, duration)] == [k / 2 for k in range(20)]
    long_starts, long = constant(30_000, 30.0)
    chosen = Sampling().choose(long_starts, long)
    assert len(chosen) == DEFAULT_MOST and chosen == Sampling(num_frames=64).choose(long_starts, long)
    assert len(Sampling().times(0.0, 32.0)) == 64


def test_duplicate_starts_show_the_last_of_them() -> None:
    assert shown_at((0.0, 1.0, 1.0, 2.0), 1.0) == 2
    assert shown_at((0.0, 1.0), -5.0) == 0


def test_times_are_on_the_clock_they_were_asked_on() -> None:
    assert Sampling(fps=2.0).times(10.0, 1.0) == (10.0, 10.5)
    assert Sampling(times_s=(0.25,)).times(10.0, 1.0) == (10.25,)


@pytest.mark.parametrize(
    "bad",
    [
        {"fps": 0.0},
        {"fps": -1.0},
        {"fps": math.nan},
        {"fps": math.inf},
        {"num_frames": 0},
        {"num_frames": -3},
        {"times_s": ()},
        {"times_s": (math.nan,)},
        {"times_s": (-0.1,)},
        {"times_s": (2.0, 1.0)},
        {"fps": 1.0, "num_frames": 4},
        {"num_frames": 4, "times_s": (0.0,)},
    ],
)
def test_rules_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Sampling(**bad)  # type: ignore[arg-type]


def test_a_time_after_the_end_is_refused_with_both_numbers() -> None:
    with pytest.raises(InputError) as caught:
        Sampling(times_s=(0.0, 12.0)).choose([0.0, 5.0], 10.0)
    assert caught.value.limit == 10.0 and caught.value.got == 12.0


@pytest.mark.parametrize("rule", [{"fps": 1e300}, {"fps": 1e9}, {"num_frames": 10_000}, {"times_s": (0.0,) * 9000}])
def test_more_frames_than_the_ceiling_are_refused_before_they_are_listed(rule: dict[str, object]) -> None:
    starts, duration = constant(20_000, 1000.0)
    with pytest.raises(LimitError):
        Sampling(**rule).choose(starts, duration, Limits())  # type: ignore[arg-type]


def test_no_frame_at_all_is_refused() -> None:
    with pytest.raises(InputError):
        Sampling().choose([], 1.0)


@given(
    gaps=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    times=st.lists(st.integers(0, 2000), min_size=1, max_size=20),
)
def test_search_equals_the_obvious_walk(gaps: list[int], times: list[int]) -> None:
    starts = [0.0]
    for gap in gaps[1:]:
        starts.append(starts[-1] + gap / 64)
    for t in times:
        shown = 0
        for i, start in enumerate(starts):
            if start <= t / 64:
                shown = i
        assert shown_at(starts, t / 64) == shown


@given(frames=st.integers(1, 200), wanted=st.integers(1, 250))
def test_an_even_clip_gives_as_many_frames_as_asked_or_all(frames: int, wanted: int) -> None:
    starts, duration = constant(frames, 25.0)
    chosen = Sampling(num_frames=wanted).choose(starts, duration)
    assert len(chosen) == min(frames, wanted) == len(set(chosen))
