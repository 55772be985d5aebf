"""A run from its configuration to its last checkpoint: what `tubelet train` does on every rank.

configuration -> model, what learns -> data, counted once -> order -> loop -> what learned, written out
"""

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.shapes import Int64
from tubelet.train.collate import Collator
from tubelet.train.costs import measure
from tubelet.train.data.open import open_dataset
from tubelet.train.data.sample import Dataset
from tubelet.train.data.spare import BadSample, Spares, Tally, planned
from tubelet.train.export import export, has_weights
from tubelet.train.language import LANGUAGE_HOMES
from tubelet.train.loop import MakeBatch, Outcome, train
from tubelet.train.manifest import STEPS, Naming
from tubelet.train.open_model import open_language, open_pairs
from tubelet.train.order import Batches, cached_tokens
from tubelet.train.pairs import PAIR_HOMES, Pairs
from tubelet.train.parts import Counted, check_optimizer
from tubelet.train.run_config import RunConfig
from tubelet.train.strategy import Group, joined
from tubelet.train.tokenize import Tokenizing
from tubelet.train.work import work_of
from tubelet.writing import write_errors

COUNTS, BAD = "order.npz", "bad.jsonl"


@dataclass(frozen=True, eq=False)
class Opened:
    """A run before its order is known."""

    model: nn.Module  # forward(batch) -> Loss
    lines: tuple[Counted, ...]  # what learns
    dataset: Dataset
    collator: Collator | None  # None: each sample counts as one
    fingerprint: str  # of whatever token counts follow from
    collate: Callable[[Spares], MakeBatch]
    learns: Callable[[Sequence[torch.optim.Optimizer], bool], Sequence[Counted]]


@dataclass(frozen=True)
class Ended:
    """How a run ended, and where what learned was written."""

    outcome: Outcome
    lines: tuple[Counted, ...]
    final: Path | None


def open_run(config: RunConfig) -> Opened:
    """Model and data of a configuration. Raises what loading them raises."""
    data = config.data
    limits = Limits()
    dataset = open_dataset(data.paths, root=data.root, seed=config.seed, follow_links=data.follow_links, limits=limits)
    if config.alignment is not None:
        pairs, tokenizer = open_pairs(config)

        def collate_pairs(spares: Spares) -> MakeBatch:
            return Pairs(dataset, pairs.alignment.front, tokenizer, spares, limits, data.isolate)

        learns = partial(_learns, pairs, pairs.parts, PAIR_HOMES)
        return Opened(pairs, pairs.lines, dataset, None, dataset.fingerprint, collate_pairs, learns)
    model = open_language(config)
    how = Tokenizing.of(model.vlm, style=data.style, max_length=data.max_length or config.budget)
    sampling = Sampling(data.fps, data.num_frames)
    options: dict[str, Any] = {"sampling": sampling, "limits": limits, "isolate": data.isolate, "workers": data.workers}
    collator = Collator(dataset, how, Spares(len(dataset), config.seed), **options)

    def collate(spares: Spares) -> MakeBatch:
        made = Collator(dataset, how, spares, **options)
        return lambda ids, step: made(ids)

    learns = partial(_learns, model, model.parts, LANGUAGE_HOMES)
    said = (dataset.fingerprint, how.scheme, how.after, how.style, how.max_length, sampling, _words(how.tokenizer))
    return Opened(model, model.lines, dataset, collator, sha256(repr(said).encode()).hexdigest(), collate, learns)


def _words(tokenizer: Any) -> str:
    """What decides how a text becomes tokens."""
    rules = tokenizer.backend_tokenizer.to_str() if hasattr(tokenizer, "backend_tokenizer") else ""
    return sha256(f"{rules}{tokenizer.chat_template}".encode()).hexdigest()


def _learns(
    model: Any, parts: Any, homes: Any, optimizers: Sequence[torch.optim.Optimizer], stepped: bool
) -> Sequence[Counted]:
    return check_optimizer(model, optimizers, parts, homes, stepped=stepped, unused=getattr(model, "unused", ()))


Drive = Callable[[RunConfig, Group, Opened, Batches, MakeBatch], Outcome]
"""A loop: `driven`, or transformers' Trainer."""


def driven(config: RunConfig, group: Group, opened: Opened, batches: Batches, make: MakeBatch) -> Outcome:
    """By the loop of tubelet.train.loop."""
    flop = work_of(opened.model)
    return train(config, group, opened.model, batches, make, flop_of=flop, learns=opened.learns)


