"""What a page teaches beside its answers: which letter covers a place, and which letters a token holds, in order.

    columns   of each 16 x 16 patch two strips of 8 pixels: the letter over the middle of the strip, on the line of
              text whose middle lies in this row of patches
    slots     of each 32 x 32 token two lines (upper half, lower half) of 6 places: its 1st, 2nd ... letter

A letter stands where its middle is: half its box's width, and half the height of a capital above its line. A space is
a letter of a slot, for it parts words, and nothing in a column.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tubelet.train.pages.page import Page

PATCH, TOKEN, STRIP, PLACES = 16, 32, 8, 6
LETTERS = "".join(map(chr, range(33, 127))) + "€£ "
CLASSES = len(LETTERS) + 1  # 0: nothing there
IGNORED = -100
MARGIN = np.array((-1, -1, 1, 1), np.float32)  # pixels that blur and grain add to a letter
SPACE = len(LETTERS)
_CLASS = {letter: number for number, letter in enumerate(LETTERS, 1)}


class Labels(NamedTuple):
    """Of M = h w / 1024 tokens in raster order. columns: (M, 4, 2), a token's patches in raster order; slots: (M, 12),
    IGNORED behind the first empty place of a line; tokens: (n,) the token that holds each letter, IGNORED where it left
    the page; inked: (M,) whether a letter's box touches the token."""

    columns: NDArray[np.int64]
    slots: NDArray[np.int64]
    tokens: NDArray[np.int64]
    inked: NDArray[np.bool_]


def labels_of(page: Page) -> Labels:
    """The labels of a page. Cost: 0.5 ms."""
    height, width = page.pixels.shape[:2]
    x, y = page.middles.T
    classes = np.array([_CLASS.get(letter, 0) for letter in page.letters], np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (classes > 0)
    return Labels(
        _columns(page.boxes, y, np.where(classes == SPACE, 0, classes), inside, height, width),
        _slots(x, y, classes, inside, height, width),
        np.where(inside, (y // TOKEN * (width // TOKEN) + x // TOKEN).astype(np.int64), IGNORED),
        _inked(page.boxes[classes != SPACE], height, width),
    )


def _columns(
    boxes: NDArray[np.float32],
    y: NDArray[np.float32],
    classes: NDArray[np.int64],
    inside: NDArray[np.bool_],
    height: int,
    width: int,
) -> NDArray[np.int64]:
    out = np.zeros((height // PATCH, width // STRIP), np.int64)
    for n in np.flatnonzero(inside & (classes > 0)):
        # strips whose middle (k + 0.5) * STRIP lies in the box
        first, stop = int(np.ceil(boxes[n, 0] / STRIP - 0.5)), int(np.ceil(boxes[n, 2] / STRIP - 0.5))
        out[int(y[n]) // PATCH, max(0, first) : max(0, stop)] = classes[n]
    rows, columns = height // TOKEN, width // TOKEN
    return out.reshape(rows, 2, columns, 2, 2).transpose(0, 2, 1, 3, 4).reshape(rows * columns, 4, 2)


def _inked(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    rows, columns = height // TOKEN, width // TOKEN
    out = np.zeros((rows, columns), bool)
    for left, top, right, bottom in np.floor((boxes + MARGIN) / TOKEN).astype(int):
        out[max(0, top) : bottom + 1, max(0, left) : right + 1] = True
    return out.reshape(-1)


def _slots(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    classes: NDArray[np.int64],
    inside: NDArray[np.bool_],
    height: int,
    width: int,
) -> NDArray[np.int64]:
    rows, columns = height // TOKEN, width // TOKEN
    line = y // PATCH  # two to a token
    out = np.full((rows * 2, columns, PLACES), IGNORED, np.int64)
    out[:, :, 0] = 0
    filled = np.zeros((rows * 2, columns), np.int64)
    for n in np.lexsort((x, line)):
        if not inside[n]:
            continue
        at = int(line[n]), int(x[n]) // TOKEN
        k = filled[at]
        if k < PLACES:
            out[(*at, k)] = classes[n]
            if k + 1 < PLACES:
                out[(*at, k + 1)] = 0
        filled[at] += 1
    return out.reshape(rows, 2, columns, PLACES).transpose(0, 2, 1, 3).reshape(rows * columns, 2 * PLACES)
