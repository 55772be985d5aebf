"""The patch grid on pixels: one colour with a halo, so that it is seen on a white page and on a dark photograph."""

import math

import numpy as np

from tubelet.inspect.draw.lettering import Colour
from tubelet.packed.grid import Grid
from tubelet.shapes import Bool, UInt8

LINE: Colour = (0, 98, 214)
HALO: Colour = (255, 255, 255)
MIN_PITCH = 8  # pixels between two lines of a drawn grid; denser grids get a line every k patches
STEPS = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100)


def line_step(pitch: float) -> int:
    """Every how many patches a line is drawn, when patches are `pitch` pixels wide on the drawing."""
    return next((k for k in STEPS if k * pitch >= MIN_PITCH), math.ceil(MIN_PITCH / pitch))


def draw_lines(pixels: UInt8[np.ndarray, "H W 3"], grid: Grid) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of `pixels` with the h x w grid on it: blue lines with a white halo of a pixel, fainter where dense."""
    height, width = pixels.shape[:2]
    pitch = min(height / grid.h, width / grid.w)
    step = line_step(pitch)
    apart = step * pitch
    thick = 1 + (apart >= 48) + (apart >= 200)
    rows = _along(height, grid.h, step, thick)
    columns = _along(width, grid.w, step, thick)
    on = rows[:, None] | columns[None]
    halo = (_wider(rows)[:, None] | _wider(columns)[None]) & ~on
    strength = min(0.42 + 0.012 * (apart - MIN_PITCH), 0.8)
    out = pixels.copy()
    for where, colour, share in ((halo, HALO, 0.55 * strength), (on, LINE, strength)):
        out[where] = np.rint(out[where] * (1 - share) + np.array(colour) * share).astype(np.uint8)
    return out


def _along(pixels: int, cells: int, step: int, thick: int) -> Bool[np.ndarray, " n"]:
    """Which pixels of one side a line is on: the borders of every `step` cells."""
    on = np.zeros(pixels, dtype=bool)
    for i in range(step, cells, step):
        first = round(i * pixels / cells) - thick // 2
        on[first : first + thick] = True
    return on


def _wider(on: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    out = on.copy()
    out[1:] |= on[:-1]
    out[:-1] |= on[1:]
    return out
