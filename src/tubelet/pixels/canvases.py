"""Canvases that tiles fill: of the nearest ratio (InternVL), or of the next multiples of a tile (Idefics3).

All functions take and give (height, width) in that order, as `tubelet.pixels.sizes` does.
"""

import math
from collections.abc import Sequence

from tubelet.pixels.sizes import check_sides


def nearest_ratio(height: int, width: int, pinpoints: Sequence[tuple[int, int]], tile: int) -> tuple[int, int]:
    """The canvas (height, width) whose ratio is the picture's most nearly. Raises ShapeError.

    Of canvases of one ratio it is the first, and a later one where the picture has more than half its pixels.
    Source: huggingface/transformers:src/transformers/models/got_ocr2/image_processing_got_ocr2.py@v5.23.0
    (get_optimal_tiled_canvas), which InternVL's processor uses.

        >>> nearest_ratio(600, 1000, [(448, 448), (448, 896), (896, 448), (896, 1344)], 448)
        (896, 1344)
    """
    check_sides(height, width)
    best, least = (tile, tile), math.inf
    for canvas in pinpoints:
        difference = abs(width / height - canvas[1] / canvas[0])
        if difference < least or (difference == least and width * height > 0.5 * canvas[0] * canvas[1]):
            best, least = canvas, difference
    return best


def longest_even(height: int, width: int, size: int) -> tuple[int, int]:
    """The longer side becomes `size`, also of a small picture; the shorter keeps the ratio, rounded down, then up to an
    even number: the first step of Idefics3's processor.

    Source: huggingface/transformers:src/transformers/models/idefics3/image_processing_idefics3.py@v5.23.0
    _resize_output_size_rescale_to_max_len.
    """
    check_sides(height, width)
    ratio = width / height
    short = int(size / ratio) if width >= height else int(size * ratio)
    short = max(1, short + short % 2)
    return (short, size) if width >= height else (size, short)


def whole_tiles(height: int, width: int, tile: int) -> tuple[int, int]:
    """The longer side rounded up to a multiple of `tile`, the shorter one at its ratio rounded down and up to one.

    Source: huggingface/transformers:src/transformers/models/idefics3/image_processing_idefics3.py@v5.23.0
    resize_for_vision_encoder.

        >>> whole_tiles(1152, 2048, 512)
        (1536, 2048)
    """
    check_sides(height, width)
    ratio, long = width / height, math.ceil(max(height, width) / tile) * tile
    short = int(long / ratio) if width >= height else int(long * ratio)
    short = math.ceil(max(1, short) / tile) * tile
    return (short, long) if width >= height else (long, short)
