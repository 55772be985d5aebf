"""What kernels work in that is no tensor: torch's and oneDNN's own blocks, by formula, fitted to its CPU allocator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLOAT = 4  # bytes of a float32
_PACKED = 32  # values of the inner side that are packed together
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Kernels:
    """The processor that runs the operators."""

    threads: int  # of a CPU, 0 on an accelerator, whose kernels are not known
    sums: bool = False  # a product of bfloat16 has float32 sums of its size beside it: a CPU without its arithmetic
    packs: bool = False  # a product of half types packs what it reads: oneDNN on a CPU with their arithmetic

    def beside(self, op: Any, args: Sequence[Any], out: Any) -> int:
        """Bytes beside arguments and results while one ATen operator runs."""
        formula = _FORMULAS.get(op) if self.threads else None
        return 0 if formula is None else formula(self, args, out)

    def product(self, rows: int, inner: int, out: int, dtype: torch.dtype, *, turned: bool = False) -> int:
        """Of a product (rows x inner) (inner x out). turned: the first factor is read across its memory, as for the
        gradient of a weight, and is packed as well.

        Fitted to oneDNN on a CPU with avx512_bf16, float32 sums of a block included: 1 to 2 times what 480 products
        took there, up to 7 times where the gradient of a weight has few rows.
        """
        if dtype == torch.bfloat16 and self.sums:
            return rows * out * FLOAT
        if dtype not in _HALF or not self.packs:
            return 0
        deep, few = -(-inner // _PACKED) * _PACKED, min(rows, 256)
        sums = few * 64 * FLOAT + 1024
        if not turned:
            return self.threads * (min(deep, 1024) * 128 + sums)
        wide = 2 * few + 128 if deep <= 416 else 2 * min(rows, 768) + 2 * min(out, 512)
        return self.threads * (min(deep * wide, 400_000 if rows <= 128 else 1_327_104) + sums + 128)

    def fused(self, rows: int, inner: int, out: int, dtype: torch.dtype) -> int:
        """Of oneDNN's product with its bias and activation (tubelet.encoder.kernels): 64 columns of the weight a
        thread. Fitted on a CPU with AVX-512; of half types what the product by itself packs, and a little."""
        if dtype == torch.float32:
            return self.threads * (min(-(-inner // 16) * 16, 1024) * 64 * FLOAT + 1024)
        return self.product(rows, inner, out, dtype) + self.threads * 128


def _fused(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    x, weight = args[0], args[1]
    return kernels.fused(x.shape[0], x.shape[1], weight.shape[0], x.dtype)


def _product(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    a, b = args[-2], args[-1]
    turned = a.shape[0] > 1 and a.stride(0) == 1 and a.stride(1) >= a.shape[0]
    return kernels.product(a.shape[0], a.shape[1], b.shape[1], a.dtype, turned=turned)


def _attention(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    """Blocks of scores, and for half types their rounded copies and float32 sums."""
    q: Tensor = args[0]
    queries, keys = _blocks(q.shape[2])
    half = q.dtype in _HALF
    return kernels.threads * (queries * keys * (FLOAT + 2 * half) + queries * (2 + q.shape[3]) * FLOAT)


def _attention_back(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    q: Tensor = args[1]
    queries, keys = _blocks(q.shape[2])
    scores, half = queries * keys, q.dtype in _HALF
    return kernels.threads * (2 * scores * (FLOAT + 2 * half) + half * max(scores, keys * q.shape[3]) * FLOAT)


def _blocks(rows: int) -> tuple[int, int]:
    return min(rows, 256 if rows >= 768 else 64 if rows >= 192 else 32), min(rows, 512)


def _norm_back(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    return kernels.threads * 2 * args[1].shape[-1] * FLOAT  # each thread sums its rows


def _widened(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    return args[0].numel() * FLOAT if args[0].dtype in _HALF else 0


def _mixed(kernels: Kernels, args: Sequence[Any], out: Any) -> int:
    """Of a half type in place by float32: both it and the result widened."""
    x, by = args[:2]
    return 2 * x.numel() * FLOAT if isinstance(by, Tensor) and x.dtype in _HALF and by.dtype == torch.float32 else 0


def _antialiased(kernels: Kernels, args: Sequence[Any], out: Tensor) -> int:
    picture: Tensor = args[0]
    return picture.numel() // picture.shape[-1] * out.shape[-1] * FLOAT  # resized along rows only


def _cornered(kernels: Kernels, args: Sequence[Any], out: Tensor) -> int:
    if args[0].is_contiguous(memory_format=torch.channels_last):
        return 0
    return (args[0].numel() + out.numel()) * FLOAT  # both pictures once more, channels last


def _convolution(kernels: Kernels, args: Sequence[Any], out: Tensor) -> int:
    """oneDNN's blocked copies: of the input and the weight where the input is stored channels first (of a transposed
    convolution, of its result twice); of the weight twice, and a block of rows, where it is stored channels last. A
    convolution of single places copies nothing."""
    x, weight, transposed = args[0], args[1], args[6]
    if weight.shape[-1] == 1:
        return 0
    last = x.is_contiguous(memory_format=torch.channels_last)
    if not last and transposed:
        return 2 * out.nbytes
    if not last:
        padded = -(-x.shape[1] // 8) * 8
        return x.nbytes // x.shape[1] * padded + weight.nbytes + (padded > x.shape[1]) * out.nbytes
    block = (400 if transposed else 80) * max(x.shape[1], out.shape[1]) * FLOAT
    return 2 * weight.nbytes + kernels.threads * (block + 16_384)


_aten = torch.ops.aten
_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # not in every torch
_FORMULAS: dict[Any, Callable[[Kernels, Sequence[Any], Any], int]] = {
    _aten.mm.default: _product,
    _aten.mm.out: _product,
    _aten.addmm.default: _product,
    _aten.addmm.out: _product,
    _aten.addmm_.default: _product,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_back,
    _aten.native_layer_norm_backward.default: _norm_back,
    _aten.mean.default: _widened,
    _aten.sum.IntList_out: _widened,  # in float32, as attention by the sigmoid asks
    _aten.linalg_vector_norm.default: _widened,
    _aten.mul_.Tensor: _mixed,
    _aten.convolution.default: _convolution,
    _aten._upsample_bicubic2d_aa.default: _antialiased,
    _aten._upsample_bilinear2d_aa.default: _antialiased,
    _aten._upsample_bicubic2d_aa_backward.default: _antialiased,
    _aten._upsample_bilinear2d_aa_backward.default: _antialiased,
    _aten.upsample_bilinear2d.default: _cornered,
    _aten.upsample_bilinear2d_backward.default: _cornered,
}
if _onednn is not None:
    _FORMULAS[_onednn.default] = _fused
