"""What a VGGT costs before it runs: closed formulas of its sizes and the frames', nothing is allocated.

    rows of a frame   p = 5 + h w            h x w patches of 14 pixels, a camera token and 4 registers
    a layer           12 C^2 a row           q, k, v, the projection after attention, and an MLP of 4 C
    attention         2 C n^2                over n rows that attend to each other: p in a frame, F p in a scene

Layers that see the scene are quadratic in the number of frames; all else is linear, but for the camera head's attention
over F rows. Counted are multiply-adds of matrix products and convolutions, half of what torch.utils.flop_counter gives.
"""

from collections.abc import Sequence

import torch

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.spans import span_lengths, whole_cuts
from tubelet.errors import ShapeError
from tubelet.geometry.heads import POSE, CameraConfig, DPTConfig
from tubelet.geometry.vggt import VGGT, VGGTConfig
from tubelet.packed import Grid


def vggt_macs(config: VGGTConfig, frames: int, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of one scene of `frames` frames of height x width pixels, by part, in the order they run.

    "patches" (DINOv2, or the matrix in its place), "frame" and "scene" (the aggregator's layers by what they see), then
    "camera", "depth" and "points" where the configuration has these heads; 0 where not. Their sum, twice, is the FLOPs.
    Raises ShapeError where 14 divides no side or there is no frame.

        >>> from tubelet.geometry.vggt import VGGT_1B
        >>> {part: round(n / 1e12, 1) for part, n in vggt_macs(VGGT_1B, 16, 476, 644).items()}
        {'patches': 9.5, 'frame': 9.5, 'scene': 38.6, 'camera': 0.0, 'depth': 2.7, 'points': 2.7}
    """
    grid = _grid(config, frames, height, width)
    rows = config.patches if config.patches is not None else config.aggregator
    embed = grid.rows * rows.pixels.width * rows.hidden
    each = _by_span(config.aggregator, grid)
    return {
        "patches": embed + (0 if config.patches is None else sum(_by_span(config.patches, grid).values())),
        "frame": each["frame"],
        "scene": each["scene"],
        "camera": 0 if config.camera is None else sum(camera_macs(config.camera, (frames,))),
        "depth": 0 if config.depth is None else frames * dpt_macs(config.depth, grid.h, grid.w),
        "points": 0 if config.points is None else frames * dpt_macs(config.points, grid.h, grid.w),
    }


def _grid(config: VGGTConfig, frames: int, height: int, width: int) -> Grid:
    patch = config.pixels.patch
    if frames < 1 or height < 1 or width < 1 or height % patch or width % patch:
        raise ShapeError(
            f"{frames} frames of {width} x {height} are no scene of whole patches",
            expected=patch,
            got=(frames, height, width),
        )
    return Grid(frames, height // patch, width // patch)


def _by_span(config: EncoderConfig, grid: Grid) -> dict[str, int]:
    """Of all layers of each span: products over rows, and attention over segments."""
    d, up = config.hidden, config.mlp * (2 if config.gated else 1)
    found: dict[str, int] = {}
    for span, lengths in span_lengths(config, [whole_cuts(config, grid)]).items():
        layer = sum(lengths) * d * (4 * d + up + config.mlp) + 2 * d * sum(n * n for n in lengths)
        found[span] = config.layer_spans.count(span) * layer
    return found


def camera_macs(config: CameraConfig, scenes: Sequence[int]) -> tuple[int, int]:
    """Multiply-adds of the camera head for scenes of so many frames: of products over rows, and of attention."""
    d, frames = config.width, sum(scenes)
    rows = config.layers * 12 * d * d + POSE * d + 3 * d * d + d * (d // 2) + (d // 2) * POSE
    return config.iterations * frames * rows, config.iterations * config.layers * 2 * d * sum(n * n for n in scenes)


def dpt_macs(config: DPTConfig, h: int, w: int) -> int:
    """Multiply-adds of a DPT head for one frame of h x w patches."""
    f, (a, b, _, d) = config.features, config.channels
    half = (-(-h // 2), -(-w // 2))
    sizes = ((4 * h, 4 * w), (2 * h, 2 * w), (h, w), half)
    areas = [y * x for y, x in sizes]
    total = sum(h * w * config.width * c for c in config.channels)  # projections
    total += 16 * a * a * h * w + 4 * b * b * h * w + 9 * d * d * areas[3]  # resized
    total += sum(9 * c * f * area for c, area in zip(config.channels, areas, strict=True))
    for i, area in enumerate(areas):  # two convolutions a unit, one of two units where two maps meet
        total += (4 if i < 3 else 2) * 9 * f * f * area + f * f * (areas[i - 1] if i else 4 * areas[0])
    whole = h * config.patch * w * config.patch
    if config.out is None:
        return total + 9 * f * f * 4 * areas[0]
    return total + 9 * f * (f // 2) * 4 * areas[0] + whole * (9 * (f // 2) * 32 + 32 * config.out)


def vggt_parameters(config: VGGTConfig) -> int:
    """How many weights the network has; it is built without memory for them.

    >>> from tubelet.geometry.vggt import VGGT_1B
    >>> vggt_parameters(VGGT_1B)  # of 1,256,537,516 all but the track head and a mask token of 1024
    1190595096
    """
    with torch.device("meta"):
        return sum(p.numel() for p in VGGT(config).parameters())
