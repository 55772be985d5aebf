"""transformers' Trainer over the parts of `tubelet.train`: DeepSpeed, DDP, and a run that no kill can spoil.

    args = TrainingArguments("run", max_steps=4750, deepspeed="zero3.json")
    trainer = PackedTrainer(model, args, batches, make_batch, strategy="zero3")
    trainer.train()                    # goes on from the newest whole checkpoint of the folder

What differs from Trainer: samples come from `Batches` by step, rank and micro-batch; a micro-batch draws from its own
seed; a step is divided by what is counted in it over all ranks; a step that is not finite is skipped and named;
checkpoints are written aside and renamed, with a manifest that is verified before one is read; SIGTERM, SIGINT and
SIGUSR1 end the run at the border of a step, after a save.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput

from tubelet import __version__
from tubelet.errors import CheckpointError, RunError
from tubelet.integrations.trainer_batches import Micros, Numbers, check_arguments, moved, only, without_frozen
from tubelet.packed.file import replace_tensors
from tubelet.train.checkpoint import Checkpoints
from tubelet.train.config import OptimizerConfig, ReportConfig, ScheduleConfig
from tubelet.train.loop import Loss, MakeBatch
from tubelet.train.manifest import CHECKPOINTS, MANIFEST, folders
from tubelet.train.optimizer import build_optimizers, factor
from tubelet.train.order import Batches, seed_of
from tubelet.train.parts import set_modes
from tubelet.train.report import Figures, Report
from tubelet.train.resume import Progress, Trained, frozen_digest
from tubelet.train.signals import SIGNALS, StopSignals, asked
from tubelet.train.skips import judge_step
from tubelet.train.strategy import Group, host

KEEP_ALL = 2**31
Learns = Callable[[Sequence[torch.optim.Optimizer], bool], Sequence[object]]
SILENT = ReportConfig(bar=False)
Strategies = Literal["one", "ddp", "zero1", "zero2", "zero3"]


class PackedTrainer(Trainer):
    """A Trainer whose `train()` ends bit-equal however often it was killed (same world size, kernels and threads; DDP
    of one or two ranks, because DDP orders its buckets anew after the first backward).

    Checkpoints hold what learns; frozen weights stay in the checkpoint that they came from. DeepSpeed writes its own
    files beside. Under DeepSpeed with accumulation a step is the mean over its micro-batches' means, because DeepSpeed
    takes their gradients in one by one. Raises ConfigError for arguments that contradict this, RunError when another
    strategy runs than the one asked for and after too many steps that were not finite, CheckpointError for a
    checkpoint that is not whole, not of this run, or cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,  # forward(batch) -> Loss, or a scalar that is a mean over the micro-batch
        args: TrainingArguments,  # max_steps must be given; `batches.steps(epochs)` says how many epochs take
        batches: Batches,
        make_batch: MakeBatch,  # (sample numbers, step) -> batch; a pure function of them
        *,
        strategy: Strategies = "one",
        parts: str
        | Sequence[str] = (),  # what learns, for the modes of what does not; () leaves them all in train mode
        optimizer: OptimizerConfig | None = None,  # None: what `args` says
        schedule: ScheduleConfig | None = None,  # None: what `args` says
        nonfinite_in_a_row: int = 3,  # so many skipped steps one after the other end the run
        learns: Learns | None = None,  # (optimizers, whether they have stepped) -> lines to tell, or an error
        save_every_s: float | None = None,  # also by rank 0's clock; None: as `args` says alone
        keep_every: int | None = None,  # checkpoints at multiples of so many steps stay, beside save_total_limit
        flop_of: Callable[[Any], float] | None = None,  # training FLOPs of a batch, for MFU
        report: ReportConfig = SILENT,  # log.jsonl and a curve; with `bar` a bar beside Trainer's own
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check_arguments(args, batches)
        super().__init__(model=model, args=args, callbacks=callbacks)
        self.network, self.folder = model, Path(args.output_dir or ".")
        self.batches, self.make_batch, self.strategy, self.parts = batches, make_batch, strategy, parts
        self.optimizer_config, self.schedule = optimizer, schedule
        self.nonfinite_in_a_row, self.flop_of, self.report_config = nonfinite_in_a_row, flop_of, report
        self.save_every_s, self.keep_every, self.learns, self.loss = save_every_s, keep_every, learns, math.nan
        rank, world = args.process_index, args.world_size
        over = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if world > 1 else None
        self.group = Group("one" if world == 1 else "ddp", rank, world, args.device, over)
        self.facts = {"order": batches.fingerprint, "frozen": frozen_digest(model), "world": world}
        self.progress = Progress()
        self.stopped_by: str | None = None  # the signal that ended the last `train()`
        self._micros: list[tuple[float, float, float, int]] = []  # loss, count, FLOPs and number of this step's so far
        self._shown: list[Mapping[str, Any]] = []  # what rank 0's model tells of them

    # ---- what Trainer asks for

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's micro-batches of an epoch, from the one that the global step is in."""
        made = Micros(self.batches, self.make_batch, self.group.rank)
        number = self.args.dataloader_num_workers
        return DataLoader(made, batch_sampler=Numbers(self, self.batches), collate_fn=only, num_workers=number)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW as the configuration says, in the groups of `build_optimizers`; Trainer's own without one."""
        if self.optimizer_config is None:
            return super().create_optimizer(model)
        if self.optimizer is None:
            self.optimizer = build_optimizers(self.network if model is None else model, self.optimizer_config)[0]
            for line in () if self.learns is None else self.learns([self.optimizer], False):
                self._report.event("learns", f"learns {line}", {})
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of the configuration; Trainer's own without one."""
        if self.schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            schedule, steps = self.schedule, num_training_steps
            over = cast(torch.optim.Optimizer, self.optimizer if optimizer is None else optimizer)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(over, lambda step: factor(schedule, step, steps))
        return self.lr_scheduler

    def train(
        self,
        resume_from_checkpoint: str | bool | None = "auto",
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train to max_steps. resume_from_checkpoint: "auto", the newest whole one or none; True, the newest whole one;
        None or False, a new run in a folder without any; or a checkpoint's folder."""
        folder, steps = self.folder, self.args.max_steps
        with ExitStack() as stack:
            keep = self.args.save_total_limit or KEEP_ALL
            keeping = Checkpoints(folder, self.group, keep=keep, keep_every=self.keep_every, naming=CHECKPOINTS)
            self._checkpoints = stack.enter_context(keeping)
            path, message = self._begin(resume_from_checkpoint)
            start = 0 if path is None else int(path.name.rpartition("-")[2])
            first = self.group.rank == 0
            self._report = Report(folder, self.report_config, speaks=first, start=start, steps=steps)
            stack.callback(self._report.close)
            self._report.event("start", message, {"step": start, "world": self.group.world, "strategy": self.strategy})
            self._signals = stack.enter_context(StopSignals())
            stack.callback(self.network.register_load_state_dict_post_hook(without_frozen).remove)
            self.stopped_by, self._micros, self._checked, self._saved = None, [], False, time.monotonic()
            output = super().train(None if path is None else str(path), trial, ignore_keys_for_eval)
            zero = self.strategy.startswith("zero")  # whose optimizer has flat copies
            if self._checked and self.learns is not None and self.optimizer is not None and not zero:
                for line in self.learns([self.optimizer], True):
                    self._report.event("learned", f"learned {line}", {})
            return output

    def _begin(self, resume: str | bool | None) -> tuple[Path | None, str]:
        """The checkpoint to go on from, and the sentence that says so. A collective."""
        folder = self.folder
        if resume is None or resume is False:
            if any(folders(folder, CHECKPOINTS)):
                raise RunError("the folder has checkpoints; resume='auto' goes on from them", source=str(folder))
            return None, f"starts at step 0 in {folder}"
        path, broken = None, ()
        if resume is True or resume == "auto":
            path, broken = self._checkpoints.newest_whole()
            if path is None and resume is True:
                raise CheckpointError("there is no whole checkpoint", source=str(folder))
        else:
            path = self._checkpoints.whole(Path(resume))
        told = [f"{name} is not whole and was left out: {reason}" for name, reason in broken]
        if path is None:
            return None, "; ".join([*told, f"starts at step 0 in {folder}"])
        before = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if other := [name for name in ("order", "frozen") if before.get(name) != self.facts[name]]:
            raise CheckpointError(f"it belongs to another run: another {' and '.join(other)}", source=str(path))
        told.append(f"goes on from step {before['step']:,} of {path}")
        told += [f"not bit-equal to an unbroken run: world {before['world']} -> {self.group.world}"] * (
            before["world"] != self.group.world
        )
        return path, "; ".join(told)

    # ---- a step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum over all that is counted in the micro-batch. Under DeepSpeed already the share of this rank in a mean
        over ranks, because DeepSpeed takes the gradient in as it comes."""
        batch, step = inputs["batch"], inputs["step"]
        if step != self.state.global_step:
            raise RunError("Trainer asks for a batch of another step", expected=self.state.global_step, got=step)
        batch = batch.to(self.args.device) if hasattr(batch, "to") else moved(batch, self.args.device)
        torch.manual_seed(seed_of(self.batches.seed, step, inputs["number"]))
        out = model(batch)
        total, counted, shown = out if isinstance(out, tuple) else Loss(out, 1.0)
        pair = torch.stack([total.detach().double(), torch.as_tensor(counted, device=total.device).detach().double()])
        value, count = pair.tolist()
        flop = 0.0 if self.flop_of is None else self.flop_of(batch)
        self._micros.append((value, count, flop, inputs["number"]))
        self._shown.append(shown if self.group.rank == 0 else {})
        if self.strategy.startswith("zero"):
            bad, over_ranks = self.group.sum([float(not math.isfinite(value + count)), count])
            scale = self.group.world / (over_ranks * self.batches.accumulation) if over_ranks and not bad else math.nan
            total = total * scale
        return (total, out) if return_outputs else total

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch; after a step's last one also the judgement over ranks.

        Gives the step's mean over all that was counted, with its last micro-batch, and 0 with the others.
        """
        if not self._checked:
            self._check_strategy(model)
            self._checked = True
        if self.parts:
            set_modes(model, self.parts)
        else:
            model.train()
        zero = self.strategy.startswith("zero")
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        if not zero:
            # accelerate divides by its own count: 1 as newer versions of Trainer set it, the accumulation in older ones
            self.accelerator.backward(loss * self.accelerator.gradient_accumulation_steps)
        elif math.isfinite(float(loss.detach())):  # on every rank or on none, by the scale
            self.accelerator.backward(loss, scale_wrt_gas=False)
        elif self.batches.accumulation > 1:
            raise RunError("DeepSpeed cannot take back a micro-batch that is not finite", got=inputs["step"])
        if len(self._micros) < self.batches.accumulation:
            return torch.zeros((), device=self.args.device)
        return torch.tensor(self._end_step(model, zero), device=self.args.device)

    def _end_step(self, model: nn.Module, zero: bool) -> float:
        """The sums over ranks, gradients as of a mean over all that was counted, and whether they may be used."""
        micros, self._micros = self._micros, []
        flags = [0.0] * self.batches.per_step
        for value, count, _, number in micros:
            flags[number] = float(not math.isfinite(value + count))
        sums = [sum(m[i] for m in micros) for i in range(3)]
        wait = self.save_every_s
        late = self.group.rank == 0 and wait is not None and time.monotonic() - self._saved >= wait
        total, count, flop, late, *rest = self.group.sum([*sums, float(late), *self._signals.seen, *flags])
        flags = rest[len(SIGNALS) :]
        loss = total / count if count else math.nan
        if zero:
            length = float(model.get_global_grad_norm() or 0.0)  # pyright: ignore[reportCallIssue]
            stepped = not self.accelerator.optimizer_step_was_skipped
        else:
            length, stepped = self._mean_gradients(model, count), True
        good = count > 0 and not any(flags) and math.isfinite(loss) and math.isfinite(length) and stepped
        if zero and stepped and not math.isfinite(length) and not any(flags):
            raise RunError("DeepSpeed took a step with a gradient that is not finite", got=length)
        if not good and not zero:
            model.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient
        self.loss = loss
        self._tell(loss, count, length, flop, good, flags)
        self.control.should_save = self.control.should_save or late > 0
        if (stop := asked(rest[: len(SIGNALS)])) is not None:
            self.stopped_by = stop.name
            self.control.should_save = self.control.should_training_stop = True
        return loss

    def _mean_gradients(self, model: nn.Module, count: float) -> float:
        """Gradients, means over ranks of sums, become those of a mean over `count`. Gives their norm. Syncs."""
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        for grad in grads:
            grad.mul_(self.group.world / count if count else 0.0)
        return host(get_total_norm(grads))

    def _tell(self, loss: float, count: float, norm: float, flop: float, good: bool, flags: Sequence[float]) -> None:
        step, steps = self.state.global_step, self.args.max_steps
        tokens = int(self.batches.tokens[[i for r in self.batches.at(step) for m in r for i in m.ids]].sum())
        rate = math.nan if self.schedule is None else factor(self.schedule, step, steps)
        told, self._shown = self._shown, []
        shown = {name: sum(float(one[name]) for one in told) / len(told) for name in told[0]}
        known = None if self.flop_of is None else flop
        figures = Figures(step, loss, count, tokens, norm, rate, self._report.lap(), known, shown)
        groups = enumerate(self.optimizer.param_groups) if self.optimizer is not None else ()
        self._report.step(figures, {g.get("name", f"group {i}"): g["lr"] for i, g in groups})
        judge_step(self.progress, good, figures, flags, self.batches, self._report, self.nonfinite_in_a_row)

    def _check_strategy(self, model: nn.Module) -> None:
        """Raises RunError unless the model runs as it was asked to."""
        kind = str(self.accelerator.distributed_type.value)
        stage: Any = getattr(model, "zero_optimization_stage", None)
        got = kind
        if kind == "DEEPSPEED" and callable(stage):
            got = f"zero{stage()}"
        elif isinstance(model, DistributedDataParallel):
            got = "ddp"
        elif kind == "NO" and self.group.world == 1 and not isinstance(model, nn.DataParallel):
            got = "one"
        if got != self.strategy:
            raise RunError(f"asked for {self.strategy}, got {got}", expected=self.strategy, got=got)

    # ---- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, written aside, sealed with a manifest, and renamed. A collective."""
        step, final = self.state.global_step, self.args.output_dir

        def write(aside: Path) -> None:
            beside = Path(f"{aside}.parts")  # Trainer makes a folder of its own name in it

            def theirs() -> None:
                self.args.output_dir = str(beside)
                try:
                    super(PackedTrainer, self)._save_checkpoint(model, trial)
                except RuntimeError as e:  # torch's writer says so of a full disk
                    raise CheckpointError("it could not be written", source=str(aside)) from e
                finally:
                    self.args.output_dir = final

            def rename() -> None:
                if self.group.rank == 0:
                    (beside / CHECKPOINTS.name(step)).rename(aside)
                    beside.rmdir()

            self._checkpoints.attempt(theirs, beside)
            self._checkpoints.attempt(rename, aside)

        path = self._checkpoints.publish(step, write, {**self.facts, "tubelet": __version__})
        self._saved = time.monotonic()
        self._report.event("saved", f"saved {path}", {"step": step})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """model.safetensors with what learns and persistent buffers; what DeepSpeed writes under DeepSpeed."""
        if self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
        elif self.args.should_save:
            folder = self.folder if output_dir is None else Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            tensors = Trained(self.network, (), None).parts()["model"]
            replace_tensors(folder / "model.safetensors", tensors, {"format": "pt"}, lambda _: True)
