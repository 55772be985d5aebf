"""What of a picture the picture before does not explain: mean levels of luma in cells of 8 x 8 pixels.

    still     |this - before|                        what staying in place does not explain
    moved     |this - before, moved cell by cell|    what moving as the vectors say does not explain, to 1/8 pixel
    error     the smaller of the two, in each cell

Where a codec tells no vectors they are searched: for cells that staying does not explain, around the place itself and
around where the cell's motion of the picture before leads.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tubelet.shapes import Bool, Float, Int64, UInt8

CELL: Final = 8  # pixels of luma on a side
NOISE_LEVELS: Final = 1.0  # coding noise: what staying explains up to this is taken as explained
_RIM: Final = CELL + 1  # pixels around a picture in which its edge is repeated; further out it is the same
_PARTS: Final = 8  # of a pixel, to which a move is rounded
_WORTH: Final = 0.5  # levels that a move found by search must explain better than staying does


class Luma:
    """One picture's luma in a frame of repeated edges: `inside` (h x 8, w x 8) of whole cells, `outer` with the rim.
    cells, blocks: views of the same memory, (h, 8, w, 8) and the 9 x 9 window at every pixel of `outer`."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.rows, self.columns = -(-height // CELL), -(-width // CELL)
        self.outer = np.zeros((self.rows * CELL + 2 * _RIM, self.columns * CELL + 2 * _RIM), np.uint8)
        self.inside = self.outer[_RIM:-_RIM, _RIM:-_RIM]
        self.cells = self.inside.reshape(self.rows, CELL, self.columns, CELL)
        self.blocks = sliding_window_view(self.outer, (CELL + 1, CELL + 1))
        self._wider = sliding_window_view(self.outer, (CELL + 2, CELL + 2))
        self._half: np.ndarray | None = None

    def fill(self, pixels: UInt8[np.ndarray, "height width"]) -> None:
        """Take over a picture. One copy."""
        bottom, right = _RIM + self.height, _RIM + self.width
        outer = self.outer
        outer[_RIM:bottom, _RIM:right] = pixels
        outer[_RIM:bottom, :_RIM] = outer[_RIM:bottom, _RIM : _RIM + 1]
        outer[_RIM:bottom, right:] = outer[_RIM:bottom, right - 1 : right]
        outer[:_RIM] = outer[_RIM]
        outer[bottom:] = outer[bottom - 1]
        self._half = None

    def around(self, y: np.ndarray, x: np.ndarray, moves: Int64[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n y x"]:
        """10 x 10 pixels: what moved into cells (y, x) by whole pixels, and one more on each side."""
        top = np.clip(y * CELL - moves[:, 1] + _RIM - 1, 0, self._wider.shape[0] - 1)
        left = np.clip(x * CELL - moves[:, 0] + _RIM - 1, 0, self._wider.shape[1] - 1)
        return self._wider[top, left]

    def half_blocks(self) -> UInt8[np.ndarray, "y x b b"]:
        """The 8 x 8 window at every pixel of the picture at half size, whole units of 2 x 2 cells, with a rim of 8."""
        if self._half is None:
            pixels = self.inside
            sums = pixels[0::2, 0::2].astype(np.uint16)
            for dy, dx in ((0, 1), (1, 0), (1, 1)):
                sums += pixels[dy::2, dx::2]
            sums += 2
            odd = [(CELL, CELL + n % CELL) for n in sums.shape]
            self._half = np.pad((sums >> 2).astype(np.uint8), odd, mode="edge")
        return sliding_window_view(self._half, (CELL, CELL))


def still_error(now: Luma, before: Luma) -> Float[np.ndarray, "h w"]:
    """Mean |now - before| in each cell, in levels."""
    larger = np.maximum(now.inside, before.inside)
    larger -= np.minimum(now.inside, before.inside)
    return cell_means(larger)


def cell_means(values: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "h w"]:
    """The mean of each 8 x 8 cell."""
    rows, columns = values.shape[0] // CELL, values.shape[1] // CELL
    lines = np.add.reduce(values.reshape(rows, CELL, columns * CELL), axis=1, dtype=np.uint16)
    parts = lines.reshape(rows, columns, CELL)
    total = parts[..., 0].copy()
    for k in range(1, CELL):
        total += parts[..., k]
    return total.astype(np.float32) / (CELL * CELL)


def motion_error(
    now: Luma, before: Luma, still: Float[np.ndarray, "h w"], moves: Float[np.ndarray, "h w 2"]
) -> Float[np.ndarray, "h w"]:
    """The smaller of `still` and the mean |now - before moved by `moves`| of each cell, in levels.

    Between pixels, bilinear in eighths. Only cells that move and that staying does not explain are looked at.
    """
    y, x = ((still > NOISE_LEVELS) & (np.abs(moves).max(axis=2) >= 0.5 / _PARTS)).nonzero()
    error = still.copy()
    if len(y):
        error[y, x] = np.minimum(still[y, x], _moved_error(now, before, y, x, moves[y, x]))
    return error


def _moved_error(
    now: Luma, before: Luma, y: np.ndarray, x: np.ndarray, moves: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    from_x, part_x = _place(x, moves[:, 0], before.columns * CELL)
    from_y, part_y = _place(y, moves[:, 1], before.rows * CELL)
    blocks = before.blocks[from_y, from_x]
    between = (part_x | part_y).ravel() != 0
    if between.all():
        moved = _between(blocks, part_x, part_y)
    else:
        moved = blocks[:, :-1, :-1]
        moved[between] = _between(blocks[between], part_x[between], part_y[between])
    return _difference(now.cells[y, :, x], moved)


def _between(blocks: UInt8[np.ndarray, "n 9 9"], part_x: np.ndarray, part_y: np.ndarray) -> UInt8[np.ndarray, "n 8 8"]:
    """Blocks read between their pixels, bilinear, rounded."""
    across = blocks[:, :, :-1] * (_PARTS - part_x) + blocks[:, :, 1:] * part_x
    down = across[:, :-1] * (_PARTS - part_y) + across[:, 1:] * part_y
    down += _PARTS * _PARTS // 2
    down >>= 6  # _PARTS squared
    return down.astype(np.uint8)


def _place(cell: np.ndarray, move: Float[np.ndarray, " n"], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in `outer` the content of a cell was, and the eighths of a pixel beyond that, uint16 (n, 1, 1)."""
    eighths = np.rint((cell * CELL - move) * _PARTS)
    whole, part = np.divmod(np.clip(eighths, -_RIM * _PARTS, size * _PARTS).astype(np.int64), _PARTS)
    return whole + _RIM, part.astype(np.uint16)[:, None, None]


def _difference(a: UInt8[np.ndarray, "n y x"], b: UInt8[np.ndarray, "n y x"]) -> Float[np.ndarray, " n"]:
    """Mean |a - b| of each block."""
    apart = np.maximum(a, b)
    apart -= np.minimum(a, b)
    pixels = a.shape[1] * a.shape[2]
    return apart.reshape(-1, pixels).astype(np.float32) @ np.full(pixels, 1 / pixels, np.float32)  # the fastest sum


# ---- where no vectors are told


def search(
    now: Luma, before: Luma, still: Float[np.ndarray, "h w"], guess: Float[np.ndarray, "h w 2"]
) -> Float[np.ndarray, "h w 2"]:
    """Moves to half a pixel, found by comparing; 0 where staying explains a cell, or nearly as well.

    Units of 2 x 2 cells first, at half size: around no move or `guess` (the field of the picture before), whichever is
    better, up to 16 pixels from there, and what neighbours found. Then each cell by itself, 1.5 pixels around that.
    """
    field = np.zeros_like(guess)
    rows, columns = -(-now.rows // 2), -(-now.columns // 2)
    unlike = np.zeros((2 * rows, 2 * columns), bool)
    unlike[: now.rows, : now.columns] = still > 2 * NOISE_LEVELS
    y, x = np.nonzero(unlike.reshape(rows, 2, columns, 2).any(axis=(1, 3)))
    if not len(y):
        return field
    found = 2 * _unit_moves(now, before, y, x, np.rint(guess[::2, ::2] / 2).astype(np.int64))
    y, x = unlike.nonzero()
    best, cost = _refined(now, before, y, x, found[y // 2, x // 2])
    moving = cost + _WORTH < still[y, x]
    field[y[moving], x[moving]] = best[moving]
    return field


_CROSS: Final = ((-1, 0), (1, 0), (0, -1), (0, 1))
_AROUND: Final = (*_CROSS, (-1, -1), (1, -1), (-1, 1), (1, 1))


def _refined(
    now: Luma, before: Luma, y: np.ndarray, x: np.ndarray, moves: Int64[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """The best move of each cell among `moves` and their neighbours, by a pixel and then by half of one, and its cost.

    A cell that a step explains takes no further one. All candidates of a step are cut out of one window, read a pixel
    further on each side.
    """
    here = now.cells[y, :, x]
    around = before.around(y, x, moves)
    fine, cost = moves.astype(np.float32), _difference(here, around[:, 1:-1, 1:-1])
    for step in (_whole_pixels, _half_pixels):
        rough = (cost > NOISE_LEVELS).nonzero()[0]
        if not len(rough):
            break
        mine, start = here[rough], fine[rough]
        window = around[rough] if step is _whole_pixels else before.around(y[rough], x[rough], start.astype(np.int64))
        found, least = start, cost[rough]
        for further, tried in step(window):
            found, least = _better(found, least, start + np.array(further, np.float32), _difference(mine, tried))
        fine[rough], cost[rough] = found, least
    return fine, cost


def _whole_pixels(around: UInt8[np.ndarray, "n y x"]) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """((dx, dy), 8 x 8 blocks) of the moves a pixel around: what moved by dx more comes from dx further left."""
    for dx, dy in _AROUND:
        yield (dx, dy), around[:, 1 - dy : 1 - dy + CELL, 1 - dx : 1 - dx + CELL]


def _half_pixels(around: UInt8[np.ndarray, "n y x"]) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """((dx, dy), 8 x 8 blocks) of the moves half a pixel around, out of windows of 10 x 10; rounded as `_between`."""
    wide = around.astype(np.uint16)
    across, down = wide[:, :, :-1] + wide[:, :, 1:], wide[:, :-1] + wide[:, 1:]
    both = across[:, :-1] + across[:, 1:]
    across, down, both = (v.astype(np.uint8) for v in ((across + 1) >> 1, (down + 1) >> 1, (both + 2) >> 2))
    for k, side in ((0, 0.5), (1, -0.5)):
        yield (side, 0.0), across[:, 1:-1, k : k + CELL]
        yield (0.0, side), down[:, k : k + CELL, 1:-1]
        for j, other in ((0, 0.5), (1, -0.5)):
            yield (side, other), both[:, j : j + CELL, k : k + CELL]


def _unit_moves(
    now: Luma, before: Luma, y: np.ndarray, x: np.ndarray, guess: Int64[np.ndarray, "h w 2"]
) -> Int64[np.ndarray, "h w 2"]:
    """Moves of units in pixels of half size: near no move and the guess, then further away, then what neighbours found.

    Small steps come first, because most motion is small and fine texture leads large steps astray.
    """
    there = before.half_blocks()
    top, left = (y + 1) * CELL, (x + 1) * CELL
    here = now.half_blocks()[top, left]

    def cost_of(moves: np.ndarray, some: np.ndarray) -> Float[np.ndarray, " n"]:
        from_top = np.clip(top[some] - moves[:, 1], 0, there.shape[0] - 1)
        from_left = np.clip(left[some] - moves[:, 0], 0, there.shape[1] - 1)
        return _difference(here[some], there[from_top, from_left])

    some = np.arange(len(y))
    best = np.zeros((len(y), 2), np.int64)
    cost = cost_of(best, some)
    best, cost = _better(best, cost, guess[y, x], cost_of(guess[y, x], some))
    for length, around in ((1, _AROUND), (4, _AROUND), (2, _CROSS), (1, _CROSS)):
        start = best[some]
        found, least = start, cost[some]
        for dx, dy in around:
            tried = start + np.array((dx * length, dy * length))
            found, least = _better(found, least, tried, cost_of(tried, some))
        best[some], cost[some] = found, least
        some = (cost > 2 * NOISE_LEVELS).nonzero()[0] if length == 1 else some
    field = np.zeros_like(guess)
    for dy, dx in _CROSS:
        field[y, x] = best
        tried = field[np.clip(y + dy, 0, field.shape[0] - 1), np.clip(x + dx, 0, field.shape[1] - 1)]
        best, cost = _better(best, cost, tried, cost_of(tried, np.arange(len(y))))
    field[y, x] = best
    return field


def _better(
    best: np.ndarray, cost: np.ndarray, tried: np.ndarray, tried_cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    wins: Bool[np.ndarray, " n"] = tried_cost < cost
    return np.where(wins[:, None], tried, best), np.where(wins, tried_cost, cost)
