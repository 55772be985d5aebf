"""Temporal rules against exact arithmetic and small hand-made tables."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.golden.upstream import onevision_time as time

from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Grid, positions


def test_interpolation_spreads_a_short_clip_over_64_frames():
    assert time.interpolate_frame_indices(range(8), 8) == (0, 9, 18, 27, 36, 45, 54, 63)
    assert time.interpolate_frame_indices([0], 1) == (0,)
    assert time.interpolate_frame_indices([0, 900], 5) == (0, 63)


def test_the_two_64_frame_rules_differ():
    assert time.interpolate_frame_indices(range(16), 16)[:5] == (0, 4, 8, 13, 17)
    assert time.linspace_frame_indices(16)[:5] == (0, 4, 8, 12, 16)


def test_halves_round_to_even():
    assert time.interpolate_frame_indices([1, 3], 3, 4) == (2, 3)  # 1.5 -> 2, 4.5 -> 4 -> clamped to 3
    assert time.interpolate_frame_indices([1], 5, 3) == (0,)  # 0.5 -> 0


@given(st.integers(1, 400), st.integers(1, 100))
def test_interpolation_is_within_rounding_of_the_exact_value(total: int, target: int):
    for i, got in enumerate(time.interpolate_frame_indices(range(total), total, target)):
        exact = Fraction(i * (target - 1), max(total - 1, 1))
        assert abs(got - exact) <= Fraction(1, 2) + Fraction(1, 10_000)


@given(st.integers(1, 300), st.integers(1, 64))
def test_linspace_starts_ends_and_never_falls(frames: int, target: int):
    got = time.linspace_frame_indices(frames, target)
    assert len(got) == frames
    assert got[0] == 0
    assert list(got) == sorted(got)
    assert got[-1] == (target - 1 if frames > 1 else 0)


def test_frame_counts_by_length():
    assert [time.choose_frames(s) for s in (0.1, 9.99, 10, 29.9, 30, 4000)] == [8, 8, 16, 16, 32, 32]
    assert time.choose_frames(100, 32, fixed=5) == 5
    assert time.choose_frames(3.9, 32, fps=2.0) == 7
    assert time.choose_frames(0.1, 32, fps=2.0) == 1
    assert time.choose_frames(100, 32, fps=2.0) == 32
    assert time.choose_frames(5, 32, fixed=4, fps=0.0) == 4


def test_selected_frames():
    assert time.select_frames(5, 8) == (0, 1, 2, 3, 4)
    assert time.select_frames(10, 4) == (0, 3, 6, 9)
    assert time.select_frames(100, 1) == (0,)
    assert time.select_frames(0, 4) == ()


def test_positions_carry_frame_numbers_in_block_order():
    grids = [Grid(2, 2, 4), Grid(1, 2, 2)]
    got = time.build_positions(grids, merge=2, frames=[[30, 899], None])
    assert got.dtype == torch.int64
    assert got[:8, 0].tolist() == [30] * 8
    assert got[8:16, 0].tolist() == [899] * 8
    assert got[16:].tolist() == positions(Grid(1, 2, 2), merge=2).tolist()
    assert got[:5, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
    assert torch.equal(time.build_positions(grids), torch.cat([positions(g) for g in grids]).long())
    assert time.build_positions([]).shape == (0, 3)


def test_shared_tables_are_not_written_into():
    time.build_positions([Grid(3, 1, 1)], frames=[[7, 8, 9]])
    assert positions(Grid(3, 1, 1))[:, 0].tolist() == [0, 1, 2]


def test_counts_that_disagree_name_the_item():
    with pytest.raises(ShapeError) as caught:
        time.build_positions([Grid(1, 1, 1), Grid(3, 1, 1)], frames=[None, [1, 2]])
    assert (caught.value.item, caught.value.expected, caught.value.got) == (1, 3, 2)
    with pytest.raises(ShapeError):
        time.build_positions([Grid(1, 1, 1)], frames=[])
    for bad in ((0, 64), (4, 0)):
        with pytest.raises(ConfigError):
            time.interpolate_frame_indices([0], *bad)
    with pytest.raises(ConfigError):
        time.linspace_frame_indices(0)
    with pytest.raises(ConfigError):
        time.select_frames(-1, 4)
