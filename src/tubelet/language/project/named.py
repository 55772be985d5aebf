"""Projectors inside whole models that give their tensors names of their own.

multi_modal_projector.linear_1.weight  ->  0.weight of mlp2x_gelu     {"0": "multi_modal_projector.linear_1"}
... .mm_input_projection_weight        ->  weight of soft_tokens      {"weight": "... .mm_input_ ..."}
"""

from collections.abc import Mapping

import torch

from tubelet.errors import KeyMismatch
from tubelet.language.project.files import read_projector
from tubelet.language.project.projector import Projector
from tubelet.weights.locate import CheckpointFolder

LEAVES = ("weight", "bias")


def load_named_projector(
    folder: CheckpointFolder,
    kind: str,
    names: Mapping[str, str],
    *,
    merge: int | None = None,
    eps: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Projector:
    """A projector of this kind whose tensors have other names than LLaVA's in a whole model's files.

    names: tensor of ours -> the end of its name there, or the same of modules, without .weight and .bias; "" is the
    projector itself. merge, eps: what the tensors do not say. Raises KeyMismatch and what else `load_projector` raises.
    """
    keys = named_tensors(folder, names)
    if not keys:
        missing = tuple(f"{end}.weight" for end in names.values())
        raise KeyMismatch("the file holds no projector", missing=missing, source=folder.name)
    try:
        given = {n: v for n, v in (("kind", kind), ("merge", merge), ("eps", eps)) if v is not None}
        return read_projector(folder.checkpoint(set(keys.values())), keys, given, dtype, device)
    except KeyMismatch as e:
        theirs = {f"{ours}.{leaf}".lstrip("."): f"{end}.{leaf}" for ours, end in names.items() for leaf in LEAVES}
        missing = tuple(theirs.get(name, name) for name in e.missing)
        text = f"the tensors are not those of {kind}" + (f": {', '.join(missing[:3])} missing" if missing else "")
        raise KeyMismatch(text, missing=missing, misshaped=e.misshaped, source=folder.name) from e


def named_tensors(folder: CheckpointFolder, names: Mapping[str, str]) -> dict[str, str]:
    """Our tensor -> the key in the files, of those that are there under these names."""
    found: dict[str, str] = {}
    for ours, end in names.items():
        before = f"{ours}." if ours else ""
        for key in folder.home:
            module, _, leaf = key.rpartition(".")
            if f".{key}".endswith(f".{end}"):
                found[ours] = key
            elif leaf in LEAVES and f".{module}".endswith(f".{end}"):
                found[before + leaf] = key
    return found
