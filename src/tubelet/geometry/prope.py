"""Cameras inside attention: q, k and v of a token multiplied by its camera's matrix, four channels at a time.

    q <- P^T q,   k <- P^-1 k,   v <- P^-1 v,   out <- P out

so that the score of two tokens is q^T (P_i P_j^-1) k: it knows how one camera stands to the other and not where the
world begins. `pose_maps` gives these matrices for chosen channels of some tokens (identity elsewhere); `prope_maps` the
whole scheme of the paper, where half of a head's channels see the projection of the camera and a quarter each turn by
the column and the row of the patch. Matrices in float32. Not norm preserving: a translation is as large as its unit, so
scale a scene before.
Source: arXiv 2507.10496; Jinjing98/Spatial-MLLM:src/qwenvl/model/connector/prope_torch.py,
src/custom_qwenvl/model/custom_RoPE_utils.py (PRoPE4VisionToken)@def53a68.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.geometry.cameras import Size, inverse_poses, square_poses
from tubelet.shapes import Float, Shaped

FOUR = 4  # channels that one matrix acts on
BASE = 100.0  # of the turns by column and row


class CameraMaps(NamedTuple):
    """What attention does to its heads, for T tokens. Apply q to q, k to k and v, out to what attention gave."""

    q: Float[Tensor, "T 4 4"]  # P^T
    k: Float[Tensor, "T 4 4"]  # P^-1
    out: Float[Tensor, "T 4 4"]  # P
    start: int  # first channel of a head that they act on
    stop: int  # behind the last
    turns: tuple[Float[Tensor, "T n"], ...] = ()  # angles of the channels behind `stop`, axis after axis


def pose_maps(
    world_to_cam: Float[Tensor, "n 3 4"],
    tubelets: Tensor,
    head_dim: int,
    *,
    scope: tuple[float, float] = (0.0, 0.25),
) -> CameraMaps:
    """Maps by the pose of each token's tubelet alone. tubelets: (T,) its number, -1 for text, which stays as it is.

    scope: the part of a head's channels, widened to whole groups of four. Raises ShapeError for a scope outside 0 .. 1.

        >>> maps = pose_maps(torch.eye(4)[None, :3], torch.tensor([-1, 0, 0]), head_dim=32)
        >>> maps.stop
        8
    """
    start, stop = (int(x) * FOUR for x in (scope[0] * head_dim // FOUR, math.ceil(scope[1] * head_dim / FOUR)))
    if not 0 <= start < stop <= head_dim:
        raise ShapeError(f"a scope is a part of 0..1, got {scope}", limit=1, got=scope)
    poses = world_to_cam.float()
    still = torch.eye(FOUR, device=poses.device)[None]
    number = tubelets + 1
    p = torch.cat([still, square_poses(poses)])[number]
    back = torch.cat([still, inverse_poses(poses)])[number]
    return CameraMaps(p.mT, back, p, start, stop)


def prope_maps(
    viewmats: Float[Tensor, "n 4 4"], K: Float[Tensor, "n 3 3"] | None, grid: tuple[int, int], size: Size, head_dim: int
) -> CameraMaps:
    """The paper's maps for n cameras of grid (rows, columns) patches each, camera after camera, in raster order.

    K: in pixels of `size`; divided by it, with the principal point counted from the middle. None: poses alone.
    Raises ShapeError where a head's channels are no multiple of 8, of which four groups of two turn.
    """
    if head_dim % 8:
        raise ShapeError(f"a head of {head_dim} channels has no eighths", expected=8, got=head_dim)
    poses = viewmats.float()
    p, back = poses, inverse_poses(poses)
    if K is not None:
        lift = _lifted(K.float(), size)
        p, back = lift @ p, back @ torch.linalg.inv(lift)
    rows, columns = grid
    each = rows * columns
    quarter = head_dim // 4
    speed = BASE ** (-torch.arange(quarter // 2, dtype=torch.float32, device=poses.device) / (quarter // 2))
    place = torch.arange(each, device=poses.device).repeat(len(poses))
    turns = tuple(axis.float()[:, None] * speed for axis in (place % columns, place // columns))
    p, back = p.repeat_interleave(each, dim=0), back.repeat_interleave(each, dim=0)
    return CameraMaps(p.mT, back, p, 0, head_dim // 2, turns)


def apply_maps(x: Shaped[Tensor, "... T K"], maps: CameraMaps, matrices: Tensor, *, back: bool = False) -> Tensor:
    """(..., T, K) heads under `matrices`, one of the maps'; back=True for the output, which turns the other way."""
    inside = x[..., maps.start : maps.stop].float().unflatten(-1, (-1, FOUR))
    moved = torch.einsum("tij,...tgj->...tgi", matrices, inside).flatten(-2)
    parts = [x[..., : maps.start].float(), moved]
    at = maps.stop
    for angle in maps.turns:
        n = angle.shape[-1]
        a, b = x[..., at : at + n].float(), x[..., at + n : at + 2 * n].float()
        cos, sin = angle.cos(), -angle.sin() if back else angle.sin()
        parts += [cos * a + sin * b, cos * b - sin * a]
        at += 2 * n
    return torch.cat([*parts, x[..., at:].float()], dim=-1).to(x.dtype)


def camera_attention(
    q: Shaped[Tensor, "B H T K"], k: Shaped[Tensor, "B H T K"], v: Shaped[Tensor, "B H T K"], maps: CameraMaps
) -> Tensor:
    """Attention of every token to every other with the maps around it, (B, H, T, K)."""
    q = apply_maps(q, maps, maps.q)
    k, v = (apply_maps(x, maps, maps.k) for x in (k, v))
    return apply_maps(torch.nn.functional.scaled_dot_product_attention(q, k, v), maps, maps.out, back=True)


def _lifted(K: Tensor, size: Size) -> Tensor:
    """(n, 4, 4) of intrinsics in parts of the image: fx / W, fy / H, cx / W - 1/2, cy / H - 1/2."""
    out = torch.eye(FOUR, dtype=K.dtype, device=K.device).repeat(len(K), 1, 1)
    out[:, 0, 0], out[:, 1, 1] = K[:, 0, 0] / size[1], K[:, 1, 1] / size[0]
    out[:, 0, 2], out[:, 1, 2] = K[:, 0, 2] / size[1] - 0.5, K[:, 1, 2] / size[0] - 0.5
    return out
