"""`tubelet models`: what `--model` takes by name, and what else it takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tubelet.cli.options import DEFAULT_MODEL, Debug, Json
from tubelet.cli.terminal import OK, Terminal

if TYPE_CHECKING:
    from rich.console import Group

    from tubelet.encoder.config import EncoderConfig


@dataclass(frozen=True)
class Models:
    """List the variants that can be loaded, with their sizes.

    Example: tubelet models --json
    """

    json: Json = False
    debug: Debug = False

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.families.onevision import FORMAT_OF, VARIANTS

        rows = [describe(name, config, FORMAT_OF[name]) for name, config in VARIANTS.items()]
        terminal.show(_table(rows))
        terminal.document({"command": "models", "default": DEFAULT_MODEL, "models": rows})
        return OK


def describe(name: str, config: "EncoderConfig", fmt: str) -> dict[str, Any]:
    """One variant as plain values. parameters are counted on the meta device: nothing is allocated."""
    import torch

    from tubelet.encoder.model import Encoder

    with torch.device("meta"):
        parameters = sum(p.numel() for p in Encoder(config).parameters())
    return {
        "name": name,
        "format": fmt,
        "layers": config.layers,
        "hidden": config.hidden,
        "heads": config.heads,
        "mlp": config.mlp,
        "patch": config.pixels.patch,
        "merge": config.pixels.merge,
        "window": config.window,
        "pool": config.pool,
        "width": config.out,
        "parameters": parameters,
        "weights": "random (untrained)",
    }


def _table(rows: list[dict[str, Any]]) -> "Group":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("format")
    for name in ("layers", "hidden", "heads", "patch", "params"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        extras = [] if row["pool"] else ["no pooling head"]
        if row["merge"] > 1:
            extras.append(f"merges {row['merge']} x {row['merge']}")
        if row["window"]:
            extras.append(f"windows of {row['window']} frames")
        if row["name"] == DEFAULT_MODEL:
            extras.append("the default")
        numbers = [str(row[k]) for k in ("layers", "hidden", "heads", "patch")]
        table.add_row(row["name"], row["format"], *numbers, f"{row['parameters'] / 1e6:,.1f} M", ", ".join(extras))
    note = (
        "By name, a model has seeded random weights: UNTRAINED, for trying things out.\n"
        "For trained weights give --model a folder, a .safetensors file or a hub id (owner/name), in any of the\n"
        "four formats; tubelet convert translates between them."
    )
    return Group(table, Text(note))
