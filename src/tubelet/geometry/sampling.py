"""Which frames of a long video to keep: evenly, by the space they see, or by where their cameras stand.

    uniform_frames     linspace over the video
    cover_space        space-aware: frames that together see the most voxels of a reconstruction
    farthest_poses     the frame farthest from all chosen ones, again and again
    spread_poses       the same in two numbers a frame, distance and angle from the first
    add_neighbours     key frames, each with a neighbour to make a tubelet with

All are deterministic, ties go to the lowest frame, and host integers come out.
Source: diankun-wu/Spatial-MLLM:src/sampling/sa_sampling.py@9fc4738; Jinjing98/Spatial-MLLM:src/sampling/sa_sampling.py,
src/utils/pose_fps_sampling.py, pose_efficient_sampling.py@def53a68.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.rotation import rotation_angle
from tubelet.geometry.views import Weights, medoid, pose_distances, pose_parts

Frames = tuple[int, ...]
DIVISIONS = 20  # voxels along the shortest side of what is seen
LEAST_CONFIDENCE = 0.1  # upstream's second threshold; VGGT's confidences begin at 1
FLAT = 1e-4  # a side this much shorter than the longest counts as none: a plane has no thickness to divide
_BITMAP = 1 << 28  # occupancy tables up to this many bytes are indexed directly; larger ones by what is occupied


def uniform_frames(total: int, keep: int) -> Frames:
    """`keep` frames evenly from the first to the last, rounded down; all of them where there are no more.

    >>> uniform_frames(10, 4)
    (0, 3, 6, 9)
    """
    _check_counts(total, keep)
    return tuple(dict.fromkeys(np.linspace(0, total - 1, min(keep, total)).astype(int).tolist()))


# ---- by what is seen


class Coverage(NamedTuple):
    """What `cover_space` chose and how it saw the scene."""

    frames: Frames  # in the order of time
    order: Frames  # as they were chosen, the one that adds most first
    voxels: Frames  # how many each frame of the video sees
    edge: float  # of a voxel, in the scene's unit
    low: np.ndarray  # (3,) corner of the box around what is seen
    high: np.ndarray  # (3,) the opposite one
    threshold: float  # the confidence from which a point counts


def cover_space(
    points: np.ndarray, confidence: np.ndarray, keep: int, *, divisions: int = DIVISIONS, fill: bool = False
) -> Coverage:
    """At most `keep` frames of the (F, h, w, 3) points that see the most voxels, by greedy maximum coverage.

    A point counts from the median confidence on. Choosing stops when no frame adds a voxel, so fewer may come out;
    fill=True goes on with the frames farthest in time from those chosen. Points or confidences that are not finite
    count as unseen. Voxels divide the shortest side that is no plane's thickness (`FLAT`); where all points are one,
    one frame comes out. Cost: one pass over the points and F x voxels bits for each choice.
    Raises ShapeError, and NotFinite where no frame has a finite point.

        >>> points = np.random.default_rng(0).random((6, 4, 4, 3))
        >>> len(cover_space(points, np.ones((6, 4, 4)), 3).frames)
        3
    """
    count = len(points)
    _check_counts(count, keep)
    if points.shape[-1:] != (3,) or points.shape[:-1] != confidence.shape:
        raise ShapeError(
            f"points {points.shape} are (..., 3) beside confidences {confidence.shape}",
            expected=(*confidence.shape, 3),
            got=points.shape,
        )
    points, confidence = points.reshape(count, -1, 3), confidence.reshape(count, -1)
    finite = np.isfinite(confidence)
    for axis in range(3):
        finite &= np.isfinite(points[..., axis])
    if not finite.any():
        raise NotFinite("no frame has a finite point", got=0)
    threshold = float(np.percentile(confidence if finite.all() else confidence[finite], 50))
    seen = finite & (confidence >= threshold) & (confidence > LEAST_CONFIDENCE)
    if not seen.any():
        raise ShapeError(f"no point has a confidence above {LEAST_CONFIDENCE}", limit=LEAST_CONFIDENCE, got=threshold)
    columns = [points[..., axis][seen] for axis in range(3)]  # one after the other: rows of three are slow to reduce
    low, high = (np.array([f(x) for x in columns], dtype=points.dtype) for f in (np.min, np.max))
    sides = high - low
    thick = sides > FLAT * sides.max()
    edge = sides[thick].min() / sides.dtype.type(divisions) if thick.any() else sides.dtype.type(1)
    cells = [np.floor((x - least) / edge) for x, least in zip(columns, low, strict=True)]
    occupied, voxels = _occupancy(cells, seen.sum(axis=1))
    order = _cover(occupied, keep)
    if fill:
        order = _fill_in_time(order, count, keep)
    return Coverage(tuple(sorted(order)), tuple(order), tuple(voxels), float(edge), low, high, threshold)


def _occupancy(cells: Sequence[np.ndarray], lengths: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """(F, words) bits of the voxels each frame sees, and how many. cells: x, y, z of all points, frame after frame."""
    sides = [float(x.max()) + 1 for x in cells]
    if math.prod(sides) * len(lengths) <= _BITMAP:
        wide = int(math.prod(sides))
        x, y, z = (own.astype(np.int32) for own in cells)
        place = (x * np.int32(sides[1]) + y) * np.int32(sides[2]) + z
    else:  # a number for each occupied voxel
        _, place = np.unique(np.stack(cells, axis=1), axis=0, return_inverse=True)
        place = place.reshape(-1)
        wide = int(place.max()) + 1
    table = np.zeros((len(lengths), wide), dtype=bool)
    for row, own in zip(table, np.split(place, np.cumsum(lengths)[:-1]), strict=True):
        row[own] = True
    counts = table.sum(axis=1).tolist()
    bits = np.packbits(table, axis=1)
    words = np.zeros((len(lengths), -(-bits.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : bits.shape[1]] = bits
    return words.view(np.uint64), counts


def _cover(occupied: np.ndarray, keep: int) -> list[int]:
    """Greedy maximum coverage over rows of bits, until nothing is gained."""
    left = occupied.copy()
    order: list[int] = []
    while len(order) < keep:
        gains = np.bitwise_count(left).sum(axis=1, dtype=np.int64)
        best = int(gains.argmax())
        if not gains[best]:
            break
        order.append(best)
        left &= ~left[best]
    return order


def _fill_in_time(order: list[int], count: int, keep: int) -> list[int]:
    frames, order = np.arange(count), list(order)
    while len(order) < min(keep, count):
        apart = np.abs(frames[:, None] - np.array(order)[None]).min(axis=1)
        order.append(int(apart.argmax()))
    return order


# ---- by where cameras stand


def farthest_poses(
    cam_to_world: Tensor, keep: int, *, start: Literal["first", "medoid"] = "medoid", weights: Weights = "max"
) -> Frames:
    """`keep` frames in the order chosen: the start, then each time the one farthest from all chosen (`pose_distances`).

    Choosing stops when all that are left stand where a chosen one does. Raises ShapeError, NotFinite, ConfigError.

        >>> farthest_poses(torch.eye(4).expand(5, 4, 4), 3)
        (0,)
    """
    _check_counts(len(cam_to_world), keep)
    distances = pose_distances(cam_to_world, weights)
    return _farthest(distances, _start(start, distances), keep)


class Spread(NamedTuple):
    """Distances from frames to the nearest chosen one."""

    mean: float  # of the frames that were left out
    largest: float
    deviation: float  # over all frames, of which the chosen ones have 0, as upstream counts it


def pose_coverage(distances: Tensor, chosen: Sequence[int]) -> Spread:
    """How well the chosen rows of a (F, F) table stand for the others; zeros where none is left out."""
    near = distances[:, list(chosen)].min(dim=1).values
    left = torch.ones(len(near), dtype=torch.bool).index_fill(0, torch.tensor(list(chosen)), False)
    rest = near[left]
    if not len(rest):
        return Spread(0.0, 0.0, 0.0)
    return Spread(float(rest.mean()), float(rest.max()), float(near.std(unbiased=False)))


def spread_poses(
    cam_to_world: Tensor,
    keep: int,
    *,
    method: Literal["grid", "hybrid", "farthest"] = "farthest",
    start: Literal["far", "medoid"] = "far",
    scale: Literal["deviation", "max"] = "deviation",
) -> Frames:
    """`keep` frames in the order chosen, by two numbers each: distance and angle from the first camera.

    "farthest": farthest point in that plane, from the point farthest from the origin, or the medoid. "grid": of each
    cell of a square grid, the far ones first, the point nearest its middle. "hybrid": three times as many by grid, then
    farthest. Linear in F, where `farthest_poses` is quadratic. Raises ShapeError, NotFinite, ConfigError.

        >>> spread_poses(torch.eye(4).expand(5, 4, 4), 2)
        (0,)
    """
    _check_counts(len(cam_to_world), keep)
    if method not in ("grid", "hybrid", "farthest") or start not in ("far", "medoid"):
        raise ConfigError("method: grid, hybrid, farthest; start: far, medoid", got=(method, start))
    rotation, centre = pose_parts(cam_to_world.double())
    plane = torch.stack([(centre - centre[0]).norm(dim=-1), rotation_angle(rotation, rotation[0])], dim=1)
    size = plane.max(0).values if scale == "max" else plane.std(0, unbiased=True) if len(plane) > 1 else plane[0]
    plane = torch.where(size > 1e-12, plane / size.clamp_min(1e-12), 0.0)
    if method == "grid":
        return _by_grid(plane, keep)
    among = list(_by_grid(plane, 3 * keep)) if method == "hybrid" else list(range(len(plane)))
    points = plane[among]
    distances = (points[:, None] - points[None]).norm(dim=-1)
    first = medoid(distances) if start == "medoid" else int(points.norm(dim=1).argmax())
    return tuple(among[i] for i in _farthest(distances, first, keep))


def _start(start: str, distances: Tensor) -> int:
    if start not in ("first", "medoid"):
        raise ConfigError("a start is first or medoid", expected=("first", "medoid"), got=start)
    return 0 if start == "first" else medoid(distances)


def _farthest(distances: Tensor, first: int, keep: int) -> Frames:
    order, near = [first], distances[first].clone()
    while len(order) < min(keep, len(distances)):
        best = int(near.argmax())
        if not near[best] > 0:
            break
        order.append(best)
        near = torch.minimum(near, distances[best])
    return tuple(order)


def _by_grid(plane: Tensor, keep: int) -> Frames:
    side = math.ceil(math.sqrt(int(1.5 * keep)))
    low = plane.min(0).values
    cell = ((plane.max(0).values - low) / side).clamp_min(1e-12)
    place = (plane - low) / cell
    number = place.floor().clamp(0, side - 1)
    far = plane.norm(dim=1)
    cells: dict[tuple[float, ...], list[int]] = {}
    for i, key in enumerate(number.tolist()):
        cells.setdefault(tuple(key), []).append(i)
    off = (place - number - 0.5).norm(dim=1)
    order = sorted(cells.values(), key=lambda own: -float(far[own].mean()))[:keep]
    chosen = [own[int(off[own].argmin())] for own in order]
    left = [i for i in far.argsort(descending=True, stable=True).tolist() if i not in set(chosen)]
    return tuple(chosen + left[: keep - len(chosen)])


# ---- key frames with a neighbour


def add_neighbours(
    keys: Sequence[int], total: int, *, step: int = 1, mode: Literal["after", "before"] = "after"
) -> tuple[tuple[int, int], ...]:
    """Each key frame with the one `step` after or before it, (earlier, later); with itself where that is not free.

    The first key takes the one after, the last the one before. A neighbour outside the video, or at or beyond the next
    key, is not free. For tubelets whose two frames see the same. Raises ShapeError for keys that do not ascend.

        >>> add_neighbours([3, 10, 11, 30], 128)
        ((3, 4), (10, 10), (11, 12), (29, 30))
    """
    keys = [int(k) for k in keys]
    _check_counts(total, max(1, len(keys)))
    if step < 1 or mode not in ("after", "before"):
        raise ConfigError(f"a neighbour is after or before by at least 1, got {mode} by {step}", got=(mode, step))
    if any(a >= b for a, b in pairwise(keys)) or (keys and not 0 <= keys[0] <= keys[-1] < total):
        raise ShapeError(f"key frames ascend inside 0..{total - 1}", limit=total, got=tuple(keys))
    pairs: list[tuple[int, int]] = []
    for i, key in enumerate(keys):
        after = i == 0 or (mode == "after" and i < len(keys) - 1)
        before, behind = (keys[i - 1] if i else -1), (keys[i + 1] if i + 1 < len(keys) else total)
        other = key + step if after else key - step
        other = other if before < other < behind else key
        pairs.append((min(key, other), max(key, other)))
    return tuple(pairs)


def sorted_neighbours(pairs: Sequence[tuple[int, int]]) -> Frames:
    """The frames of all pairs in one order of time, as upstream hands them on.

    compat only: where neighbours reach past each other the sort breaks the pairs, and tubelets are made of frames that
    were not chosen for each other. (10, 40), (50, 80), (60, 90) become (10, 40), (50, 60), (80, 90).
    """
    return tuple(sorted(f for pair in pairs for f in pair))


def _check_counts(total: int, keep: int) -> None:
    if total < 1 or keep < 1:
        raise ShapeError(f"{keep} frames cannot be chosen of {total}", limit=1, got=(total, keep))
