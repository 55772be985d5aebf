"""Results of operators on meta tensors, as torch gives them but sooner.

For most of what an encoder runs torch finds the shape of a result by a chain of references in Python, up to 100 ms for
one resized picture, and the first of them imports dynamo, seconds of CPU. Here are those that make up a run; all others
are torch's (tests compare both).
"""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


_PLAIN = {"scale", "alpha", "attn_mask", "approximate"}  # what changes neither shape nor type


def result_of(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `op` gives on meta tensors. What is written in place is not written, for it has no values."""
    device = kwargs.get("device")  # tables on the host are kept for later calls and must have their values
    if op is _aten.arange.default and kwargs.get("dtype") is not None and device is not None and device.type == "meta":
        return torch.empty(math.ceil(args[0]), dtype=kwargs["dtype"], device=device)
    made = _RESULTS.get(op) if kwargs.keys() <= _PLAIN else None
    if made is not None:
        out = made(*args)
        if out is not None:
            return out
    elif op._schema.is_mutable and torch.Tag.inplace_view not in op.tags:
        given = kwargs.get("out", args[0] if args else None)
        if isinstance(given, Tensor) and len(op._schema.returns) == 1:
            return given
    return op(*args, **kwargs)


def _like(x: Tensor) -> Tensor:
    """As torch.empty_like, whose reference imports sympy: without gaps, the dimensions in the same order in memory."""
    steps = x.stride()
    if x.is_contiguous() or not any(steps):
        return x.new_empty(x.shape)
    told = [step for n, step in zip(x.shape, steps, strict=True) if n > 1]
    if len(set(told)) < len(told) or 0 in told:
        return torch.empty_like(x)
    dense, size = [0] * x.ndim, 1
    for dim in sorted(range(x.ndim), key=lambda d: steps[d]):
        dense[dim], size = size, size * x.shape[dim]
    return x.new_empty_strided(x.shape, dense)


def _same(*args: Any) -> Tensor:
    return _like(args[0])


def _of_floats(*args: Any) -> Tensor | None:
    return _like(args[0]) if args[0].dtype.is_floating_point else None


def _of_floats_second(*args: Any) -> Tensor | None:
    return _of_floats(args[1])


def _second(*args: Any) -> Tensor:
    return _like(args[1])


def _both(*args: Any) -> Tensor | None:
    """Of two tensors of one type, or one and a number; None for what needs a promotion."""
    a, b = args[:2]
    if isinstance(b, int | float) and a.dtype.is_floating_point:
        return _like(a)
    if not isinstance(b, Tensor) or a.dtype != b.dtype or not (a.dtype.is_floating_point and a.ndim and b.ndim):
        return None
    if a.shape == b.shape:
        return _like(a)
    sides = zip_longest(reversed(a.shape), reversed(b.shape), fillvalue=1)
    return a.new_empty([max(m, n) if m and n else 0 for m, n in sides][::-1])


def _compared(a: Tensor, b: Tensor) -> Tensor | None:
    return a.new_empty(a.shape, dtype=torch.bool) if a.shape == b.shape else None


def _scalar(x: Tensor) -> Tensor:
    return x.new_empty(())


def _summed(x: Tensor, dims: list[int] | None = None, keep: bool = False) -> Tensor | None:
    if not x.dtype.is_floating_point or not dims:
        return None
    gone = {d % x.ndim for d in dims}
    return x.new_empty([1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone])


def _joined(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if any(x.dtype != first.dtype or x.ndim != first.ndim or not x.is_meta for x in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return first.new_empty(shape)


def _stacked(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if any(x.dtype != first.dtype or not x.is_meta for x in tensors):
        return None
    shape = list(first.shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return first.new_empty(shape)


def _product(*args: Any) -> Tensor:
    a, b = args[-2:]
    return a.new_empty(a.shape[0], b.shape[1])


def _normed(x: Tensor, shape: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    mean, scale = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return _like(x), mean, scale


def _norm_back(
    grad: Tensor, x: Tensor, shape: Any, mean: Any, rstd: Any, weight: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else _like(each) for each in (x, weight, bias))


def _attended(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, heads, rows = q.shape[:3]
    return _like(q), q.new_empty((batch, rows, heads), dtype=torch.float32).transpose(1, 2)


def _attended_back(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(x.new_empty([x.shape[i] for i in (0, 2, 1, 3)]).transpose(1, 2) for x in (q, k, v))


def _sized(x: Tensor, size: list[int], *_: Any) -> Tensor:
    return x.new_empty(size)


def _resized(picture: Tensor, size: list[int], *_: Any) -> Tensor:
    return _picture(picture, picture.shape[1], size)


def _picture(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """Pictures of another size, with channels last in memory where they are in `like`."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    n = len(like)
    return like.new_empty(n, *size, channels).movedim(3, 1) if last else like.new_empty(n, channels, *size)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor | None:
    """On a CPU channels are last in the result where they are last in the input; torch's meta puts them first."""
    stride, padding, dilation, transposed, more, groups = how
    if x.ndim != 4 or groups != 1:
        return None
    sides = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, more, strict=True)
    if transposed:
        size = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in sides]
    else:
        size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides]
    return _picture(x, weight.shape[1 if transposed else 0], size)


def _resized_back(grad: Tensor, size: list[int], whole: list[int], *_: Any) -> Tensor:
    return grad.new_empty(whole)


_RESULTS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((_aten.gelu.default, _aten.silu.default, _aten.neg.default, _aten.relu.default), _same),
    **dict.fromkeys(
        (_aten.gelu_backward.default, _aten.silu_backward.default, _aten.sigmoid_backward.default), _second
    ),
    **dict.fromkeys((_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor), _both),
    **dict.fromkeys(
        (_aten.sin.default, _aten.cos.default, _aten.reciprocal.default, _aten.sigmoid.default), _of_floats
    ),
    **dict.fromkeys((_aten.pow.Tensor_Scalar, _aten.div.Scalar, _aten.mul.Scalar), _of_floats),
    _aten.eq.Tensor: _compared,
    **dict.fromkeys((_aten.mean.default, _aten.all.default), _scalar),
    _aten.sum.dim_IntList: _summed,
    _aten.cat.default: _joined,
    _aten.stack.default: _stacked,
    _aten.pow.Scalar: _of_floats_second,
    **dict.fromkeys((_aten.mm.default, _aten.addmm.default), _product),
    _aten.native_layer_norm.default: _normed,
    _aten.native_layer_norm_backward.default: _norm_back,
    _aten.clone.default: _same,
    _aten.convolution.default: _convolved,
    _aten.slice_backward.default: _sized,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attended,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attended_back,
    **dict.fromkeys(
        (
            _aten.upsample_bicubic2d.default,
            _aten.upsample_bilinear2d.default,
            _aten._upsample_bicubic2d_aa.default,
            _aten._upsample_bilinear2d_aa.default,
        ),
        _resized,
    ),
    **dict.fromkeys(
        (
            _aten.upsample_bicubic2d_backward.default,
            _aten.upsample_bilinear2d_backward.default,
            _aten._upsample_bicubic2d_aa_backward.default,
            _aten._upsample_bilinear2d_aa_backward.default,
        ),
        _resized_back,
    ),
}
