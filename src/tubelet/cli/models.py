"""`tubelet models`: what `--model` takes by name, what else it takes, and what is proven of each family."""

import fnmatch
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from tubelet.cli.options import DEFAULT_MODEL, OutputOptions, option
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name
from tubelet.errors import near_names

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from tubelet.encoder.config import EncoderConfig
    from tubelet.families.family import Family

PROOFS = ("outputs", "gradients", "bf16", "pixels", "save_back")


NOTES = 36  # letters of the last column, unless an id has more


@dataclass(frozen=True)
class Models:
    """List the networks known by name, where their trained weights are, what is verified of each family, and the whole
    models that `tubelet ask` takes.

    FILTER is a part of a name or a pattern, of ours, of the family or of the hub's: siglip, 'dinov2*', Qwen.

    Example: tubelet models siglip2
    """

    filter: Positional[
        Annotated[str, option("only those with this in their name, or a pattern (default: all)", "[FILTER]")]
    ] = ""
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.families.catalogue import families, format_of, variants
        from tubelet.families.hub import hub_id
        from tubelet.language.vlm.layouts import HUB_IDS, VERIFIED
        from tubelet.language.vlm.layouts import PROOFS as WHOLE_PROOFS
        from tubelet.weights.locate import BUILT_IN

        known = variants()
        chosen = [name for name in known if matching(self.filter, (name, known[name][0].name, hub_id(name) or ""))]
        whole = [
            {
                "model_type": kind,
                "hub_ids": list(ids),
                "verified": {proof: proof in VERIFIED.get(kind, ()) for proof in WHOLE_PROOFS},
            }
            for kind, ids in HUB_IDS.items()
            if any(matching(self.filter, (kind, one)) for one in ids)
        ]
        boxed = [describe_built_in(name) for name in BUILT_IN if matching(self.filter, (name,))]
        if not chosen and not whole and not boxed:
            names = (*known, *BUILT_IN, *dict.fromkeys(family.name for family in families()))
            near = near_names(self.filter, names)
            raise UsageError(f"no model is called so: {file_name(self.filter)[:60]}{near}; tubelet models lists all")
        rows = [describe(name, known[name][1], known[name][0].name, format_of(known[name][0], name)) for name in chosen]
        told = [describe_family(f) for f in families() if f.name in {row["family"] for row in rows}]
        terminal.show(_tables(boxed, told, rows, whole))
        said = {"built_in": boxed, "families": told, "models": rows, "whole": whole}
        terminal.document({"command": "models", "default": DEFAULT_MODEL, **said})
        return OK


def matching(wanted: str, names: Iterable[str]) -> bool:
    """Whether one of these names has `wanted` in it, or is what it is a pattern of; small and large letters alike.

    >>> matching("siglip", ["google/SigLIP-base"]), matching("dino*", ["facebook/dinov2"])
    (True, False)
    """
    low = wanted.lower()
    if any(letter in low for letter in "*?["):
        return any(fnmatch.fnmatchcase(name.lower(), low) for name in names)
    return any(low in name.lower() for name in names)


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
    """One variant as plain values."""
    from tubelet.families.hub import hub_id
    from tubelet.inspect.budget.alive import parameter_count

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
        "parameters": parameter_count(config),
        "hub": hub_id(name),
        "weights": "random (untrained)",
    }


def describe_built_in(name: str) -> dict[str, Any]:
    """A whole model that comes with the package: its encoder as plain values. language: parameters behind it."""
    from tubelet.inspect.budget.outline import outline_model
    from tubelet.weights.locate import find_folder
    from tubelet.weights.opened import open_weights

    folder = find_folder(name)
    outline, match = outline_model(folder), open_weights(folder).match
    row = describe(name, outline.encoder, match.family.name, match.format)
    card = str(folder.folder / "README.md")
    return row | {"weights": "in the package", "language": outline.language, "card": card}


def _tables(
    boxed: list[dict[str, Any]], told: list[dict[str, Any]], rows: list[dict[str, Any]], whole: list[dict[str, Any]]
) -> "Group":
    """What comes with the package; a table for each family, under lines that say what is verified of it and what all
    its networks share; then the whole models."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = (
        [Text("in the package, trained", style="bold"), _table([(r, _notes(r)) for r in boxed])] if boxed else []
    )
    for family in told:
        own = [(row, _notes(row)) for row in rows if row["family"] == family["name"]]
        shared = [note for note in own[0][1] if all(note in notes for _, notes in own)]
        parts.append(Text(family["name"], style="bold") + Text(f"  {_proven(family)}", style="not bold"))
        more = [f"formats {', '.join(family['formats'])}"] if len(family["formats"]) > 1 else []
        if more + shared:
            parts.append(Text(f"  {'; '.join(more + shared)}", style="dim"))
        parts.append(_table([(row, [note for note in notes if note not in shared]) for row, notes in own]))
    note = (
        f"By name, models but {DEFAULT_MODEL} have seeded random weights: UNTRAINED, for trying things out.\n"
        "For trained weights give --model a hub id above, or a folder or .safetensors file of any of these\n"
        "families, alone or inside a whole vision-language model."
    )
    parts += [Text("whole models, for tubelet ask", style="bold")] if whole else []
    for one in whole:
        ids = textwrap.wrap(", ".join(one["hub_ids"]), 80, break_on_hyphens=False)
        parts += [Text(f"  {one['model_type'] if not n else '':<16}{line}") for n, line in enumerate(ids)]
        parts.append(Text(f"  {'':<16}{_proven(one)}", style="dim"))
    return Group(*parts, Text(f"\n{note}"))


def _proven(told: dict[str, Any]) -> str:
    """What is verified of a family or of a kind of whole model, in words."""
    said = [proof.replace("_", " ") for proof, yes in told["verified"].items() if yes]
    return f"verified against upstream: {', '.join(said)}" if said else "verified by recorded cases"


def _notes(row: dict[str, Any]) -> list[str]:
    """What is special about a network."""
    notes = ["the default"] if row["name"] == DEFAULT_MODEL else []
    notes += ["answers questions about pages"] if "card" in row else []
    notes += [] if row["pool"] else ["no pooling head"]
    notes += [f"merges {row['merge']} x {row['merge']}"] if row["merge"] > 1 else []
    return notes + ([_attention(row["spans"], row["span_frames"])] if row["spans"] != ["item"] else [])


def _table(rows: list[tuple[dict[str, Any], list[str]]]) -> "Table":
    """Networks of one family; the last column has the hub id and, under it, what is special."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for name in ("shape", "patch", "params"):
        table.add_column(name, justify="right", no_wrap=True)
    width = max(NOTES, *(len(row["hub"] or "") for row, _ in rows))
    table.add_column("trained weights on the hub", max_width=width, overflow="fold")
    for row, notes in rows:
        last = [Text(row["hub"])] if row["hub"] else []
        last += [Text(", ".join(notes), style="dim")] if notes else []
        numbers = f"{row['layers']} x {row['hidden']}", str(row["patch"]), f"{row['parameters'] / 1e6:,.1f} M"
        table.add_row(row["name"], *numbers, Text("\n").join(last))
    table.add_row("")
    return table


def _attention(spans: list[str], frames: int) -> str:
    """What layers attend to, in words.

    >>> _attention(["frame"], 1), _attention(["frame"], 4), _attention(["frame", "scene"], 1)
    ('frame by frame', '4 frames at a time', 'frame, scene in turn')
    """
    if spans == ["frame"]:
        return "frame by frame" if frames == 1 else f"{frames} frames at a time"
    return f"{', '.join(dict.fromkeys(spans))} in turn"
