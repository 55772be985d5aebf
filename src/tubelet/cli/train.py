"""`tubelet train`: a projector, adapters or a whole model, trained as a file says, on one process or many."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from tubelet.cli.options import OutputOptions, option
from tubelet.cli.terminal import Terminal, UsageError, file_name, visible

if TYPE_CHECKING:
    from tubelet.train.launch import Ended
    from tubelet.train.run_config import RunConfig


@dataclass(frozen=True)
class Train:
    """Train a projector, adapters, a tower or a language model as a YAML file says.

    Every entry of the file is an option too: --steps 20, --optimizer.lr 2e-3, --strategy ddp, --resume never, --folder
    runs/one. tubelet train CONFIG.yaml --help lists them with what the file says. A run goes on from the newest whole
    checkpoint in its folder; the first line says which. SIGTERM saves, and the exit code is 143.
    On many processes: torchrun --nproc-per-node 8 -m tubelet train CONFIG.yaml --strategy fsdp2. Needs tubelet[train].

    Example: tubelet train examples/train/projector.yaml --steps 20
    """

    config: Positional[Annotated[str, option("a run as YAML (see examples/train)", "CONFIG.yaml")]]
    deepspeed: Annotated[
        str | None, option("run transformers' Trainer under DeepSpeed, as its JSON says (examples/deepspeed)", "JSON")
    ] = None
    mm_tunable_parts: Annotated[str | None, option("LLaVA's word for --parts", "PARTS")] = None
    local_rank: Annotated[int | None, tyro.conf.Suppress] = None  # DeepSpeed's launcher adds it; LOCAL_RANK says it too
    changes: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()  # the words of the command line that change it
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        first = os.environ.get("RANK", "0") == "0"
        more = () if self.mm_tunable_parts is None else ("--parts", self.mm_tunable_parts)
        config = read_run(self.config, (*self.changes, *more), quiet=self.output.quiet)
        ended = self._run(config, terminal)
        if first:
            self._tell(terminal, config, ended)
        return ended.outcome.exit_code

    def _run(self, config: "RunConfig", terminal: Terminal) -> "Ended":
        from tubelet.train.launch import run

        if self.deepspeed is None:
            return run(config, say=terminal.say)
        from pathlib import Path

        from tubelet.integrations.trainer import CHECKPOINTS
        from tubelet.integrations.trainer_run import driven_by_trainer

        if config.strategy == "one":
            config = replace(config, strategy="ddp")  # how processes find each other; ZeRO's stage is what runs
        drive = driven_by_trainer(Path(self.deepspeed))
        return run(config, say=terminal.say, drive=drive, naming=CHECKPOINTS)

    def _tell(self, terminal: Terminal, config: "RunConfig", ended: "Ended") -> None:
        outcome, folder = ended.outcome, visible(str(config.folder))
        if not self.output.json and not self.output.quiet:
            loss = "" if outcome.loss is None else f", last loss {outcome.loss:.4g}"
            stopped = "" if outcome.stopped_by is None else f", stopped by {outcome.stopped_by}"
            terminal.line(f"steps   {outcome.step:,}{loss}{stopped}")
            terminal.line(f"run     {folder}: checkpoints, log.jsonl, curve.png")
            if ended.final is not None:
                written = ", ".join(sorted(p.name for p in ended.final.iterdir()))
                terminal.line(f"final   {visible(str(ended.final))}: {written}")
        document: dict[str, Any] = {
            "command": "train",
            "folder": file_name(str(config.folder)),
            "step": outcome.step,
            "loss": outcome.loss,
            "stopped_by": outcome.stopped_by,
            "learned": [one.__dict__ for one in ended.lines],
            "final": None if ended.final is None else file_name(str(ended.final)),
        }
        terminal.document(document)


def read_run(file: str, changes: tuple[str, ...], *, quiet: bool = False) -> "RunConfig":
    """The run that a file and the words after it describe. Raises ConfigError, UsageError without the extra."""
    try:
        import peft  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as e:
        raise UsageError(f"training needs the extra train ({e.name}): pip install 'tubelet[train]'") from e
    from tubelet.train.config import read_config
    from tubelet.train.run_config import RunConfig

    config = read_config(RunConfig, file, changes, prog=f"tubelet train {visible(file)}")
    return replace(config, report=replace(config.report, bar=False)) if quiet else config
