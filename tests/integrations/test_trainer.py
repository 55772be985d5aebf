"""PackedTrainer: killed at any moment it ends bit-equal, it comes to what the loop comes to, and nothing is silent."""

import inspect
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.integrations.trainer_drivers import DRIVERS, batches_of, end_of, packed
from tests.train.runs import finish, kill, killed_on_the_way, run_to_the_end, said, start
from tests.train.train_toy import Behaviour, Toy, make_batch, toy_config
from torch import Tensor, nn
from transformers import Trainer

from tubelet.errors import CheckpointError, ConfigError, RunError
from tubelet.integrations.trainer import PackedTrainer
from tubelet.integrations.trainer_run import arguments_of, driven_by_trainer, train_with_trainer
from tubelet.train.config import OptimizerConfig, SaveConfig, TrainConfig
from tubelet.train.manifest import CHECKPOINTS, newest_whole, verify
from tubelet.train.report import LOG, read_log
from tubelet.train.strategy import joined

STEPS = 14
# The n-th opening, renaming or removing from a run's first save: 22 in a save, 5 more where an old one goes.
INSIDE = (4, 20, 41, 52, 68)  # Trainer's files, the rename, the manifest, our digests, what is old
PACKED = Behaviour(driver="packed")


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    given = {"steps": STEPS, "ema": None, "optimizer": OptimizerConfig(lr=2e-3, eps=1e-6)} | changes
    return toy_config(folder, **given)


def steps_told(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(folder / LOG) if line["kind"] == "step"]


# ---- kills


def survives(folder: Path, driver: str, moments: Sequence[int]) -> None:
    """The body for every driver: SIGKILL at the n-th thing a save does to a file, the same command again each time; the
    end has the digest of a run that nobody killed."""
    behaviour = Behaviour(driver=driver)
    unbroken, config = config_of(folder / "unbroken"), config_of(folder / "run")
    folder.mkdir(exist_ok=True)
    run_to_the_end(unbroken, 1, behaviour)
    for n in moments:
        assert finish(start(config, 1, behaviour._replace(die_at=n))) == [-signal.SIGKILL], (n, said(config))
    run_to_the_end(config, 1, behaviour)
    assert end_of(config.folder) == end_of(unbroken.folder)


def test_five_kills_inside_saves(tmp_path: Path):
    survives(tmp_path, "packed", INSIDE)


@pytest.mark.slow
def test_five_kills_at_random_moments(tmp_path: Path):
    unbroken, again = config_of(tmp_path / "unbroken"), config_of(tmp_path / "again")
    run_to_the_end(unbroken, 1, PACKED)
    killed_on_the_way(again, 1, 5, seed=2, behaviour=PACKED)
    assert end_of(again.folder) == end_of(unbroken.folder)


def test_that_body_notices_a_torn_checkpoint_of_trainer(tmp_path: Path):
    """A kill before trainer_state.json; its next start takes the folder with the highest number."""
    survives(tmp_path / "whole", "plain", [])
    with pytest.raises(AssertionError):
        survives(tmp_path, "plain", [2])
    assert "trainer_state.json" in said(config_of(tmp_path / "run"))


def test_that_body_notices_another_order_of_samples(tmp_path: Path):
    """accelerate as it comes: its restart ends, and elsewhere."""
    survives(tmp_path / "whole", "accelerate", [])
    with pytest.raises(AssertionError):
        survives(tmp_path, "accelerate", [7])
    assert end_of(tmp_path / "run") != end_of(tmp_path / "unbroken")


def test_two_ranks(tmp_path: Path):
    """DDP by gloo: a kill of both, inside a save of rank 0's; the end is that of one process up to rounding."""
    unbroken = config_of(tmp_path / "unbroken", steps=6, strategy="ddp", accumulation=1)
    run_to_the_end(unbroken, 2, PACKED)
    config = replace(unbroken, folder=tmp_path / "run")
    ranks = start(config, 2, PACKED._replace(die_at=30))
    ranks[0].join(120)
    assert ranks[0].exitcode == -signal.SIGKILL, said(config)
    kill(ranks)
    run_to_the_end(config, 2, PACKED)
    assert end_of(config.folder) == end_of(unbroken.folder)
    one = config_of(tmp_path / "one", steps=6)
    packed(one, make_batch, Toy())
    for ours, theirs in zip(steps_told(one.folder), steps_told(unbroken.folder), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)


