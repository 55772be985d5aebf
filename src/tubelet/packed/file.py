"""Tensors into files: safetensors with the mode the user's umask gives, whole or not at all."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tubelet.errors import RunError
from tubelet.packed.grid import Grid, Item


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """One safetensors file, in place. Its mode is what any other new file would have; the writer of safetensors alone
    would make it private. Raises OSError or SafetensorError."""
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), str(path), metadata=dict(metadata))
    path.chmod(mode)


def replace_tensors(target: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """One safetensors file, written beside the target and renamed: an error or a kill leaves the old file as it was.

    Raises RunError when the file cannot be written.

        >>> replace_tensors("row.safetensors", {"x": torch.ones(2)}, {"made_by": "hand"})
        >>> Path("row.safetensors").exists()
        True
    """
    path = Path(target)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        write_tensors(beside, tensors, metadata)
        beside.replace(path)
    except (OSError, SafetensorError) as e:
        raise RunError("the file could not be written", source=path.name) from e
    finally:
        beside.unlink(missing_ok=True)


FORMAT = "tubelet-packed-1"


def item_to(item: Item) -> dict[str, Any]:
    """Plain values of an item. One whose cells all show something is written as ever."""
    said = {"grid": list(item.grid), "times_s": list(item.times_s), "picture": item.picture, "box": list(item.box)}
    return said if item.content is None else said | {"content": list(item.content)}


def item_from(said: dict[str, Any]) -> Item:
    where = Grid(*said["grid"]), tuple(said["times_s"]), said["picture"], tuple(said["box"])
    return Item(*where, tuple(said["content"]) if "content" in said else None)


def storages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, contiguous, no two in the same memory, as a file needs them."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        on_host = tensor.detach().cpu().contiguous()
        memory = on_host.untyped_storage().data_ptr()
        out[name] = on_host.clone() if memory in seen else on_host
        seen.add(memory)
    return out
