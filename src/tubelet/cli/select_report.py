"""What `tubelet select` says at the end: a table for people, a document for programs."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tubelet.cli.terminal import file_name, seconds, visible

if TYPE_CHECKING:
    from tubelet.cli.choosing import Wish
    from tubelet.cli.select import Selected


def select_table(result: "Selected", out: str | None) -> Group:
    """A row for each file: its size, tokens before and after, time; where the picture is; what was written."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", min_width=14, overflow="fold")
    for name in ("size", "views", "tokens", "kept", "encode", "choose"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("picture", overflow="fold")
    for f in result.files:
        name = Text(visible(f["file"]))
        if not f["complete"]:
            name += Text("  INCOMPLETE", style="red")
        t, h, w = f["views"][0]["grid"]
        views = f"{t} x {h} x {w}" if len(f["views"]) == 1 else f"{len(f['views'])} views"
        share = f["kept"] / f["tokens"] if f["tokens"] else 0.0
        table.add_row(
            name,
            f"{f['width']} x {f['height']}",
            views,
            f"{f['tokens']:,}",
            f"{f['kept']:,} ({share:.1%})",
            seconds(f["seconds"]["encode"]),
            seconds(f["seconds"]["choose"]),
            Text(visible(f["picture"])),
        )
    model = result.model
    lines: list[Any] = [
        table,
        Text.assemble("model   ", (visible(model.note), "yellow" if model.untrained else "")),
        Text(f"method  {result.method}, budget {result.budget:,}"),
    ]
    if out is not None and result.kept:
        total = sum(f["kept"] for f in result.files)
        lines.append(Text(f"wrote   {visible(out)}: {total:,} tokens of {model.encoder.config.out} values"))
    if result.errors:
        lines.append(Text(f"{len(result.errors)} files were left out; see the lines above", style="red"))
    return Group(*lines)


def select_document(result: "Selected", out: str | None, wish: "Wish") -> dict[str, Any]:
    """The same for programs. Times in seconds."""
    from tubelet.reduce.methods import METHODS

    settings = wish.settings
    return {
        "command": "select",
        "method": result.method,
        "kind": METHODS[result.method].kind,
        "budget": result.budget,
        "settings": {
            "coverage": settings.coverage,
            "words": settings.words,
            "radius": settings.radius,
            "seed": settings.seed,
            "text": wish.text,
            "scaffold": wish.scaffold,
            "layer": wish.layer,
        },
        "out": None if out is None or not result.kept else file_name(out),
        "model": result.model.as_dict(),
        "untrained": result.model.untrained,
        "files": result.files,
        "errors": result.errors,
        "tokens": sum(f["tokens"] for f in result.files),
        "kept": sum(f["kept"] for f in result.files),
        "seconds": {"model": result.model_s},
    }
