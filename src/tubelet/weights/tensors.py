"""Tensors of a checkpoint, read one by one, and their names compared with those a model has."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tubelet.errors import KeyMismatch, UnsafeFile
from tubelet.packed.header import Entry
from tubelet.weights.locate import Checkpoint, CheckpointFolder, Source, find_checkpoint
from tubelet.weights.opened import FLOATS, stored_name


def read_state(source: Source, *, revision: str | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint under the names they have there, headers checked first. Cost: a copy of the file."""
    checkpoint = find_checkpoint(source, revision)
    with TensorReader(checkpoint) as reader:
        return {key: reader(key).clone() for key in checkpoint.entries}


def compare_names(
    expected: Mapping[str, tuple[int, ...]],
    entries: Mapping[str, Entry],
    allowed: Sequence[str],
    source: str,
    unused: Mapping[str, tuple[int, ...]] | None = None,
    described: Callable[[], str] = str,
) -> tuple[str, ...]:
    """Every name and shape, before any value is read; returns the allowed misses. unused: names that may be there and
    are not read. described: how the message says what the tensors were taken for. Raises KeyMismatch."""
    missing = [name for name in expected if name not in entries and name not in allowed]
    known = {**(unused or {}), **expected}
    unexpected = [name for name in entries if name not in known]
    misshaped = [
        (name, shape, entries[name].shape)
        for name, shape in known.items()
        if name in entries and (entries[name].shape != shape or entries[name].dtype not in FLOATS)
    ]
    if missing or unexpected or misshaped:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing ({', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''})")
        if unexpected:
            names = f"{', '.join(unexpected[:3])}{' ...' if len(unexpected) > 3 else ''}"
            parts.append(f"{len(unexpected)} unexpected ({names})")
        if misshaped:
            name, shape, got = misshaped[0]
            kind = entries[name].dtype
            parts.append(f"{len(misshaped)} mis-shaped ({name} is {kind} {got}, expected {shape} of floats)")
        raise KeyMismatch(
            f"the tensors do not fit: {'; '.join(parts)}{described()}",
            missing=missing,
            unexpected=unexpected,
            misshaped=misshaped,
            source=source,
        )
    return tuple(name for name in expected if name not in entries)


def same_bits(wanted: Mapping[str, Tensor], written: Mapping[str, Tensor]) -> bool:
    """Whether every wanted tensor was written with its type, shape and bits, those of NaN included."""

    def bits(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)

    return all(
        name in written
        and (t.dtype, t.shape) == (written[name].dtype, written[name].shape)
        and torch.equal(bits(t), bits(written[name]))
        for name, t in wanted.items()
    )


def entries_of(tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Tensors in memory as a file would describe them, for `compare_names`."""
    names = {getattr(torch, own): name for name, own in FLOATS.items()}
    return {key: Entry(names.get(x.dtype, str(x.dtype)), tuple(x.shape), 0, 0) for key, x in tensors.items()}


def wanted_type(dtype: torch.dtype | None, folder: CheckpointFolder) -> torch.dtype | None:
    """The type that was asked for, else the one in which the folder's weights are kept; None: the stored one."""
    return dtype if dtype is not None or folder.dtype is None else getattr(torch, folder.dtype)


def stored_type(entries: Sequence[Entry]) -> torch.dtype:
    """The one type all tensors are kept in, see `stored_name`."""
    return getattr(torch, stored_name(entries))


class TensorReader:
    """Tensors by their key in the files, each file opened once. A context manager."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.files: dict[Path, Any] = {}
        self.stack = ExitStack()

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def __call__(self, key: str) -> Tensor:
        path = self.checkpoint.home[key]
        try:
            if path not in self.files:
                self.files[path] = self.stack.enter_context(safe_open(str(path), framework="pt"))
            tensor: Tensor = self.files[path].get_tensor(key)
        except (SafetensorError, OSError) as e:
            raise UnsafeFile(f"{key!r:.80} cannot be read", source=path.name) from e
        return tensor
