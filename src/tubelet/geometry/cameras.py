"""Cameras: VGGT's pose encoding, extrinsics and intrinsics, a value that carries their conventions, unprojection.

    x_cam = R x_world + t           world_to_cam = [R | t], axes of OpenCV: x right, y down, z forward
    (u, v, 1) ~ K x_cam             K in pixels of the image whose (height, width) is `size`
    centre of the camera = -R^T t

A pose encoding is 9 numbers (VGGT's absT_quaR_FoV): t, a quaternion (x, y, z, w), and the vertical and horizontal field
of view in radians. Its world is the camera of its first frame, and its unit of length is its own in every scene.
Source: diankun-wu/Spatial-MLLM:src/qwenvl/external/vggt/utils/pose_enc.py, geometry.py@9fc4738; differs in that fields
of view without a focal length are bounded and told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.rotation import halfway, quaternion_to_rotation, rotation_to_quaternion
from tubelet.shapes import Bool, Float

Size = tuple[int, int]  # height, width in pixels
Scale = Literal["scene", "metres"]
Axes = Literal["opencv", "opengl"]
LEAST_FOV, MOST_FOV = 1e-3, 3.1405926  # radians; beyond them a focal length is infinite, zero or negative
_SLACK = 1e-3  # how far R^T R of a rotation that float32 made may be from 1


@dataclass(frozen=True, eq=False)
class Cameras:
    """The cameras of F frames of one world: values and the conventions they are in. Refuses to be mixed with others.

    Made by `cameras_of` (checks values), `decode_poses` (does not sync) and the methods here. Raises ShapeError.

    >>> cameras = decode_poses(torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1.0, 1.2]]), (476, 644), world="walk.mp4")
    >>> cameras.resized((238, 322)).K[0, 0, 2].item()
    161.0
    """

    world_to_cam: Tensor  # (F, 3, 4), [R | t], axes of OpenCV
    K: Tensor  # (F, 3, 3), intrinsics in pixels of `size`
    size: Size  # (height, width) of the image that K is for
    world: str  # which world; those of two reconstructions have nothing in common
    scale: Scale = "scene"  # "scene": a unit of its own in each world, which no metre is known for
    bounded: Tensor | None = None  # (F,) of bool, frames whose field of view was no such and has been bounded

    @door
    def __post_init__(self) -> None:
        n = len(self.world_to_cam)
        if self.world_to_cam.shape != (n, 3, 4) or self.K.shape != (n, 3, 3):
            raise ShapeError(
                f"cameras are (F, 3, 4) and (F, 3, 3), got {tuple(self.world_to_cam.shape)} and {tuple(self.K.shape)}",
                got=(tuple(self.world_to_cam.shape), tuple(self.K.shape)),
            )
        _check_size(self.size)
        if self.scale not in get_args(Scale):
            raise ConfigError(f"a scale is one of {get_args(Scale)}", expected=get_args(Scale), got=self.scale)

    def __len__(self) -> int:
        return len(self.world_to_cam)

    @property
    def centres(self) -> Float[Tensor, "F 3"]:
        """Where the cameras stand in the world."""
        return -(self.world_to_cam[:, :, :3].mT @ self.world_to_cam[:, :, 3:])[..., 0]

    @property
    def cam_to_world(self) -> Float[Tensor, "F 4 4"]:
        """The inverse of world_to_cam, as 4 x 4."""
        return inverse_poses(self.world_to_cam)

    @property
    def viewmats(self) -> Float[Tensor, "F 4 4"]:
        """world_to_cam as 4 x 4."""
        return square_poses(self.world_to_cam)

    def choose(self, frames: Sequence[int]) -> "Cameras":
        """The cameras of these frames, in this order."""
        index = torch.tensor(frames, dtype=torch.int64, device=self.K.device)
        flags = None if self.bounded is None else self.bounded[index]
        return replace(self, world_to_cam=self.world_to_cam[index], K=self.K[index], bounded=flags)

    def resized(self, size: Size) -> "Cameras":
        """The same cameras for an image stretched to (height, width): fx and cx go with the width, fy and cy with the
        height."""
        _check_size(size)
        stretch = self.K.new_tensor([size[1] / self.size[1], size[0] / self.size[0], 1.0])
        return replace(self, K=self.K * stretch[:, None], size=size)

    def cropped(self, left: float, top: float, size: Size) -> "Cameras":
        """The same cameras for a window of the image that begins at (left, top)."""
        shift = torch.zeros(3, 3, dtype=self.K.dtype, device=self.K.device)
        shift[0, 2], shift[1, 2] = -left, -top
        return replace(self, K=self.K + shift, size=size)

    def scaled(self, metres: float) -> "Cameras":
        """Lengths times `metres` a unit, known to be metres from here on. Raises ConfigError where they are already."""
        if self.scale == "metres":
            raise ConfigError("these cameras are in metres already", expected="scene", got=self.scale)
        if not metres > 0:
            raise ConfigError(f"a unit is more than 0 metres, got {metres}", got=metres)
        pose = torch.cat([self.world_to_cam[..., :3], self.world_to_cam[..., 3:] * metres], dim=-1)
        return replace(self, world_to_cam=pose, scale="metres")

    def to_axes(self, axes: Axes) -> Float[Tensor, "F 4 4"]:
        """cam_to_world for a program with these axes; "opengl": x right, y up, z backward (Blender, NeRF)."""
        return self.cam_to_world * _flip(axes, self.K)


def join_cameras(parts: Sequence[Cameras]) -> Cameras:
    """Cameras of one world end to end. Raises ConfigError naming the part of another world, scale or size.

    >>> one = decode_poses(torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1.0, 1.2]]), (476, 644), world="walk.mp4")
    >>> len(join_cameras([one, one]))
    2
    """
    if not parts:
        raise ShapeError("there are no cameras to join", limit=1, got=0)
    first = parts[0]
    for i, other in enumerate(parts):
        for name in ("world", "scale", "size"):
            mine, theirs = getattr(first, name), getattr(other, name)
            if mine != theirs:
                raise ConfigError(f"cameras of {name} {theirs!r} beside {mine!r}", item=i, expected=mine, got=theirs)
    flags = [p.bounded if p.bounded is not None else p.K.new_zeros(len(p), dtype=torch.bool) for p in parts]
    poses, ks = torch.cat([p.world_to_cam for p in parts]), torch.cat([p.K for p in parts])
    return replace(first, world_to_cam=poses, K=ks, bounded=torch.cat(flags))


def cameras_of(
    poses: Tensor,
    K: Tensor,
    size: Size,
    *,
    world: str,
    direction: Literal["world_to_cam", "cam_to_world"],
    axes: Axes = "opencv",
    scale: Scale = "scene",
) -> Cameras:
    """Cameras from anybody's (F, 3, 4) or (F, 4, 4) poses, whose convention must be said. Values are checked: one sync.

    Raises NotFinite naming the first frame, ShapeError for what is no rotation or has a focal length that is not
    positive, which a pose of the other axes or an image size in the place of a focal length shows.

        >>> cameras_of(torch.eye(4)[None], torch.eye(3)[None], (2, 2), world="a", direction="cam_to_world").scale
        'scene'
    """
    if poses.ndim != 3 or poses.shape[1] not in (3, 4) or poses.shape[2] != 4:
        raise ShapeError(f"poses are (F, 3, 4) or (F, 4, 4), got {tuple(poses.shape)}", got=tuple(poses.shape))
    bad = ~(poses.isfinite().flatten(1).all(1) & K.isfinite().flatten(1).all(1))
    if bool(bad.any()):
        raise NotFinite("a camera holds NaN or infinity", item=int(bad.nonzero()[0]))
    rotation = poses[:, :3, :3]
    off = (rotation.mT @ rotation - torch.eye(3, dtype=poses.dtype, device=poses.device)).abs().flatten(1).amax(1)
    wrong = (off > _SLACK) | (torch.linalg.det(rotation) < 0) | (K[:, 0, 0] <= 0) | (K[:, 1, 1] <= 0)
    if bool(wrong.any()):
        raise ShapeError(
            "a camera has a rotation and focal lengths above 0", item=int(wrong.nonzero()[0]), got=float(off.max())
        )
    sign = _flip(axes, poses)
    if direction == "cam_to_world":
        world_to_cam = inverse_poses(square_poses(poses[:, :3]) * sign)[:, :3]
    else:
        world_to_cam = poses[:, :3] * sign[0, :3, None]
    return Cameras(world_to_cam, K, size, world, scale)


def _flip(axes: Axes, like: Tensor) -> Tensor:
    """What turns the columns of cam_to_world from OpenCV's axes to `axes` and back; ones for OpenCV."""
    if axes not in get_args(Axes):
        raise ConfigError(f"axes are one of {get_args(Axes)}", expected=get_args(Axes), got=axes)
    s = -1.0 if axes == "opengl" else 1.0
    return like.new_tensor([1.0, s, s, 1.0]).expand(4, 4)


