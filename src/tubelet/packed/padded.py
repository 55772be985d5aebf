"""The padded form other libraries use, at the edge only: nothing inside pads."""

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed.packed import Packed
from tubelet.shapes import Bool, Shaped


def to_padded(p: Packed, fill: float = 0.0) -> tuple[Shaped[Tensor, "N L D"], Bool[Tensor, "N L"]]:
    """(N, L, D) with L the longest item, and keep (N, L), True where a row is real. Cost: one copy."""
    longest = max(p.lengths, default=0)
    out = p.x.new_full((len(p.items), longest, p.x.shape[1]), fill)
    keep = torch.zeros(len(p.items), longest, dtype=torch.bool, device="cpu")
    for i, rows in enumerate(p.unpack()):
        out[i, : len(rows)] = rows
        keep[i, : len(rows)] = True
    return out, keep.to(p.device)


def from_padded(p: Packed, x: Tensor) -> Packed:
    """Values (N, L, D) of the form `to_padded(p)` gave, as rows of p's items; what stands in the padding is dropped.

    Cost: one copy. Raises ShapeError when N or L does not fit.
    """
    longest = max(p.lengths, default=0)
    if x.ndim != 3 or x.shape[0] != len(p.items) or x.shape[1] < longest:
        raise ShapeError(f"expected ({len(p.items)}, {longest} or more, D), got {tuple(x.shape)}")
    return p.with_x(torch.cat([x.flatten(0, 1)[:0], *(x[i, :n] for i, n in enumerate(p.lengths))]))
