"""Which blocks of a clip to keep when they come frame by frame and only so many rows may be held.

A block is what a merger joins: merge x merge patches of one row of time. Blocks are put in two orders at once, and of
each order the best so far are held, so that at the end the choice is the same as if all had been there:

    whole     first frame and scene cuts, all getting equally many blocks, their most energetic first; then key frames,
              one after the other, spread over the clip                         the best dense x budget of these
    energy    every block by its energy, equal ones spread over time, then over the picture     as many as are left

What is below the noise counts as 0: a clip in which nothing happens fills its budget with whole frames spread over it.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from tubelet.shapes import Bool, Float, Int64, UInt8

NOISE_LEVELS: Final = 0.5  # energy below this is none
PLAIN, KEY, ANCHOR = 2, 1, 0  # kinds of rows of time; an anchor is the first one and any in which a scene begins


@dataclass(frozen=True)
class ChosenBlocks:
    """The blocks that are kept, ascending by t and number."""

    t: Int64[np.ndarray, " B"]  # the row of time of each
    number: Int64[np.ndarray, " B"]  # its place in that
    energy: Float[np.ndarray, " B"]
    rows: UInt8[np.ndarray, "B m D"]
    whole: tuple[int, ...]  # rows of time kept as anchors or key frames with all their blocks


class BlockChooser:
    """Told of each row of time in turn, with its blocks' energies and rows; gives the chosen blocks at the end."""

    def __init__(self, blocks: int, budget: int, dense: float, frames: int, shape: tuple[int, int]) -> None:
        """blocks: of one row of time. budget: blocks to keep. frames: how many rows of time there will be at most.
        shape: of one block's rows, (m, D)."""
        self._blocks = blocks
        self._spread_t, self._spread_b = spread(frames), spread(blocks)
        self._whole, self._energy = Best(min(budget, int(dense * budget)), shape), Best(budget, shape)
        self._budget = budget

    def add(self, t: int, kind: int, energy: Float[np.ndarray, " b"], rows: UInt8[np.ndarray, "b m D"]) -> None:
        """Only rows that may still be chosen are copied."""
        energy = np.where(energy < NOISE_LEVELS, 0, energy).astype(np.float64)
        number = np.arange(self._blocks)
        if kind != PLAIN:
            inside = ranks(energy, self._spread_b)
            turn = np.full(self._blocks, self._spread_t[t])
            order = (inside, np.full(self._blocks, t)) if kind == ANCHOR else (turn, inside)
            self._whole.add(np.stack([np.full(self._blocks, kind), *order], axis=1), t, number, energy, rows)
        order = np.stack([-energy, np.full(self._blocks, self._spread_t[t]), self._spread_b], axis=1)
        self._energy.add(order, t, number, energy, rows)

    def result(self) -> ChosenBlocks:
        whole, other = self._whole.held(), self._energy.held()
        known = whole.t * self._blocks + whole.number
        rest = ~np.isin(other.t * self._blocks + other.number, known)
        rest &= rest.cumsum() <= self._budget - len(known)
        t, number, energy, rows = (np.concatenate([a, b[rest]]) for a, b in zip(whole, other, strict=True))
        order = np.lexsort((number, t))
        found, counts = np.unique(whole.t, return_counts=True)
        full = tuple(int(n) for n in found[counts == self._blocks])
        return ChosenBlocks(t[order], number[order], energy[order], rows[order], full)


@dataclass
class Held:
    """Blocks in their order, the best first."""

    t: np.ndarray
    number: np.ndarray
    energy: np.ndarray
    rows: np.ndarray

    def __iter__(self):
        return iter((self.t, self.number, self.energy, self.rows))


class Best:
    """The first `most` blocks of an order, out of any number that come by. Holds at most three times as many rows."""

    def __init__(self, most: int, shape: tuple[int, int]) -> None:
        self._most, self._shape = most, shape
        self._last: np.ndarray | None = None  # what a block must come before, once there are enough
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def add(self, keys: np.ndarray, t: int, number: np.ndarray, energy: np.ndarray, rows: np.ndarray) -> None:
        """Blocks with their places (b, 3) in the order: the lowest come first, by the first number, then the next."""
        if not self._most:
            return
        if self._last is not None:
            kept = before(keys, self._last)
        else:
            kept = np.ones(len(keys), bool)
        if not kept.any():
            return
        part = (keys[kept], np.full(int(kept.sum()), t), number[kept], energy[kept], rows[kept])
        self._parts.append(part)
        self._count += len(part[0])
        if self._count > 2 * self._most:
            self._tidy()

    def _tidy(self) -> None:
        keys, *rest = (np.concatenate(p) for p in zip(*self._parts, strict=True))
        order = np.lexsort(keys.T[::-1])[: self._most]
        self._parts = [(keys[order], *(r[order] for r in rest))]
        self._count = len(order)
        if self._count == self._most:
            self._last = keys[order[-1]]

    def held(self) -> Held:
        if not self._parts:
            none = np.empty(0, np.int64)
            return Held(none, none, np.empty(0), np.empty((0, *self._shape), np.uint8))
        self._tidy()
        return Held(*self._parts[0][1:])


def before(keys: np.ndarray, last: np.ndarray) -> Bool[np.ndarray, " b"]:
    """Which places in an order come before `last`."""
    a, b, c = keys.T
    return (a < last[0]) | ((a == last[0]) & ((b < last[1]) | ((b == last[1]) & (c < last[2]))))


def ranks(energy: Float[np.ndarray, " b"], spread_b: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
    """The place of each block among those of its row of time: the most energetic first, equal ones spread."""
    out = np.empty(len(energy), np.int64)
    out[np.lexsort((spread_b, -energy))] = np.arange(len(energy))
    return out


@lru_cache(maxsize=64)
def spread(count: int) -> Int64[np.ndarray, " n"]:
    """When each of `count` neighbours gets its turn, so that those who had theirs are always spread out: the order of
    their numbers with the bits reversed.

    >>> spread(8).tolist()
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    bits = max(1, (count - 1).bit_length())
    reversed_bits = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(count)]
    out = np.empty(count, np.int64)
    out[np.argsort(reversed_bits)] = np.arange(count)
    out.flags.writeable = False
    return out


def block_rows(h: int, w: int, merge: int, in_blocks: bool) -> Int64[np.ndarray, "b m"]:
    """The rows of one row of time that each block has, in the order its patches have in a block; blocks in raster
    order. in_blocks: whether rows stand in block order."""
    if in_blocks:
        return np.arange(h * w).reshape(-1, merge * merge)
    raster = np.arange(h * w).reshape(h // merge, merge, w // merge, merge)
    return raster.transpose(0, 2, 1, 3).reshape(-1, merge * merge)
