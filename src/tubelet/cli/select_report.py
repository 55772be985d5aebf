"""What `tubelet select` says at the end: a table for people, a document for programs."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tubelet.cli.choosing import SelectionRequest
from tubelet.cli.terminal import file_name, seconds, visible
from tubelet.cli.values import TokenBudget

if TYPE_CHECKING:
    from torch import Tensor

    from tubelet.cli.model import Model
    from tubelet.inspect.metrics import Estimate
    from tubelet.packed import Packed
    from tubelet.reduce.encoded import EncodedFile
    from tubelet.reduce.methods import Choice

SPREAD = ("coverage", "distance")  # as in tubelet compare


def select_table(result: "Selected", out: str | None) -> Group:
    """A row for each file: its size, tokens before and after, time, picture; how the kept ones are spread; the rest."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", min_width=14, overflow="fold")
    for name in ("size", "views", "tokens", *(["budget"] if result.shared else []), "kept", "encode", "choose"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("picture", overflow="fold")
    for f in result.files:
        name = Text(visible(f["file"]))
        if not f["complete"]:
            name += Text("  INCOMPLETE", style="red")
        for note in f["notes"]:
            name += Text(f"\n  {visible(note)}", style="dim")
        t, h, w = f["views"][0]["grid"]
        views = f"{t} x {h} x {w}" if len(f["views"]) == 1 else f"{len(f['views'])} views"
        share = f["kept"] / f["tokens"] if f["tokens"] else 0.0
        table.add_row(
            name,
            f"{f['width']} x {f['height']}",
            views,
            f"{f['tokens']:,}",
            *([f"{f['budget']:,}"] if result.shared else []),
            f"{f['kept']:,} ({share:.1%})",
            seconds(f["seconds"]["encode"]),
            seconds(f["seconds"]["choose"]),
            Text(visible(f["picture"])),
        )
    model = result.model
    lines: list[Any] = [
        table,
        Text.assemble("model   ", (visible(model.note), "yellow" if model.untrained else "")),
        Text(f"method  {result.method}, budget {result.budget}{' for all, shared' if result.shared else ''}"),
    ]
    if result.files:
        count = len(result.files)
        numbers = ", ".join(f"{name} {_number(e)}" for name, e in result.metrics.items())
        over = f"95 % intervals over {count} inputs" if count > 1 else "one input: no interval"
        lines.append(Text(f"spread  {numbers} ({over})"))
    if out is not None and result.kept:
        total = sum(f["kept"] for f in result.files)
        lines.append(Text(f"wrote   {visible(out)}: {total:,} tokens of {model.encoder.config.out} values"))
    if result.errors:
        lines.append(Text(f"{len(result.errors)} files were left out; see the lines above", style="red"))
    return Group(*lines)


def _number(found: "Estimate") -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found.known else f"{found.value:.2f}"


def select_document(result: "Selected", out: str | None, wish: "SelectionRequest") -> dict[str, Any]:
    """The same for programs. Times in seconds."""
    from tubelet.reduce.methods import method_of

    settings = wish.settings
    return {
        "command": "select",
        "method": result.method,
        "kind": method_of(result.method).kind,
        "budget": result.budget.plain,
        "shared": result.shared,
        "settings": {
            "coverage": settings.coverage,
            "words": settings.words,
            "radius": settings.radius,
            "seed": settings.seed,
            "text": wish.text,
            "scaffold": wish.whole_rows,
            "layer": wish.layer,
        },
        "out": None if out is None or not result.kept else file_name(out),
        "model": result.model.as_dict(),
        "untrained": result.model.untrained,
        "files": result.files,
        "errors": result.errors,
        "tokens": sum(f["tokens"] for f in result.files),
        "kept": sum(f["kept"] for f in result.files),
        "metrics": {name: found.as_dict() for name, found in result.metrics.items()} if result.files else {},
        "seconds": {"model": result.model_s},
    }


@dataclass
class Selected:
    """What a run has made so far: kept tokens on the host, and what to say of each file."""

    method: str
    budget: TokenBudget
    model: "Model"
    model_s: float
    shared: bool = False  # it is for all files together
    files: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    kept: "list[Packed]" = field(default_factory=list)
    scores: "list[Tensor | None]" = field(default_factory=list)

    @property
    def metrics(self) -> "dict[str, Estimate]":
        """Where the kept tokens lie, over all files."""
        from tubelet.inspect.metrics import mean_of

        return {name: mean_of([f["metrics"][name] for f in self.files]) for name in SPREAD}

    def add(self, file: str, picture: str, seen: "EncodedFile", budget: int, choice: "Choice") -> None:
        """One file's choice."""
        from tubelet.inspect.metrics import coverage, distance

        tokens, kept = seen.inputs.tokens, choice.kept.to("cpu")
        spread = coverage(tokens, kept), distance(tokens, kept).mean
        per_frame = None
        if len(kept) == 1 and kept.items[0].grid.t > 1:
            per_frame = kept.pos[:, 0].long().bincount(minlength=kept.items[0].grid.t).tolist()
        views = [
            {"grid": list(item.grid), "box": list(item.box), "tokens": item.grid.rows, "kept": n}
            for item, n in zip(kept.items, kept.lengths, strict=True)
        ]
        self.files.append(
            {
                "file": file,
                "picture": picture,
                "width": seen.clip.width,
                "height": seen.clip.height,
                "frames": len(seen.clip),
                "tokens": len(tokens.x),
                "budget": budget,
                "kept": len(kept.x),
                "kept_per_frame": per_frame,
                "views": views,
                "metrics": {name: found.value for name, found in zip(SPREAD, spread, strict=True)},
                "complete": seen.clip.complete,
                "notes": list(seen.clip.notes),
                "seconds": seen.seconds,
            }
        )
        self.kept.append(kept)
        self.scores.append(_scores_of(tokens, choice))

    def save(self, out: str, files: tuple[str, ...], wish: SelectionRequest) -> None:
        """Write the kept tokens of all files as one pack. Raises RunError."""
        import torch

        from tubelet import __version__
        from tubelet.packed import concat

        scores = [s for s in self.scores if s is not None]
        extra = {"scores": torch.cat(scores)} if len(scores) == len(self.scores) else None
        left_out = {str(e["item"]): e["error"] for e in self.errors if e.get("item") is not None}
        metadata = {
            "tubelet": __version__,
            "model": json.dumps(self.model.as_dict(), default=str),
            "files": json.dumps([file_name(f) for f in files]),
            "left_out": json.dumps(left_out),
            "method": self.method,
            "budget": str(self.budget),
            "text": wish.text or "",
            "untrained": "true" if self.model.untrained else "false",
        }
        concat(self.kept).save(out, extra, metadata)


def _scores_of(tokens: "Packed", choice: "Choice") -> "Tensor | None":
    """The scores of the kept rows, where a method has such."""
    from tubelet.packed.order import rows_in

    if choice.scores is None or choice.kept.items != tokens.items:
        return None
    return choice.scores[rows_in(tokens, choice.kept)].detach().float().cpu()
