"""Two gloo ranks on one machine, each running the same function; what they saved is read back on the host."""

import datetime
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tests.train.runs import SERVER, finish, serve
from torch import Tensor

Result = dict[str, Tensor]


def _one(rank: int, work: Callable[[int, int], Result], folder: str, world: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/store", timeout, world_size=world, rank=rank)
    torch.save(work(rank, world), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def on_ranks(work: Callable[[int, int], Result], folder: Path, world: int = 2) -> list[Result]:
    """What `work(rank, world)` returns on each rank. It must be a function of a module."""
    (folder / "store").unlink(missing_ok=True)  # of an earlier meeting in this folder
    serve()
    ranks = [SERVER.Process(target=_one, args=(rank, work, str(folder), world)) for rank in range(world)]
    for process in ranks:
        process.start()
    assert finish(ranks) == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]
