"""Tensors into files: safetensors with the mode the user's umask gives, whole or not at all; and packs out of them."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tubelet.errors import InputError, RunError, ShapeError, TubeletError, UnsafeFile
from tubelet.packed.grid import Grid, Item

FORMAT = "tubelet-packed-1"


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


# ---- packs


def write_pack(
    path: str | os.PathLike[str],
    x: Tensor,
    pos: Tensor,
    items: Sequence[Item],
    lengths: Sequence[int],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    """What `Packed.save` says."""
    if taken := sorted({"x", "pos"} & tensors.keys() | {"format", "items", "lengths"} & metadata.keys()):
        raise ShapeError(f"these names are the pack's own: {', '.join(taken)}", got=taken)
    said = json.dumps([_item_to(i) for i in items])
    meta = {**metadata, "format": FORMAT, "items": said, "lengths": json.dumps(list(lengths))}
    replace_tensors(path, _storages({"x": x, "pos": pos, **tensors}), meta)


def read_pack(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor, tuple[Item, ...], tuple[int, ...]]:
    """x, pos, items and lengths of a pack's file, as they stand there. Raises what `Packed.load` says."""
    source = Path(path).name
    try:
        with safe_open(str(path), framework="pt") as f:
            meta = f.metadata() or {}
            if meta.get("format") != FORMAT:
                raise UnsafeFile("not a tubelet pack", source=source, expected=FORMAT, got=meta.get("format"))
            x, pos = f.get_tensor("x"), f.get_tensor("pos")
        items = tuple(_item_from(said) for said in json.loads(meta["items"]))
        return x, pos, items, tuple(json.loads(meta["lengths"]))
    except TubeletError as e:
        e.placed(source=source)
        raise
    except OSError as e:
        raise InputError("the file cannot be opened", source=source) from e
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise UnsafeFile("the file is damaged or not a tubelet pack", source=source) from e


def _item_to(item: Item) -> dict[str, Any]:
    """Plain values of an item. One whose cells all show something is written as ever."""
    said = {"grid": list(item.grid), "times_s": list(item.times_s), "picture": item.picture, "box": list(item.box)}
    return said if item.content is None else said | {"content": list(item.content)}


def _item_from(said: dict[str, Any]) -> Item:
    where = Grid(*said["grid"]), tuple(said["times_s"]), said["picture"], tuple(said["box"])
    return Item(*where, tuple(said["content"]) if "content" in said else None)


def _storages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, contiguous, no two in the same memory, as a file needs them."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        on_host = tensor.detach().cpu().contiguous()
        memory = on_host.untyped_storage().data_ptr()
        out[name] = on_host.clone() if memory in seen else on_host
        seen.add(memory)
    return out
