"""M-RoPE the obvious way: token by token, block by block, in exact fractions. The twin of `language.placing.mrope`."""

import math
from fractions import Fraction

from tubelet.packed import Packed

Row = tuple[int, int, int]


def slow_positions(
    tokens: list[int | None],
    blocks: list[tuple[list[Row], int]],
    *,
    padding: int = 1,
) -> tuple[list[Row], int]:
    """Positions of one sample, and the one after it. tokens: 0 text, 1 a row, None padding; blocks: rows' offsets from
    where their block starts, and how far the counter moves on behind it."""
    counter, out = 0, []
    waiting = [(rows[:], move) for rows, move in blocks]
    start = -1
    for token in tokens:
        if token is None:
            out.append((padding,) * 3)
        elif token == 0:
            out.append((counter,) * 3)
            counter += 1
        else:
            rows, move = waiting[0]
            if start < 0:
                start = counter
            t, h, w = rows.pop(0)
            out.append((start + t, start + h, start + w))
            if not rows:
                counter, start = start + move, -1
                waiting.pop(0)
    assert not waiting
    return out, counter


def slow_blocks(
    p: Packed, rule: str, tokens_per_second: Fraction, videos: list[bool], extent: str = "grid"
) -> list[list[tuple[list[Row], int]]]:
    """The blocks of each item: its rows' offsets by their own places, and by its own times as decimal fractions."""
    out = []
    first = 0
    for item, length, video in zip(p.items, p.lengths, videos, strict=True):
        times = [Fraction(str(round(s, 6))) for s in item.times_s]
        if rule == "rows" or (rule == "blocks" and not video):
            steps = list(range(item.grid.t))
        elif rule == "seconds" and video:
            steps = [math.floor((s - times[0]) * tokens_per_second) for s in times]
        else:
            steps = [0] * item.grid.t
        move = max(*steps, item.grid.h - 1, item.grid.w - 1) + 1
        runs: list[list[Row]] = []
        before = None
        for t, h, w in p.pos[first : first + length].tolist():
            if before is None or (rule == "blocks" and video and t != before):
                runs.append([])
            before = t
            runs[-1].append((steps[t], h, w))
        out.append([(rows, move if extent == "grid" else max(map(max, rows)) + 1) for rows in runs])
        first += length
    return out
