"""The loop: steps, and nothing else. What a step needs comes in as values and is computed again after a restart.

    with joined(config.strategy) as group:
        batches = Batches(tokens, config.budget, seed=config.seed, world=group.world, accumulation=config.accumulation)
        outcome = train(config, group, model, batches, make_batch)
    sys.exit(outcome.exit_code)

One step: every rank runs its micro-batches, each with its own seed; gradients meet; one sum over ranks tells loss, how
much was counted, what was not finite and who asked to stop; then all take the optimizer step, or none does.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tubelet.encoder.cpu import has_arithmetic
from tubelet.encoder.model import Encoder
from tubelet.errors import CheckpointError, RunError
from tubelet.train.checkpoint import Checkpoints
from tubelet.train.config import TrainConfig
from tubelet.train.optimizer import Ema, build_optimizers, factor, set_rates
from tubelet.train.order import Batches, MicroBatch, seed_of
from tubelet.train.report import Figures, Report
from tubelet.train.resume import Progress, Trained, begin, frozen_digest, state_of
from tubelet.train.signals import EXIT_CODES, SIGNALS, StopSignals, asked
from tubelet.train.skips import judge_step
from tubelet.train.strategy import Group, accumulating, host, unwrapped, wrapped

MakeBatch = Callable[[tuple[int, ...], int], Any]
Learns = Callable[[Sequence[torch.optim.Optimizer], bool], Sequence[object]]


class Loss(NamedTuple):
    """What a model's forward gives to the loop."""

    total: Tensor  # scalar: the sum over all that is counted
    counted: Tensor | float  # how much that is: tokens with a label, pairs; gradients are divided by its sum over ranks
    shown: Mapping[str, Tensor | float] = {}  # scalars to tell; of rank 0, means over its micro-batches


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int  # steps behind it
    exit_code: int  # 0: done, or asked to pause (SIGUSR1); 143: SIGTERM; 130: SIGINT
    stopped_by: str | None  # the signal's name
    loss: float | None  # of the last step


def train(
    config: TrainConfig,
    group: Group,
    model: nn.Module,  # forward(batch) -> Loss, or a scalar that is a mean over the micro-batch
    batches: Batches,
    make_batch: MakeBatch,  # (sample numbers, step) -> batch; a pure function of them
    *,
    flop_of: Callable[[Any], float] | None = None,  # training FLOPs of a batch, for MFU
    learns: Learns | None = None,  # (optimizers, whether they have stepped) -> lines to tell, or an error
) -> Outcome:
    """Train until config.steps, a signal, or an error; resume from the folder's newest whole checkpoint.

    A resumed run ends bit-equal to one that was never stopped, for the same world size, kernels and thread count.
    make_batch must draw nothing from global generators: it may run ahead, in another thread. Batches with `.to` are
    moved to the group's device. Must be called in the main thread, because it handles signals.
    Raises RunError for a strategy or option that cannot be had and after too many non-finite steps; CheckpointError
    where a checkpoint cannot be written or does not fit; what make_batch and the model raise, after a save where this
    process can make one alone.
    """
    if (batches.world, batches.accumulation) != (group.world, config.accumulation):
        raise RunError(
            f"the order is for {batches.world} ranks x {batches.accumulation} micro-batches, "
            f"the run has {group.world} x {config.accumulation}"
        )
    if not config.steps:
        config = replace(config, steps=batches.steps(config.epochs or 1))
    if config.gradient_checkpointing:
        recompute(model)
    with ExitStack() as stack:
        stack.enter_context(_deterministic(config.deterministic))
        keeping = Checkpoints(config.folder, group, keep=config.save.keep, keep_every=config.save.keep_every)
        checkpoints = stack.enter_context(keeping)
        frozen = frozen_digest(model)
        covered = wrapped(model.train(), group)
        inner = unwrapped(covered)
        optimizers = build_optimizers(inner, config.optimizer)
        trained = Trained(inner, optimizers, None if config.ema is None else Ema(inner, config.ema))
        progress, message = begin(config, group, checkpoints, trained, batches, frozen)
        report = Report(config.folder, config.report, speaks=group.rank == 0, start=progress.step, steps=config.steps)
        stack.callback(report.close)
        report.event("start", message, {"step": progress.step, "world": group.world, "strategy": group.strategy})
        for line in learns(optimizers, False) if learns is not None else ():
            report.event("learns", f"learns {line}", {})
        if config.precision == "bf16" and group.device.type == "cpu" and not has_arithmetic(torch.bfloat16):
            report.event("slow", "this CPU has no bfloat16 products: fp32 is much faster here", {})
        stack.enter_context(_expected(inner, config, lambda text: report.event("compiles", text, {})))
        made = _Made(batches, group.rank, make_batch, config.prefetch)
        stack.callback(made.close)
        signals = stack.enter_context(StopSignals())
        told = (checkpoints, report, progress, signals)
        run = _Run(config, group, covered, trained, batches, made, flop_of, learns, frozen, *told)
        return run.all()


