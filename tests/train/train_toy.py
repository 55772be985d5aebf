"""A model of the real shape, small, and one run of it: frozen tower, projector with dropout, rows of pictures or none.

Run in children of a fork server that has imported everything already, so that a start costs a few milliseconds.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo  # the first optimizer imports it; a child should find it imported
import torch.distributed.checkpoint
from tests.full_disk import may_grow_to
from torch import Tensor, nn

from tubelet.errors import TubeletError
from tubelet.train.checkpoint import read_part, shapes_of
from tubelet.train.config import OptimizerConfig, ReportConfig, SaveConfig, ScheduleConfig, TrainConfig
from tubelet.train.loop import Loss, train
from tubelet.train.manifest import newest_whole
from tubelet.train.order import Batches
from tubelet.train.strategy import joined

WIDTH, VOCABULARY, SAMPLES = 16, 32, 96


def token_counts() -> np.ndarray:
    return np.random.default_rng(5).integers(4, 40, SAMPLES)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return x + self.out(torch.softmax(q @ k.T / WIDTH**0.5, dim=-1) @ v)


class Toy(nn.Module):
    """Predicts a sample's tokens from its pixels, where it has any, and the token before."""

    def __init__(self, seed: int = 0, touches: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.touches = touches
        self.tower = nn.Linear(8, WIDTH).requires_grad_(False)
        self.projector = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH))
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.odd = nn.Parameter(torch.ones(1))  # fewer rows than ranks

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        x = self.embed(batch["tokens"][:-1]) * self.odd
        if len(batch["pixels"]):
            x = x + self.projector(self.tower(batch["pixels"])).mean(dim=0)
        elif self.touches:
            x = x + 0.0 * self.projector(self.tower(batch["pixels"].new_zeros(1, 8))).sum()
        for block in self.blocks:
            x = block(x)
        logits, labels = x @ self.embed.weight.T, batch["tokens"][1:]
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return Loss(total, len(labels), {"right": (logits.argmax(-1) == labels).float().mean()})


def make_batch(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
    """Every third sample has text alone; the others differ in how much there is to see."""
    counts = token_counts()
    tokens, pixels = [], []
    for i in ids:
        of_sample = np.random.default_rng([3, i])
        start = int(of_sample.integers(VOCABULARY))
        tokens.append(torch.from_numpy((start + np.arange(counts[i])) % VOCABULARY))
        if i % 3:
            pixels.append(torch.from_numpy(of_sample.normal(size=(i % 5 + 1, 8)).astype(np.float32)))
    return {"tokens": torch.cat(tokens), "pixels": torch.cat(pixels) if pixels else torch.zeros(0, 8)}


def text_or_pictures(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
    """A batch without any picture, by chance: one rank has some and the other has none."""
    batch = make_batch(ids, step)
    return batch | {"pixels": batch["pixels"][: int(step % 2 == ids[0] % 2) * len(batch["pixels"])]}


def toy_config(folder: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        budget=80,
        steps=40,
        folder=folder,
        seed=11,
        device="cpu",
        ema=0.99,
        accumulation=2,
        timeout_s=30.0,
        optimizer=OptimizerConfig(kind="muon", lr=2e-3),
        schedule=ScheduleConfig(warmup_steps=4),
        save=SaveConfig(every_steps=2, every_s=None),
        report=ReportConfig(bar=False, curve=False),
    )
    return replace(config, **changes)


def run(config: TrainConfig, make: Any = make_batch, model: nn.Module | None = None) -> Any:
    with joined(config.strategy, device="cpu", timeout_s=config.timeout_s) as group:
        batches = Batches(
            token_counts(), config.budget, seed=config.seed, world=group.world, accumulation=config.accumulation
        )
        return train(config, group, model or Toy(), batches, make)


def tensors(path: Path, part: str = "model") -> dict[str, Tensor]:
    """A part of a checkpoint, or of the newest whole one of a run, put together."""
    path = path if path.name.startswith("step-") else newest(path)
    read = {name: torch.zeros(shape) for name, shape in shapes_of(path / part).items()}
    read_part(path / part, read)
    return read


def newest(folder: Path) -> Path:
    path = newest_whole(folder).path
    assert path is not None
    return path


def digest(folder: Path) -> str:
    """Of the weights, the optimizers' state and the mean in the newest whole checkpoint, and its counters."""
    whole = hashlib.sha256()
    for part in ("model", "optimizer", "ema"):
        for name, tensor in sorted(tensors(folder, part).items()):
            whole.update(f"{part} {name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    state = json.loads((newest(folder) / "state.json").read_text())
    return whole.hexdigest() + str([state[k] for k in ("step", "skipped", "epoch", "order")])


# ---- children


class Behaviour(NamedTuple):
    """What a child does besides training."""

    die_at: int | None = None  # kills itself at the n-th thing it does to a file, counted from its first save
    slow_s: float = 0.0  # sleeps so long for each batch
    mix: bool = False  # whole batches without a picture
    touches: bool = True  # the model runs what a batch without pictures leaves out
    file_bytes: int | None = None  # no file may become larger
    nan_step: int | None = None  # rank 1's pixels are not finite in this step
    driver: str = "loop"  # what trains: the loop, or a name of tests.integrations.trainer_drivers


def child(config: TrainConfig, rank: int, world: int, port: int, behaviour: Behaviour) -> None:
    """One rank; what it says goes to a file beside the run's folder."""
    torch.set_num_threads(1)
    said = config.folder.with_name(f"{config.folder.name}.rank{rank}")
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if world > 1 or config.strategy != "one":
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if behaviour.file_bytes is not None:
        may_grow_to(behaviour.file_bytes)
    if behaviour.die_at is not None and rank == 0:
        sys.addaudithook(DiesAt(config.folder, behaviour.die_at))
    made = text_or_pictures if behaviour.mix else make_batch

    def make(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        time.sleep(behaviour.slow_s)
        batch = made(ids, step)
        bad = rank == 1 and step == behaviour.nan_step
        return batch | {"pixels": torch.full((1, 8), float("nan"))} if bad else batch

    try:
        drive = run
        if behaviour.driver != "loop":
            drive = importlib.import_module("tests.integrations.trainer_drivers").DRIVERS[behaviour.driver]
        code = drive(config, make, Toy(touches=behaviour.touches)).exit_code
    except TubeletError as e:
        sys.exit(f"{type(e).__name__}: {e}")
    sys.exit(code)


class DiesAt:
    """An audit hook: SIGKILL of this process at the n-th opening, renaming, making or removing in the folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self.name, self.left, self.saving = folder.name, count, False

    def __call__(self, event: str, args: Sequence[Any]) -> None:
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            path = str(args[0])
            inside = path.rpartition(f"/{self.name}/")[2]
            self.saving = self.saving or ".new" in inside or inside.startswith("checkpoint")
            if self.saving and (self.name in path or path.startswith("step-") or "safetensors" in path):
                self.left -= 1
                if self.left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":  # under torchrun: folder, strategy, steps
    where, kind, many = sys.argv[1:]
    torch.set_num_threads(1)
    toy = toy_config(Path(where), strategy=kind, steps=int(many), accumulation=1)

    def patient(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        time.sleep(0.02)
        return make_batch(ids, step)

    sys.exit(run(toy, patient).exit_code)
