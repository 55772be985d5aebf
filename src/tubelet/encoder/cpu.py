"""Inference on a CPU: the same layer as tubelet.encoder.layers, in place and in blocks of rows.

Two costs other than matrix products dominate a plain forward on a CPU: memory that is touched for the first time
(page faults make fresh memory about ten times slower than reused memory) and passes over tensors larger than the cache.
So one residual stream is updated in place, one qkv and one attention buffer serve all layers, and norm, rotary
positions, GELU and residual sums run on a block of rows that is still in the cache.

Where the CPU has no bfloat16 or float16 arithmetic, a half-precision product would be emulated several times slower
than float32; then weights are widened layer by layer and the arithmetic is float32, which is also closer to exact.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import sdpa_into
from tubelet.encoder.attention_sigmoid import sigmoid_into
from tubelet.encoder.config import Act, EncoderConfig
from tubelet.encoder.kernels import Products, linear, resolve_attention, resolve_products
from tubelet.encoder.layers import CENTRE, Layer, LayerInputs, MergerMLP, PatchEmbed, without_key
from tubelet.encoder.options import RunOptions
from tubelet.encoder.rope import apply_rope_
from tubelet.encoder.table import PositionTable
from tubelet.packed import Packed
from tubelet.shapes import Float, Int64, Num, Shaped

BLOCK = 8192  # rows of one matrix product: more is faster, and the buffer for the MLP grows with it
FUSED = 1024  # the same where bias and activation are part of the product: its result is new memory, read in the cache
WIDENED = 1024  # the same where half types are widened: buffers are twice as large as the peers' there, so fewer rows
QUICK = 1.702  # of quick_gelu
FEW = 512  # rows of a product that are not cut for the sake of memory
CACHED = 256  # rows that small operations work on at a time


@lru_cache(maxsize=2)
def has_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of `dtype` in hardware, from its feature flags."""
    if dtype == torch.float32:
        return True
    flags = {torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"), torch.float16: ("amx_fp16", "avx512_fp16", "asimdhp")}
    cpuinfo = Path("/proc/cpuinfo")
    present = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return any(f in present for f in flags.get(dtype, ()))


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type the blocks are computed in for weights of `dtype`."""
    return dtype if has_arithmetic(dtype) else torch.float32


_PARTS = (Layer, MergerMLP, PatchEmbed, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Identity)


def is_unmodified(module: nn.Module) -> bool:
    """True when nothing has been attached to or put in place of the module's parts (adapters, hooks, a forward)."""
    parts = [module, *module.children()]
    changed = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or "forward" in vars(m) for m in parts)
    return not changed and all(type(m) in _PARTS for m in parts)


def can_run(rows: Tensor, parts: Iterable[nn.Module], options: RunOptions) -> bool:
    """Whether these rows go through these parts in place: on a CPU, without gradients, compilation or adapters."""
    return (
        rows.device.type in ("cpu", "meta")  # rows without values stand for a CPU's: plans count their memory
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")  # it casts products, but not those that write in place
        and options.compile in (None, "auto")
        and options.backend in ("auto", "sdpa")
        and rows.shape[0] > 0
        and all(is_unmodified(part) for part in parts)
    )


def block_rows(weights: torch.dtype) -> int:
    """Rows of one matrix product for weights of this type."""
    return BLOCK if work_dtype(weights) == weights else WIDENED