def _check_size(size: Size) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ShapeError(f"a size is (height, width) in pixels, got {size}", limit=1, got=size)


# ---- pose encodings


def decode_matrices(
    encoding: Float[Tensor, "... 9"], size: Size
) -> tuple[Float[Tensor, "... 3 4"], Float[Tensor, "... 3 3"], Bool[Tensor, "..."]]:
    """world_to_cam, K with the principal point in the middle, and where a field of view had to be bounded. No sync.

    A head's last ReLU may give 0, whose focal length is infinite, and nothing keeps it below pi, where the focal length
    turns negative: both are bounded to 0.001 .. pi - 0.001 and told.
    """
    _check_size(size)
    half = encoding.new_tensor([size[0] / 2, size[1] / 2])
    fov = encoding[..., 7:9]
    inside = fov.clamp(LEAST_FOV, MOST_FOV)
    fy, fx = (half / torch.tan(inside / 2)).unbind(-1)
    rotation = quaternion_to_rotation(encoding[..., 3:7])
    k = torch.zeros(*encoding.shape[:-1], 3, 3, dtype=encoding.dtype, device=encoding.device)
    k[..., 0, 0], k[..., 1, 1], k[..., 2, 2] = fx, fy, 1.0
    k[..., 0, 2], k[..., 1, 2] = half[1], half[0]
    return torch.cat([rotation, encoding[..., :3, None]], dim=-1), k, (inside != fov).any(-1)


