"""Attention as one operator, which torch.compile and tracing see as a single step.

On a CPU forward and backward are the two kernels that sdpa is there, so gradients are those of eager layers; elsewhere
the backward pass computes the scores again, in float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tubelet.encoder.attention import Segments, segment_pieces, varlen_attention

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("tubelet::segment_attention", mutates_args=())
def attention_op(q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> tuple[Tensor, Tensor]:
    """`varlen_attention` by sdpa with the segments as a host cu_seqlens tensor, and what the backward pass on a CPU
    goes by: (T, H) logarithms of the sums that softmax divides by; (0, H) elsewhere."""
    if q.device.type != "cpu":
        return varlen_attention(q, k, v, _from_host(cu), backend="sdpa").contiguous(), _sums(q[:0])
    out, sums = q.new_empty(q.shape), _sums(q)
    for run in _from_host(cu).runs:
        for queries, keys, count in segment_pieces(*run, 4 * q.shape[1] * q.shape[2]):
            got, logs = _FORWARD(_split(q[queries], count), _split(k[keys], count), _split(v[keys], count))
            out[queries], sums[queries] = _joined(got), _joined(logs)
    return out, sums


@torch.library.custom_op("tubelet::segment_attention_backward", mutates_args=())
def attention_backward_op(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, cu: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, one run of segments at a time."""
    dq, dk, dv = grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
    for start, count, rows in _from_host(cu).runs:
        part = slice(start, start + count * rows)
        if q.device.type != "cpu":
            _from_scores([x[part] for x in grads], grad[part], q[part], k[part], v[part], count)
            continue
        inputs = (_split(x[part], count) for x in (grad, q, k, v, out, sums))
        for into, value in zip(grads, _BACKWARD(*inputs, 0.0, False), strict=True):
            into[part] = _joined(value)
    return dq, dk, dv


def _from_scores(into: Sequence[Tensor], grad: Tensor, q: Tensor, k: Tensor, v: Tensor, count: int) -> None:
    """Gradients of a run, from scores computed again: a few heads at a time, at most 2^24 scores at once."""
    scale, rows = q.shape[-1] ** -0.5, len(q) // count
    few = max(1, (1 << 24) // (count * rows * rows))
    for h in range(0, q.shape[1], few):
        part = (slice(None), slice(h, h + few))
        g, q1, k1, v1 = (_split(x[part].float(), count) for x in (grad, q, k, v))
        weights = (q1 @ k1.mT * scale).softmax(-1)
        d_scores = g @ v1.mT
        d_scores = weights * (d_scores - (d_scores * weights).sum(-1, keepdim=True)) * scale
        for out, value in zip(into, (d_scores @ k1, d_scores.mT @ q1, weights.mT @ g), strict=True):
            out[part] = _joined(value).to(out.dtype)


def _split(x: Tensor, count: int) -> Tensor:
    """(rows, H, ...) of `count` segments of equal length -> (count, H, n, ...), a view."""
    return x.unflatten(0, (count, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def _sums(q: Tensor) -> Tensor:
    """(rows, H), of the type that the kernel gives."""
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape[:2], dtype=kind)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    *qkv, cu = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*qkv, *output, cu)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*attention_backward_op(grad, *ctx.saved_tensors), None)


def _from_host(cu: Tensor) -> Segments:
    return Segments(tuple(cu.diff().tolist()))


@attention_op.register_fake
def _like_queries(q: Tensor, k: Tensor, v: Tensor, cu: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), _sums(q if q.device.type == "cpu" else q[:0])


@attention_backward_op.register_fake
def _like_inputs(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, cu: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


torch.library.register_autograd("tubelet::segment_attention", _differentiate, setup_context=_keep)
