"""Rotations as matrices and quaternions, the angle between two, and half the way. float32 or wider, differentiable.

Quaternions are (x, y, z, w), scalar last, of any length when read and of length 1 when made.
Source: formulas of facebookresearch/pytorch3d transforms (four candidates), as VGGT uses them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.shapes import Float


def quaternion_to_rotation(q: Float[Tensor, "... 4"]) -> Float[Tensor, "... 3 3"]:
    """Rotation matrices; the factor 2 / |q|^2 makes any length right. A zero quaternion gives NaN."""
    x, y, z, w = q.unbind(-1)
    s = 2.0 / (q * q).sum(-1)
    rows = [
        *(1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        *(s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        *(s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rotation_to_quaternion(rotation: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 4"]:
    """Quaternions with w >= 0 (at w = 0 the sign is the candidate's). Of four formulas the best conditioned counts."""
    m = rotation
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22]
    size = torch.sqrt(torch.stack(squares, dim=-1).clamp_min(0))  # 2 |w|, 2 |x|, 2 |y|, 2 |z|
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    w2, x2, y2, z2 = (size * size).unbind(-1)
    candidates = [(w2, a, b, c), (a, x2, d, e), (b, d, y2, f), (c, e, f, z2)]  # each (w, x, y, z) times its size
    every = torch.stack([torch.stack(one, dim=-1) for one in candidates], dim=-2)
    every = every / (2.0 * size[..., None].clamp_min(0.1))
    best = F.one_hot(size.argmax(dim=-1), 4)[..., None].to(every.dtype)
    wxyz = (every * best).sum(dim=-2)
    xyzw = torch.cat([wxyz[..., 1:], wxyz[..., :1]], dim=-1)
    return torch.where(xyzw[..., 3:] < 0, -xyzw, xyzw)


def rotation_angle(a: Float[Tensor, "... 3 3"], b: Float[Tensor, "... 3 3"]) -> Float[Tensor, "..."]:
    """Angle of a^T b in radians, 0 to pi. By atan2, which is exact near 0 where an arc cosine loses half its digits."""
    m = a.mT @ b
    skew = torch.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    return torch.atan2(skew.norm(dim=-1), trace - 1.0)


def halfway(a: Float[Tensor, "... 3 3"], b: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation in the middle of the shorter arc between a and b (slerp at 1/2)."""
    qa, qb = rotation_to_quaternion(a), rotation_to_quaternion(b)
    near = (qa * qb).sum(-1, keepdim=True) >= 0
    return quaternion_to_rotation(torch.where(near, qa + qb, qa - qb))


def orthogonal(rotation: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3 3"]:
    """The rotation nearest to each matrix, by SVD; determinant +1."""
    u, _, vh = torch.linalg.svd(rotation)
    sign = torch.linalg.det(u @ vh).sign()
    fix = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (u * fix[..., None, :]) @ vh
