"""Rows of all ranks on every rank, with gradients that find their way back."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tubelet.shapes import Float


class Everyone(NamedTuple):
    """The rows of all ranks, rank after rank. first: where this rank's own begin. world: how many ranks there are."""

    rows: Float[Tensor, "W D"]
    first: int
    world: int


class _Gather(torch.autograd.Function):
    """all_gather whose backward is the sum over ranks: a row's gradient comes from every rank that compared with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...], rank: int, group: dist.ProcessGroup) -> Tensor:
        padded = x.new_zeros(max(sizes), x.shape[1])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        ctx.own, ctx.group = slice(sum(sizes[:rank]), sum(sizes[: rank + 1])), group
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        total = grads[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.own], None, None, None


def gathered(x: Float[Tensor, "N D"], group: dist.ProcessGroup | None) -> Everyone:
    """The (N, D) rows of every rank of the group; ranks may have different N, also 0. group None: this process alone.

    Every rank of the group must call it, and its backward, equally often. Two collectives forward (sizes, rows), one
    back. Syncs with the device. Cost: the rows of all ranks, twice.

        >>> gathered(torch.ones(2, 3), None).rows.shape
        torch.Size([2, 3])
    """
    if group is None:
        return Everyone(x, 0, 1)
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(x)], dtype=torch.int64, device=x.device), group=group)
    sizes = tuple(int(n) for n in torch.cat(counts).tolist())
    rows: Any = _Gather.apply(x, sizes, rank, group)
    return Everyone(rows, sum(sizes[:rank]), world)
