"""Rows of items as strips: neighbours in one picture row, which differ by one in their last place and in nothing else.

    block of 2 x 3, starting at (7, 7, 7)      strips              spread over its tokens
        a b c                                  (0, 0, 0) x 3       t  7 7 7 7 7 7
        d e f                                  (0, 1, 0) x 3       h  7 7 7 8 8 8
                                                                   w  7 8 9 7 8 9

Positions are counted once a strip and written once a token, by one `repeat` and one running number: that is why a
prompt of 10^5 tokens costs a fraction of a millisecond.
"""

from typing import NamedTuple

import numpy as np

from tubelet.shapes import Int64

_CHUNK = 1 << 14  # tokens numbered at a time, so that no second array of their size is made


class Strips(NamedTuple):
    """offsets (3, K): places of each strip's first row, counted from where its block starts. lengths (K,): its rows.
    counts (N,): strips of each block, at least one."""

    offsets: Int64[np.ndarray, "3 K"]
    lengths: Int64[np.ndarray, " K"]
    counts: Int64[np.ndarray, " N"]


def ranges(first: Int64[np.ndarray, " N"], length: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " R"]:
    """first, first + 1, ... of each of N ranges, end to end.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    behind = np.cumsum(length)
    out = np.arange(int(length.sum()))
    out += np.repeat(first - behind + length, length)
    return out


def of_grids(
    frames: Int64[np.ndarray, " N"],
    h: Int64[np.ndarray, " N"],
    w: Int64[np.ndarray, " N"],
    first: Int64[np.ndarray, " N"],
    table: Int64[np.ndarray, " F"],
) -> Strips:
    """Strips of whole blocks of `frames` x h x w rows in raster order: one for each picture row of each frame.

    table: steps of time; those of a block are `frames` of them from its `first` on.
    """
    counts = frames * h
    frame, line = np.divmod(ranges(np.zeros_like(counts), counts), np.repeat(h, counts))
    frame += np.repeat(first, counts)
    offsets = np.zeros((3, len(line)), np.int64)
    offsets[0], offsets[1] = table[frame], line
    return Strips(offsets, np.repeat(w, counts), counts)


def of_rows(
    pos: Int64[np.ndarray, "R 3"],
    lengths: Int64[np.ndarray, " N"],
    first: Int64[np.ndarray, " N"],
    table: Int64[np.ndarray, " F"],
) -> Strips:
    """Strips of rows at any places (t, h, w), `lengths` of them in each block; time t counts `table[first + t]`."""
    behind = np.cumsum(lengths)
    new = np.ones(len(pos), bool)
    step = np.diff(pos, axis=0)
    new[1:] = (step[:, 0] != 0) | (step[:, 1] != 0) | (step[:, 2] != 1)
    new[behind - lengths] = True
    rows = np.flatnonzero(new)
    counts = np.diff(np.searchsorted(rows, behind), prepend=0)
    offsets = pos[rows].T.copy()
    offsets[0] = table[np.repeat(first, counts) + offsets[0]]
    return Strips(offsets, np.diff(rows, append=len(pos)), counts)


def reach(strips: Strips) -> Int64[np.ndarray, " N"]:
    """The largest offset of any row of each block, on any axis."""
    if not len(strips.counts):
        return strips.counts
    t, h, w = strips.offsets
    largest = np.maximum(np.maximum(t, h), w + strips.lengths - 1)
    return np.maximum.reduceat(largest, np.cumsum(strips.counts) - strips.counts)


def spread(
    strips: Strips, start: Int64[np.ndarray, " N"], gaps: Int64[np.ndarray, " gaps"]
) -> Int64[np.ndarray, "3 S"]:
    """Places of every row, each block counted from its `start`, with `gaps` tokens before each block and behind the
    last; what stands in the gaps means nothing."""
    at = np.arange(len(strips.lengths)) + np.repeat(np.arange(1, len(start) + 1), strips.counts)
    lengths = np.empty(len(at) + len(gaps), np.int64)
    lengths[at] = strips.lengths
    lengths[np.cumsum(np.append(0, strips.counts + 1))] = gaps
    first = np.zeros((3, len(lengths)), np.int64)
    first[:, at] = strips.offsets + np.repeat(start, strips.counts)
    behind = np.cumsum(lengths)
    first[2] -= behind - lengths  # the running number of each strip's first token
    places = np.repeat(first, lengths, axis=1)
    for i in range(0, places.shape[1], _CHUNK):
        part = places[2, i : i + _CHUNK]
        part += np.arange(i, i + len(part))
    return places
