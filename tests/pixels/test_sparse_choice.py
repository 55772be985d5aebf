"""The choice that holds only the best so far, against the one that sees everything first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.pixels.sparse_choice import ANCHOR, KEY, NOISE_LEVELS, PLAIN, Best, BlockChooser, block_rows, spread

D = 5


def two_passes(
    kinds: list[int], energies: np.ndarray, budget: int, dense: float
) -> tuple[list[tuple[int, int]], list[int]]:
    """(blocks kept, rows of time kept whole), from all blocks at once and in plain words."""
    frames, blocks = energies.shape
    energies = np.where(energies < NOISE_LEVELS, 0, energies)
    turn_t, turn_b = spread(frames).tolist(), spread(blocks).tolist()
    every = [(t, b) for t in range(frames) for b in range(blocks)]
    share = min(budget, int(dense * budget))

    def inside(t: int) -> list[int]:
        return sorted(range(blocks), key=lambda b: (-energies[t, b], turn_b[b]))

    whole = []
    for place in range(blocks):  # the best block of each anchor, then the second best of each ...
        whole += [(t, inside(t)[place]) for t in range(frames) if kinds[t] == ANCHOR]
    for t in sorted((t for t in range(frames) if kinds[t] == KEY), key=lambda t: turn_t[t]):
        whole += [(t, b) for b in inside(t)]
    whole = whole[:share]
    rest = sorted((e for e in every if e not in set(whole)), key=lambda e: (-energies[e], turn_t[e[0]], turn_b[e[1]]))
    kept = sorted(whole + rest[: budget - len(whole)])
    return kept, [t for t in range(frames) if sum(w[0] == t for w in whole) == blocks]


def streamed(kinds: list[int], energies: np.ndarray, budget: int, dense: float):
    frames, blocks = energies.shape
    choice = BlockChooser(blocks, budget, dense, frames, (2, D))
    for t in range(frames):
        rows = np.zeros((blocks, 2, D), np.uint8)
        rows[..., 0], rows[..., 1] = t, np.arange(blocks)[:, None]
        choice.add(t, kinds[t], energies[t], rows)
    return choice.result()


@given(
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(0, 120),
    st.sampled_from((0.0, 0.3, 0.5, 1.0)),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0, 3, 1000)),
)
def test_equals_two_passes(frames: int, blocks: int, budget: int, dense: float, seed: int, distinct: int):
    """Over few and many anchors, equal energies, none at all, and budgets from nothing to everything."""
    rng = np.random.default_rng(seed)
    energies = rng.integers(0, distinct + 1, (frames, blocks)).astype(np.float64) / 3
    kinds = [ANCHOR, *rng.choice((ANCHOR, KEY, PLAIN), frames - 1, p=(0.2, 0.3, 0.5)).tolist()]
    kept, whole = two_passes(kinds, energies, budget, dense)
    found = streamed(kinds, energies, budget, dense)
    assert list(zip(found.t.tolist(), found.number.tolist(), strict=True)) == kept
    assert len(kept) == min(budget, frames * blocks)
    assert list(found.whole) == whole
    if kept:
        assert (found.rows[:, 0, 0] == found.t).all() and (found.rows[:, 1, 1] == found.number).all()
        want = np.where(energies < NOISE_LEVELS, 0, energies)
        assert (found.energy == want[found.t, found.number]).all()


def test_what_is_held_is_bounded():
    most = 0
    choice = BlockChooser(50, 100, 0.5, 4000, (1, D))
    rng = np.random.default_rng(0)
    for t in range(400):
        choice.add(t, KEY if t % 7 == 0 else PLAIN, rng.random(50) * 90, np.zeros((50, 1, D), np.uint8))
        held = sum(len(part[0]) for best in (choice._whole, choice._energy) for part in best._parts)
        most = max(most, held)
    assert most <= 3 * (100 + 50) + 50
    assert len(choice.result().t) == 100


def test_all_cuts_get_as_much_when_there_are_too_many():
    kinds, energies = [ANCHOR] * 10, np.random.default_rng(1).random((10, 20)) * 50
    found = streamed(kinds, energies, 60, 0.5)
    first = two_passes(kinds, energies, 30, 1.0)[0]
    assert [sum(t == k for t, _ in first) for k in range(10)] == [3] * 10
    assert set(first) <= set(zip(found.t.tolist(), found.number.tolist(), strict=True))


def test_a_still_clip_gives_whole_frames_spread_over_it():
    kinds, energies = [ANCHOR] + [PLAIN] * 15, np.zeros((16, 6))
    found = streamed(kinds, energies, 24, 0.5)
    assert np.bincount(found.t, minlength=16).nonzero()[0].tolist() == [0, 4, 8, 12]
    assert np.bincount(found.t).max() == 6


def test_noise_is_no_energy():
    energies = np.full((4, 6), NOISE_LEVELS * 0.99)
    energies[3, 2] = NOISE_LEVELS
    found = streamed([ANCHOR, PLAIN, PLAIN, PLAIN], energies, 4, 0.5)
    assert (3, 2) in zip(found.t.tolist(), found.number.tolist(), strict=True)
    assert sorted(found.energy.tolist()) == [0, 0, 0, NOISE_LEVELS]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 64, 100])
def test_turns_are_spread(count: int):
    """A permutation in which those who had their turn leave no gap much wider than the others."""
    turns = spread(count)
    assert sorted(turns.tolist()) == list(range(count)) and turns[0] == 0
    for had in range(1, count + 1):
        places = np.append(np.flatnonzero(turns < had), count)
        assert np.diff(places).max() <= 2 * (1 << max(0, (count - 1).bit_length() - had.bit_length() + 1))


def test_the_best_of_an_order():
    best = Best(3, (1, 1))
    rng = np.random.default_rng(2)
    keys = rng.integers(0, 4, (40, 3)).astype(float)
    keys[:, 2] += np.arange(40) / 100  # all different
    for at in range(0, 40, 4):
        number = np.arange(at, at + 4)
        best.add(keys[at : at + 4], at, number, number.astype(float), np.zeros((4, 1, 1), np.uint8))
    want = sorted(range(40), key=lambda i: tuple(keys[i]))[:3]
    assert best.held().number.tolist() == want
    assert Best(0, (4, 7)).held().rows.shape == (0, 4, 7)


def test_rows_of_blocks():
    assert block_rows(2, 4, 2, True).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert block_rows(2, 4, 2, False).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert block_rows(1, 3, 1, False).tolist() == [[0], [1], [2]]
