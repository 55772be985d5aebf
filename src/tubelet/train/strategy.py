"""One process, DDP or FSDP2: how processes find each other, how a model is wrapped, and that it is what was asked for.

Processes are started by torchrun (or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT).
Gradients go through NCCL where the model is on a GPU and gloo on a CPU; the few numbers by which ranks agree on a step
always go through gloo, as float64 on the host.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tubelet.errors import RunError
from tubelet.train.config import Strategy


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them."""

    strategy: Strategy
    rank: int  # 0 to world - 1; rank 0 writes and speaks
    world: int
    device: torch.device  # of this process's model
    over: dist.ProcessGroup | None = None  # where the host's numbers meet; None: the default group, which has gloo

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, in float64; every rank gets the same. A collective: all ranks call it, or none."""
        if self.world == 1:
            return [float(v) for v in values]
        tensor = torch.tensor(values, dtype=torch.float64, device="cpu")
        dist.all_reduce(tensor, group=self.over)
        return tensor.tolist()

    def from_first(self, value: int) -> int:
        """Rank 0's value (below 2^53), on every rank. A collective."""
        return int(self.sum([float(value) if self.rank == 0 else 0.0])[0])


@contextmanager
def joined(strategy: Strategy, *, device: str | None = None, timeout_s: float = 600.0) -> Iterator[Group]:
    """The group of this process while the block runs.

    device: "cpu" or "cuda"; None takes this rank's GPU where there is one. timeout_s: how long a collective waits for a
    rank that does not come before the run ends. Raises RunError when the number of processes contradicts the strategy.

        >>> with joined("one", device="cpu") as group:
        ...     group.rank, group.world
        (0, 1)
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", str(rank)))
    if strategy == "one" and world > 1:
        raise RunError(f"asked for one process, got {world}; ddp and fsdp2 use several", expected=1, got=world)
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    group = Group(strategy, rank, world, place)
    if strategy == "one":
        yield group
        return
    if kind == "cuda":
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    wait = timedelta(seconds=timeout_s)
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=wait)
    elif world == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=wait)
    else:
        raise RunError(f"{world} processes without MASTER_ADDR: start them with torchrun")
    try:
        yield group
    finally:
        dist.destroy_process_group()


def wrapped(model: nn.Module, group: Group) -> nn.Module:
    """The model as its strategy runs it, on the group's device. FSDP2 changes it in place, DDP returns a cover.

    Under FSDP2 the blocks of each ModuleList that have something to train are groups of their own; the rest, a frozen
    tower with it, belongs to the root and has no collectives of its own, so a rank that does not run it hangs nobody.
    A model with a true `parts_rest` has steps that leave parts out, alike on every rank: DDP looks for them at each.
    Raises RunError when nothing can be trained or the result is not what was asked for.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise RunError("no parameter of the model is to be trained", expected="at least 1", got=0)
    model = model.to(group.device)
    if group.strategy == "ddp":
        on = [group.device.index] if group.device.type == "cuda" else None
        rests = bool(getattr(model, "parts_rest", False))
        model = DistributedDataParallel(
            model, device_ids=on, gradient_as_bucket_view=True, find_unused_parameters=rests
        )
    elif group.strategy == "fsdp2":
        mesh = init_device_mesh(group.device.type, (group.world,))
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    check_wrapped(model, group)
    return model


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Modules in a ModuleList that train something, innermost first and none inside another."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            found += [m for m in module if any(p.requires_grad for p in m.parameters())]
    inside = {id(m) for block in found for m in block.modules() if m is not block}
    return [m for m in found if id(m) not in inside]


def check_wrapped(model: nn.Module, group: Group) -> None:
    """Raises RunError unless the model is wrapped as the group's strategy says."""
    if group.strategy == "ddp":
        right = isinstance(model, DistributedDataParallel)
    elif group.strategy == "fsdp2":
        right = all(isinstance(p, DTensor) for p in model.parameters() if p.requires_grad)
    else:
        right = not isinstance(model, DistributedDataParallel | FSDPModule)
    if not right:
        got = "DistributedDataParallel" if isinstance(model, DistributedDataParallel) else type(model).__name__
        plain = [n for n, p in model.named_parameters() if p.requires_grad and not isinstance(p, DTensor)][:3]
        raise RunError(
            f"asked for {group.strategy}, got {got} with plain parameters {plain}", expected=group.strategy, got=got
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without DDP's cover: its parameters have the names of the unwrapped model under every strategy."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def accumulating(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """The context of one micro-batch: gradients meet over ranks in the step's last one only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def host(value: Tensor) -> float:
    """A scalar on the host, put together over ranks where it is sharded. Syncs."""
    return float((value.full_tensor() if isinstance(value, DTensor) else value).item())
