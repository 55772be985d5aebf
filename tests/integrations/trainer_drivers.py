"""Ways to train the toy that end with the same question: PackedTrainer, and two that lose work and so must be noticed.

`plain` is transformers' Trainer over the same batches, going on from the last checkpoint by its number. `accelerate` is
its launcher's usual loop, with its own order of samples and the states it saves.
"""

import hashlib
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from safetensors.torch import load_file, save_file
from tests.train.train_toy import Toy, run, token_counts
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from tubelet.integrations.trainer_batches import Micros
from tubelet.integrations.trainer_run import arguments_of, train_with_trainer
from tubelet.train.config import TrainConfig
from tubelet.train.loop import Outcome
from tubelet.train.manifest import CHECKPOINTS, newest_whole
from tubelet.train.order import Batches
from tubelet.train.strategy import joined

EXAMPLES = Path(__file__).parents[2] / "examples" / "deepspeed"


def batches_of(config: TrainConfig, world: int = 1) -> Batches:
    return Batches(token_counts(), config.budget, seed=config.seed, world=world, accumulation=config.accumulation)


def packed(config: TrainConfig, make: Any, model: Toy, deepspeed: Path | None = None) -> Outcome:
    """As a command does that has counted its data over ranks before: in a group that is there already."""
    with joined(config.strategy, device="cpu", timeout_s=config.timeout_s) as group:
        batches = batches_of(config, group.world)
        return train_with_trainer(config, model, batches, make, deepspeed=deepspeed)


def zero(stage: int, config: TrainConfig, make: Any, model: Toy) -> Outcome:
    """PackedTrainer under DeepSpeed, with the project's own JSON file."""
    warnings.simplefilter("ignore")  # DeepSpeed's own
    return packed(config, make, model, EXAMPLES / f"zero{stage}.json")


class Plain(Trainer):
    """What a person writes first: own data and own loss, the rest as it comes."""

    made: Micros

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(range(1000), collate_fn=lambda numbers: self.made[numbers[0]])  # pyright: ignore[reportArgumentType]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(inputs["batch"])
        return loss.total / loss.counted

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        assert output_dir is not None and isinstance(self.model, torch.nn.Module)
        Path(output_dir).mkdir(parents=True)
        save_file(self.model.state_dict(), Path(output_dir) / "model.safetensors")


def plain(config: TrainConfig, make: Any, model: Toy) -> Outcome:
    trainer = Plain(model, arguments_of(config))
    trainer.made = Micros(batches_of(config), make, 0)
    last = get_last_checkpoint(str(config.folder)) if config.folder.exists() else None
    trainer.train(last)
    return Outcome(trainer.state.global_step, 0, None, None)


def accelerated(config: TrainConfig, make: Any, model: Toy) -> Outcome:
    project = ProjectConfiguration(str(config.folder), automatic_checkpoint_naming=True, total_limit=2)
    accelerator = Accelerator(cpu=True, project_config=project)
    set_seed(config.seed)
    ids: Any = range(len(token_counts()))
    loader = DataLoader(ids, batch_size=2, shuffle=True, collate_fn=lambda chosen: make(tuple(chosen), 0))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=config.optimizer.lr)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    saved = sorted((config.folder / "checkpoints").glob("checkpoint_*"), key=lambda p: int(p.name.split("_")[1]))
    done = 0
    if saved:
        accelerator.load_state(str(saved[-1]))
        done = (int(saved[-1].name.split("_")[1]) + 1) * 2
        project.iteration = done // 2
    for batch in _rest(accelerator, loader, done, config.steps):
        loss = model(batch)
        accelerator.backward(loss.total / loss.counted)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if done % 2 == 0:
            accelerator.save_state()
    accelerator.save_model(model, config.folder / "end")
    return Outcome(done, 0, None, None)


def _rest(accelerator: Accelerator, loader: Any, done: int, steps: int) -> Iterator[Any]:
    """The batches that are left, as accelerate's guide on checkpoints has it."""
    epoch, start = divmod(done, len(loader))
    while done < steps:
        loader.set_epoch(epoch)
        for batch in accelerator.skip_first_batches(loader, start) if start else loader:
            yield batch
            done += 1
            if done == steps:
                return
        epoch, start = epoch + 1, 0


DRIVERS = {
    "loop": run,
    "packed": packed,
    "zero2": partial(zero, 2),
    "zero3": partial(zero, 3),
    "plain": plain,
    "accelerate": accelerated,
}


def end_of(folder: Path) -> str:
    """Digest of the weights that a run has come to, and of the optimizer's state where it is beside them."""
    whole = newest_whole(folder, CHECKPOINTS).path
    last = get_last_checkpoint(str(folder))
    path = whole or (Path(last) if last is not None else folder / "end")
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path / "model.safetensors").items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    if (path / "optimizer.pt").exists():
        states = torch.load(path / "optimizer.pt", weights_only=True)["state"]
        for n, state in sorted(states.items()):
            for name, tensor in sorted(state.items()):
                digest.update(f"{n} {name}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
