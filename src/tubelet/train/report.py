"""What a run tells: log.jsonl always, a bar for who is watching, a picture of its curves, TensorBoard on request.

log.jsonl has one object a line, `kind` first: start, step, skipped, saved, not_saved, stop. It is only ever appended
to; where a resumed run computed a step again, the later line counts. A number that is not finite is written as null.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tubelet.errors import RunError
from tubelet.inspect.draw.chart import Panel, chart
from tubelet.inspect.draw.lettering import TextLine
from tubelet.train.config import ReportConfig
from tubelet.writing import file_place, save_png, write_errors

LOG, CURVE = "log.jsonl", "curve.png"
_POINTS = 400  # of a curve; more steps are averaged
_COLUMNS = "{task.fields[told]}"


class Figures(NamedTuple):
    """What is known after a step, over all ranks."""

    step: int  # counted from 0
    loss: float  # mean over what the model counted
    counted: float  # how much that was: tokens, pairs
    tokens: int  # of the step's samples, as the order counts them
    grad_norm: float  # before clipping
    rate: float  # factor of the schedule
    seconds: float  # from the end of the step before
    flop: float | None  # of the step, all ranks; None where it is not known
    shown: Mapping[str, float]  # what else rank 0's model tells


class Report:
    """The voice of rank 0; on other ranks it is silent. Raises RunError when TensorBoard is asked for and not there."""

    def __init__(self, folder: Path, config: ReportConfig, *, speaks: bool, start: int, steps: int) -> None:
        self.folder, self.config, self.steps = folder, config, steps
        self._log, self._board, self._bar = None, None, None
        self._start, self._begun, self._spoke = start, time.monotonic(), -math.inf
        self._lap = time.monotonic()
        if not speaks:
            return
        self._board = _board(folder) if config.tensorboard else None
        self._log = _opened(folder / LOG)
        console = Console(stderr=True)
        if config.bar and console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn(_COLUMNS), TimeElapsedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("train", total=steps, completed=start, told="")
            self._bar.start()

    def lap(self) -> float:
        """Seconds since the last lap, or since the beginning."""
        before, self._lap = self._lap, time.monotonic()
        return self._lap - before

    def step(self, figures: Figures, lr: Mapping[str, float]) -> None:
        """One step. lr: the rate of each group."""
        if self._log is None:
            return
        told = self._told(figures)
        if figures.step % self.config.every_steps == 0 or figures.step == self.steps - 1:
            self._write({"kind": "step", "step": figures.step, **told, "lr": dict(lr), **figures.shown})
            if self._board is not None:
                flat = told | {f"lr/{name}": value for name, value in lr.items()} | dict(figures.shown)
                for name, value in flat.items():
                    if value is not None:
                        self._board.add_scalar(name, value, figures.step)
        if self._bar is not None:
            self._bar.update(self._task, completed=figures.step + 1, told=self._line(figures, told, lr))
        elif self.config.bar and (self._due() or figures.step == self.steps - 1):
            self._spoke = time.monotonic()
            done = figures.step + 1 - self._start
            left = (time.monotonic() - self._begun) / done * (self.steps - figures.step - 1)
            print(f"step {figures.step + 1:,}/{self.steps:,}  {self._line(figures, told, lr)}  {left:,.0f} s left",
                  file=sys.stderr, flush=True)  # fmt: skip

    def _due(self) -> bool:
        return time.monotonic() - self._spoke >= self.config.line_s

    def _line(self, figures: Figures, told: Mapping[str, Any], lr: Mapping[str, float]) -> str:
        line = f"loss {figures.loss:.4g}  lr {max(lr.values()):.2e}  {told['tokens_per_s']:,.0f} tokens/s"
        line += f"  {told['memory_bytes'] / 2**30:.1f} GiB"
        return line + (f"  MFU {told['mfu']:.1%}" if told["mfu"] is not None else "")

    def _told(self, figures: Figures) -> dict[str, Any]:
        peak = self.config.peak_flop_per_s
        known = figures.flop is not None and peak
        return {
            "loss": figures.loss,
            "counted": figures.counted,
            "tokens": figures.tokens,
            "grad_norm": figures.grad_norm,
            "rate": figures.rate,
            "seconds": round(figures.seconds, 6),
            "tokens_per_s": figures.tokens / max(figures.seconds, 1e-9),
            "memory_bytes": peak_memory(),
            "mfu": (figures.flop or 0.0) / figures.seconds / peak if known and peak else None,
        }

    def event(self, kind: str, message: str, fields: Mapping[str, Any]) -> None:
        """Something that is no ordinary step: one line in the log and one on standard error."""
        if self._log is None:
            return
        self._write({"kind": kind, "message": message, **fields})
        console = self._bar.console if self._bar is not None else Console(stderr=True)
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Draw the curve and close what is open."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()
        if self._log is not None:
            with write_errors(f"{LOG}: the log"):
                self._log.close()
            if self.config.curve:
                save_curve(self.folder)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._log is not None
        with write_errors(f"{LOG}: the log"):
            self._log.write(json.dumps({"time": round(time.time(), 3), **_finite(line)}, allow_nan=False) + "\n")
            self._log.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _opened(path: Path) -> Any:
    """The log, to append to; a line that a kill cut short is ended first."""
    place = file_place(path, lambda _: True)
    with write_errors(f"{LOG}: the log"):
        torn = place.exists() and place.stat().st_size and not place.read_bytes().endswith(b"\n")
        file = place.open("a", encoding="utf-8")
        if torn:
            file.write("\n")
    return file


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise RunError("report.tensorboard needs the package tensorboard: pip install tensorboard") from e
    return SummaryWriter(str(folder / "tensorboard"))


def peak_memory() -> int:
    """The most bytes this process has held: on its GPU where it has used one, else resident in RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl, in order; lines that a kill cut short are left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def save_curve(folder: Path) -> None:
    """curve.png from log.jsonl. Nothing is drawn of fewer than two steps."""
    steps = {line["step"]: line for line in read_log(folder / LOG) if line["kind"] == "step"}
    drawn = curve([steps[s] for s in sorted(steps)], folder.name)
    if drawn is not None:
        save_png(drawn, folder / CURVE)


