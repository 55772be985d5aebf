"""`tubelet models`: what `--model` takes by name, what else it takes, and what is proven of each family."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tubelet.cli.options import DEFAULT_MODEL, OutputOptions
from tubelet.cli.terminal import OK, Terminal

if TYPE_CHECKING:
    from rich.console import Group

    from tubelet.encoder.config import EncoderConfig
    from tubelet.families.family import Family

PROOFS = ("outputs", "gradients", "bf16", "pixels", "save_back")


@dataclass(frozen=True)
class Models:
    """List the families whose checkpoints can be loaded, what is verified of each, the networks known by name, and the
    whole models that `tubelet ask` takes.

    Example: tubelet models --json
    """

    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.families.catalogue import families, format_of, variants
        from tubelet.language.vlm.layouts import HUB_IDS

        told = [describe_family(family) for family in families()]
        rows = [
            describe(name, config, family.name, format_of(family, name))
            for name, (family, config) in variants().items()
        ]
        whole = [{"model_type": kind, "hub_ids": list(ids)} for kind, ids in HUB_IDS.items()]
        terminal.show(_tables(told, rows, whole))
        said = {"families": told, "models": rows, "whole": whole}
        terminal.document({"command": "models", "default": DEFAULT_MODEL, **said})
        return OK


def describe_family(family: "Family") -> dict[str, Any]:
    """One family as plain values. verified: what its tests compare with upstream's own code, live."""
    return {
        "name": family.name,
        "formats": list(family.formats),
        "model_types": list(family.model_types),
        "variants": list(family.variants),
        "verified": {proof: proof in family.verified for proof in PROOFS},
        "source": family.source,
    }


def describe(name: str, config: "EncoderConfig", family: str, fmt: str) -> dict[str, Any]:
    """One variant as plain values. parameters are counted on the meta device: nothing is allocated."""
    import torch

    from tubelet.encoder.model import Encoder

    with torch.device("meta"):
        parameters = sum(p.numel() for p in Encoder(config).parameters())
    return {
        "name": name,
        "family": family,
        "format": fmt,
        "layers": config.layers,
        "hidden": config.hidden,
        "heads": config.heads,
        "mlp": config.mlp,
        "patch": config.pixels.patch,
        "merge": config.pixels.merge,
        "spans": list(config.spans),
        "span_frames": config.span_frames,
        "pool": config.pool,
        "width": config.out,
        "parameters": parameters,
        "weights": "random (untrained)",
    }


def _tables(told: list[dict[str, Any]], rows: list[dict[str, Any]], whole: list[dict[str, Any]]) -> "Group":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    proven = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    proven.add_column("family", no_wrap=True)
    proven.add_column("formats")
    proven.add_column("verified against upstream")
    for family in told:
        said = [proof.replace("_", " ") for proof, yes in family["verified"].items() if yes]
        proven.add_row(family["name"], ", ".join(family["formats"]), ", ".join(said) or "by recorded cases only")
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
        if row["spans"] != ["item"]:
            extras.append(_attention(row["spans"], row["span_frames"]))
        if row["name"] == DEFAULT_MODEL:
            extras.append("the default")
        numbers = [str(row[k]) for k in ("layers", "hidden", "heads", "patch")]
        table.add_row(row["name"], row["format"], *numbers, f"{row['parameters'] / 1e6:,.1f} M", ", ".join(extras))
    note = (
        "By name, a model has seeded random weights: UNTRAINED, for trying things out.\n"
        "For trained weights give --model a folder, a .safetensors file or a hub id (owner/name) of any family above,\n"
        "alone or inside a whole vision-language model; tubelet convert translates between the formats of a family."
    )
    models = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    models.add_column("whole model", no_wrap=True)
    models.add_column("such as")
    for one in whole:
        models.add_row(one["model_type"], "\n".join(one["hub_ids"]))
    return Group(proven, table, Text(note), models)


def _attention(spans: list[str], frames: int) -> str:
    """What layers attend to, in words.

    >>> _attention(["frame"], 1), _attention(["frame"], 4), _attention(["frame", "scene"], 1)
    ('frame by frame', '4 frames at a time', 'frame, scene in turn')
    """
    if spans == ["frame"]:
        return "frame by frame" if frames == 1 else f"{frames} frames at a time"
    return f"{', '.join(dict.fromkeys(spans))} in turn"
