"""Weights of projectors in and out of files, under the names LLaVA gives them: `model.mm_projector.0.weight` ...

Safetensors only, strict, whole or not at all, as for encoders. LLaVA's own `mm_projector.bin` is a pickle: it comes in
through `tubelet convert --to projector --unsafe-pickle`, which reads it in a confined process.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tubelet.doors import door
from tubelet.encoder.config import Merger
from tubelet.errors import ConfigError, KeyMismatch, NotFinite
from tubelet.language.project.config import SETTINGS, Compat, ProjectorConfig
from tubelet.language.project.projector import Projector, from_config
from tubelet.packed.file import replace_tensors
from tubelet.packed.grid import Odd
from tubelet.packed.header import Entry, strict_json
from tubelet.weights.conversion import readable, sha256_of, write_report
from tubelet.weights.convert import Fold
from tubelet.weights.locate import CONFIG, Checkpoint, CheckpointFolder, Source, find_folder
from tubelet.weights.plain import checked_fields, to_plain
from tubelet.weights.save import staged
from tubelet.weights.tensors import TensorReader, compare_names, same_bits, stored_type, wanted_type
from tubelet.writing import resolved

FILE = "mm_projector.safetensors"
INSIDE = "mm_projector."  # what stands before a key, after whatever else
MERGER = ".merger."  # the same in a LLaVA-OneVision-2
PREFIX = "model.mm_projector."
NORM_OUT = "norm_out.weight"  # of a projector with a norm behind
_NUMBERED = re.compile(r"(\d+)\.(?:weight|bias)|(\d+)\.(?:pre_norm|proj\.[02])\.(?:weight|bias)")


@dataclass(frozen=True)
class ProjectorReport:
    """What `convert_projector` wrote. ignored: tensors of the source that are not the projector's. bit_equal: every
    tensor came back from the written file with the same bits."""

    source: str
    out: str
    kind: str
    in_dim: int
    out_dim: int
    merge: int
    tensors: int
    bytes: int
    bit_equal: bool
    ignored: tuple[str, ...]
    skipped: tuple[str, ...]
    source_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


@door
def load_projector(
    source: Source,
    *,
    kind: str | None = None,
    odd: Odd | None = None,
    compat: Compat | None = None,
    eps: float | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Projector:
    """The projector in a .safetensors file, a folder (its mm_projector.safetensors first) or a whole LLaVA checkpoint.

    Widths and merge come from the tensors. The kind comes from the argument, from what `save_projector` wrote, from
    mm_projector_type in the config.json beside, or from the keys; spatial_merge and patch_merger have the same keys, so
    between these somebody must say it. odd, compat, eps: as in `build_projector`; None keeps what was saved.
    dtype: None keeps the stored type. Keys that do not contain "mm_projector." are left out, unless none does.
    Raises ConfigError, KeyMismatch (with all missing, unexpected and mis-shaped names), UnsafeFile, UnsafePath,
    NotFinite, or WeightsError when nothing is there.

        >>> path = save_projector(tubelet.language.build_projector("mlp2x_gelu", 64, 128), "mm_projector.safetensors")
        >>> load_projector(path).config.kind
        'mlp2x_gelu'
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"weights are floating point numbers, not {dtype}", got=str(dtype))
    folder = _folder_of(source, revision)
    checkpoint, dtype = folder.checkpoint(), wanted_type(dtype, folder)
    given = {"kind": kind, "odd": odd, "compat": compat, "eps": eps}
    given = {k: v for k, v in given.items() if v is not None}
    return read_projector(checkpoint, bare_names(checkpoint.entries), given, dtype, device)


