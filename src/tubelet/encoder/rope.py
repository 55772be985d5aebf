"""3-D rotary positions: tables from (t, h, w), and their application to q and k.

A head's K channels are K/2 pairs (2i, 2i+1). Of the K/2 angles the first part belongs to t, the next to h, the last to
w (4 : 6 : 6 by default), each with frequencies theta^(-k/n), k = 0 .. n-1, over its own n angles:

    a = [t f_t | h f_h | w f_w]                                            (K/2 angles)

mode "rotation" turns pair i by a_i. mode "onevision" is what OneVision-Encoder was trained with: its angles are
repeated as halves, E = [a | a], and applied to neighbours,

    y[2i]   = x[2i]   cos E[2i]   - x[2i+1] sin E[2i]
    y[2i+1] = x[2i+1] cos E[2i+1] + x[2i]   sin E[2i+1]

so the two members of a pair use different angles (E[2i] != E[2i+1]). That is not a rotation: lengths change by -13 % to
+10 % and scores are not shift invariant. The weights know it, so it is kept under its own name.

A pair is two neighbours, or with layout "halves" channels i and i + K/2. Both maps are linear in a pair. Seen as a
complex number z = x[2i] + i x[2i+1], every such map is A z + B conj(z), and B = 0 exactly for a rotation. That is the
form stored and applied here: two complex products, no shuffling of channels.

With places "centred" a row turns by 2 pi c instead of its index, c the centre of its patch when the picture spans
-1 .. 1 on each axis: c = (2 i + 1) / n - 1. Prefix tokens turn by nothing (A = 1) or by learned angles.

Angles are computed in float32 from the configuration each time; there is no buffer that a cast or a loader could spoil.
Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_packing_hf.py@28efa3a.
"""

import math

import torch
from torch import Tensor

from tubelet.encoder.attention import to_device
from tubelet.encoder.config import Rope
from tubelet.errors import ShapeError
from tubelet.packed import Packed
from tubelet.shapes import Float, Shaped


def frequencies(head_dim: int, rope: Rope, device: torch.device | None = None) -> Float[Tensor, "3 half"]:
    """Angle per unit of t, h and w: row a holds the frequencies of axis a in its own part and zero elsewhere."""
    half, unit = head_dim // 2, head_dim // (2 * sum(rope.split))
    table = torch.zeros(3, half, dtype=torch.float32, device=device)
    start = 0
    for axis, share in enumerate(rope.split):
        n = share * unit
        k = torch.arange(n, dtype=torch.float32, device=device) + rope.shift[axis]
        table[axis, start : start + n] = 1.0 / (rope.theta ** (k / n))
        start += n
    return table


def angles(positions: Tensor, head_dim: int, rope: Rope) -> Float[Tensor, "T half"]:
    """float32 angles of (T, 3) positions: products of one coordinate and one frequency, no sums. Raises ShapeError."""
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ShapeError(f"positions must be (T, 3), got {tuple(positions.shape)}", got=tuple(positions.shape))
    unit = head_dim // (2 * sum(rope.split))
    counts = [share * unit for share in rope.split]
    inv = frequencies(head_dim, rope, positions.device).sum(dim=0)
    axes = positions.float()
    return torch.cat([axes[:, i : i + 1].expand(-1, n) for i, n in enumerate(counts)], dim=1) * inv


def rope_positions(p: Packed, positions: Tensor, rope: Rope) -> Tensor:
    """What the rows of `p` turn by: the positions from `origin` on, or 2 pi times the centres of patches. No sync."""
    if rope.places == "index":
        return positions + rope.origin if rope.origin else positions
    sides = to_device(torch.tensor([tuple(i.grid) for i in p.items], dtype=torch.float32).view(-1, 3), positions.device)
    lengths = to_device(torch.tensor(p.lengths, dtype=torch.int64), positions.device)
    sides = sides.repeat_interleave(lengths, dim=0, output_size=len(positions))
    return (2.0 * ((positions.float() + 0.5) / sides) - 1.0) * (2.0 * math.pi)


def rope_tables(
    positions: Tensor, head_dim: int, rope: Rope
) -> tuple[Float[Tensor, "T half 2"], Float[Tensor, "T half 2"] | None]:
    """A and B of the map A z + B conj(z) for each of the (T, 3) int or float positions and each pair.

    (real, imaginary) in float32; B is None where it is 0.

    Cost: 4 K floats a row; prepared once for all layers.
    """
    a = angles(positions, head_dim, rope)
    if rope.mode == "rotation":
        return torch.stack([a.cos(), a.sin()], dim=-1), None
    e = torch.cat([a, a], dim=1).unflatten(1, (-1, 2))  # E[2i], E[2i+1]
    cos, sin = e.cos(), e.sin()
    turn = torch.stack([cos.sum(-1), sin.sum(-1)], dim=-1) * 0.5
    flip = torch.stack([cos[..., 0] - cos[..., 1], sin[..., 1] - sin[..., 0]], dim=-1) * 0.5
    return turn, flip


def apply_rope(
    x: Shaped[Tensor, "T H K"],
    turn: Float[Tensor, "T half 2"],
    flip: Float[Tensor, "T half 2"] | None,
    halves: bool = False,
) -> Shaped[Tensor, "T H K"]:
    """Positions applied to q or k; computed in float32, returned in x's type. Differentiable, compiles, no sync."""
    re, im = x.float().chunk(2, dim=-1) if halves else x.float().unflatten(-1, (-1, 2)).unbind(-1)
    a, b = (t.unsqueeze(1) for t in turn.unbind(-1))
    y_re, y_im = re * a - im * b, re * b + im * a
    if flip is not None:
        c, d = (t.unsqueeze(1) for t in flip.unbind(-1))
        y_re, y_im = y_re + (re * c + im * d), y_im + (re * d - im * c)
    y = torch.cat([y_re, y_im], dim=-1) if halves else torch.stack([y_re, y_im], dim=-1).flatten(-2)
    return y.to(x.dtype)


def apply_rope_(
    x: Float[Tensor, "T ... K"],
    turn: Float[Tensor, "T half 2"],
    flip: Float[Tensor, "T half 2"] | None,
    halves: bool = False,
) -> None:
    """`apply_rope` in place on float32 rows with a contiguous last axis: what inference on a CPU runs.

    With `halves` the result stands with the members of a pair side by side: one order of channels for q and for k,
    which their product does not see, and one pass over memory less.
    """
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    a = torch.view_as_complex(turn).view(len(x), *(1,) * (x.ndim - 2), -1)
    if halves:
        torch.mul(torch.complex(*x.chunk(2, dim=-1)), a, out=z)
        return
    if flip is None:
        z.mul_(a)
        return
    mirrored = z.conj().resolve_conj().mul_(torch.view_as_complex(flip).view(len(x), *(1,) * (x.ndim - 2), -1))
    z.mul_(a).add_(mirrored)
