"""Multi-axis rotary embedding: angles from position ids, and queries and keys rotated by them.

    sections [s0, s1, s2] (pairs of channels)      chunked       0 0 .. 1 1 .. 2 2 ..        Qwen2-VL, Qwen2.5-VL
    say which axis turns which pair                interleaved   0 1 2 0 1 2 .. 0 0          Qwen3-VL

Angles are float32, from the configuration. Pair i is (channel i, channel i + K / 2).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.shapes import Float, Num

Layout = Literal["chunked", "interleaved"]
LAYOUTS: tuple[Layout, ...] = ("chunked", "interleaved")


def inverse_frequencies(head_dim: int, theta: float) -> Float[Tensor, " half"]:
    """theta^(-2i / K) of each pair i, float32 on the host. Raises ShapeError for an odd head_dim."""
    if head_dim < 2 or head_dim % 2:
        raise ShapeError(f"head_dim is even, got {head_dim}", got=head_dim)
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)


def cos_sin(
    position_ids: Num[Tensor, "A B S"], head_dim: int, theta: float
) -> tuple[Float[Tensor, "A B S K"], Float[Tensor, "A B S K"]]:
    """Cosine and sine of every axis' angles, both halves of the channels alike. Positions may be fractions."""
    frequency = inverse_frequencies(head_dim, theta).to(position_ids.device)
    angle = position_ids.float().unsqueeze(-1) * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def select_axes(table: Float[Tensor, "A B S K"], sections: Sequence[int], layout: Layout) -> Float[Tensor, "B S K"]:
    """Of each channel, the values of the axis that turns it; `sections` count pairs, one number for each axis.

    Raises ShapeError where they do not add up to K / 2, InputError for another layout.

    Source: chunked QwenLM's Qwen2-VL, as recorded in golden case mrope_apply; interleaved
    huggingface/transformers:src/transformers/models/qwen3_vl/modeling_qwen3_vl.py@v5.23.0 (recomposition_frequencies).
    """
    axes, half = table.shape[0], table.shape[-1] // 2
    if len(sections) != axes or sum(sections) != half or min(sections) < 0:
        raise ShapeError(
            f"{axes} sections that add up to {half} were expected", expected=(axes, half), got=tuple(sections)
        )
    if layout not in LAYOUTS:
        raise InputError(f"layout is one of {', '.join(LAYOUTS)}", expected=LAYOUTS, got=layout)
    if layout == "chunked":
        of_pair = [axis for axis, n in enumerate(sections) for _ in range(n)]
    else:
        of_pair = [0] * half
        for axis, n in enumerate(sections[1:], start=1):
            if axis + axes * (n - 1) >= half:
                raise ShapeError(f"{n} pairs of axis {axis} do not fit into {half} interleaved", got=tuple(sections))
            of_pair[axis : axes * n : axes] = [axis] * n
    axis_of = torch.tensor(of_pair * 2, device=table.device)
    return table.gather(0, axis_of.expand(1, *table.shape[1:])).squeeze(0)


def rotate(
    q: Float[Tensor, "B H S K"], k: Float[Tensor, "B G S K"], cos: Float[Tensor, "B S K"], sin: Float[Tensor, "B S K"]
) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B G S K"]]:
    """Queries and keys turned by their positions, in their own type. H and G: heads of each.

    >>> at = torch.tensor([[[0, 1]], [[0, 1]], [[0, 1]]])
    >>> cos, sin = (select_axes(t, (1, 1, 0), "chunked") for t in cos_sin(at, 4, 1e4))
    >>> rotate(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4), cos, sin)[0][0, 0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)

    return turn(q), turn(k)
