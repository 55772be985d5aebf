"""Motion vectors as the decoder exports them, made comparable: from here to there in pixels, since the frame before.

A codec's vector points from a block to where its content is found in another picture, which may be the frame before, an
earlier one or a later one. Divided by how far away that picture is, all of them say the same thing: how far the content
moved since the frame before.

    frames shown       r . . n r        n: has a block that refers back 3 frames by (-6, 0) and forward 1 by (2, 0);
                       0 1 2 3 4           both say that its content moves 2 pixels to the right in a frame
"""

from typing import Any, Final, NamedTuple, cast

import av.video
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

from tubelet.shapes import Float, Int64, Shaped

# Decoders that export their vectors (H.264, and those of FFmpeg's MPEG family). HEVC, VP8, VP9 and AV1 do not.
EXPORTING: Final = frozenset(
    ("h264", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2")
)
# Of these, the decoders that export nothing but zeros for B pictures (FFmpeg keeps no vectors of them).
BLANK_B: Final = frozenset(("mpeg4", "h263", "flv", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2"))


class Reach(NamedTuple):
    """Seconds from the frame shown before to this one, and from the pictures it refers to, back (positive) and forward
    (negative), to this one; 0.0 where there is none."""

    step_s: float
    back_s: float
    forward_s: float


def exported(frame: av.video.VideoFrame) -> Shaped[np.ndarray, " n"] | None:
    """AVMotionVector records of a decoded frame, None for one without. The frame's own memory."""
    # Not `frame.side_data`: a frame keeps what it gives there, which points back to it, and so outlives its use until
    # Python looks for circles: dozens of decoded pictures.
    vectors = cast(Any, SideDataContainer)(frame).get(Type.MOTION_VECTORS)
    return None if vectors is None or len(vectors) == 0 else vectors.to_ndarray()


def moved(vectors: Shaped[np.ndarray, " n"], reach: Reach) -> Float[np.ndarray, "n 2"]:
    """(x, y) in pixels that the content of each block moved since the frame shown before, of both lists, sub-pixel.

    A vector into a direction in which no picture is known counts as one step long.
    Source: FFmpeg/FFmpeg:libavutil/motion_vector.h@n8.0 (source is below 0 for the past and above for the future).
    """
    scale = np.maximum(vectors["motion_scale"].astype(np.float32), 1.0)
    out = np.empty((len(vectors), 2), np.float32)
    out[:, 0] = vectors["motion_x"] / scale
    out[:, 1] = vectors["motion_y"] / scale
    back = reach.step_s / reach.back_s if reach.back_s > 0 else 1.0
    forward = reach.step_s / reach.forward_s if reach.forward_s < 0 else -1.0
    out *= np.where(vectors["source"] < 0, -back, -forward).astype(np.float32)[:, None]
    return out


def on_cells(
    vectors: Shaped[np.ndarray, " n"], moves: Float[np.ndarray, "n 2"], rows: int, columns: int, side: int
) -> tuple[Float[np.ndarray, "h w 2"], Float[np.ndarray, "h w"]]:
    """The mean move in each of rows x columns cells of side x side pixels, and which share of a cell has one (0 to 2:
    blocks of two lists count twice). Blocks count by the pixels they have in a cell; without any, the move is 0."""
    index, areas, which = _covered(vectors, rows, columns, side)
    total = rows * columns
    area = np.bincount(index, areas, total)
    sums = [np.bincount(index, areas * moves[which, k], total) for k in (0, 1)]
    known = np.maximum(area, 1e-9)
    field = np.stack([s / known for s in sums], axis=-1).astype(np.float32).reshape(rows, columns, 2)
    return field, (area / (side * side)).astype(np.float32).reshape(rows, columns)


def _covered(
    vectors: Shaped[np.ndarray, " n"], rows: int, columns: int, side: int
) -> tuple[Int64[np.ndarray, " k"], Float[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """(cell, pixels in it, vector) for every pair of a block and a cell that overlap, inside the picture."""
    wide, high = vectors["w"].astype(np.int64), vectors["h"].astype(np.int64)
    left, top = vectors["dst_x"] - (wide >> 1), vectors["dst_y"] - (high >> 1)
    first_x, first_y = left // side, top // side
    more_x, more_y = (left + wide - 1) // side - first_x, (top + high - 1) // side - first_y
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for dy in range(int(more_y.max(initial=0)) + 1):
        y = first_y + dy
        tall = np.minimum(top + high, (y + 1) * side) - np.maximum(top, y * side)
        for dx in range(int(more_x.max(initial=0)) + 1):
            x = first_x + dx
            broad = np.minimum(left + wide, (x + 1) * side) - np.maximum(left, x * side)
            there = (dy <= more_y) & (dx <= more_x) & (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
            found = there.nonzero()[0]
            parts.append((y[found] * columns + x[found], (tall * broad)[found], found))
    index, area, which = (np.concatenate(p) for p in zip(*parts, strict=True))
    return index, area.astype(np.float32), which
