"""The parts of the encoder that hold weights: patch embedding, layer, merger. Plain, differentiable, any device."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import Backend, Segments, attention_op, kernel_attention, varlen_attention
from tubelet.encoder.config import Act, EncoderConfig, Merger
from tubelet.encoder.rope import apply_rope
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float, Int32, Num, Shaped

CENTRE = 128  # uint8 values are shifted by it, which makes them exact in bfloat16


class Plan(NamedTuple):
    """What all layers of one call share, prepared once: rotary tables and segments (as tensors, and for eager code on
    the host)."""

    turn: Float[Tensor, "T half 2"]
    flip: Float[Tensor, "T half 2"] | None
    cu: Int32[Tensor, " n"]  # cu_seqlens where the backend reads them: on the host for sdpa, on the device for kernels
    longest: int
    backend: Backend
    segments: Segments | None  # for eager sdpa, which goes by host sizes; None under torch.compile


def norm_layer(kind: str, width: int, eps: float) -> nn.Module:
    """LayerNorm with bias, or RMSNorm; statistics in float32 in every type."""
    return nn.LayerNorm(width, eps=eps) if kind == "layer" else nn.RMSNorm(width, eps=eps)


def gelu(x: Tensor, act: Act) -> Tensor:
    """The activation called `act` (tubelet.encoder.config)."""
    if act == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if act == "gelu_tanh" else "none")


class PatchEmbed(nn.Linear):
    """Rows of pixels to rows of features, one matrix product. weight (D, 3 pt p p), a row is (channel, frame, y, x).

    uint8 rows: 1/255, mean and std are folded into the weight in float32, so pixels stay bytes until here,

        W' = W / (255 std),   b' = b + sum W (128/255 - mean) / std,   y = (u8 - 128) W'^T + b'

    which equals normalising first up to rounding (tests keep that twin). float rows are taken as normalised already.
    """

    def __init__(self, width: int, recipe: PixelRecipe, bias: bool) -> None:
        super().__init__(recipe.width, width, bias=bias)
        self.recipe = recipe

    def folded(self) -> tuple[Float[Tensor, "D W"], Float[Tensor, " D"]]:
        """W' and b' in float32, from the parameters as they are now; differentiable. Cost: two passes over W."""
        recipe = self.recipe
        per_channel = self.weight.float().unflatten(1, (3, -1)).unbind(1)
        scaled = [w * (1.0 / (255.0 * s)) for w, s in zip(per_channel, recipe.std, strict=True)]
        shifts = [
            w.sum(dim=1) * ((CENTRE / 255.0 - m) / s)
            for w, m, s in zip(per_channel, recipe.mean, recipe.std, strict=True)
        ]
        bias = shifts[0] + shifts[1] + shifts[2]
        return torch.cat(scaled, dim=1), bias if self.bias is None else bias + self.bias.float()

    def forward(self, input: Num[Tensor, "T W"]) -> Shaped[Tensor, "T D"]:
        dtype = self.weight.dtype
        if input.dtype != torch.uint8:
            return super().forward(input.to(dtype))
        weight, bias = self.folded()
        return F.linear(input.to(dtype) - CENTRE, weight.to(dtype), bias.to(dtype))


class Layer(nn.Module):
    """Pre-norm transformer layer: x += proj(attention(norm1 x)); x += fc2(gelu(fc1(norm2 x)))."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden
        self.heads = config.heads
        self.act: Act = config.act
        self.norm1 = norm_layer(config.norm, d, config.eps)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.norm2 = norm_layer(config.norm, d, config.eps)
        self.fc1 = nn.Linear(d, config.mlp)
        self.fc2 = nn.Linear(config.mlp, d)

    def forward(self, x: Float[Tensor, "T D"], plan: Plan) -> Float[Tensor, "T D"]:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        q, k = apply_rope(q, plan.turn, plan.flip), apply_rope(k, plan.turn, plan.flip)
        out = attend(q, k, v, plan)
        x = x + self.proj(out.flatten(1))
        return x + self.fc2(gelu(self.fc1(self.norm2(x)), self.act))


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Shaped[Tensor, "T H K"]:
    """Attention as the plan says: a CUDA kernel, eager sdpa by host sizes, or sdpa as one opaque operator."""
    if plan.backend != "sdpa":
        return kernel_attention(q, k, v, plan.cu, plan.longest, plan.backend)
    if plan.segments is None:
        return attention_op(q, k, v, plan.cu)
    return varlen_attention(q, k, v, plan.segments, backend="sdpa")


class MergerMLP(nn.Module):
    """LayerNorm, then merge^2 consecutive rows side by side through a two-layer MLP: (T, D) -> (T / merge^2, out).

    Right only for rows in block order; `tubelet.encoder.model` checks that before it calls this.
    """

    def __init__(self, config: Merger, width: int) -> None:
        super().__init__()
        self.group = config.merge**2
        self.norm = nn.LayerNorm(width, eps=config.eps)
        self.fc1 = nn.Linear(width * self.group, width * self.group)
        self.fc2 = nn.Linear(width * self.group, config.out)

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "M E"]:
        return self.fc2(F.gelu(self.fc1(self.norm(x).reshape(-1, self.fc1.in_features))))