def read_projector(
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    given: dict[str, Any],
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> Projector:
    """The projector whose tensors have these keys. given: what the caller says of it."""
    entries = {name: checkpoint.entries[key] for name, key in names.items()}
    config = _settle(given, checkpoint, entries)
    with torch.device("meta"):
        projector = from_config(config)
    expected = {name: tuple(t.shape) for name, t in projector.state_dict().items()}
    compare_names(expected, entries, (), checkpoint.name)
    wanted = dtype or stored_type(list(entries.values()))
    state = {}
    with TensorReader(checkpoint) as read:
        for name in expected:
            state[name] = read(names[name]).to(device, wanted, copy=True)
            if not bool(state[name].isfinite().all()):
                raise NotFinite(f"NaN or infinity in {name} as {wanted}", source=checkpoint.name, got=name)
    projector.load_state_dict(state, assign=True)
    return projector


def _folder_of(source: Source, revision: str | None = None) -> CheckpointFolder:
    """Where the projector is: of a folder in its own file first."""
    own = Path(source.name if isinstance(source, CheckpointFolder) else source) / FILE
    return find_folder(own if os.path.isfile(own) else source, revision)  # noqa: PTH113  that of Path raises where a name is too long


@door
def save_projector(projector: Projector, path: str | os.PathLike[str]) -> Path:
    """Write the weights and the configuration to one .safetensors file (a folder gets its mm_projector.safetensors).

    Whole or not at all; only a projector's file is replaced. Returns the file's path. Raises ConfigError for a
    projector without weights, InputError where no such file may stand, RunError when it cannot be written.

        >>> save_projector(tubelet.language.build_projector("linear", 64, 128), "mm_projector.safetensors").name
        'mm_projector.safetensors'
    """
    target = Path(path) / FILE if resolved(path).is_dir() else Path(path)
    if target.suffix != ".safetensors":
        raise ConfigError("projectors are saved as .safetensors", source=target.name, expected=".safetensors")
    tensors = {PREFIX + name: tensor for name, tensor in projector.state_dict().items()}
    if not tensors:
        raise ConfigError(f"{projector.config.kind} has no weights to save", got=projector.config.kind)
    said = {"format": "pt", SETTINGS: json.dumps(to_plain(projector.config))}
    replace_tensors(target, tensors, said, lambda old: all(INSIDE in name for name in old.tensors))
    return target


@door
def convert_projector(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    kind: str | None = None,
    unsafe_pickle: bool = False,
    overwrite: bool = False,
) -> ProjectorReport:
    """Write the projector at `source` as mm_projector.safetensors in the folder `out`, read it back and report.

    source: as in `load_projector`, and with unsafe_pickle LLaVA's mm_projector.bin, which a confined process reads.
    kind: as in `load_projector`. The folder appears whole or not at all. Raises what `load_projector` raises.
    """
    with readable(Path(source), unsafe_pickle=unsafe_pickle) as given:
        found = _folder_of(given.weights)
        checkpoint = found.checkpoint()
        projector = load_projector(found, kind=kind)
        before, config = projector.state_dict(), projector.config
        ours = set(bare_names(checkpoint.entries).values())
        files = [file.path for file in checkpoint.files] if given.pickle is None else [given.pickle]
        with staged(Path(out), overwrite) as folder:
            after = load_projector(save_projector(projector, folder)).state_dict()
            report = ProjectorReport(
                source=Path(source).name,
                out=str(out),
                kind=config.kind,
                in_dim=config.in_dim,
                out_dim=config.out_dim,
                merge=config.merge,
                tensors=len(before),
                bytes=sum(t.numel() * t.element_size() for t in before.values()),
                bit_equal=same_bits(before, after),
                ignored=tuple(sorted(key for key in checkpoint.entries if key not in ours)),
                skipped=given.skipped,
                source_sha256=sha256_of(files),
            )
            write_report(report.as_dict(), folder)
    return report


def fold_of(projector: Projector, select_layer: int = -1) -> Fold:
    """The projector as the merger of LLaVA-OneVision-2's vision tower, for `tubelet convert`; weights are shared.

    select_layer: the hidden state it was trained on (LLaVA's mm_vision_select_layer). Raises ConfigError for a kind
    that is no merger over blocks.

        >>> fold_of(tubelet.language.build_projector("spatial_merge", 64, 128)).config
        Merger(merge=2, out=128, eps=1e-06, norm='layer', joined=False)
    """
    config = projector.config
    if config.kind not in ("spatial_merge", "patch_merger") or config.compat is not None or config.norm_out:
        odd = f"compat={config.compat!r}" if config.compat else "norm_out" if config.norm_out else config.kind
        raise ConfigError(
            f"the tower's merger joins blocks as spatial_merge does; it cannot be {odd}",
            expected="spatial_merge",
            got=config.kind,
        )
    ours = {"ln_q": "norm", "mlp.0": "fc1", "mlp.2": "fc2"}
    state = {}
    for name, tensor in projector.state_dict().items():
        module, _, leaf = name.rpartition(".")
        state[f"{ours[module]}.{leaf}"] = tensor
    return Fold(Merger(config.merge, config.out_dim, config.eps), state, select_layer)


# ---- the steps


def bare_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """The projector's own key -> the key in the file. Everything after "mm_projector." counts, whatever wrapped it;
    where no key has that, everything after "merger." (LLaVA-OneVision-2's tower); otherwise the file holds a projector
    alone. Raises KeyMismatch when two keys mean the same tensor."""
    inner: dict[str, str] = {}
    for part in (INSIDE, MERGER):
        inner = inner or {key: f".{key}".rpartition(part)[2] for key in keys if part in f".{key}"}
    inner = inner or {key: key for key in keys}
    names: dict[str, str] = {}
    for key, name in inner.items():
        if name in names:
            raise KeyMismatch(f"{names[name]!r:.80} and {key!r:.80} are the same tensor", unexpected=(key,))
        names[name] = key
    return names


def _settle(given: dict[str, Any], checkpoint: Checkpoint, entries: Mapping[str, Entry]) -> ProjectorConfig:
    """The configuration: what the caller says, then what the file says, then what the tensors show."""
    saved = _saved(checkpoint)
    kind = (
        given.pop("kind", None) or saved.get("kind") or _kind_beside(checkpoint) or _kind_of(entries, checkpoint.name)
    )
    if saved.get("kind") == kind:
        given = {**{k: saved[k] for k in ("odd", "compat", "eps") if k in saved}, **given}
    shaped = ProjectorConfig(kind=kind, in_dim=1, out_dim=1)  # is there such a kind?
    if kind == "identity":
        raise ConfigError("identity has no weights to load", source=checkpoint.name, got=kind)
    merge = 1
    if kind == "linear":
        out_dim, in_dim = _shape(entries, "weight", 2, checkpoint.name)
    elif kind == "pooler":
        out_dim, in_dim, merge, _ = _shape(entries, "conv_pool.weight", 4, checkpoint.name)
    elif kind in ("spatial_merge", "patch_merger"):
        (in_dim,) = _shape(entries, "ln_q.weight", 1, checkpoint.name)
        out_dim, wide = _shape(entries, "mlp.2.weight", 2, checkpoint.name)
        merge = max(1, round((wide / in_dim) ** 0.5))
    elif kind == "pixel_shuffle":
        out_dim, wide = _shape(entries, "mlp.0.weight", 2, checkpoint.name)
        merge = given.pop("merge", saved.get("merge", 2))
        in_dim = wide // merge**2
    elif kind == "merge_linear":
        out_dim, wide = _shape(entries, "weight", 2, checkpoint.name)
        merge = given.pop("merge", saved.get("merge", 1))
        in_dim = wide // merge**2
    elif kind == "soft_tokens":
        in_dim, out_dim = _shape(entries, "weight", 2, checkpoint.name)
        merge = given.pop("merge", saved.get("merge", 1))
    else:
        out_dim, in_dim = _shape(entries, "0.weight", 2, checkpoint.name)
    given["norm_out"] = NORM_OUT in entries
    try:
        return ProjectorConfig(kind=shaped.kind, in_dim=in_dim, out_dim=out_dim, merge=merge, **given)
    except ConfigError as e:
        raise e.placed(source=checkpoint.name) from None


def _saved(checkpoint: Checkpoint) -> dict[str, Any]:
    """The configuration that `save_projector` put into the file, as it stands there; empty without one."""
    text = checkpoint.metadata.get(SETTINGS)
    if text is None:
        return {}
    data = strict_json(text.encode(), ConfigError, checkpoint.name)
    try:
        return checked_fields(ProjectorConfig, data, SETTINGS)
    except ConfigError as e:
        raise e.placed(source=checkpoint.name) from None


def _kind_beside(checkpoint: Checkpoint) -> str | None:
    """mm_projector_type of the config.json beside the weights, where there is one that says it."""
    found = (checkpoint.config() or {}).get("mm_projector_type")
    if found is not None and not isinstance(found, str):
        raise ConfigError("mm_projector_type is a name", source=CONFIG, got=type(found).__name__)
    return found


def _kind_of(entries: Mapping[str, Entry], source: str) -> str:
    """The only kind that has these keys. Raises ConfigError where two have them, KeyMismatch where none has."""
    entries = {name: entry for name, entry in entries.items() if name != NORM_OUT}
    if "ln_q.weight" in entries:
        raise ConfigError(
            "its keys are those of spatial_merge and of patch_merger alike: say which kind it is",
            source=source,
            expected=("spatial_merge", "patch_merger"),
        )
    if "conv_pool.weight" in entries:
        return "pooler"
    if set(entries) <= {"weight", "bias"} and entries:
        return "linear"
    if set(entries) == {"weight", "norm.weight"}:
        return "soft_tokens"
    if "norm.weight" in entries and "mlp.0.weight" in entries:
        return "pixel_shuffle"
    matches = {name: _NUMBERED.fullmatch(name) for name in entries}
    unknown = [name for name, match in matches.items() if match is None]
    matrices = {match[1] for match in matches.values() if match and match[1]}
    blocks = {match[2] for match in matches.values() if match and match[2]}
    if unknown or not matrices:
        raise KeyMismatch(
            f"no projector has these keys: {', '.join(sorted(unknown or entries)[:3]) or 'none at all'}",
            unexpected=tuple(unknown),
            source=source,
        )
    return f"mlp{len(matrices)}x_res{len(blocks)}x_gelu" if blocks else f"mlp{len(matrices)}x_gelu"


def _shape(entries: Mapping[str, Entry], name: str, axes: int, source: str) -> tuple[int, ...]:
    """The shape of one tensor that must be there, with that many axes and something on each. Raises KeyMismatch."""
    if name not in entries:
        raise KeyMismatch(f"{name} is missing", missing=(name,), unexpected=tuple(entries), source=source)
    shape = entries[name].shape
    if len(shape) != axes or min(shape) < 1:
        hint = "; the file was saved while the weights were spread over processes" if 0 in shape else ""
        raise KeyMismatch(f"{name} has the shape {shape}{hint}", misshaped=[(name, (1,) * axes, shape)], source=source)
    return shape
