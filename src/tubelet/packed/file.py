"""Tensors into files: safetensors with the mode the user's umask gives, whole or not at all; and packs out of them."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from tubelet.errors import InputError, RunError, ShapeError, TubeletError, UnsafeFile
from tubelet.packed.grid import Grid, Item
from tubelet.packed.header import FORMAT, Header, holds, of_a_pack, read_header, strict_json
from tubelet.writing import new_file

_OWN_TENSORS, _OWN_WORDS = frozenset({"x", "pos"}), frozenset({"format", "items", "lengths"})
MAX_ITEM_VALUES = 1_000_000  # of the items of a pack, about 12 each
_ERRNO = re.compile(r"\(os error (\d+)\)")  # in what safetensors says of a file it could not write


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """One safetensors file, in place. Its mode is what any other new file would have; the writer of safetensors alone
    would make it private. Raises OSError, RunError, and InputError for a tensor without values."""
    held = on_host(tensors)
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(held, str(path), metadata=dict(metadata))
    except SafetensorError as e:
        if found := _ERRNO.search(str(e)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from e
        raise RunError("safetensors could not write the tensors", source=path.name) from e
    path.chmod(mode)


def replace_tensors(
    target: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    may_replace: Callable[[Header], bool],
) -> None:
    """One safetensors file, whole or not at all, with its header read back before it takes its place.

    may_replace: of what is in the header of a safetensors file that stands there, whether it is one of this kind.
    Raises what `writing.new_file` raises, and InputError for a tensor without values.

        >>> replace_tensors("row.safetensors", {"x": torch.ones(2)}, {}, lambda old: "x" in old.tensors)
        >>> Path("row.safetensors").exists()
        True
    """

    with new_file(target, lambda path: holds(path, may_replace)) as beside:
        write_tensors(beside, tensors, metadata)
        written = read_header(beside).tensors
        if {name: entry.shape for name, entry in written.items()} != {n: tuple(t.shape) for n, t in tensors.items()}:
            raise RunError("what was written is not what was to be written", source=beside.name)


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the host, contiguous, no two in the same memory, as a file needs them; copied only for that.

    Raises InputError for one without values.
    """
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise InputError("a tensor without values cannot be written", got=name)
        held = tensor.detach().cpu().contiguous()
        memory = held.untyped_storage().data_ptr()
        out[name] = held.clone() if memory in seen else held
        seen.add(memory)
    return out


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
    said = _pack_words(items, lengths, tensors, metadata)
    replace_tensors(path, {"x": x, "pos": pos, **tensors}, said, of_a_pack)


def pack_bytes(
    x: Tensor,
    pos: Tensor,
    items: Sequence[Item],
    lengths: Sequence[int],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> bytes:
    """The content of the file that `write_pack` writes. Cost: the tensors once more in memory. Raises ShapeError."""
    said = _pack_words(items, lengths, tensors, metadata)
    return save(on_host({"x": x, "pos": pos, **tensors}), metadata=said)


def _pack_words(
    items: Sequence[Item], lengths: Sequence[int], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, str]:
    """What stands beside the tensors of a pack. Raises ShapeError."""
    if taken := sorted(_OWN_TENSORS & tensors.keys() | _OWN_WORDS & metadata.keys()):
        raise ShapeError(f"these names are the pack's own: {', '.join(taken)}", got=taken)
    said = json.dumps([_item_to(i) for i in items])
    return {**metadata, "format": FORMAT, "items": said, "lengths": json.dumps(list(lengths))}


class PackParts(NamedTuple):
    """What stands in a pack's file."""

    x: Tensor
    pos: Tensor
    items: tuple[Item, ...]
    lengths: tuple[int, ...]
    tensors: dict[str, Tensor]  # further ones, where everything is read
    metadata: dict[str, str]  # the caller's


def read_pack(path: str | os.PathLike[str], *, everything: bool = False) -> PackParts:
    """The parts of a pack's file, as they stand there. Raises what `Packed.load` says."""
    source = Path(path).name
    try:
        if not Path(path).is_file():
            raise InputError("there is no such regular file", source=source)
        header = read_header(Path(path))  # one name twice, which safetensors takes, is refused here
        meta = header.metadata
        if meta.get("format") != FORMAT:
            raise UnsafeFile("not a tubelet pack", source=source, expected=FORMAT, got=meta.get("format"))
        others = [name for name in header.tensors if name not in _OWN_TENSORS] if everything else []
        with safe_open(str(path), framework="pt") as f:
            x, pos = f.get_tensor("x"), f.get_tensor("pos")
            beside = {name: f.get_tensor(name) for name in others}
        said, lengths = (
            strict_json(meta[name].encode(), UnsafeFile, source, any_number=True, most_values=MAX_ITEM_VALUES)
            for name in ("items", "lengths")
        )
        items = tuple(item_from(one) for one in said)
        return PackParts(x, pos, items, tuple(lengths), beside, {k: v for k, v in meta.items() if k not in _OWN_WORDS})
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


def item_from(said: Mapping[str, Any]) -> Item:
    """The item that a pack's words describe. Raises ShapeError, KeyError, TypeError."""
    where = Grid(*said["grid"]), tuple(said["times_s"]), said["picture"], tuple(said["box"])
    return Item(*where, tuple(said["content"]) if "content" in said else None)
