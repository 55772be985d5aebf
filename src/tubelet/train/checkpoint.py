"""Checkpoints that are whole or not there: a folder written aside, synced, and made real by one rename.

    run/step-00000120/  model/ optimizer/ ema/    safetensors; one file, or one of each rank where weights are sharded
                        state.json                where the run was
                        MANIFEST.json             bytes and sha256 of every other file
    run/lock                                      held while a process writes here

A kill at any moment leaves every checkpoint that was there before, and at most a folder with a name that begins with a
dot, which the next run removes. What is read is verified first, byte by byte.
"""

import fcntl
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from tubelet.errors import CheckpointError
from tubelet.packed.file import write_tensors
from tubelet.train.manifest import (
    MANIFEST,
    STEPS,
    Found,
    Naming,
    facts_of,
    folders,
    newest_whole,
    step_of,
    verify,
    write_manifest,
)
from tubelet.train.strategy import Group
from tubelet.writing import sync, write_json

VERSION = 1  # of what state.json and the parts hold
STATE = "state.json"
NO_FACTS: Mapping[str, Any] = {}
Attempt = Callable[[Callable[[], None], Path], None]  # do it on this rank, raise on all
_SPARE_BYTES = 1 << 20  # for headers, manifest and the file system's own accounts


class Checkpoints:
    """The checkpoints of one run. `open` and `save` are collectives: every rank calls them.

    keep: so many of the newest stay. keep_every: those at multiples of it stay too.
    Raises CheckpointError when another process holds the folder.
    """

    def __init__(
        self, folder: Path, group: Group, *, keep: int = 2, keep_every: int | None = None, naming: Naming = STEPS
    ) -> None:
        self.folder, self.group, self.keep, self.keep_every = folder, group, max(2, keep), keep_every
        self.naming = naming
        self._lock: int | None = None
        self._aside = secrets.token_hex(4)  # of rank 0: a dead run's surviving rank writes under another name

    def __enter__(self) -> "Checkpoints":
        error = None
        if self.group.rank == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(self.folder / "lock")
                for leftover in self.folder.glob(f".{self.naming.prefix}*"):
                    # A dead run's surviving rank may still write into one: it goes at the next start, then.
                    shutil.rmtree(leftover, ignore_errors=True)
            except OSError as e:
                error = CheckpointError(f"the folder cannot be written: {e.strerror}", source=str(self.folder))
                error.__cause__ = e
            except CheckpointError as e:
                error = e
        try:
            self._agree(error, "opened")
        except CheckpointError:
            self.__exit__()
            raise
        self._aside = f"{self.group.from_first(int(self._aside, 16)):08x}"
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def newest_whole(self) -> Found:
        """Rank 0 verifies, and every rank gets what it found (reasons on rank 0 alone). A collective.

        Broken ones are renamed, and removed when the folder is opened again, so that they do not count among those
        that are kept. Raises CheckpointError when there are broken ones and no whole one.
        """
        found, error = Found(None, ()), None
        if self.group.rank == 0:
            found = newest_whole(self.folder, self.naming)
            for name, _ in found.broken if found.path else ():
                (self.folder / name).rename(self.folder / f".{name}.{self._aside}.broken")
            if found.broken and found.path is None:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in found.broken)
                error = CheckpointError(f"none of the checkpoints is whole. {reasons}", source=str(self.folder))
        self._agree(error, "found")
        step = self.group.from_first(-1 if found.path is None else step_of(found.path))
        return Found(None if step < 0 else self.folder / self.naming.name(step), found.broken)

    def whole(self, path: Path) -> Path:
        """A checkpoint, or the newest of a run's folder, verified by rank 0. A collective. Raises CheckpointError."""
        error, step = None, -1
        if self.group.rank == 0:
            try:
                if not (path / MANIFEST).exists():
                    found = newest_whole(path, self.naming).path
                    if found is None:
                        raise CheckpointError("there is no whole checkpoint", source=str(path))
                    step = step_of(found)
                else:
                    verify(path)
            except CheckpointError as e:
                error = e
        self._agree(error, "found")
        step = self.group.from_first(step)
        return path if step < 0 else path / self.naming.name(step)

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of `step`: tensors by part and name, and the plain values of `state`.

        Sharded tensors are written by the ranks that hold them, all others by rank 0. On return the checkpoint is on
        the disk. Raises CheckpointError on every rank when one could not write; what was there before stays.
        """

        def write(aside: Path) -> None:
            self.attempt(lambda: self._prepare(aside, parts), aside)
            for part, tensors in parts.items():
                _write_part(aside / part, tensors, self.group, self.attempt)
            self.attempt(lambda: self._write_state(aside, state), aside)

        return self.publish(step, write)

    def publish(self, step: int, write: Callable[[Path], None], facts: Mapping[str, Any] = NO_FACTS) -> Path:
        """Make what `write(folder)` puts into a folder the checkpoint of `step`; `facts` go into its manifest.

        A collective, as is `write`. Raises CheckpointError on every rank when one could not; what was there stays.
        """
        final = self.folder / self.naming.name(step)
        aside = self.folder / f".{final.name}.{self._aside}.new"
        write(aside)
        self._seal(aside, {**facts, "step": step})
        self.attempt(lambda: self._publish(aside, final), aside)
        return final

    # ---- the stations of a save

    def _prepare(self, aside: Path, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        if self.group.rank == 0:
            need = sum(t.numel() * t.element_size() for tensors in parts.values() for t in tensors.values())
            free = shutil.disk_usage(self.folder).free
            if free < need + _SPARE_BYTES:
                raise CheckpointError(
                    f"{need:,} bytes are needed and {free:,} are free", source=str(aside), expected=need, got=free
                )
            for part in parts:
                (aside / part).mkdir(parents=True)

    def _write_state(self, aside: Path, state: Mapping[str, Any]) -> None:
        if self.group.rank == 0:
            write_json(aside / STATE, {"version": VERSION, **state})

    def _seal(self, aside: Path, facts: Mapping[str, Any]) -> None:
        """Every rank syncs and digests its share of the files; rank 0 writes the manifest."""
        digests: dict[str, Any] = {}

        def digest() -> None:
            files = sorted(f for f in aside.rglob("*") if f.is_file())
            for file in files[self.group.rank :: self.group.world]:
                sync(file)
                digests[str(file.relative_to(aside))] = facts_of(file)

        self.attempt(digest, aside)
        if self.group.world > 1:
            shares: list[dict[str, Any]] = [{} for _ in range(self.group.world)]
            dist.all_gather_object(shares, digests, group=self.group.over)
            digests = {name: facts for share in shares for name, facts in share.items()}
        self.attempt(lambda: write_manifest(aside, facts, digests) if self.group.rank == 0 else None, aside)

    def _publish(self, aside: Path, final: Path) -> None:
        if self.group.rank == 0:
            aside.rename(final)
            sync(self.folder)
            self._delete_old()

    def _delete_old(self) -> None:
        """All but the newest `keep`. Renamed first: a kill amid the deletion leaves no half checkpoint behind."""
        for old in sorted(folders(self.folder, self.naming), key=step_of)[: -self.keep]:
            if not self.keep_every or step_of(old) % self.keep_every:
                gone = old.with_name(f".{old.name}.{self._aside}.old")
                old.rename(gone)
                shutil.rmtree(gone)

    def attempt(self, do: Callable[[], None], where: Path) -> None:
        """Do it on this rank, and raise on all when one could not; what was begun is removed."""
        error: CheckpointError | None = None
        try:
            do()
        except CheckpointError as e:
            error = e
        except (OSError, SafetensorError) as e:
            free = shutil.disk_usage(self.folder).free
            reason = e.strerror if isinstance(e, OSError) else "the file could not be written"
            error = CheckpointError(f"{reason}; {free:,} bytes are free", source=str(where), got=free)
            error.__cause__ = e
        self._agree(error, "written", where)

    def _agree(self, error: CheckpointError | None, what: str, aside: Path | None = None) -> None:
        failed = self.group.sum([float(error is not None)])[0]
        if not failed:
            return
        if aside is not None and self.group.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        if error is None:
            raise CheckpointError(f"{failed:.0f} other ranks could not: not {what}", source=str(aside or self.folder))
        raise error


# ---- one checkpoint


def _write_part(folder: Path, tensors: Mapping[str, Tensor], group: Group, attempt: Attempt) -> None:
    """Safetensors of one part: by all ranks with DCP where a tensor is sharded, else one file by rank 0."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter
    from torch.distributed.checkpoint import save as save_sharded
    from torch.distributed.checkpoint.api import CheckpointException

    if any(isinstance(t, DTensor) for t in tensors.values()):

        def sharded() -> None:
            try:
                save_sharded(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
            except CheckpointException as e:
                raise CheckpointError("a rank could not write its share", source=str(folder)) from e

        attempt(sharded, folder.parent)
    elif tensors:

        def whole() -> None:
            if group.rank == 0:
                file = folder / "whole.safetensors"
                write_tensors(file, tensors, {"format": "pt"})

        attempt(whole, folder.parent)


def read_part(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors` in place from the files of a part, however they are sharded here and were there.

    Names and shapes must be the same. Raises CheckpointError that names what is not.
    """
    held = shapes_of(folder)
    wanted = {name: t.shape for name, t in tensors.items()}
    if held != wanted:
        missing, extra = sorted(wanted.keys() - held.keys()), sorted(held.keys() - wanted.keys())
        other = sorted(n for n in wanted.keys() & held.keys() if wanted[n] != held[n])
        raise CheckpointError(
            f"tensors differ: {len(missing)} missing {missing[:3]}, {len(extra)} unexpected {extra[:3]}, "
            f"{len(other)} of another shape {other[:3]}",
            source=str(folder),
        )
    whole = folder / "whole.safetensors"
    if whole.exists() and not any(isinstance(t, DTensor) for t in tensors.values()):
        with safe_open(whole, framework="pt") as file, torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(file.get_tensor(name))
    elif tensors:
        from torch.distributed.checkpoint import HuggingFaceStorageReader
        from torch.distributed.checkpoint import load as load_sharded

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # of one process that is what is meant
            load_sharded(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


def shapes_of(folder: Path) -> dict[str, torch.Size]:
    """Whole shapes by name of the tensors in a part."""
    whole = folder / "whole.safetensors"
    if whole.exists():
        with safe_open(whole, framework="pt") as file:
            return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if not any(folder.glob("*.safetensors")):
        return {}
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: facts.size for name, facts in metadata.items()}  # pyright: ignore[reportAttributeAccessIssue]


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a verified checkpoint. Raises CheckpointError for one that a later version wrote."""
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"it has version {state.get('version')}, this tubelet reads {VERSION}",
            source=str(path),
            expected=VERSION,
            got=state.get("version"),
        )
    return state


def _locked(path: Path) -> int:
    """A file number that holds the lock until it is closed or the process dies."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        holder = os.read(number, 32).decode(errors="replace").strip()
        os.close(number)
        raise CheckpointError(f"process {holder or '?'} is writing in this folder", source=str(path.parent)) from e
    os.truncate(number, 0)
    os.write(number, f"{os.getpid()}\n".encode())
    return number
