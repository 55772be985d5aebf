"""One run of `PackedTrainer` from the configuration of the loop: the same entries, with DeepSpeed's JSON beside them.

    outcome = train_with_trainer(config, model, batches, make_batch, deepspeed=Path("zero3.json"))
    sys.exit(outcome.exit_code)

started by torchrun, or by `deepspeed --hostfile hosts --module ...`.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tubelet.errors import ConfigError
from tubelet.integrations.trainer import Learns, PackedTrainer, Strategies
from tubelet.packed.header import read_small, strict_json
from tubelet.train.config import TrainConfig
from tubelet.train.launch import Drive, Opened
from tubelet.train.loop import MakeBatch, Outcome, recompute
from tubelet.train.order import Batches
from tubelet.train.run_config import RunConfig
from tubelet.train.signals import EXIT_CODES
from tubelet.train.strategy import Group
from tubelet.train.work import work_of

SIZES = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")


def train_with_trainer(
    config: TrainConfig,
    model: nn.Module,  # forward(batch) -> Loss
    batches: Batches,  # of as many ranks as there are processes
    make_batch: MakeBatch,
    *,
    deepspeed: Path | dict[str, Any] | None = None,  # DeepSpeed's JSON; None: one process or DDP, as `config` says
    parts: str | Sequence[str] = (),  # what learns, for the modes of what does not
    flop_of: Callable[[Any], float] | None = None,
    learns: Learns | None = None,  # (optimizers, whether they have stepped) -> lines to tell, or an error
) -> Outcome:
    """Train as `tubelet.train.loop.train` does, through transformers' Trainer.

    Processes find each other by themselves, or are a group already (`tubelet.train.strategy.joined`, of ddp). With
    `deepspeed` its ZeRO stage is the strategy, whatever the configuration says. Raises ConfigError for entries
    that Trainer cannot have (fsdp2, Muon, a mean of the weights, `init`), and what `PackedTrainer` raises.
    """
    zero = _read(deepspeed) if isinstance(deepspeed, Path) else deepspeed
    strategy = config.strategy if zero is None else f"zero{zero['zero_optimization']['stage']}"
    lacking = {
        "strategy fsdp2": strategy == "fsdp2",
        "optimizer.kind muon": config.optimizer.kind != "adamw",
        "ema": config.ema is not None,
        "init": config.init is not None,
        "save.on_error go_on": config.save.on_error != "stop",
    }
    if wrong := [name for name, there in lacking.items() if there]:
        raise ConfigError(f"{', '.join(wrong)}: the loop of tubelet has it, transformers' Trainer does not", got=wrong)
    if config.gradient_checkpointing:
        recompute(model)
    trainer = PackedTrainer(
        model,
        arguments_of(config, zero),
        batches,
        make_batch,
        strategy=cast(Strategies, strategy),
        parts=parts,
        optimizer=config.optimizer,
        schedule=config.schedule,
        nonfinite_in_a_row=config.nonfinite_in_a_row,
        save_every_s=config.save.every_s,
        keep_every=config.save.keep_every,
        flop_of=flop_of,
        learns=learns,
        report=config.report,
    )
    trainer.remove_callback(PrinterCallback)  # the report speaks
    try:
        trainer.train(None if config.resume == "never" else config.resume)
    finally:
        if zero is not None:
            unset_hf_deepspeed_config()  # else whatever transformers loads after this is cut up among ranks
    code = 0 if trainer.stopped_by is None else EXIT_CODES[signal.Signals[trainer.stopped_by]]
    return Outcome(trainer.state.global_step, code, trainer.stopped_by, trainer.loss)


def driven_by_trainer(deepspeed: Path | None) -> Drive:
    """transformers' Trainer in place of the loop, for `tubelet.train.launch.run`. Raises ConfigError for a wrong
    `deepspeed`, before a model is opened."""
    zero = None if deepspeed is None else _read(deepspeed)

    def drive(config: RunConfig, group: Group, opened: Opened, batches: Batches, make: MakeBatch) -> Outcome:
        settled = config if config.steps else replace(config, steps=batches.steps(config.epochs or 1))
        more: dict[str, Any] = {"flop_of": work_of(opened.model), "learns": opened.learns}  # modes are the model's own
        return train_with_trainer(settled, opened.model, batches, make, deepspeed=zero, **more)

    return drive


def arguments_of(config: TrainConfig, deepspeed: dict[str, Any] | None = None) -> TrainingArguments:
    """Trainer's arguments for what both know. The last step is always saved."""
    return TrainingArguments(
        output_dir=str(config.folder),
        max_steps=config.steps,
        per_device_train_batch_size=1,  # a pack
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.optimizer.lr,
        max_grad_norm=config.optimizer.clip or 0.0,
        use_cpu=(config.device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cpu",
        bf16=config.precision == "bf16",
        seed=config.seed % 2**32,
        save_steps=config.save.every_steps or config.steps,
        save_total_limit=config.save.keep,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=config.prefetch,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,  # a batch without pixels touches what it leaves out
        ddp_timeout=max(1, round(config.timeout_s)),
        full_determinism=config.deterministic,
        deepspeed=deepspeed,
    )


def _read(path: Path) -> dict[str, Any]:
    """DeepSpeed's settings. Sizes that Trainer would take from a transformers config, written "auto", are left to
    DeepSpeed's own defaults. Raises ConfigError for a file without a ZeRO stage of 1 to 3."""
    settings = strict_json(read_small(path, ConfigError), ConfigError, path.name)
    try:
        zero = settings["zero_optimization"]
        stage = zero["stage"]
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError("there is no zero_optimization.stage in this JSON file", source=path.name) from e
    if stage not in (1, 2, 3):
        raise ConfigError(f"zero_optimization.stage must be 1, 2 or 3, got {stage!r}", source=path.name, got=stage)
    return {**settings, "zero_optimization": {k: v for k, v in zero.items() if k not in SIZES or v != "auto"}}
