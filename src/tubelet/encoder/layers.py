"""The parts of the encoder that hold weights: patch embedding, layer, merger. Plain, differentiable, any device."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import Backend, Segments, kernel_attention, varlen_attention
from tubelet.encoder.attention_op import attention_op
from tubelet.encoder.config import Act, EncoderConfig, Merger, Norm, Span
from tubelet.encoder.rope import apply_rope
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float, Int32, Num, Shaped

CENTRE = 128  # uint8 values are shifted by it, which makes them exact in bfloat16


class SegmentSpan(NamedTuple):
    """What attends to what, as tensors and for eager code on the host."""

    cu: Int32[Tensor, " n"]  # cu_seqlens where the backend reads them: on the host for sdpa, on the device for kernels
    longest: int  # rows of the longest segment, which kernels are sized by
    segments: Segments | None  # for eager sdpa, which goes by host sizes; None under torch.compile


def span_of(segments: Segments, backend: Backend, device: torch.device) -> SegmentSpan:
    """The segments where this backend reads them."""
    return SegmentSpan(segments.host if backend == "sdpa" else segments.on(device), segments.longest, segments)


class LayerInputs(NamedTuple):
    """What all layers of one call share, prepared once: rotary tables, and the spans that layers name."""

    turn: Float[Tensor, "T half 2"] | None  # A of the map A z + B conj(z) of each pair; None where nothing turns
    flip: Float[Tensor, "T half 2"] | None  # B, None where it is 0
    backend: Backend  # what attention runs on
    spans: dict[Span, SegmentSpan]  # of each span that some layer has


def norm_layer(kind: Norm, width: int, eps: float) -> nn.Module:
    """LayerNorm with bias, or RMSNorm; statistics in float32 in every type."""
    return nn.LayerNorm(width, eps=eps) if kind == "layer" else nn.RMSNorm(width, eps=eps)


def activate(x: Tensor, act: Act) -> Tensor:
    """The activation called `act` (tubelet.encoder.config)."""
    if act == "silu":
        return F.silu(x)
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
    """Pre-norm transformer layer: x += s1 proj(attention(norm1 x)); x += s2 fc2(act(fc1(norm2 x))).

    gated: fc1 gives a gate and a value side by side (gate first), and fc2 reads act(gate) * value. s1 and s2 are
    learned factors of each channel, or 1. span: which of the call's spans attention goes over.
    """

    def __init__(self, config: EncoderConfig, span: Span = "item") -> None:
        super().__init__()
        d = config.hidden
        self.span: Span = span
        self.heads = config.heads
        self.act: Act = config.act
        self.gated = config.gated
        self.halves = config.rope is not None and config.rope.layout == "halves"
        self.key_bias = config.key_bias
        self.norm1 = norm_layer(config.norm, d, config.eps)
        self.qkv = nn.Linear(d, 3 * d, bias=config.qkv_bias)
        per_head, eps = config.qk_norm, config.eps if config.qk_eps is None else config.qk_eps
        self.norm_q = norm_layer(per_head, config.head_dim, eps) if per_head else None
        self.norm_k = norm_layer(per_head, config.head_dim, eps) if per_head else None
        self.proj = nn.Linear(d, d, bias=config.proj_bias)
        self.norm2 = norm_layer(config.norm, d, config.eps)
        self.fc1 = nn.Linear(d, config.mlp * (2 if config.gated else 1), bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.mlp, d, bias=config.mlp_bias)
        self.scale1 = nn.Parameter(torch.ones(d)) if config.scale else None
        self.scale2 = nn.Parameter(torch.ones(d)) if config.scale else None

    def forward(self, x: Float[Tensor, "T D"], inputs: LayerInputs) -> Float[Tensor, "T D"]:
        q, k, v = self.heads_of(x)
        if inputs.turn is not None:
            q, k = (apply_rope(each, inputs.turn, inputs.flip, self.halves) for each in (q, k))
        out = self.proj(attend(q, k, v, inputs.backend, inputs.spans[self.span]).flatten(1))
        x = x + (out if self.scale1 is None else out * self.scale1)
        up = self.fc1(self.norm2(x))
        if self.gated:
            gate, up = up.chunk(2, dim=-1)
            up = activate(gate, self.act) * up
        else:
            up = activate(up, self.act)
        out = self.fc2(up)
        return x + (out if self.scale2 is None else out * self.scale2)

    def heads_of(self, x: Float[Tensor, "T D"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of the layer's input, (T, H, K) each: normed where the layer does that, not yet turned."""
        q, k, v = self.project(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        return q, k, v

    def project(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T E"]:
        """q, k and v side by side. Where keys have no bias, that part of the stored one counts as 0 and stays so."""
        if self.key_bias or self.qkv.bias is None:
            return self.qkv(x)
        return F.linear(x, self.qkv.weight, without_key(self.qkv.bias))


def without_key(bias: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
    """The bias of q, k and v with k's third 0."""
    q, k, v = bias.chunk(3)
    return torch.cat([q, torch.zeros_like(k), v])


def attend(q: Tensor, k: Tensor, v: Tensor, backend: Backend, span: SegmentSpan) -> Shaped[Tensor, "T H K"]:
    """Attention inside the span's segments: by a CUDA kernel, eager sdpa by host sizes, or sdpa as one operator."""
    if backend != "sdpa":
        return kernel_attention(q, k, v, span.cu, span.longest, backend)
    if span.segments is None:
        return attention_op(q, k, v, span.cu)[0]
    return varlen_attention(q, k, v, span.segments, backend="sdpa")


class MergerMLP(nn.Module):
    """A norm, then merge^2 consecutive rows side by side through a two-layer MLP: (T, D) -> (T / merge^2, out).

    Right only for rows in block order; `tubelet.encoder.merging` checks that before it calls this.
    """

    def __init__(self, config: Merger, width: int) -> None:
        super().__init__()
        self.group = config.merge**2
        wide = width * self.group
        self.norm = norm_layer(config.norm, wide if config.joined else width, config.eps)
        self.joined = config.joined
        self.fc1 = nn.Linear(wide, wide)
        self.fc2 = nn.Linear(wide, config.out)

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "M E"]:
        wide = (-1, self.fc1.in_features)
        x = self.norm(x.reshape(wide)) if self.joined else self.norm(x).reshape(wide)
        return self.fc2(F.gelu(self.fc1(x)))
