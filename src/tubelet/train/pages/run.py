"""A reader trained in stages, each a file: `python -m tubelet.train.pages stage.yaml`, alone or under torchrun.

    model: {}                                   widths, see ReaderConfig
    pages: [{mix: [[lines, 1.0]], questions: 0}, {}]       recipes that steps take in turn, see PageRecipe
    weights: {columns: 1.0}                     see Weights
    train: {budget: 32, steps: 4000, folder: run/stage1, ...}     see TrainConfig; a page is one token of the budget

Page i, batch and state are functions of seed and step: a stopped run goes on with the same command as if it had not
stopped. Every page is printed once; how many there are follows from budget and steps.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tubelet.errors import ConfigError
from tubelet.language.vlm.model import VLM
from tubelet.train.checkpoint import read_part
from tubelet.train.config import TrainConfig, read_config
from tubelet.train.loop import Outcome, train
from tubelet.train.manifest import newest_whole
from tubelet.train.order import Batches
from tubelet.train.pages.batch import PageBatch, make_batch
from tubelet.train.pages.fonts import Fonts, find_fonts
from tubelet.train.pages.page import PageRecipe
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.train.pages.task import ReaderTask, Weights
from tubelet.train.strategy import joined


@dataclass(frozen=True)
class StageConfig:
    """One stage of a reader's training."""

    train: TrainConfig  # its budget counts pages
    pages: tuple[PageRecipe, ...] = field(default_factory=lambda: (PageRecipe(),))  # taken by step in turn
    weights: Weights = field(default_factory=Weights)
    model: ReaderConfig = field(default_factory=ReaderConfig)
    thinned: float = 0.7  # share of pages whose blocks without a letter are left out
    room: int = 160  # tokens of a page's questions
    fonts: str | None = None  # sha256 of the fonts it must be printed with; None: whatever is found
    threads: int | None = None  # of torch in each process

    def __post_init__(self) -> None:
        if not self.pages or not 0 <= self.thinned <= 1:
            raise ConfigError("a stage has recipes of pages, and thinned lies in 0 to 1", got=self.thinned)


def train_reader(stage: StageConfig, fonts: Fonts | None = None) -> Outcome:
    """Train until the stage's last step or a signal; goes on from the folder's newest whole checkpoint.

    Raises ConfigError where the fonts are not those the stage names, and what `train` raises.
    """
    fonts = find_fonts() if fonts is None else fonts
    if stage.fonts not in (None, fonts.sha256):
        raise ConfigError("the stage was begun with other fonts", expected=stage.fonts, got=fonts.sha256)
    if stage.threads is not None:
        torch.set_num_threads(stage.threads)
    init = None if stage.train.init is None else stage.train.init.expanduser()
    config = replace(stage.train, folder=stage.train.folder.expanduser(), init=init)
    with joined(config.strategy, device=config.device, timeout_s=config.timeout_s) as group:
        pages = np.ones(config.budget * config.steps * group.world * config.accumulation, np.int64)
        batches = Batches(pages, config.budget, seed=config.seed, world=group.world, accumulation=config.accumulation)
        task = ReaderTask(build_reader(stage.model, seed=config.seed), stage.weights, seed=config.seed)

        def made(numbers: tuple[int, ...], step: int) -> PageBatch:
            recipe = stage.pages[step % len(stage.pages)]
            return make_batch(recipe, fonts, numbers, room=stage.room, thinned=stage.thinned)

        return train(config, group, task, batches, made)


def trained_reader(stage: StageConfig, checkpoint: Path | None = None, *, mean: bool = True) -> VLM:
    """The reader of a stage's newest whole checkpoint, or of the named one, in float32.

    mean: the running mean of the weights where the stage keeps one. Raises CheckpointError.
    """
    path = newest_whole(stage.train.folder.expanduser()).path if checkpoint is None else checkpoint
    if path is None:
        raise ConfigError("the stage has no whole checkpoint yet", source=str(stage.train.folder))
    task = ReaderTask(build_reader(stage.model, seed=stage.train.seed), stage.weights)
    parts = {name: p.detach() for name, p in task.named_parameters()}
    read_part(path / ("ema" if mean and stage.train.ema is not None else "model"), parts)
    return task.vlm.eval()


def main(args: Sequence[str]) -> int:
    """`python -m tubelet.train.pages STAGE.yaml [--train.steps N ...]`; the exit code."""
    if not args or args[0].startswith("-"):
        print("usage: python -m tubelet.train.pages STAGE.yaml [--train.steps N ...]", file=sys.stderr)
        return 2
    stage: Any = read_config(StageConfig, args[0], list(args[1:]))
    return train_reader(stage).exit_code