def run(
    config: RunConfig, *, say: Callable[[str], None] = lambda text: None, drive: Drive = driven, naming: Naming = STEPS
) -> Ended:
    """Train as the configuration says, on this rank. say: told by rank 0 what happens before the first step. drive: the
    loop, whose checkpoints are called as `naming` says.

    Raises what opening, `tubelet.train.loop.train` and exporting raise; DataError for too many bad samples.
    """
    with joined(config.strategy, device=config.device, timeout_s=config.timeout_s) as group:
        speak = say if group.rank == 0 else (lambda text: None)
        opened = open_run(config)
        tokens = counted(config, opened, group, speak)
        batches = Batches(
            planned(tokens),
            config.budget,
            seed=config.seed,
            world=group.world,
            accumulation=config.accumulation,
            cost=config.cost,
        )
        make = _tallied(config, opened, tokens)
        outcome = drive(config, group, opened, batches, make)
    # The processes have parted: rank 0 opens the checkpoint by itself, however many wrote it.
    final = None
    if outcome.stopped_by is None and config.export != "none" and group.rank == 0:
        if has_weights(config, naming):
            final = export(config, config.folder / "final", naming)
        else:
            say("final was not written: the checkpoint holds DeepSpeed's shards, which its zero_to_fp32.py joins")
    return Ended(outcome, opened.lines, final)


def counted(config: RunConfig, opened: Opened, group: Group, say: Callable[[str], None]) -> Int64[np.ndarray, " n"]:
    """(N,) tokens of every sample, -1 for bad ones, on every rank: from the run's folder, or counted by all ranks
    together and kept there. A collective. Raises DataError for too many bad samples."""
    count, collator = len(opened.dataset), opened.collator
    if collator is None:
        return np.ones(count, np.int64)
    if group.rank:  # rank 0 says whether there is anything to count; then comes one sum, of shares or of what it has
        share = _share(collator, group)[0] if group.from_first(0) else np.zeros(count, np.int64)
        return np.asarray(group.sum(share.tolist()), np.int64)
    found: list[BadSample] = []
    counting: list[int] = []

    def all_ranks() -> Int64[np.ndarray, " n"]:
        say(f"counting the tokens of {count:,} samples, once for this data and model")
        counting.append(group.from_first(1))
        made, bad = _share(collator, group)
        found.extend(bad)
        return np.asarray(group.sum(made.tolist()), np.int64)

    config.folder.mkdir(parents=True, exist_ok=True)
    tokens = cached_tokens(config.folder / COUNTS, opened.fingerprint, all_ranks)
    if not counting:
        group.from_first(0)
        group.sum(tokens.tolist())
    _list_bad(config.folder, found)
    return tokens


def _share(collator: Collator, group: Group) -> tuple[Int64[np.ndarray, " n"], tuple[BadSample, ...]]:
    """Tokens of this rank's share of the samples, 0 for those of others."""
    own = range(group.rank, len(collator.dataset), group.world)
    costs = measure(collator, own, workers=collator.workers)
    tokens = np.zeros(len(collator.dataset), np.int64)
    tokens[own] = costs.tokens
    return tokens, costs.bad


def _tallied(config: RunConfig, opened: Opened, tokens: Int64[np.ndarray, " n"]) -> MakeBatch:
    """Batches whose bad samples are counted and listed. Raises DataError where they are too many."""
    count = len(opened.dataset)
    tally = Tally(count, config.data.most_bad)
    counts = None if opened.collator is None else tokens
    made = opened.collate(Spares(count, config.seed, counts))
    lock = threading.Lock()

    def make(ids: tuple[int, ...], step: int) -> Any:
        batch = made(ids, step)
        if batch.bad:
            with lock:
                _list_bad(config.folder, [one for one in batch.bad if one.index not in tally.bad])
                tally.add(batch.bad)
        return batch

    tally.add(
        BadSample(int(i), opened.dataset.name, "BadSample", "found when counted") for i in np.flatnonzero(tokens < 0)
    )
    return make


def _list_bad(folder: Path, bad: Sequence[BadSample]) -> None:
    """A line of bad.jsonl for each; ranks append to the same file."""
    if bad:
        text = "".join(json.dumps(one.__dict__) + "\n" for one in bad)
        with write_errors(f"{BAD}: the list of bad samples"), (folder / BAD).open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
