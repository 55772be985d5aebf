"""What `tubelet encode` has made, and what it says of it: a file, a table for people, a document for programs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tubelet.cli.terminal import file_name, megabytes, seconds, visible

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.cli.model import Model
    from tubelet.packed import Packed
    from tubelet.packed.grid import Item
    from tubelet.pixels.load_one import LoadedSource

WIDE = 116  # letters that a row with every stage needs
MOST_ROWS = 40  # files listed in the table; --json lists all


@dataclass
class Result:
    """What a run has made so far."""

    reports: "list[LoadedSource]" = field(default_factory=list)  # one for each file
    encode_s: list[float] = field(default_factory=list)  # for each file: its share of its pack's, by tokens
    items: "list[Item]" = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # tokens of each item
    x: "list[Tensor]" = field(default_factory=list)  # tokens, pos and pooled vectors of each pack, on the host
    pos: "list[Tensor]" = field(default_factory=list)
    pooled: "list[Tensor]" = field(default_factory=list)
    model_s: float = 0.0  # loading torch and the model
    save_s: float = 0.0  # writing
    wall_s: float = 0.0  # all together

    def add(self, reports: "Sequence[LoadedSource]", tokens: "Packed", pooled: "Tensor | None", spent_s: float) -> None:
        """The tokens of one pack, and the seconds that encoding it took."""
        total = sum(tokens.lengths) or 1
        for report in reports:
            rows = 0 if report.item is None else tokens.lengths[report.item]
            self.encode_s.append(spent_s * rows / total)
        self.reports += reports
        self.items += tokens.items
        self.lengths += tokens.lengths
        self.x.append(tokens.x)
        self.pos.append(tokens.pos)
        if pooled is not None:
            self.pooled.append(pooled)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def width(self) -> int:
        """Values of a token."""
        return self.x[0].shape[1]

    def save(self, out: Path, model: "Model", files: Sequence[str]) -> None:
        """Write everything as one pack. Raises RunError."""
        from tubelet import __version__
        from tubelet.packed import Packed

        x, pos = joined(self.x), joined(self.pos)
        packed = Packed(x, pos, tuple(self.items), tuple(self.lengths))
        left_out = {str(i): r.error.as_dict()["error"] for i, r in enumerate(self.reports) if r.error is not None}
        metadata = {
            "tubelet": __version__,
            "model": json.dumps(model.as_dict(), default=str),
            "files": json.dumps([file_name(f) for f in files]),
            "left_out": json.dumps(left_out),
            "untrained": "true" if model.untrained else "false",
        }
        packed.save(out, {"pooled": joined(self.pooled)} if self.pooled else None, metadata)


def encode_table(result: Result, model: "Model", out: str, columns: int) -> Group:
    """A row for each file (of many, the first ones) with its sizes and its time by stage; totals; what was written.

    columns: letters in a line. Where they are few, a file has its whole time only and the stages stand below.
    """
    narrow = columns < WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    total = stage_totals(result)
    count = len(result.reports)
    table.add_column("file", f"{count:,} files" if count != 1 else "1 file", min_width=16, overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("frames", f"{sum(r.frames for r in result.reports):,}", justify="right", no_wrap=True)
    table.add_column("grid", justify="right", no_wrap=True)
    table.add_column("tokens", f"{result.tokens:,}", justify="right", no_wrap=True)
    for stage, spent in {"time": sum(total.values())}.items() if narrow else total.items():
        table.add_column(stage, seconds(spent), justify="right", no_wrap=True)
    index = 0
    for i, r in enumerate(result.reports[:MOST_ROWS]):
        name = Text(visible(r.name))
        if r.error is not None or r.grid is None or r.item is None:
            table.add_row(name + Text("  left out", style="red"), *[""] * (len(table.columns) - 1))
            continue
        if not r.complete:
            name += Text("  INCOMPLETE", style="red")
        for note in r.notes:
            name += Text(f"\n  {visible(note)}", style="dim")
        spent = [*r.seconds.values(), result.encode_s[i]]
        grid = result.items[index].grid
        size = f"{r.width} x {r.height}"
        numbers = (size, f"{r.frames:,}", f"{grid.t} x {grid.h} x {grid.w}", f"{result.lengths[index]:,}")
        table.add_row(name, *numbers, *(seconds(s) for s in ([sum(spent)] if narrow else spent)))
        index += 1
    lines: list[Any] = [table]
    if count > MOST_ROWS:
        lines.append(Text(f"... and {count - MOST_ROWS:,} more files (--json lists all)\n", style="dim"))
    return Group(*lines, *_last_lines(result, model, out))


def _last_lines(result: Result, model: "Model", out: str) -> list[Text]:
    style = "yellow" if model.untrained else ""
    stages = ", ".join(f"{stage} {seconds(spent)}" for stage, spent in stage_totals(result).items())
    lines = [
        Text.assemble("model   ", (visible(model.note), style)),
        Text(f"wrote   {visible(out)}: {result.tokens:,} tokens of {result.width} values"),
        Text(
            f"time    {seconds(result.wall_s)}, of which {seconds(result.model_s)} for torch and the model, "
            f"{seconds(result.save_s)} for writing"
        ),
        Text(f"stages  {stages} (over all threads)"),
    ]
    if result.pooled:
        lines[1].append(f", and a pooled vector for each of {len(result.items):,} files")
    memory = peak_memory()
    if memory["host"] is not None:
        gpu = "" if memory["device"] is None else f", {megabytes(memory['device'])} on the device"
        lines.append(Text(f"memory  {megabytes(memory['host'])} at most{gpu}"))
    failed = sum(r.error is not None for r in result.reports)
    if failed:
        lines.append(Text(f"{failed} of {len(result.reports)} files were left out; see the lines above", style="red"))
    return lines


def encode_document(result: Result, model: "Model", out: str) -> dict[str, Any]:
    """The same for programs: every file with its numbers or its error. Times in seconds, memory in bytes."""
    files: list[dict[str, Any]] = []
    n = 0
    for i, r in enumerate(result.reports):
        entry: dict[str, Any] = {"file": file_name(r.name), "index": i}
        if r.error is not None or r.item is None:
            files.append(entry | {"error": {} if r.error is None else r.error.as_dict()})
            continue
        item = result.items[n]
        files.append(
            entry
            | {
                "width": r.width,
                "height": r.height,
                "frames": r.frames,
                "grid": list(item.grid),
                "times_s": list(item.times_s),
                "tokens": result.lengths[n],
                "complete": r.complete,
                "notes": list(r.notes),
                "seconds": {**r.seconds, "encode": result.encode_s[i]},
            }
        )
        n += 1
    return {
        "command": "encode",
        "out": file_name(out),
        "model": model.as_dict(),
        "untrained": model.untrained,
        "files": files,
        "errors": [f["error"] | {"file": f["file"]} for f in files if "error" in f],
        "tokens": result.tokens,
        "width": result.width,
        "pooled": bool(result.pooled),
        "seconds": {
            **stage_totals(result),
            "model": result.model_s,
            "save": result.save_s,
            "wall": result.wall_s,
        },
        "peak_memory_bytes": peak_memory(),
    }


def stage_totals(result: Result) -> dict[str, float]:
    """Seconds by stage, over all files and threads."""
    total: dict[str, float] = {}
    for r in result.reports:
        for stage, spent in r.seconds.items():
            total[stage] = total.get(stage, 0.0) + spent
    return total | {"encode": sum(result.encode_s)}


def peak_memory() -> dict[str, int | None]:
    """The most memory this process has held, in bytes, on the host and on a CUDA device; None where unknown."""
    import torch

    try:
        import resource
    except ImportError:  # not on Windows
        host = None
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        host = most if sys.platform == "darwin" else most * 1024
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"host": host, "device": device}


def joined(parts: "list[Tensor]") -> "Tensor":
    """Tensors end to end; `parts` shrinks to the result, each part freed once it is copied: no second copy of all."""
    if len(parts) > 1:
        out = parts[0].new_empty(sum(len(p) for p in parts), *parts[0].shape[1:])
        start = len(out)
        while parts:
            last = parts.pop()
            out[start - len(last) : start] = last
            start -= len(last)
        parts.append(out)
    return parts[0]
