"""Runs of the toy in children of a fork server: started, killed at chosen moments, started again."""

import itertools
import os
import random
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.train import train_toy
from tests.train.train_toy import Behaviour

from tubelet.train.config import TrainConfig
from tubelet.train.report import LOG, read_log

SERVER = get_context("forkserver")
ORDINARY = Behaviour()
# Below the ports that the system hands out by itself, a range for each test process: none is taken between our look
# and the bind of rank 0.
PORTS = itertools.count(20000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
WAIT_S = 240.0  # after it a run counts as hanging


def serve() -> None:
    """Start the server. Python 3.11's looks for what it imports in PYTHONPATH alone."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), before)))
    ahead = ["tests.train.train_toy", "tests.integrations.trainer_drivers", "tubelet.train.launch", "tubelet.cli.train"]
    SERVER.set_forkserver_preload([*ahead, "pytest"])
    forkserver.ensure_running()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def free_port() -> int:
    """The next of this process's ports on which nothing listens."""
    while True:
        port = next(PORTS)
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                return port


def start(config: TrainConfig, world: int = 1, behaviour: Behaviour = ORDINARY) -> list[BaseProcess]:
    """The ranks of one run."""
    serve()
    port = free_port()
    ranks = [
        SERVER.Process(target=train_toy.child, args=(config, rank, world, port, behaviour)) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def finish(ranks: Sequence[BaseProcess]) -> list[int | None]:
    """Their exit codes; None for one that hangs, which is then killed."""
    end = time.monotonic() + WAIT_S
    for process in ranks:
        process.join(max(0.1, end - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    kill(ranks)
    return codes


def kill(ranks: Sequence[BaseProcess]) -> None:
    """SIGKILL to all that live, and wait for them."""
    for process in ranks:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    for process in ranks:
        process.join()


def run_to_the_end(config: TrainConfig, world: int = 1, behaviour: Behaviour = ORDINARY) -> None:
    codes = finish(start(config, world, behaviour))
    assert codes == [0] * world, (codes, said(config))


def said(config: TrainConfig) -> str:
    """What the ranks wrote to standard error."""
    files = sorted(config.folder.parent.glob(f"{config.folder.name}.rank*"))
    return "\n".join(f.read_text()[-3000:] for f in files)


def step_reached(folder: Path) -> int:
    """Of the newest line in the log."""
    lines = read_log(folder / LOG) if (folder / LOG).exists() else []
    return next((line["step"] for line in reversed(lines) if line["kind"] == "step"), -1)


def killed_on_the_way(config: TrainConfig, world: int, kills: int, seed: int, behaviour: Behaviour = ORDINARY) -> None:
    """Start a run and kill it, `kills` times, each time further on and at a random moment of a step or a save; then
    let it end. Every kill meets a living run, because the steps at which they fall due come before the last."""
    moments = random.Random(seed)
    for i in range(kills):
        target = (i + 1) * (config.steps - 1) // (kills + 1)
        ranks = start(config, world, behaviour._replace(slow_s=0.003))
        end = time.monotonic() + WAIT_S
        while step_reached(config.folder) < target:
            assert all(p.is_alive() for p in ranks) and time.monotonic() < end, said(config)
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.05))
        kill(ranks)
        assert {p.exitcode for p in ranks} == {-signal.SIGKILL}, said(config)
    run_to_the_end(config, world, behaviour)
