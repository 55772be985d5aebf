"""Tensors of LLaVA's checkpoints that are no part of an encoder or a projector.

model.image_newline         the end of a row of joined views
model.embed_tokens.weight   the table of embeddings, also of language models that transformers does not have
"""

from typing import Any

import torch
from torch import Tensor

from tubelet.errors import KeyMismatch, NotFinite
from tubelet.weights.locate import Source, find_folder
from tubelet.weights.tensors import TensorReader, stored_type

NEWLINES = ("model.image_newline", "image_newline")
TABLES = ("model.embed_tokens.weight", "model.transformer.wte.weight", "language_model.model.embed_tokens.weight")


def read_newline(source: Source, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
    """The learned newline of a checkpoint, (D,). Raises KeyMismatch where it has none, NotFinite."""
    return _tensor(source, NEWLINES, 1, "views that are unpadded need a newline", dtype, device)


def read_embeddings(source: Source, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
    """A checkpoint's table of token embeddings, (V, D), also of a language model that transformers does not have.

    Raises KeyMismatch where it has none, NotFinite.
    """
    return _tensor(source, TABLES, 2, "the checkpoint has no token embeddings", dtype, device)


def _tensor(
    source: Source, names: tuple[str, ...], axes: int, problem: str, dtype: torch.dtype | None, device: Any
) -> Tensor:
    """The one tensor under the first of these names. Raises KeyMismatch, NotFinite."""
    folder = find_folder(source)
    key = next((name for name in names if name in folder.home), None)
    if key is None:
        raise KeyMismatch(problem, missing=(names[0],), source=folder.name)
    shape = folder.checkpoint({key}).entries[key].shape
    if len(shape) != axes:
        raise KeyMismatch(f"{key} has the shape {shape}", misshaped=[(key, (1,) * axes, shape)], source=folder.name)
    checkpoint = folder.checkpoint({key})
    kind = dtype or stored_type([checkpoint.entries[key]])
    with TensorReader(checkpoint) as read:
        found = read(key).to(device, kind, copy=True)
    if not bool(found.isfinite().all()):
        raise NotFinite(f"NaN or infinity in {key} as {kind}", source=folder.name, got=key)
    return found
