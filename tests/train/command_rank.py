"""One rank of `tubelet train`, in a child of the fork server that has imported everything already."""

import os
import sys
from pathlib import Path


def command(words: list[str], place: Path, out: Path, rank: int, world: int, port: int) -> None:
    """Run the command as torchrun would start it; what it says to standard error goes to a file."""
    import torch

    from tubelet.cli import main

    torch.set_num_threads(1)
    os.dup2(os.open(out.with_name(f"{out.name}.rank{rank}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 2)
    os.chdir(place)
    if world > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.exit(main(words))