def encode_matrices(
    world_to_cam: Float[Tensor, "... 3 4"], K: Float[Tensor, "... 3 3"], size: Size
) -> Float[Tensor, "... 9"]:
    """The pose encoding of cameras; the principal point is not in it."""
    _check_size(size)
    q = rotation_to_quaternion(world_to_cam[..., :3])
    focal = torch.stack([K[..., 1, 1], K[..., 0, 0]], dim=-1)
    fov = 2 * torch.atan(K.new_tensor([size[0] / 2, size[1] / 2]) / focal)
    return torch.cat([world_to_cam[..., 3], q, fov], dim=-1)


def decode_poses(encoding: Float[Tensor, "F 9"], size: Size, *, world: str) -> Cameras:
    """The cameras of one scene from its pose encodings, in float32 at least. size: of the image the network saw."""
    encoding = encoding if encoding.dtype == torch.float64 else encoding.float()
    world_to_cam, k, bounded = decode_matrices(encoding, size)
    return Cameras(world_to_cam, k, size, world, "scene", bounded)


# ---- poses and points


def square_poses(poses: Float[Tensor, "... 3 4"]) -> Float[Tensor, "... 4 4"]:
    """(..., 3, 4) with the row 0 0 0 1 below."""
    last = poses.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*poses.shape[:-2], 1, 4)
    return torch.cat([poses, last], dim=-2)


def inverse_poses(poses: Float[Tensor, "... r 4"]) -> Float[Tensor, "... 4 4"]:
    """The inverse of rigid poses in closed form: R^T and -R^T t. world_to_cam <-> cam_to_world."""
    turned = poses[..., :3, :3].mT
    return square_poses(torch.cat([turned, -turned @ poses[..., :3, 3:]], dim=-1))


def unproject(
    depth: Float[Tensor, "F h w"], world_to_cam: Float[Tensor, "F 3 4"], K: Float[Tensor, "F 3 3"]
) -> Float[Tensor, "F h w 3"]:
    """The world point of every pixel from its depth along z. Pixel (u, v) counts from 0 without a half, as VGGT does.

    NaN in depth stays NaN in its own point. Cost: one product of 3 x 3 a pixel.
    """
    h, w = depth.shape[-2:]
    v, u = torch.meshgrid(*(torch.arange(n, dtype=depth.dtype, device=depth.device) for n in (h, w)), indexing="ij")
    x = (u - K[:, 0, 2, None, None]) / K[:, 0, 0, None, None]
    y = (v - K[:, 1, 2, None, None]) / K[:, 1, 1, None, None]
    local = torch.stack([x * depth, y * depth, depth], dim=-1)
    back = inverse_poses(world_to_cam)
    return torch.einsum("fij,fhwj->fhwi", back[:, :3, :3], local) + back[:, None, None, :3, 3]


# ---- one camera for each tubelet


def tubelet_matrices(
    world_to_cam: Float[Tensor, "F 3 4"],
    K: Float[Tensor, "F 3 3"],
    tubelets: Sequence[Sequence[int]],
    how: Literal["first", "mean"] = "mean",
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 3 3"]]:
    """viewmats and K of each tubelet of one or two frames, given by their frame numbers.

    "first": of its first frame. "mean": half the turn between the two and the mean of their centres. K is the first
    frame's either way. Raises ShapeError for an empty tubelet, or three frames and "mean".
    """
    if any(not 1 <= len(t) <= (2 if how == "mean" else len(t)) for t in tubelets):
        raise ShapeError("a tubelet holds one frame or two", limit=2, got=[len(t) for t in tubelets])
    index = [torch.tensor([t[i] for t in tubelets], dtype=torch.int64, device=K.device) for i in (0, -1)]
    a, b = (world_to_cam[i] for i in index)
    if how == "first":
        return square_poses(a), K[index[0]]
    rotation = halfway(a[..., :3], b[..., :3])
    centre = (inverse_poses(a)[:, :3, 3:] + inverse_poses(b)[:, :3, 3:]) / 2
    return square_poses(torch.cat([rotation, -rotation @ centre], dim=-1)), K[index[0]]
