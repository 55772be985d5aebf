"""A manifest makes a folder whole: it names every other file with its length and sha256, and is written last.

For checkpoints of any layout; those of the loop are in checkpoint.py.
"""

import json
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from tubelet.errors import CheckpointError
from tubelet.writing import sync, write_json

FORMAT = "tubelet-checkpoint-1"
MANIFEST = "MANIFEST.json"


class Naming(NamedTuple):
    """How the folders of checkpoints are called."""

    prefix: str
    digits: int  # at least so many, with zeros before

    def name(self, step: int) -> str:
        return f"{self.prefix}{step:0{self.digits}d}"


STEPS = Naming("step-", 8)  # of the loop
CHECKPOINTS = Naming("checkpoint-", 1)  # of transformers' Trainer


class Found(NamedTuple):
    """What a folder of checkpoints holds."""

    path: Path | None  # the newest whole one
    broken: tuple[tuple[str, str], ...]  # names of newer ones that are not whole, each with the reason


def facts_of(file: Path) -> dict[str, Any]:
    """Length and digest of a file, as a manifest has them. Reads it."""
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": file_digest(opened, "sha256").hexdigest()}


def write_manifest(folder: Path, facts: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> None:
    """MANIFEST.json over every other file of `folder`, and all of it synced. Raises OSError."""
    if files is None:
        files = {str(f.relative_to(folder)): facts_of(f) for f in folder.rglob("*") if f.is_file()}
    write_json(folder / MANIFEST, {"format": FORMAT, **facts, "files": dict(sorted(files.items()))})
    for inside in [folder / MANIFEST, *(f for f in folder.rglob("*") if f.is_dir()), folder]:
        sync(inside)


def verify(folder: Path, step: int | None = None) -> dict[str, Any]:
    """The manifest of a whole checkpoint, of `step` where one is given. Reads every byte.

    Raises CheckpointError that says what is wrong.
    """
    name = folder.name
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise CheckpointError("there is no manifest: it was never finished", source=name) from e
    except (OSError, ValueError) as e:
        raise CheckpointError("the manifest cannot be read", source=name) from e
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"the manifest is not of the format {FORMAT}", source=name, expected=FORMAT)
    if step is not None and manifest.get("step") != step:
        raise CheckpointError("the manifest is of another step", source=name, expected=step, got=manifest.get("step"))
    there = {str(f.relative_to(folder)) for f in folder.rglob("*") if not f.is_dir()} - {MANIFEST}
    if there != files.keys():
        raise CheckpointError(f"files differ from the manifest: {sorted(there ^ files.keys())[:3]}", source=name)
    for file, expected in files.items():
        try:
            got = facts_of(folder / file)
        except OSError as e:
            raise CheckpointError(f"{file} cannot be read", source=name) from e
        if got != expected:
            raise CheckpointError(f"{file} is not what was written", source=name, expected=expected, got=got)
    return manifest


def newest_whole(folder: Path, naming: Naming = STEPS) -> Found:
    """The checkpoint of the highest step in `folder` whose manifest holds, and the newer ones that are broken."""
    broken = []
    for path in sorted(folders(folder, naming), key=step_of, reverse=True):
        try:
            verify(path, step_of(path))
        except CheckpointError as e:
            broken.append((path.name, e.message))
        else:
            return Found(path, tuple(broken))
    return Found(None, tuple(broken))


def step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def folders(folder: Path, naming: Naming = STEPS) -> list[Path]:
    """The checkpoints in a folder by their names, whole or not."""
    found = folder.glob(f"{naming.prefix}*")
    return [p for p in found if p.name.removeprefix(naming.prefix).isdecimal() and p.is_dir()]
