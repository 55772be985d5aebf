"""Strips against rows one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tubelet.language.placing.strips import Strips, of_grids, of_rows, ranges, reach, spread
from tubelet.packed.grid import Grid, positions

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def numbers(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def rows_of(strips: Strips) -> list[list[tuple[int, int, int]]]:
    """The rows of each block, one by one."""
    out, strip = [], 0
    for count in strips.counts.tolist():
        block = []
        for _ in range(count):
            t, h, w = strips.offsets[:, strip].tolist()
            block += [(t, h, w + i) for i in range(int(strips.lengths[strip]))]
            strip += 1
        out.append(block)
    return out


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 5)), max_size=6))
def test_ranges_stand_end_to_end(chosen: list[tuple[int, int]]):
    first, length = (numbers([pair[i] for pair in chosen]) for i in (0, 1))
    assert ranges(first, length).tolist() == [i for a, n in chosen for i in range(a, a + n)]


@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_a_whole_grid_is_a_strip_for_each_line(sizes: list[tuple[int, int, int]], data: st.DataObject):
    table = numbers(data.draw(st.lists(st.integers(0, 40), min_size=9, max_size=9)))
    first = [data.draw(st.integers(0, 9 - t)) for t, _, _ in sizes]
    t, h, w = (numbers([size[i] for size in sizes]) for i in range(3))
    strips = of_grids(t, h, w, numbers(first), table)
    places = [positions(Grid(*size)).tolist() for size in sizes]
    want = [[(int(table[a + i]), j, k) for i, j, k in rows] for a, rows in zip(first, places, strict=True)]
    assert rows_of(strips) == want
    assert strips.counts.tolist() == [size[0] * size[1] for size in sizes]
    assert reach(strips).tolist() == [max(map(max, rows)) for rows in want]


@given(
    st.lists(st.lists(SIZES, min_size=1, max_size=8), min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=5)
)
def test_rows_anywhere_are_strips_where_they_are_neighbours(blocks: list[list[tuple[int, int, int]]], gaps: list[int]):
    """Rows in any order, also twice; spread over tokens each block counts from its start, whatever stands between."""
    lengths = numbers([len(rows) for rows in blocks])
    pos = np.array([row for rows in blocks for row in rows], np.int64)
    table = np.arange(4) * 10
    strips = of_rows(pos, lengths, numbers([0] * len(blocks)), table)
    want = [[(t * 10, h, w) for t, h, w in rows] for rows in blocks]
    assert rows_of(strips) == want
    assert reach(strips).tolist() == [max(map(max, rows)) for rows in want]
    between = numbers(gaps[: len(blocks) + 1])
    start = np.arange(len(blocks)) * 7
    spread_out = spread(strips, start, between)
    at = 0
    for n, rows in enumerate(want):
        at += int(between[n])
        assert spread_out[:, at : at + len(rows)].T.tolist() == [[7 * n + x for x in row] for row in rows]
        at += len(rows)
    assert spread_out.shape == (3, at + int(between[-1]))


def test_many_tokens_are_numbered_in_pieces():
    strips = Strips(np.zeros((3, 1), np.int64), numbers([40_000]), numbers([1]))
    assert np.array_equal(spread(strips, numbers([5]), numbers([1, 0]))[2, 1:], np.arange(5, 40_005))
