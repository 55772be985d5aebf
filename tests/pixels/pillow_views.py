"""A picture's any-resolution views as Pillow makes them: the published recipe, step by step, as a twin for tests."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image


def views_by_pillow(
    pixels: np.ndarray, tile: int, pinpoints: Sequence[tuple[int, int]]
) -> tuple[list[np.ndarray], tuple[int, int]]:
    """The whole picture squashed, then tiles; and (rows, columns) of tiles. pinpoints: (height, width)."""
    image = Image.fromarray(pixels)
    width, height = image.size
    best, most, least = (0, 0), -1, 0
    for h, w in pinpoints:
        scale = min(w / width, h / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        if shown > most or (shown == most and w * h - shown < least):
            best, most, least = (w, h), shown, w * h - shown
    w, h = best
    if w / width < h / height:
        size = (w, min(math.ceil(height * (w / width)), h))
    else:
        size = (min(math.ceil(width * (h / height)), w), h)
    canvas = Image.new("RGB", best, (0, 0, 0))
    canvas.paste(image.resize(size, Image.Resampling.BICUBIC), ((w - size[0]) // 2, (h - size[1]) // 2))
    cuts = [canvas.crop((x, y, x + tile, y + tile)) for y in range(0, h, tile) for x in range(0, w, tile)]
    whole = image.resize((tile, tile), Image.Resampling.BICUBIC)
    return [np.asarray(view) for view in (whole, *cuts)], (h // tile, w // tile)
