"""How far apart views are: distances between cameras, and one number for each camera's distance from an anchor.

All functions take cam_to_world (its last column is the camera's centre); world_to_cam gives numbers that mean nothing
where cameras turn, which upstream's callers do. Rotations are made orthogonal first.
Source: Jinjing98/Spatial-MLLM:src/utils/pose_distance_metrics.py, pose_fps_sampling.py@def53a68; differs in that angles
come from atan2, not from an arc cosine, whose error at a camera itself is 5e-4 in float32.
"""

from typing import Literal

import torch
from torch import Tensor

from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.rotation import orthogonal, rotation_angle
from tubelet.shapes import Float

Weights = Literal["max", "spread"]


def check_poses(poses: Tensor) -> None:
    """Raises ShapeError for no camera or another shape, NotFinite naming the first camera with NaN or infinity."""
    if poses.ndim != 3 or len(poses) < 1 or poses.shape[1] not in (3, 4) or poses.shape[2] != 4:
        raise ShapeError(f"poses are (F, 3, 4) or (F, 4, 4) with F >= 1, got {tuple(poses.shape)}", got=poses.shape)
    bad = (~poses.isfinite().flatten(1).all(1)).nonzero()
    if len(bad):
        raise NotFinite("a pose holds NaN or infinity", item=int(bad[0]))


def pose_parts(cam_to_world: Tensor) -> tuple[Float[Tensor, "F 3 3"], Float[Tensor, "F 3"]]:
    """Orthogonal rotations and centres."""
    check_poses(cam_to_world)
    return orthogonal(cam_to_world[:, :3, :3]), cam_to_world[:, :3, 3]


def pose_distances(cam_to_world: Tensor, weights: Weights = "max") -> Float[Tensor, "F F"]:
    """Distance of centres plus angle of every two cameras, each weighed so that metres and radians can be added.

    "max": each over its largest. "spread": times 1 / its standard deviation over all pairs, weights summing to 2. What
    does not vary counts nothing. Cost: F^2. Raises ShapeError, NotFinite, ConfigError.

        >>> pose_distances(torch.eye(4).expand(3, 4, 4)).sum().item()
        0.0
    """
    rotation, centre = pose_parts(cam_to_world)
    apart = (centre[:, None] - centre[None]).norm(dim=-1)
    angle = rotation_angle(rotation[:, None], rotation[None])
    if weights == "max":
        return _over(apart, apart.max()) + _over(angle, angle.max())
    if weights != "spread":
        raise ConfigError("weights are max or spread", expected=("max", "spread"), got=weights)
    pairs = torch.ones_like(apart, dtype=torch.bool).triu(1)
    if int(pairs.sum()) < 2:
        return torch.zeros_like(apart)
    inverse = torch.stack([_over(torch.ones_like(d[0, 0]), d[pairs].std(unbiased=False)) for d in (apart, angle)])
    inverse = _over(inverse * 2, inverse.sum())
    return inverse[0] * apart + inverse[1] * angle


def medoid(distances: Float[Tensor, "F F"]) -> int:
    """The row whose distances sum to the least; the first of equals. One sync."""
    return int(distances.sum(dim=1).argmin())


def lie_scalar(
    cam_to_world: Tensor,
    *,
    anchor: int = 0,
    translation: float = 1.0,
    scale_free: bool = True,
    unit: bool = True,
) -> Float[Tensor, " F"]:
    """sqrt(angle^2 + translation^2 distance^2) from the anchor's camera; of the anchor itself exactly 0.

    scale_free: distances over the largest of them (the unit of length of a scene is arbitrary). unit: the result over
    its largest, 0 .. 1. Cameras that are all equal give zeros. Raises ShapeError for an anchor that is not there.

        >>> lie_scalar(torch.eye(4).expand(3, 4, 4)).tolist()
        [0.0, 0.0, 0.0]
    """
    rotation, centre = pose_parts(cam_to_world)
    if not 0 <= anchor < len(centre):
        raise ShapeError(f"camera {anchor} of {len(centre)} cannot be the anchor", limit=len(centre), got=anchor)
    distance = (centre - centre[anchor]).norm(dim=-1)
    distance = _over(distance, distance.max()) if scale_free else distance
    p = (rotation_angle(rotation, rotation[anchor]).square() + (translation * distance).square()).sqrt()
    here = torch.arange(len(p), device=p.device) == anchor
    p = p.masked_fill(here, 0.0)
    return _over(p, p.max()) if unit else p


def lie_medoid(cam_to_world: Tensor, translation: float = 1.0) -> int:
    """The camera from which the sum of `lie_scalar` to all others is least, lengths as they are."""
    check_poses(cam_to_world)
    rotation, centre = cam_to_world[:, :3, :3], cam_to_world[:, :3, 3]
    apart = (centre[:, None] - centre[None]).norm(dim=-1)
    angle = rotation_angle(rotation[:, None], rotation[None])
    return medoid((angle.square() + (translation * apart).square()).sqrt())


def view_changes(cam_to_world: Tensor) -> Float[Tensor, " f"]:
    """From each camera to the next, F - 1 numbers: angle in radians plus distance over the path's extent.

    The extent is the largest distance of a centre from the first; a camera that only turns has none, and its changes
    are angles alone.
    """
    rotation, centre = pose_parts(cam_to_world)
    extent = (centre - centre[0]).norm(dim=-1).max()
    return rotation_angle(rotation[:-1], rotation[1:]) + _over((centre[1:] - centre[:-1]).norm(dim=-1), extent)


def _over(x: Tensor, by: Tensor) -> Tensor:
    """x / by, and 0 where `by` is 0 or rounding of it."""
    still = by <= 1e-12
    return torch.where(still, torch.zeros_like(x), x / by.masked_fill(still, 1.0))
