"""Attention over segments: rows attend to the rows of their own segment and to nothing else.

    q, k, v (T, H, K) and Segments((n0, n1, ...)), sum T   ->   (T, H, K)

A segment is a whole item, a frame, a few frames or a window; that is all a layer needs to know. Three backends give the
same values: one scaled_dot_product_attention per segment (any device; runs of equal length go as one batch), torch's
varlen kernel and flash-attn's (CUDA). None builds a mask, so a NaN in one segment cannot reach another: with a dense
block mask it does, because 0 x NaN is NaN.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import MAX_ROWS, Packed
from tubelet.shapes import Int32, Shaped

Backend = Literal["auto", "sdpa", "varlen", "flash"]
PIECE_FLOP = 40_000_000_000  # of one call of sdpa in inference: below a second on two cores
PIECE_ROWS = 768  # queries of one at least, as many as torch's CPU kernel wants to work at full speed


@dataclass(frozen=True)
class Segments:
    """Row counts of consecutive segments, on the host. Empty segments are dropped. Raises ShapeError."""

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(n < 0 for n in self.lengths):
            raise ShapeError("a segment cannot have fewer than no rows", got=min(self.lengths))
        object.__setattr__(self, "lengths", tuple(int(n) for n in self.lengths if n))
        if self.total > MAX_ROWS:
            raise ShapeError(f"{self.total:,} rows do not fit an int32 cu_seqlens", limit=MAX_ROWS, got=self.total)

    @cached_property
    def total(self) -> int:
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """(first row, segments, rows of each) for each run of neighbours of equal length."""
        out, start = [], 0
        for length, group in groupby(self.lengths):
            count = sum(1 for _ in group)
            out.append((start, count, length))
            start += count * length
        return tuple(out)

    @cached_property
    def host(self) -> Int32[Tensor, " n"]:
        """cu_seqlens, 0 first, as int32 on the host."""
        return torch.tensor(list(accumulate(self.lengths, initial=0)), dtype=torch.int32)

    def on(self, device: torch.device) -> Int32[Tensor, " n"]:
        """cu_seqlens on `device`; copied once per call of the encoder, never read back."""
        return to_device(self.host, device)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Host data on `device`; on CUDA nothing waits for the copy."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def item_segments(p: Packed) -> Segments:
    """One segment per item: every row of a picture or clip sees all of it."""
    return Segments(p.lengths)


def frame_segments(p: Packed, frames: int) -> Segments:
    """One segment per `frames` grid rows of time (the last of an item may be shorter). Rows must be t-major."""
    return Segments(tuple(n for item in frame_lengths(p, frames) for n in item))


def frame_lengths(p: Packed, frames: int) -> list[tuple[int, ...]]:
    """Rows of each of an item's frames of `frames` grid rows of time, those that hold any; item by item.

    From the host sizes alone when no row was dropped; otherwise the t of each row is read, which syncs once.
    Raises ConfigError, and ShapeError for rows in no order of time.
    """
    if frames < 1:
        raise ConfigError(f"a frame spans at least one row of time, got {frames}", got=frames)
    out: list[tuple[int, ...]] = []
    for i, (item, length) in enumerate(zip(p.items, p.lengths, strict=True)):
        t, area = item.grid.t, item.grid.h * item.grid.w
        if length == item.grid.rows:
            out.append(tuple(min(frames, t - first) * area for first in range(0, t, frames)))
            continue
        rows = p.pos[p.starts[i] : p.starts[i + 1], 0].cpu()
        if bool((rows.diff() < 0).any()):
            raise ShapeError("rows must be in the order of time to be cut into frames", item=i)
        out.append(tuple(n for n in torch.bincount(rows // frames).tolist() if n))
    return out


def varlen_attention(
    q: Shaped[Tensor, "T H K"],
    k: Shaped[Tensor, "T H K"],
    v: Shaped[Tensor, "T H K"],
    segments: Segments,
    *,
    backend: Backend = "auto",
) -> Shaped[Tensor, "T H K"]:
    """softmax(q k^T / sqrt(K)) v inside each segment. No causal mask. Order of rows inside a segment is free.

    q, k, v may be views of one fused qkv tensor. Cost: 4 H K sum(n_i^2) FLOPs; memory O(T). "auto": torch's varlen
    kernel for half precision on CUDA, one sdpa per segment everywhere else. "flash" needs the flash-attn package.
    Differentiable. Raises ShapeError when segments do not sum to T, ConfigError when a backend cannot run here.
    """
    if segments.total != q.shape[0]:
        raise ShapeError(
            f"segments sum to {segments.total}, q has {q.shape[0]} rows", expected=q.shape[0], got=segments.total
        )
    backend = resolve(backend, q.device, q.dtype)
    if backend == "sdpa":
        longest_call = max((4 * n * m * m for _, n, m in segments.runs), default=0) * q.shape[1] * q.shape[2]
        if not torch.is_grad_enabled() and longest_call > PIECE_FLOP:
            out = v.new_empty(v.shape)
            sdpa_into(out, q, k, v, segments)
            return out
        if len(segments.runs) == 1:
            return _sdpa_run(q, k, v, segments.runs[0][1])
        rows = [n * m for _, n, m in segments.runs]
        split = q.split(rows), k.split(rows), v.split(rows)  # a slice's gradient would be as long as q
        parts = [_sdpa_run(a, b, c, n) for a, b, c, (_, n, _) in zip(*split, segments.runs, strict=True)]
        return torch.cat([q[:0], *parts])
    return kernel_attention(q, k, v, segments.on(q.device), segments.longest, backend)


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, longest: int, backend: Backend) -> Tensor:
    """`varlen_attention` by a CUDA kernel, with the segments as a cu_seqlens tensor on the device."""
    kernel = _torch_varlen() if backend == "varlen" else _flash()
    return kernel(q, k, v, cu, cu, longest, longest)


def _sdpa_run(q: Tensor, k: Tensor, v: Tensor, count: int, scale: float | None = None) -> Tensor:
    """`count` segments of equal length as one batch: views in, (rows, H, K) out. q may be a part of one segment."""
    q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(0, 1)


def sdpa_into(out: Tensor, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float | None = None) -> None:
    """`varlen_attention` for inference, piece by piece into `out` (T, H, K), so nothing is joined afterwards.

    scale: of the scores; None: 1 / sqrt(K).

    No piece takes long, because Python hears of Ctrl-C only between them: a call of sdpa on a segment of 80,000 rows
    takes minutes. A row's result does not depend on the pieces, up to rounding. On meta one piece of each run is made,
    for its others are no larger: a plan of hours of video is as short as any.
    """
    for run in segments.runs:
        for queries, keys, count in segment_pieces(*run, 4 * q.shape[1] * q.shape[2]):
            out[queries] = _sdpa_run(q[queries], k[keys], v[keys], count, scale)
            if out.is_meta:
                break


def segment_pieces(start: int, count: int, length: int, flop: int) -> Iterator[tuple[slice, slice, int]]:
    """A run in pieces of bounded work: (queries, keys, segments): whole segments together, or queries of one.

    flop: of one query and one key.
    """
    together = max(1, PIECE_FLOP // (flop * length * length))
    for a in range(start, start + count * length, together * length):
        b = min(a + together * length, start + count * length)
        rows = max(PIECE_ROWS, PIECE_FLOP // (flop * length)) if together == 1 else b - a
        for first in range(a, b, rows):
            yield slice(first, min(first + rows, b)), slice(a, b), (b - a) // length


# ---- which kernel runs


@lru_cache(maxsize=1)
def _torch_varlen() -> Any:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@lru_cache(maxsize=1)
def _flash() -> Any:
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func


def resolve(backend: Backend, device: torch.device, dtype: torch.dtype) -> Backend:
    """What "auto" means for rows of this device and type; a backend that cannot run them is a ConfigError."""
    able = backends(device, dtype)
    if backend == "auto":
        return able[0]
    if backend not in able:
        raise ConfigError(f"the {backend} backend cannot run {dtype} rows on {device} here", expected=able, got=backend)
    return backend


def backends(device: torch.device, dtype: torch.dtype) -> Sequence[Backend]:
    """The backends that can run rows of this device and type, the preferred one first; on meta nothing runs, and all
    give shapes."""
    if device.type == "meta":
        return ("sdpa", "varlen")
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return ("sdpa",)
    flash: tuple[Backend, ...] = ("flash",) if importlib.util.find_spec("flash_attn") else ()
    return ("varlen", *flash, "sdpa")