def blocks(x: Tensor, most: int) -> Iterator[slice]:
    """0 .. rows of x in the fewest equal parts of at most `most` rows.

    On meta, where nothing is computed, the first two stand for all.
    """
    rows = x.shape[0]
    count = -(-rows // most)
    size = -(-rows // count)
    starts = range(0, rows, size)
    yield from (slice(a, min(a + size, rows)) for a in (starts[:2] if x.is_meta else starts))


class Workspace:
    """Buffers for T rows that all layers of one call share: what every layer writes anew is never allocated again.

    A block of the MLP stands where q, k and v were, which nobody reads by then.
    """

    def __init__(
        self, rows: int, config: EncoderConfig, weights: torch.dtype, device: torch.device, products: Products = "auto"
    ) -> None:
        dtype = work_dtype(weights)
        self.fused = resolve_products(products, dtype) == "onednn"
        self.block = FUSED if self.fused else block_rows(weights)
        up = config.mlp * (2 if config.gated else 1)
        # what q is multiplied by, where that rounds nothing: in float32 with its angles, or by a power of two
        scale = config.head_dim**-0.5
        exact = config.rope is not None or math.frexp(scale)[0] == 0.5
        fewest = resolve_attention(products, dtype) if exact else None  # rows of a segment by the sigmoid
        self.scale, self.fewest = (None, 0) if fewest is None else (scale, fewest)  # None: all by sdpa
        shape = (rows, 3, config.heads, config.head_dim)
        if self.fused and self.scale is not None:  # a head's rows lie together: a product's result is copied anyway
            self.qkv = torch.empty([shape[i] for i in (1, 2, 0, 3)], dtype=dtype, device=device).permute(2, 0, 1, 3)
        else:
            self.qkv = torch.empty(shape, dtype=dtype, device=device)
        self.out = torch.empty(rows, config.hidden, dtype=dtype, device=device)
        held = self.qkv.numel() // up  # rows of the MLP, fewer than a block of few
        if self.fused or held < min(rows, FEW):
            self.up = torch.empty(0 if self.fused else min(rows, self.block), up, dtype=dtype, device=device)
        else:
            self.block = min(self.block, held)
            self.up = self.qkv.view(-1)[: min(rows, self.block) * up].view(-1, up)


def stem(
    p: Packed, patch: PatchEmbed | None, norm_embed: nn.Module, table: PositionTable | None, weights: torch.dtype
) -> Float[Tensor, "T D"]:
    """Rows of the pack as features in the type of the work: patch embedding, its norm, positions of a table. A copy."""
    x = norm(norm_embed, p.x.to(work_dtype(weights), copy=True) if patch is None else embed(patch, p.x))
    if table is not None:
        add_table(x, *table(p))
    return x


def run_layers(
    x: Float[Tensor, "T D"],
    layers: nn.ModuleList,
    inputs: LayerInputs,
    states: dict[int, Tensor],
    config: EncoderConfig,
    dtype: torch.dtype,
    products: Products = "auto",
) -> Float[Tensor, "T D"]:
    """x through all layers, in place; the result in the weights' type. states: filled in for the numbers it has."""
    space = Workspace(x.shape[0], config, dtype, x.device, products)
    if 0 in states:
        states[0] = x.to(dtype, copy=True)
    for i, layer in enumerate(layers, 1):
        assert isinstance(layer, Layer)  # `can_run` has looked
        layer_(layer, x, inputs, space)
        if i in states:
            states[i] = x.to(dtype, copy=True)
    return x.to(dtype)


def embed(patch: PatchEmbed, rows: Num[Tensor, "T W"]) -> Shaped[Tensor, "T D"]:
    """`PatchEmbed.forward` block by block, so that widened pixels never exist all at once."""
    dtype = work_dtype(patch.weight.dtype)
    if rows.dtype == torch.uint8:
        weight, bias = (x.to(dtype) for x in patch.folded())
    else:
        weight = patch.weight.to(dtype)
        bias = weight.new_zeros(len(weight)) if patch.bias is None else patch.bias.to(dtype)
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=dtype, device=rows.device)
    for part in blocks(rows, block_rows(patch.weight.dtype)):
        block = rows[part].to(dtype)
        if rows.dtype == torch.uint8:
            block -= CENTRE
        torch.addmm(bias, block, weight.t(), out=out[part])
    return out


def norm(module: nn.Module, x: Tensor, times: float = 1.0) -> Tensor:
    """A norm's parameters applied in x's type, and the result of a LayerNorm or RMSNorm `times` a factor."""

    def own(values: Tensor) -> Tensor:
        return values.to(x.dtype) if times == 1.0 else values.to(x.dtype) * times

    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, tuple(module.normalized_shape), own(module.weight), own(module.bias), module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(x, tuple(module.normalized_shape), own(module.weight), module.eps)
    return module(x)


def layer_(layer: Layer, x: Float[Tensor, "T D"], inputs: LayerInputs, space: Workspace) -> None:
    """One layer, in place on x. Equals `layer(x, inputs)` up to rounding; records no gradient."""
    dtype = x.dtype
    turn, flip, segments = inputs.turn, inputs.flip, inputs.spans[layer.span].segments
    assert segments is not None  # only compiled layers go without host sizes
    w_qkv, b_qkv = _weights(layer.qkv, dtype)
    if b_qkv is not None and not layer.key_bias:
        b_qkv = without_key(b_qkv)
    qkv, scale = space.qkv, space.scale
    for part in blocks(x, space.block):
        if space.fused:
            qkv[part] = linear(norm(layer.norm1, x[part]), w_qkv, b_qkv).view(qkv[part].shape)
        else:
            torch.mm(norm(layer.norm1, x[part]), w_qkv.t(), out=qkv[part].flatten(1))
    del w_qkv  # a copy, where weights are widened
    for part in blocks(x, CACHED):
        if b_qkv is not None and not space.fused:
            qkv[part].flatten(1).add_(b_qkv)
        if layer.norm_q is not None and layer.norm_k is not None:
            for i, per_head in enumerate((layer.norm_q, layer.norm_k)):
                qkv[part, i] = norm(per_head, qkv[part, i])
        if turn is not None:
            _rotate(qkv[part, :2], turn[part], None if flip is None else flip[part], layer.halves, scale)
    q, k, v = qkv.unbind(1)
    if scale is None:
        sdpa_into(space.out.view(q.shape), q, k, v, segments)
    else:
        sigmoid_into(space.out.view(q.shape), q, k, v, segments, scale if turn is None else 1.0, space.fewest)
    w_proj, b_proj = _weights(layer.proj, dtype, layer.scale1)
    w_up, b_up = _weights(layer.fc1, dtype)
    w_down, b_down = _weights(layer.fc2, dtype, layer.scale2)
    for part in blocks(x, space.block):
        block = x[part]
        if space.fused:
            _add_fused(block, space.out[part], w_proj, b_proj)
            if layer.act == "quick_gelu" and not layer.gated and block.dtype == torch.float32:
                _quick_mlp(layer, block, w_up, b_up, w_down, b_down)
            else:
                _add_fused(block, _fused_up(layer, norm(layer.norm2, block), w_up, b_up), w_down, b_down)
            continue
        up = space.up[: len(block)]
        _add_product(block, space.out[part], w_proj, b_proj)
        torch.mm(norm(layer.norm2, block), w_up.t(), out=up)
        for small in blocks(block, CACHED):
            if b_up is not None:
                up[small].add_(b_up)
            if layer.gated:
                gate, value = up[small].chunk(2, dim=-1)
                value.mul_(activate_(gate, layer.act))
            else:
                activate_(up[small], layer.act)
        _add_product(block, up.chunk(2, dim=-1)[1] if layer.gated else up, w_down, b_down)


def _fused_up(layer: Layer, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What fc2 reads, in new memory; gate and value as products of their own, so that each lies together."""
    if not layer.gated:
        return _activated(rows, weight, bias, layer.act)
    gate, value = zip(weight.chunk(2), (None, None) if bias is None else bias.chunk(2), strict=True)
    return _activated(rows, *gate, layer.act).mul_(linear(rows, *value))


def _activated(rows: Tensor, weight: Tensor, bias: Tensor | None, act: Act) -> Tensor:
    if act != "quick_gelu":
        return linear(rows, weight, bias, act)
    up = linear(rows, weight, bias)
    for small in blocks(up, CACHED):
        activate_(up[small], act)
    return up


def _quick_mlp(
    layer: Layer, x: Tensor, w_up: Tensor, b_up: Tensor | None, w_down: Tensor, b_down: Tensor | None
) -> None:
    """x += the MLP with quick_gelu(u) = silu(1.702 u) / 1.702, for silu is a pass of the product: the factors go into
    vectors, those of norm and biases, and into the sum."""
    b_up, b_down = (None if b is None else b * QUICK for b in (b_up, b_down))
    up = linear(norm(layer.norm2, x, QUICK), w_up, b_up, "silu")
    x.add_(linear(up, w_down, b_down), alpha=1 / QUICK)


def _add_fused(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dtype == torch.float32 or bias is not None:
        x.add_(linear(rows, weight, bias))
    else:  # torch's own product in place is oneDNN's too, and rounds the sum once
        _add_product(x, rows, weight, bias)


def _weights(module: nn.Linear, dtype: torch.dtype, scale: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in the type of the work, each output channel multiplied by its scale."""
    weight, bias = module.weight.to(dtype), None if module.bias is None else module.bias.to(dtype)
    if scale is None:
        return weight, bias
    scale = scale.to(dtype)
    return weight * scale[:, None], None if bias is None else bias * scale


def _add_product(x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dtype == torch.float32 or bias is None:
        x.addmm_(rows, weight.t())
        if bias is not None:
            x.add_(bias)
    else:  # half types would round the sum twice, without its bias and with it
        x.add_(torch.addmm(bias, rows, weight.t()))


def merged(merger: MergerMLP, x: Float[Tensor, "T D"]) -> Float[Tensor, "M E"]:
    """`MergerMLP.forward` for inference, in the type this CPU multiplies."""
    dtype, width = work_dtype(x.dtype), merger.fc1.in_features
    if merger.joined:
        wide = norm(merger.norm, x.reshape(-1, width).to(dtype))
    else:
        wide = norm(merger.norm, x.to(dtype)).reshape(-1, width)
    out = torch.empty(len(wide), merger.fc2.out_features, dtype=dtype, device=x.device)
    (w_up, b_up), (w_down, b_down) = ((m.weight.to(dtype), m.bias.to(dtype)) for m in (merger.fc1, merger.fc2))
    for part in blocks(wide, block_rows(merger.fc1.weight.dtype)):
        up = torch.mm(wide[part], w_up.t()).add_(b_up)
        activate_(up, "gelu")
        torch.addmm(b_down, up, w_down.t(), out=out[part])
    return out.to(x.dtype)


def add_table(x: Float[Tensor, "T D"], values: Float[Tensor, "P D"], index: Int64[Tensor, " T"]) -> None:
    """x += values[index], a block of rows at a time."""
    values = values.to(x.dtype)
    for part in blocks(x, CACHED):
        x[part].add_(values[index[part]])


def activate_(x: Tensor, act: Act) -> Tensor:
    """`layers.activate` in place."""
    if act == "silu":
        return torch.ops.aten.silu_(x)
    if act == "quick_gelu":
        return x.mul_((x * QUICK).sigmoid_())
    return torch.ops.aten.gelu_(x, approximate="tanh" if act == "gelu_tanh" else "none")


def _rotate(qk: Tensor, turn: Tensor, flip: Tensor | None, halves: bool, scale: float | None) -> None:
    """q and k turned, and q times `scale`."""
    if qk.dtype == torch.float32:
        apply_rope_(qk, turn, flip, halves)
        return
    wide = qk.float()
    apply_rope_(wide, turn, flip, halves)
    if scale is not None:
        wide[:, 0] *= scale
    qk.copy_(wide)
