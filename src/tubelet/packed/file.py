"""Tensors into files: safetensors with the mode the user's umask gives, whole or not at all."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tubelet.errors import RunError


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
