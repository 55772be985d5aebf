"""The loop: what a step does, what ends a run, and what it leaves."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.runs import finish, run_to_the_end, said, start
from tests.train.train_toy import Behaviour, Toy, digest, make_batch, run, tensors, token_counts, toy_config
from torch import Tensor, nn

import tubelet
from tubelet.errors import RunError
from tubelet.train.checkpoint import read_state
from tubelet.train.config import OptimizerConfig, SaveConfig, ScheduleConfig
from tubelet.train.loop import Loss, recompute, train
from tubelet.train.manifest import newest_whole
from tubelet.train.order import Batches
from tubelet.train.report import LOG, read_log
from tubelet.train.strategy import joined


def steps_told(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(folder / LOG) if line["kind"] == "step"]


def test_a_run_learns_and_tells(tmp_path: Path):
    config = toy_config(tmp_path, steps=60, save=SaveConfig(), optimizer=OptimizerConfig(lr=1e-2))
    outcome = run(config)
    assert (outcome.step, outcome.exit_code, outcome.stopped_by) == (60, 0, None)
    told = steps_told(tmp_path)
    assert [line["step"] for line in told] == list(range(60))
    assert sum(line["loss"] for line in told[-10:]) < 0.7 * sum(line["loss"] for line in told[:10])
    assert 0 <= told[-1]["right"] <= 1 and told[0]["tokens"] > told[0]["counted"] > 0
    assert told[0]["lr"] == {"adamw": 0.0025, "adamw_no_decay": 0.0025}


def test_the_gradient_is_that_of_all_tokens_of_a_step(tmp_path: Path):
    """Batches of unequal length weigh by their tokens, not one as much as another."""
    optimizer = OptimizerConfig(lr=0.1, clip=None, betas=(0.0, 0.0), eps=1e6)  # the step is lr x gradient / eps
    config = toy_config(tmp_path, steps=1, accumulation=3, optimizer=optimizer, schedule=ScheduleConfig("constant"))
    model, before = Toy().eval(), Toy().eval()
    model.train = lambda mode=True: model  # type: ignore[method-assign]  no dropout in this comparison
    run(config, model=model)
    told = steps_told(tmp_path)[0]
    order = Batches(token_counts(), config.budget, seed=config.seed, accumulation=3)
    losses = [before(make_batch(micro.ids, 0)) for micro in order.at(0)[0]]
    count = sum(float(loss.counted) for loss in losses)
    mean = sum((loss.total for loss in losses), torch.tensor(0.0)) / count
    mean.backward()
    assert told["loss"] == pytest.approx(float(mean.detach()), rel=1e-6) and told["counted"] == count
    for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
        if old.grad is not None:
            torch.testing.assert_close(new, old - 0.1 * old.grad / 1e6, rtol=1e-6, atol=1e-9, msg=name)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in before.parameters() if p.grad is not None))
    assert told["grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0)], ids=str
)
def test_a_signal_saves_at_the_border_of_a_step_and_the_rest_is_bit_equal(tmp_path: Path, number: int, code: int):
    config = toy_config(tmp_path / "run", steps=8, save=SaveConfig())
    sent: list[int] = []

    def sends(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        if step == 3 and not sent:
            sent.append(step)
            os.kill(os.getpid(), number)
        return make_batch(ids, step)

    outcome = run(config, sends)
    assert (outcome.step, outcome.exit_code, outcome.stopped_by) == (4, code, signal.Signals(number).name)
    assert newest_whole(config.folder).path == config.folder / "step-00000004"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(config)
    run(replace(config, folder=tmp_path / "unbroken"))
    assert digest(config.folder) == digest(tmp_path / "unbroken")


def test_a_second_interrupt_is_obeyed_at_once(tmp_path: Path):
    sent = list[int]()

    def sends(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        if step == 3 and not sent:
            for _ in range(2):
                sent.append(step)
                signal.raise_signal(signal.SIGINT)  # handled before it returns
        return make_batch(ids, step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what runs behind it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(toy_config(tmp_path, steps=8, save=SaveConfig()), sends)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(sent) == 2
    assert newest_whole(tmp_path).path is None


def test_a_signal_to_one_rank_stops_all(tmp_path: Path):
    config = toy_config(tmp_path / "run", steps=500, strategy="ddp", accumulation=1, save=SaveConfig())
    ranks = start(config, 2, Behaviour(slow_s=0.01))
    while len(steps_told(config.folder) if (config.folder / LOG).exists() else []) < 2:
        assert all(p.is_alive() for p in ranks), said(config)
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGTERM)
    assert finish(ranks) == [143, 143], said(config)
    path = newest_whole(config.folder).path
    assert path is not None and read_state(path)["step"] == steps_told(config.folder)[-1]["step"] + 1


class Poisoned(Toy):
    """Its loss, or its gradient alone, is not finite for some batches."""

    def __init__(self, bad: Callable[[dict[str, Tensor]], bool], gradient_alone: bool = False) -> None:
        super().__init__()
        self.bad, self.gradient_alone = bad, gradient_alone

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        loss = super().forward(batch)
        if not self.bad(batch):
            return loss
        if self.gradient_alone:  # sqrt at 0: the value is 0 and the gradient infinite
            return loss._replace(total=loss.total + (self.odd - self.odd).sqrt().sum())
        return loss._replace(total=loss.total * math.nan)


def poisoned_at(steps: set[int], micro: int = 0, gradient_alone: bool = False) -> tuple[Any, Poisoned]:
    """A make_batch that marks the given steps, and the model that minds the mark."""
    made: dict[int, int] = {}

    def make(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        made[step] = made.get(step, -1) + 1
        bad = step in steps and made[step] % 2 == micro
        return make_batch(ids, step) | {"bad": torch.tensor(bad)}

    return make, Poisoned(lambda batch: bool(batch["bad"]), gradient_alone)


@pytest.mark.parametrize("gradient_alone", [False, True])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_samples(tmp_path: Path, gradient_alone: bool):
    config = toy_config(tmp_path / "run", steps=3, save=SaveConfig(1, None))
    make, model = poisoned_at({2}, gradient_alone=gradient_alone)
    run(config, make, model)
    two, three = (config.folder / f"step-0000000{n}" for n in (2, 3))
    for part in ("model", "optimizer", "ema"):
        before, after = tensors(two, part), tensors(three, part)
        assert before and all(torch.equal(before[n], after[n]) for n in before)
    assert read_state(three)["skipped"] == read_state(three)["skipped_in_a_row"] == 1
    line = next(line for line in read_log(config.folder / LOG) if line["kind"] == "skipped")
    micros = Batches(token_counts(), 80, seed=11, accumulation=2).at(2)[0]
    guilty = micros if gradient_alone else micros[:1]
    assert line["samples"] == sorted(i for m in guilty for i in m.ids)
    assert "step 2 was skipped" in line["message"]


def test_three_in_a_row_stop_also_over_a_restart(tmp_path: Path):
    config = toy_config(tmp_path / "run", steps=12, save=SaveConfig(1, None))
    run(replace(config, steps=12), *poisoned_at({1, 2, 4, 6, 7, 9, 11}))
    assert read_state(config.folder / "step-00000012")["skipped"] == 7
    with pytest.raises(RunError, match="3 steps in a row were not finite") as e:
        run(replace(config, steps=20), *poisoned_at({12, 13}))
    assert e.value.limit == 3 and e.value.got
    assert newest_whole(config.folder).path == config.folder / "step-00000014"


def test_a_step_that_counts_nothing_is_skipped_and_told(tmp_path: Path):
    with pytest.raises(RunError, match="nothing was counted"):
        run(toy_config(tmp_path), lambda ids, step: {"tokens": torch.tensor([1]), "pixels": torch.zeros(0, 8)})


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_rank_that_is_not_finite_stops_the_step_of_all(tmp_path: Path, strategy: str):
    config = toy_config(tmp_path / "run", steps=3, strategy=strategy, accumulation=1, save=SaveConfig(1, None))
    run_to_the_end(config, 2, Behaviour(nan_step=2))
    two, three = (config.folder / f"step-0000000{n}" for n in (2, 3))
    for part in ("model", "optimizer", "ema"):
        before, after = tensors(two, part), tensors(three, part)
        assert before and all(torch.equal(before[n], after[n]) for n in before)
    line = next(line for line in read_log(config.folder / LOG) if line["kind"] == "skipped")
    (guilty,) = Batches(token_counts(), 80, seed=11, world=2).at(2)[1]
    assert line["samples"] == sorted(guilty.ids)


def test_saves_by_the_clock(tmp_path: Path):
    run(toy_config(tmp_path, steps=4, save=SaveConfig(None, 1e-9, keep=9)))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == [f"step-0000000{n}" for n in (1, 2, 3, 4)]


def test_an_error_saves_what_was_reached(tmp_path: Path):
    config = toy_config(tmp_path / "run", steps=8, save=SaveConfig())

    def breaks(ids: tuple[int, ...], step: int) -> dict[str, Tensor]:
        if step == 5:
            raise ZeroDivisionError("of the sample")
        return make_batch(ids, step)

    with pytest.raises(ZeroDivisionError):
        run(config, breaks)
    assert newest_whole(config.folder).path == config.folder / "step-00000005"
    run(config)
    run(replace(config, folder=tmp_path / "unbroken"))
    assert digest(config.folder) == digest(tmp_path / "unbroken")


def test_an_error_in_the_midst_of_an_update_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = toy_config(tmp_path, steps=4, optimizer=OptimizerConfig(), save=SaveConfig())

    def breaks(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("of the update")

    monkeypatch.setattr(torch.optim.AdamW, "step", breaks)
    with pytest.raises(ZeroDivisionError):
        run(config)
    assert newest_whole(tmp_path).path is None


def test_batches_made_ahead_are_the_same(tmp_path: Path):
    config = toy_config(tmp_path / "run", steps=6, save=SaveConfig())
    run(config)
    run(replace(config, folder=tmp_path / "ahead", prefetch=2))
    assert digest(config.folder) == digest(tmp_path / "ahead")


@pytest.mark.parametrize("where", ["restart", "straight"])
def test_bfloat16_keeps_weights_and_restarts(tmp_path: Path, where: str):
    config = toy_config(tmp_path / "run", steps=6, save=SaveConfig(), precision="bf16")
    run(config)
    broken = replace(config, folder=tmp_path / "broken")
    if where == "restart":
        run(replace(broken, steps=3, schedule=config.schedule))
    model = Toy()
    run(broken, model=model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    if where == "straight":
        assert digest(config.folder) == digest(broken.folder)


def test_the_mean_of_the_weights(tmp_path: Path):
    config = toy_config(tmp_path, steps=3, save=SaveConfig(1, None, keep=3), ema=0.9)
    run(config)
    mean = {n: p.detach() for n, p in Toy().named_parameters() if p.requires_grad}
    for step in range(3):
        path = tmp_path / f"step-{step + 1:08d}"
        now = {n: torch.zeros_like(p) for n, p in mean.items()}
        from tubelet.train.checkpoint import read_part

        read_part(path / "model", now)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = {n: decay * mean[n] + (1 - decay) * now[n] for n in mean}
    for name, value in tensors(tmp_path, "ema").items():
        torch.testing.assert_close(value, mean[name], rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_is_had_or_refused(tmp_path: Path):
    encoder = tubelet.untrained("llava_vit_packing_small")
    recompute(nn.Sequential(encoder))
    assert encoder.options.gradient_checkpointing
    with pytest.raises(RunError, match="no part of the model has it"):
        run(toy_config(tmp_path, gradient_checkpointing=True))


def test_the_order_must_be_of_this_run(tmp_path: Path):
    config = toy_config(tmp_path)
    with joined("one", device="cpu") as group, pytest.raises(RunError, match="order is for 2 ranks x 2"):
        train(config, group, Toy(), Batches([4] * 9, 80, world=2, accumulation=2), make_batch)


def test_a_scalar_is_a_mean(tmp_path: Path):
    class Mean(Toy):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
            loss = super().forward(batch)
            return loss.total / loss.counted

    outcome = run(toy_config(tmp_path, steps=2), model=Mean())
    assert outcome.loss is not None and 0 < outcome.loss < 30


def test_flops_become_mfu(tmp_path: Path):
    config = toy_config(tmp_path, steps=2)
    config = replace(config, report=replace(config.report, peak_flop_per_s=1e9))
    with joined("one", device="cpu") as group:
        batches = Batches(token_counts(), config.budget, seed=config.seed, accumulation=2)
        train(config, group, Toy(), batches, make_batch, flop_of=lambda batch: 500.0)
    told = steps_told(tmp_path)[0]
    assert told["mfu"] == pytest.approx(1000.0 / told["seconds"] / 1e9, rel=1e-3)


def test_state_is_said_in_full(tmp_path: Path):
    config = toy_config(tmp_path, steps=2)
    run(config)
    state = json.loads((tmp_path / "step-00000002" / "state.json").read_text())
    assert state["config"]["optimizer"]["kind"] == "muon" and state["world"] == 1 and state["step"] == 2
    assert state["machine"]["torch"] == torch.__version__
    run_to_the_end(replace(config, folder=tmp_path / "child"))
    assert digest(tmp_path / "child") == digest(tmp_path)