# ---- the same as the loop


@pytest.mark.parametrize("driver", ["packed"])
def test_both_drivers_come_to_the_same(tmp_path: Path, driver: str):
    told = {}
    for name in ("loop", driver):
        config = config_of(tmp_path / name, steps=30, save=SaveConfig(None, None))
        outcome = DRIVERS[name](config, make_batch, Toy())
        assert (outcome.step, outcome.exit_code) == (30, 0)
        told[name] = steps_told(config.folder)
    for one, other in zip(told["loop"], told[driver], strict=True):
        assert other.keys() == one.keys()
        for key in ("step", "counted", "tokens", "rate", "lr"):
            assert one[key] == other[key]
        for key in ("loss", "grad_norm", "right"):
            assert other[key] == pytest.approx(one[key], rel=1e-6), (one["step"], key)


# ---- what stops it, and what it refuses


def test_a_signal_saves_at_the_border_of_a_step(tmp_path: Path):
    config = config_of(tmp_path, steps=8, save=SaveConfig(None, None))

    def sends(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        if step == 3 and not steps_told(tmp_path)[3:]:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_batch(ids, step)

    outcome = packed(config, sends, Toy())
    assert (outcome.step, outcome.exit_code, outcome.stopped_by) == (4, 143, "SIGTERM")
    assert newest_whole(tmp_path, CHECKPOINTS).path == tmp_path / "checkpoint-4"
    assert packed(config, make_batch, Toy()).step == 8
    told = [line["message"] for line in read_log(tmp_path / LOG) if line["kind"] == "start"]
    assert told == [f"starts at step 0 in {tmp_path}", f"goes on from step 4 of {tmp_path / 'checkpoint-4'}"]


def test_a_step_that_is_not_finite_is_skipped_and_named_and_three_stop(tmp_path: Path):
    poisoned = {3, 6, 7, 8}

    def bad(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        batch = make_batch(ids, step)
        return batch | {"pixels": batch["pixels"] * (math.nan if step in poisoned else 1.0)}

    config, model = config_of(tmp_path, steps=12, accumulation=1, save=SaveConfig(1, None, keep=20)), Toy()
    with pytest.raises(RunError, match="3 steps in a row were not finite"):
        packed(config, bad, model)
    skipped = [line for line in read_log(tmp_path / LOG) if line["kind"] == "skipped"]
    assert [line["step"] for line in skipped] == [3, 6, 7, 8]
    order = batches_of(config)
    assert skipped[0]["samples"] == sorted(order.at(3)[0][0].ids)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    before, after = (load_file(tmp_path / f"checkpoint-{n}" / "model.safetensors") for n in (3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_checkpoints_that_are_not_whole_or_not_of_this_run(tmp_path: Path):
    config = config_of(tmp_path, steps=6)
    packed(config, make_batch, Toy())
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert verify(tmp_path / "checkpoint-6")["step"] == 6
    with pytest.raises(RunError, match="resume='auto' goes on from them"):
        packed(replace(config, resume="never"), make_batch, Toy())
    with pytest.raises(CheckpointError, match="belongs to another run: another frozen"):
        packed(replace(config, steps=8), make_batch, Toy(seed=1))
    (tmp_path / "checkpoint-6" / "optimizer.pt").write_bytes(b"torn")
    assert packed(replace(config, steps=8), make_batch, Toy()).step == 8
    start_line = [line["message"] for line in read_log(tmp_path / LOG) if line["kind"] == "start"][-1]
    assert start_line.startswith("checkpoint-6 is not whole and was left out: optimizer.pt is not what was written")
    assert f"goes on from step 4 of {tmp_path / 'checkpoint-4'}" in start_line


def test_the_strategy_is_the_one_asked_for_or_an_error(tmp_path: Path):
    config = config_of(tmp_path, steps=2)
    with pytest.raises(RunError, match="asked for ddp, got one"):
        packed(replace(config, strategy="ddp"), make_batch, Toy())
    other = {"strategy fsdp2": {"strategy": "fsdp2"}, "optimizer.kind muon": {"optimizer": OptimizerConfig("muon")}}
    for name, changes in (other | {"ema": {"ema": 0.9}}).items():
        with pytest.raises(ConfigError, match=name):
            packed(replace(config, **changes), make_batch, Toy())


def test_arguments_that_would_be_left_out_are_refused(tmp_path: Path):
    config = config_of(tmp_path, steps=2)
    for name, value, told in (
        ("max_steps", -1, f"max_steps must be given; 3 epochs are {batches_of(config).steps(3)} steps"),
        ("gradient_accumulation_steps", 3, "the run has 1 x 3"),
        ("load_best_model_at_end", True, "load_best_model_at_end cannot be had"),
        ("push_to_hub", True, "push_to_hub cannot be had"),
    ):
        args = arguments_of(config)
        setattr(args, name, value)
        with pytest.raises(ConfigError, match=told):
            PackedTrainer(Toy(), args, batches_of(config), make_batch)


def test_what_trainer_is_asked_for_by_its_private_names():
    """The one private name that is overridden. A version of transformers without it saves as it likes."""
    told = f"transformers {transformers.__version__} has another Trainer._save_checkpoint: read it again"
    assert list(inspect.signature(Trainer._save_checkpoint).parameters) == ["self", "model", "trial"], told
    assert "_save_checkpoint(" in inspect.getsource(Trainer._maybe_log_save_evaluate), told


def test_what_learns_is_told_and_checked(tmp_path: Path):
    seen: list[tuple[int, bool]] = []

    def learns(optimizers: Sequence[torch.optim.Optimizer], stepped: bool) -> list[str]:
        seen.append((sum(len(g["params"]) for g in optimizers[0].param_groups), stepped))
        return ["projector: 4 tensors"]

    config, model = config_of(tmp_path, steps=2, save=SaveConfig(None, None)), Toy()
    train_with_trainer(config, model, batches_of(config), make_batch, learns=learns)
    trained = sum(p.requires_grad for p in model.parameters())
    assert seen == [(trained, False), (trained, True)]
    told = [line["message"] for line in read_log(tmp_path / LOG) if line["kind"] in ("learns", "learned")]
    assert told == ["learns projector: 4 tensors", "learned projector: 4 tensors"]


def test_the_device_is_the_one_the_loop_takes(tmp_path: Path):
    """Without one asked for: on a machine without a GPU DeepSpeed counts one process where Trainer is not told so."""
    for device in (None, "cpu"):
        args = arguments_of(config_of(tmp_path, device=device))
        with joined("one", device=device) as group:
            assert args.use_cpu == (group.device.type == "cpu")


def test_zero_needs_a_stage(tmp_path: Path):
    file = tmp_path / "zero.json"
    for text, told in (("{}", "no zero_optimization.stage"), ('{"zero_optimization": {"stage": 7}}', "1, 2 or 3")):
        file.write_text(text)
        config = config_of(tmp_path / "run")
        with pytest.raises(ConfigError, match=told):
            train_with_trainer(config, Toy(), batches_of(config), make_batch, deepspeed=file)
        with pytest.raises(ConfigError, match=told):
            driven_by_trainer(file)  # before a model is opened


def test_frozen_modules_stand_still_and_an_epoch_ends_where_the_order_says(tmp_path: Path):
    """LLaVA's trainer puts its tower in train mode at each step; with `parts` it keeps the mode it has."""

    class Watched(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Dropout(0.5)
            self.modes: list[tuple[bool, bool]] = []

        def forward(self, batch: dict[str, Tensor]) -> Any:
            self.modes.append((self.encoder.training, self.projector.training))
            return super().forward(batch)

    config, model, seen = config_of(tmp_path, steps=36, accumulation=1, save=SaveConfig(None, None)), Watched(), []

    def watches(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        seen.append(ids)
        return make_batch(ids, step)

    order = batches_of(config)
    train_with_trainer(config, model, order, watches, parts="projector")
    assert set(model.modes) == {(False, True)}
    assert order.steps(1) < 36 and seen == [order.at(step)[0][0].ids for step in range(36)]
