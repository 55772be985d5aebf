"""Results of operators on meta tensors, as torch gives them but sooner.

For most of what an encoder runs torch finds the shape of a result by a chain of references in Python, up to 100 ms for
one resized picture, and the first of them imports dynamo, seconds of CPU. Here are those that make up a run; all others
are torch's (tests compare both).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def result_of(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `op` gives on meta tensors. What is written in place is not written, for it has no values."""
    if op is _aten.arange.default and kwargs.get("dtype") is not None:
        return torch.empty(math.ceil(args[0]), dtype=kwargs["dtype"], device=kwargs["device"])
    made = _RESULTS.get(op)
    if made is not None:
        out = made(*args)
        if out is not None:
            return out
    elif op._schema.is_mutable and torch.Tag.inplace_view not in op.tags:
        given = kwargs.get("out", args[0] if args else None)
        if isinstance(given, Tensor) and len(op._schema.returns) == 1:
            return given
    return op(*args, **kwargs)


def _same(*args: Any) -> Tensor:
    return torch.empty_like(args[0])


def _of_floats(*args: Any) -> Tensor | None:
    return torch.empty_like(args[0]) if args[0].dtype.is_floating_point else None


def _of_floats_second(*args: Any) -> Tensor | None:
    return _of_floats(args[1])


def _second(*args: Any) -> Tensor:
    return torch.empty_like(args[1])


def _both(*args: Any) -> Tensor | None:
    """Of two tensors of one type, or one and a number; None for what needs a promotion."""
    a, b = args[:2]
    if isinstance(b, int | float) and a.dtype.is_floating_point:
        return torch.empty_like(a)
    if not isinstance(b, Tensor) or a.dtype != b.dtype or not (a.dtype.is_floating_point and a.ndim and b.ndim):
        return None
    return a.new_empty(a.shape if a.shape == b.shape else torch.broadcast_shapes(a.shape, b.shape))


def _mean(x: Tensor) -> Tensor:
    return x.new_empty(())


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
    return torch.empty_like(x), mean, scale


def _norm_back(
    grad: Tensor, x: Tensor, shape: Any, mean: Any, rstd: Any, weight: Tensor | None, bias: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else torch.empty_like(each) for each in (x, weight, bias))


def _resized(picture: Tensor, size: list[int], *_: Any) -> Tensor:
    return picture.new_empty(*picture.shape[:2], *size)


def _resized_back(grad: Tensor, size: list[int], whole: list[int], *_: Any) -> Tensor:
    return grad.new_empty(whole)


_RESULTS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((_aten.gelu.default, _aten.silu.default, _aten.neg.default), _same),
    **dict.fromkeys((_aten.gelu_backward.default, _aten.silu_backward.default), _second),
    **dict.fromkeys((_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor), _both),
    **dict.fromkeys((_aten.sin.default, _aten.cos.default, _aten.reciprocal.default), _of_floats),
    **dict.fromkeys((_aten.pow.Tensor_Scalar, _aten.div.Scalar, _aten.mul.Scalar), _of_floats),
    _aten.mean.default: _mean,
    _aten.cat.default: _joined,
    _aten.stack.default: _stacked,
    _aten.pow.Scalar: _of_floats_second,
    **dict.fromkeys((_aten.mm.default, _aten.addmm.default), _product),
    _aten.native_layer_norm.default: _normed,
    _aten.native_layer_norm_backward.default: _norm_back,
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
