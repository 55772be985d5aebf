"""Attention as one operator, which torch.compile and tracing see as a single step."""

from typing import Any

import torch
from torch import Tensor

from tubelet.encoder.attention import Segments, varlen_attention


@torch.library.custom_op("tubelet::segment_attention", mutates_args=())
def attention_op(q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> Tensor:
    """`varlen_attention` by sdpa with the segments as a host cu_seqlens tensor."""
    return varlen_attention(q, k, v, _from_host(cu), backend="sdpa").contiguous()


@torch.library.custom_op("tubelet::segment_attention_backward", mutates_args=())
def attention_backward_op(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients from recomputed scores, one run of segments and a few heads at a time (at most 2^24 scores at once)."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    for start, count, rows in _from_host(cu).runs:
        few = max(1, (1 << 24) // (count * rows * rows))
        for h in range(0, q.shape[1], few):
            part = (slice(start, start + count * rows), slice(h, h + few))
            g, q1, k1, v1 = (x[part].float().unflatten(0, (count, rows)).transpose(1, 2) for x in (grad, q, k, v))
            weights = (q1 @ k1.transpose(-1, -2) * scale).softmax(-1)
            d_scores = g @ v1.transpose(-1, -2)
            d_scores = weights * (d_scores - (d_scores * weights).sum(-1, keepdim=True)) * scale
            for out, value in ((dq, d_scores @ k1), (dk, d_scores.transpose(-1, -2) @ q1), (dv, weights.mT @ g)):
                out[part] = value.transpose(1, 2).flatten(0, 1).to(out.dtype)
    return dq, dk, dv


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*attention_backward_op(grad, *ctx.saved_tensors), None)


def _from_host(cu: Tensor) -> Segments:
    return Segments(tuple(cu.diff().tolist()))


@attention_op.register_fake
def _like_queries(q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@attention_backward_op.register_fake
def _like_inputs(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


torch.library.register_autograd("tubelet::segment_attention", _differentiate, setup_context=_keep_inputs)