def curve(steps: list[dict[str, Any]], name: str) -> Image.Image | None:
    """Loss, gradient norm, rate and tokens a second against the step, as one picture; None below two steps."""
    panels = [
        _panel(steps, "loss", "loss", "{:.3g}".format),
        _panel(steps, "grad_norm", "norm of the gradient", "{:.3g}".format),
        _panel(steps, "rate", "factor of the learning rate", "{:.2g}".format),
        _panel(steps, "tokens_per_s", "tokens a second", "{:,.0f}".format),
    ]
    drawn = [p for p in panels if p is not None]
    if not drawn:
        return None
    tokens = sum(line["tokens"] for line in steps)
    title = TextLine((f"{name}: {len(steps):,} steps, {tokens:,} tokens, last loss {steps[-1]['loss']}",))
    return chart([drawn[i : i + 2] for i in range(0, len(drawn), 2)], [title])


def _panel(steps: list[dict[str, Any]], key: str, title: str, text: Any) -> Panel | None:
    points = [(float(line["step"]), float(line[key])) for line in steps if line.get(key) is not None]
    each = max(1, math.ceil(len(points) / _POINTS))
    groups = [points[i : i + each] for i in range(0, len(points), each)]
    if len(groups) < 2:
        return None
    mean = [tuple(sum(values) / len(group) for values in zip(*group, strict=True)) for group in groups]
    label = "step" if each == 1 else f"step (means of {each})"
    return Panel(title, label, tuple(x for x, _ in mean), tuple(max(0.0, y) for _, y in mean), text)