@dataclass
class _Run:
    config: TrainConfig
    group: Group
    model: nn.Module  # as the strategy runs it
    trained: Trained
    batches: Batches
    made: "_Made"
    flop_of: Callable[[Any], float] | None
    learns: Learns | None
    frozen: str
    checkpoints: Checkpoints
    report: Report
    progress: Progress
    signals: StopSignals
    checked: bool = False  # whether what learns was found to move
    saved: int = 0  # the step of the newest checkpoint
    between: bool = True  # no step is half done: weights and optimizers belong together
    loss: float | None = None

    def all(self) -> Outcome:
        """Every step that is left."""
        self.saved, save, last = self.progress.step, self.config.save, time.monotonic()
        stop = None
        try:
            self._settle()
            while self.progress.step < self.config.steps and stop is None:
                late = save.every_s is not None and time.monotonic() - last >= save.every_s
                stop, late = self._step(late)
                self._check_first()
                due = save.every_steps is not None and self.progress.step % save.every_steps == 0
                end = stop is not None or self.progress.step == self.config.steps
                if end or due or late:
                    self._save(end)
                    last = time.monotonic()
        except CheckpointError:
            raise
        except Exception:
            # One process can save alone. Of several, the others wait in a collective that this one has left.
            if self.group.world == 1 and self.between:
                self._save(True)
            raise
        if stop is not None:
            message = f"{stop.name}: stopped after step {self.progress.step:,}"
            self.report.event("stop", message, {"step": self.progress.step, "signal": stop.name})
        if self.checked and self.learns is not None:
            for line in self.learns(self.trained.optimizers, True):
                self.report.event("learned", f"learned {line}", {})
        code = 0 if stop is None else EXIT_CODES[stop]
        return Outcome(self.progress.step, code, None if stop is None else stop.name, self.loss)

    def _check_first(self) -> None:
        """After the first step that counted: what was to learn has moved, which is no later than an error is cheap."""
        if self.learns is not None and not self.checked and not self.progress.skipped_in_a_row:
            self.learns(self.trained.optimizers, True)
            self.checked = True

    def _step(self, late: bool) -> tuple[signal.Signals | None, bool]:
        """One step. late: rank 0's clock asks for a save. Gives the signal that asks to stop, and rank 0's `late`."""
        begun, step = time.monotonic(), self.progress.step
        values, flags, shown, flop = self._gradients(step)
        first = self.group.rank == 0
        summed = self.group.sum([*values, flop, float(late and first), *self.signals.seen, *flags])
        (loss_sum, count, flop, late_sum), rest = summed[:4], summed[4:]
        stop, flags = asked(rest[: len(SIGNALS)]), rest[len(SIGNALS) :]
        self.loss = loss_sum / count if count else math.nan
        grads = [p.grad for p in self.trained.model.parameters() if p.grad is not None]
        for grad in grads:  # the strategies give means over ranks of sums over tokens
            grad.mul_(self.group.world / count if count else 0.0)
        norm = get_total_norm(grads)
        length, rate = host(norm), factor(self.config.schedule, step, self.config.steps)
        good = count > 0 and not any(flags) and math.isfinite(self.loss) and math.isfinite(length)
        if good:
            self._update(norm, rate)
        for optimizer in self.trained.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        ids = [i for rank in self.batches.at(step) for micro in rank for i in micro.ids]
        tokens = int(self.batches.tokens[ids].sum())
        known = flop if self.flop_of is not None else None
        figures = Figures(step, self.loss, count, tokens, length, rate, time.monotonic() - begun, known, shown)
        groups = [g for optimizer in self.trained.optimizers for g in optimizer.param_groups]
        self.report.step(figures, {g["name"]: g["lr"] for g in groups})
        judge_step(self.progress, good, figures, flags, self.batches, self.report, self.config.nonfinite_in_a_row)
        return stop, late_sum > 0

    def _gradients(self, step: int) -> tuple[list[float], list[float], dict[str, float], float]:
        """Forward and backward of this rank's micro-batches.

        Gives loss and count summed over them, a flag for each micro-batch of the step that is not finite here, what
        the model shows, and FLOPs.
        """
        micros = self.batches.at(step)[self.group.rank]
        losses: list[Loss] = []
        flop = 0.0
        for k, batch in enumerate(self.made.at(step)):
            losses.append(self._run(batch, seed_of(self.config.seed, step, micros[k].number), k == len(micros) - 1))
            flop += 0.0 if self.flop_of is None else self.flop_of(batch)
        pairs = [torch.stack([loss.total.detach().double(), _scalar(loss.counted, loss.total)]) for loss in losses]
        numbers = torch.stack(pairs).tolist()  # the one sync of these micro-batches
        flags = [0.0] * self.batches.per_step
        for micro, (total, count) in zip(micros, numbers, strict=True):
            flags[micro.number] = float(not (math.isfinite(total) and math.isfinite(count)))
        names = losses[0].shown if self.group.rank == 0 else ()
        shown = {name: sum(float(loss.shown[name]) for loss in losses) / len(losses) for name in names}
        return [sum(total for total, _ in numbers), sum(count for _, count in numbers)], flags, shown, flop

    def _run(self, batch: Any, seed: int, last: bool) -> Loss:
        device = self.group.device
        batch = batch.to(device) if hasattr(batch, "to") else batch
        torch.manual_seed(seed)
        half = self.config.precision == "bf16"
        with accumulating(self.model, last):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                out = self.model(batch)
            loss = out if isinstance(out, Loss) else Loss(out, 1.0)
            loss.total.backward()
        return loss

    def _update(self, norm: Tensor, rate: float) -> None:
        clip = self.config.optimizer.clip
        if clip is not None:
            clip_grads_with_norm_(list(self.trained.model.parameters()), clip, norm)
        set_rates(self.trained.optimizers, rate)
        self.between = False
        for optimizer in self.trained.optimizers:
            optimizer.step()
        if self.trained.ema is not None:
            self.trained.ema.update(self.progress.step)
        self.between = True

    def _save(self, end: bool) -> None:
        step = self.progress.step
        if step == self.saved:
            return
        begun = time.monotonic()
        state = state_of(self.config, self.group, self.progress, self.batches, self.frozen)
        try:
            path = self.checkpoints.save(step, self.trained.parts(), state)
        except CheckpointError as e:
            if end or self.config.save.on_error == "stop":
                raise
            self.report.event("not_saved", f"step {step:,} was not saved: {e}", {"step": step})
            return
        self.saved = step
        seconds = round(time.monotonic() - begun, 3)
        self.report.event("saved", f"saved {path} in {seconds:.2f} s", {"step": step, "seconds": seconds})

    def _settle(self) -> None:
        """Bring DDP's buckets to the order that they keep.

        DDP orders them anew after its first backward, and from three ranks on the order of a sum over ranks depends on
        the place in a bucket. One backward that nobody uses, the same at every start, comes before any that counts.
        """
        if self.group.world > 2 and isinstance(self.model, DistributedDataParallel):
            self._run(self.made.at(0)[0], 0, True)
            for optimizer in self.trained.optimizers:
                optimizer.zero_grad(set_to_none=True)


