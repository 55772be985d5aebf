"""How large a picture becomes: every size rule, as plain arithmetic on host integers.

A side is chosen before a pixel is decoded, so grids, offsets and row counts of a whole batch are known from headers.
`tubelet.pixels.fit` joins these rules into `fit`. All functions take and give (height, width) in that order.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tubelet.errors import LimitError, ShapeError

QWEN_RATIO = 200  # the longest side ratio that Qwen2-VL's rule takes
QWEN_MIN_PIXELS = 56 * 56
QWEN_MAX_PIXELS = 14 * 14 * 4 * 1280
NAFLEX_STEP = 1e-5  # where the search for SigLIP2's scale ends


class Pad(NamedTuple):
    """A resized picture in the middle of a larger canvas, in pixels."""

    resize_h: int  # its sides
    resize_w: int
    top: int  # its corner on the canvas
    left: int
    height: int  # the canvas's sides
    width: int


def check_sides(height: int, width: int) -> None:
    """Raise ShapeError unless both sides are at least one pixel."""
    if height < 1 or width < 1:
        raise ShapeError(f"a picture of {width} x {height} pixels has no content", limit=1, got=min(height, width))


def smart_resize_compat(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = QWEN_MIN_PIXELS,
    max_pixels: int = QWEN_MAX_PIXELS,
) -> tuple[int, int]:
    """Sides as transformers computes them for Qwen2-VL, its lapses included: above `max_pixels` when a long picture's
    short side is held at one `factor`, and a side of 0 when `min_pixels` is 0. `smart_resize` is the corrected rule.

    Rounds each side to a multiple of factor (halves to even), then shrinks both by floor or grows both by ceil when the
    product is outside the budget. Raises LimitError above a side ratio of 200 and ShapeError without content, where
    upstream raises ValueError and ZeroDivisionError.
    Source: huggingface/transformers:src/transformers/models/qwen2_vl/image_processing_qwen2_vl.py@v5.23.0 smart_resize.
    """
    check_sides(height, width)
    _check_ratio(height, width)
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


def frame_budget_compat(frames: int, temporal: int, total: int, min_pixels: int, max_pixels: int) -> int:
    """`max_pixels` of one frame when a clip of `frames` may spend `total` pixels, as transformers' Qwen2-VL video
    processor computes it with cap_pixels_per_frame (total there: int(max_video_tokens x factor x factor x 0.9)).

    An even share of the total, at most `max_pixels`, but never under 1.05 x `min_pixels`: so a long clip may pass the
    total. Source: huggingface/transformers:src/transformers/models/qwen2_vl/video_processing_qwen2_vl.py@v5.23.0
    resize.
    """
    return max(min(max_pixels, total * temporal // frames), int(min_pixels * 1.05))


def smart_clip_compat(
    frames: int,
    height: int,
    width: int,
    factor: int,
    temporal: int,
    min_pixels: int,
    max_pixels: int,
    frame_max_pixels: int | None = None,
) -> tuple[int, int]:
    """Sides as transformers computes them for clips of Qwen3-VL: the budget is the whole clip's, all frames together.

    The pixels counted are those of `frames` rounded to a multiple of `temporal` (halves to even). frame_max_pixels:
    what one frame may have besides, with the clip's budget shared out over its frames and never under
    1.05 x min_pixels a frame: upstream's cap_pixels_per_frame. A clip of fewer frames than `temporal`, which upstream
    refuses, counts as one row of time. Raises LimitError above a side ratio of 200, where upstream raises ValueError.
    Source: huggingface/transformers:src/transformers/models/qwen3_vl/video_processing_qwen3_vl.py@v5.23.0
    smart_resize, resize.
    """
    check_sides(height, width)
    frames = max(frames, temporal)
    if frame_max_pixels is not None:
        max_pixels = max(min(frame_max_pixels, max_pixels // frames), int(min_pixels * 1.05)) * frames
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    _check_ratio(height, width)
    h, w, t = (round(n / unit) * unit for n, unit in ((height, factor), (width, factor), (frames, temporal)))
    if t * h * w > max_pixels:
        shrink = math.sqrt((frames * height * width) / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif t * h * w < min_pixels:
        grow = math.sqrt(min_pixels / (frames * height * width))
        h, w = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return h, w


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """Sides that are multiples of `factor`, near the picture's own, inside the budget whenever that is possible.

    Never above `max_pixels`, never a zero side, any side ratio. Without a budget, or inside it, each side is rounded to
    the nearest multiple (halves to even) as in `smart_resize_compat`. Outside it, of the multiples next to the exact
    solution, those that keep the side ratio best. `min_pixels` is met unless `max_pixels` stands in the way.
    Raises LimitError when `max_pixels` is below one factor x factor, ShapeError without content.
    """
    check_sides(height, width)
    return _in_budget(height, width, round(height / factor), round(width / factor), factor, min_pixels, max_pixels)


def native_floor(
    height: int, width: int, factor: int, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """Each side floored to a multiple of `factor`, at least one; a budget, where given, is kept as by `smart_resize`.

    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/README_PACKING.md@5781495 image_to_packing_input, which has
    no budget and fails on pictures smaller than a patch.
    """
    check_sides(height, width)
    return _in_budget(height, width, height // factor, width // factor, factor, min_pixels, max_pixels)


def within(height: int, width: int, factor: int, units: int) -> tuple[int, int]:
    """Sides of about `units` units of factor x factor, never more, nearest to the picture's ratio.

    >>> within(1440, 2560, 16, 4096)
    (768, 1360)
    """
    rows, cols = _nearest_units(height, width, units, 1, units)
    return rows * factor, cols * factor


def _in_budget(
    height: int, width: int, rows: int, cols: int, factor: int, min_pixels: int | None, max_pixels: int | None
) -> tuple[int, int]:
    """(rows, cols) units, lifted to one each and moved into the budget; in pixels."""
    rows, cols = max(1, rows), max(1, cols)
    room = math.inf if max_pixels is None else max_pixels // (factor * factor)
    need = 0 if min_pixels is None else min(-(-min_pixels // (factor * factor)), room)
    if room < 1:
        raise LimitError(
            f"max_pixels = {max_pixels} is below one unit of {factor} x {factor}", limit=max_pixels, got=factor * factor
        )
    if rows * cols > room:
        rows, cols = _nearest_units(height, width, int(room), 1, int(room))
    elif rows * cols < need:
        rows, cols = _nearest_units(height, width, int(need), int(need), room)
    return rows * factor, cols * factor


def _nearest_units(height: int, width: int, area: int, need: int, room: float) -> tuple[int, int]:
    """Whole (rows, cols) next to the exact sides of `area` units at the picture's ratio, with need <= rows x cols <=
    room where one of them has that, else at most room; the best kept ratio first, then the larger area."""
    exact_rows, exact_cols = math.sqrt(area * height / width), math.sqrt(area * width / height)
    if exact_rows < 1:
        exact_rows, exact_cols = 1.0, min(exact_cols, float(area))
    elif exact_cols < 1:
        exact_rows, exact_cols = min(exact_rows, float(area)), 1.0
    pairs = [
        (r, c)
        for r in (max(1, math.floor(exact_rows)), math.floor(exact_rows) + 1)
        for c in (max(1, math.floor(exact_cols)), math.floor(exact_cols) + 1)
    ]
    fitting = [p for p in pairs if p[0] * p[1] <= room]
    wanted = [p for p in fitting if p[0] * p[1] >= need] or fitting

    def distortion(pair: tuple[int, int]) -> tuple[float, int]:
        return abs(math.log(pair[0] * width / (pair[1] * height))), -pair[0] * pair[1]

    return min(wanted, key=distortion)


def shortest_side(height: int, width: int, size: int) -> tuple[int, int]:
    """The shorter side becomes `size`, the longer keeps the ratio, rounded down: CLIP's resize.

    Source: huggingface/transformers:src/transformers/image_transforms.py@v4.57.3 get_resize_output_image_size.
    """
    check_sides(height, width)
    long = int(size * max(height, width) / min(height, width))
    return (size, long) if height <= width else (long, size)


def longest_side(height: int, width: int, unit: int, size: int) -> tuple[int, int]:
    """The longer side at most `size`, the ratio kept, then each side rounded up to a multiple of `unit`: Pixtral's.

    A smaller picture keeps its own size up to that rounding. A side that shrinking floors away is one unit, where
    upstream fails. Source: huggingface/transformers:src/transformers/models/pixtral/image_processing_pixtral.py@v5.23.0
    get_resize_output_image_size.
    """
    check_sides(height, width)
    ratio = max(height / size, width / size)
    if ratio > 1:
        height, width = max(1, math.floor(height / ratio)), max(1, math.floor(width / ratio))
    return math.ceil(height / unit) * unit, math.ceil(width / unit) * unit


def naflex(height: int, width: int, unit: int, max_pixels: int) -> tuple[int, int]:
    """The largest sides at the picture's ratio, each rounded up to a multiple of `unit`, of at most `max_pixels`.

    Small pictures grow as well, up to 100 times. The scale is bisected between 1e-6 and 100 to 1e-5 as upstream does,
    because its rounding decides some grids. Raises LimitError when `max_pixels` is below one unit.
    Source: huggingface/transformers:src/transformers/models/siglip2/image_processing_siglip2.py@v5.23.0
    get_image_size_for_max_num_patches, whose max_num_patches is max_pixels // unit^2.
    """
    check_sides(height, width)
    room = max_pixels // (unit * unit)
    if room < 1:
        raise LimitError(
            f"max_pixels = {max_pixels} is below one unit of {unit} x {unit}", limit=max_pixels, got=unit * unit
        )

    def units(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / unit)), max(1, math.ceil(width * scale / unit))

    low, high = NAFLEX_STEP / 10, 100.0
    while high - low >= NAFLEX_STEP:
        middle = (low + high) / 2
        rows, cols = units(middle)
        low, high = (middle, high) if rows * cols <= room else (low, middle)
    rows, cols = units(low)
    return rows * unit, cols * unit


def native_round(
    height: int, width: int, patch: int, min_pixels: int | None = None, max_pixels: int = 1600 * 1600
) -> tuple[int, int]:
    """LLaVA's native resolution: each side rounded to a multiple of `patch`, at least one, then held in a budget.

    It differs from `smart_resize_compat` in lifting a side to one patch before the product is taken. min_pixels: None
    is 4 x patch, the number upstream passes. Raises LimitError above a side ratio of 200.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/mm_utils.py@c2cd3e0 smart_resize, process_native_image.
    """
    check_sides(height, width)
    _check_ratio(height, width)
    low = 4 * patch if min_pixels is None else min_pixels
    h, w = max(patch, round(height / patch) * patch), max(patch, round(width / patch) * patch)
    if h * w > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        h = max(patch, math.floor(height / shrink / patch) * patch)
        w = max(patch, math.floor(width / shrink / patch) * patch)
    elif h * w < low:
        grow = math.sqrt(low / (height * width))
        h, w = math.ceil(height * grow / patch) * patch, math.ceil(width * grow / patch) * patch
    return h, w


def ov2_smart_resize(
    height: int, width: int, align: int, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """LLaVA-OneVision-2's frame size: as `native_round`, but without a ratio limit and with a budget only where given
    (0 counts as none), and with a zero side where shrinking floors a side away: the lapse `smart_resize` corrects.

    align: patch x merge. Source: EvolvingLMMs-Lab/LLaVA-OneVision-2:
    transformers_impl/llavaonevision2/video_processing_llava_onevision2.py@2c3c25e smart_resize.
    """
    check_sides(height, width)
    h, w = max(align, round(height / align) * align), max(align, round(width / align) * align)
    if max_pixels and h * w > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        h, w = math.floor(height / shrink / align) * align, math.floor(width / shrink / align) * align
    elif min_pixels and h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = math.ceil(height * grow / align) * align, math.ceil(width * grow / align) * align
    return h, w


def best_pinpoint(height: int, width: int, pinpoints: Iterable[Sequence[int]]) -> tuple[int, int]:
    """The canvas, out of (height, width) pinpoints, that shows most of the picture's own pixels and wastes least.

    The picture is fitted into each canvas (sides truncated); first the larger of shown pixels, which count at most as
    many as the picture has, then the smaller empty rest, then the earlier pinpoint. Upstream writes pinpoints the other
    way round, as (width, height). Raises ShapeError when there is none.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/mm_utils.py@c2cd3e0 select_best_resolution.
    """
    check_sides(height, width)
    canvases = [(int(h), int(w)) for h, w in pinpoints]
    if not canvases:
        raise ShapeError("no pinpoints to choose from", expected="(height, width) pairs", got=0)

    def shown(canvas: tuple[int, int]) -> int:
        scale = min(canvas[1] / width, canvas[0] / height)
        return min(int(width * scale) * int(height * scale), width * height)

    return max(canvases, key=lambda c: (shown(c), shown(c) - c[0] * c[1]))


def anyres(height: int, width: int, pinpoints: Iterable[Sequence[int]]) -> Pad:
    """LLaVA's any-resolution picture as OneVision's processor takes it: one resize into the best pinpoint's canvas and
    black borders of equal size (the odd pixel right and below). No tiles are cut and no thumbnail is added; the whole
    canvas is one item of canvas / patch rows and columns. `tubelet.pixels.resize.pad_frames` draws it.

    The side that limits is the canvas's own, the other one is rounded up. Black is 0 before the mean is subtracted.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/mm_utils.py@c2cd3e0 resize_and_pad_image,
    process_anyres_image.
    """
    canvas_h, canvas_w = best_pinpoint(height, width, pinpoints)
    scale_h, scale_w = canvas_h / height, canvas_w / width
    if scale_w < scale_h:
        h, w = min(math.ceil(height * scale_w), canvas_h), canvas_w
    else:
        h, w = canvas_h, min(math.ceil(width * scale_h), canvas_w)
    return Pad(h, w, (canvas_h - h) // 2, (canvas_w - w) // 2, canvas_h, canvas_w)


def _check_ratio(height: int, width: int) -> None:
    ratio = max(height, width) / min(height, width)
    if ratio > QWEN_RATIO:
        raise LimitError(
            f"{width} x {height} has a side ratio of {ratio:.1f}, above {QWEN_RATIO}", limit=QWEN_RATIO, got=ratio
        )
