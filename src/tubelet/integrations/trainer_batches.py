"""What transformers' Trainer is given to iterate over, and the arguments of its that would be left out in silence."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainingArguments

from tubelet.errors import ConfigError
from tubelet.train.loop import MakeBatch
from tubelet.train.order import Batches


class Micros(Dataset[dict[str, Any]]):
    """Micro-batches of one rank by their number since the beginning of the run."""

    def __init__(self, batches: Batches, make_batch: MakeBatch, rank: int) -> None:
        self.batches, self.make_batch, self.rank = batches, make_batch, rank

    def __len__(self) -> int:
        return len(self.batches.tokens)  # what Trainer tells as examples

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, k = divmod(index, self.batches.accumulation)
        micro = self.batches.at(step)[self.rank][k]
        return {"batch": self.make_batch(micro.ids, step), "step": step, "number": micro.number}


class Numbers(Sampler[list[int]]):
    """The numbers of an epoch's micro-batches, one at a time, from the epoch that the trainer's step is in.

    An epoch is as many steps as it takes until every sample was seen once; the last step has samples of the next, which
    then are not repeated.
    """

    def __init__(self, trainer: Trainer, batches: Batches) -> None:
        self.trainer, self.steps, self.accumulation = trainer, batches.steps(1), batches.accumulation

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        first = self.trainer.state.global_step // self.steps * len(self)
        return iter([number] for number in range(first, first + len(self)))


def only(items: list[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


def moved(batch: Any, device: torch.device) -> Any:
    """A dict of tensors on the device; anything else as it is."""
    return {k: v.to(device) for k, v in batch.items()} if isinstance(batch, dict) else batch


def without_frozen(model: nn.Module, keys: Any) -> None:
    """A hook: frozen weights are not missed in a checkpoint, because none holds them."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]


def check_arguments(args: TrainingArguments, batches: Batches) -> None:
    """Raises ConfigError for what would be left out in silence."""
    if args.max_steps <= 0:
        steps = batches.steps(math.ceil(args.num_train_epochs))
        raise ConfigError(
            f"max_steps must be given; {args.num_train_epochs:g} epochs are {steps:,} steps", got=args.max_steps
        )
    ranks = (args.world_size, args.gradient_accumulation_steps)
    if (batches.world, batches.accumulation) != ranks:
        raise ConfigError(
            f"the order is for {batches.world} ranks x {batches.accumulation} micro-batches, "
            f"the run has {ranks[0]} x {ranks[1]}",
            expected=ranks,
        )
    for name in (
        "push_to_hub",
        "load_best_model_at_end",
        "save_only_model",
        "auto_find_batch_size",
        "save_on_each_node",
    ):
        if getattr(args, name, False):
            raise ConfigError(f"{name} cannot be had with checkpoints that are renamed when they are whole", got=name)
    if args.n_gpu > 1:
        raise ConfigError(
            f"one process sees {args.n_gpu} GPUs: start one process for each with torchrun", got=args.n_gpu
        )