class _Made:
    """Batches of one rank, made when they are asked for or, by threads, a step ahead."""

    def __init__(self, batches: Batches, rank: int, make_batch: MakeBatch, threads: int) -> None:
        self._batches, self._rank, self._make = batches, rank, make_batch
        self._pool = ThreadPoolExecutor(threads) if threads else None
        self._ahead: dict[int, list[Future[Any]]] = {}

    def at(self, step: int) -> list[Any]:
        """The rank's batches of a step, in order."""
        if self._pool is None:
            return [self._make(micro.ids, step) for micro in self._micros(step)]
        self._ahead = {s: self._ahead.get(s) or self._submitted(s) for s in (step, step + 1)}
        return [future.result() for future in self._ahead.pop(step)]

    def close(self) -> None:
        """End the threads; what they had begun is waited for."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _micros(self, step: int) -> tuple[MicroBatch, ...]:
        return self._batches.at(step)[self._rank]

    def _submitted(self, step: int) -> list[Future[Any]]:
        assert self._pool is not None
        return [self._pool.submit(self._make, micro.ids, step) for micro in self._micros(step)]


def _scalar(count: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(count, dtype=torch.float64, device=like.device).detach()


def recompute(model: nn.Module) -> None:
    """Switch gradient checkpointing on in every part that has it. Raises RunError where none has."""
    found = False
    for module in model.modules():
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable: Any = next((getattr(module, name) for name in names if hasattr(module, name)), None)
        if callable(enable) and getattr(module, "supports_gradient_checkpointing", True):
            enable({"use_reentrant": False})
            found = True
        elif isinstance(module, Encoder):
            module.set_run_options(replace(module.options, gradient_checkpointing=True))
            found = True
    if not found:
        raise RunError("asked for gradient checkpointing, and no part of the model has it")


@contextmanager
def _expected(model: nn.Module, config: TrainConfig, say: Callable[[str], None]) -> Iterator[None]:
    """Encoders that learn know how many rows are to come, at most; "auto" decides by them whether to compile layers.

    That is a number of the configuration, so a run that goes on after a stop decides as before. Deterministic runs are
    told nothing: a compiler may measure which kernel is faster.
    """
    rows = 0 if config.deterministic else config.steps * config.accumulation * config.budget
    learn = [m for m in model.modules() if isinstance(m, Encoder) and any(w.requires_grad for w in m.parameters())]
    before = [encoder.options for encoder in learn]
    for encoder, options in zip(learn, before, strict=True):
        encoder.set_run_options(replace(options, rows_ahead=rows, say=say))
    try:
        yield
    finally:
        for encoder, options in zip(learn, before, strict=True):
            encoder.set_run_options(options)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
