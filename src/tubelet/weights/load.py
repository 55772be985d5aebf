"""Weights into an encoder: strict, from safetensors only, and whole or not at all.

    find files -> check headers -> read config -> compare every name and shape -> read tensors -> a new Encoder

Nothing is allocated before names and shapes agree, and the encoder is built without values first, so an error at any
point leaves nothing behind.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, NotFinite, UnsafeFile
from tubelet.families import find
from tubelet.families import onevision as ov
from tubelet.weights.header import Entry
from tubelet.weights.locate import Checkpoint, find_checkpoint

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INIT_STD = 0.02


@dataclass(frozen=True)
class LoadReport:
    """What was loaded. bytes: of the tensors read. ignored: keys that are not part of the encoder by rule (rotary
    buffers, the language model of a whole checkpoint). initialised: upstream names that were allowed to be missing."""

    source: str
    family: str
    format: ov.Format
    variant: str | None
    tensors: int
    bytes: int
    dtype: str
    ignored: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    untrained: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def load_encoder(
    source: str | os.PathLike[str],
    *,
    config: EncoderConfig | str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    allow_missing: Sequence[str] = (),
    allow_nonfinite: bool = False,
) -> Encoder:
    """An encoder with the weights of a folder, a .safetensors file or a hub id, in any of the family's four formats.

    config: a configuration or the name of a variant instead of the file's config.json, which is then not read. Without
    either, the shapes must fit exactly one variant. dtype: None keeps the stored type (the widest, where files mix).
    allow_missing: upstream names that may be absent and are then initialised. `report_of` says what was done.
    Raises KeyMismatch (with all missing, unexpected and mis-shaped names), ConfigError, UnsafeFile, UnsafePath,
    NotFinite, or WeightsError when nothing is there.

        >>> encoder = load_encoder("weights/ov-large", dtype=torch.bfloat16)  # doctest: +SKIP
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"weights are floating point numbers, not {dtype}", got=str(dtype))
    checkpoint = find_checkpoint(source, revision)
    named, ignored = ov.bare_names(checkpoint.entries)
    raw = checkpoint.config() if config is None else None
    family, fmt = find(raw, named)
    entries = {name: checkpoint.entries[key] for name, key in named.items()}
    settled = _settle(config, raw, fmt, entries, checkpoint.name)
    encoder, expected = _skeleton(settled, fmt)
    initialised = compare_names(expected, entries, allow_missing, checkpoint.name)
    kind = dtype or stored_type([entries[name] for name in expected if name in entries])
    fresh = ov.to_upstream(initial_state(settled), fmt, settled.pixels.patch) if initialised else {}
    shapes = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    with TensorReader(checkpoint) as reader:

        def read(name: str) -> Tensor:
            tensor = (fresh[name] if name in initialised else reader(named[name])).to(device, kind, copy=True)
            if not allow_nonfinite and not bool(tensor.isfinite().all()):
                raise NotFinite(
                    f"NaN or infinity in {name} as {kind}; allow_nonfinite=True loads it",
                    source=checkpoint.name,
                    got=name,
                )
            return tensor

        state = ov.from_upstream(shapes, fmt, read)
    encoder.load_state_dict(state, assign=True)
    report = LoadReport(
        source=checkpoint.name,
        family=family,
        format=fmt,
        variant=ov.variant_of(settled, fmt),
        tensors=len(expected) - len(initialised),
        bytes=sum(entries[name].end - entries[name].start for name in expected if name in entries),
        dtype=str(kind).removeprefix("torch."),
        ignored=ignored,
        initialised=initialised,
        untrained=checkpoint.metadata.get("untrained") == "true",
    )
    return _mark(encoder, report)


def untrained(variant: str | EncoderConfig, seed: int = 0) -> Encoder:
    """A variant with seeded random weights, for trying things out: its tokens mean nothing, and it says so itself.

    `encoder.untrained` is True, and files saved from it carry that on. Equal seeds give equal weights wherever torch's
    generator does, whatever else a variant contains.

        >>> untrained("llava_vit_packing_small").untrained
        True
    """
    config = ov.require_variant(variant) if isinstance(variant, str) else variant
    with torch.device("meta"):
        encoder = Encoder(config)
    state = initial_state(config, seed)
    encoder.load_state_dict(state, assign=True)
    name = variant if isinstance(variant, str) else None
    fmt = ov.FORMAT_OF.get(name or "", "packing")
    size = sum(t.numel() * t.element_size() for t in state.values())
    return _mark(encoder, LoadReport("untrained", "onevision", fmt, name, len(state), size, "float32", untrained=True))


def report_of(encoder: Encoder) -> LoadReport | None:
    """How this encoder got its weights; None for one that was built by hand."""
    return encoder.__dict__.get("report")


def _mark(encoder: Encoder, report: LoadReport) -> Encoder:
    encoder.__dict__.update(report=report, untrained=report.untrained)
    return encoder.eval()


def read_state(source: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint under the names they have there, headers checked first. Cost: a copy of the file."""
    checkpoint = find_checkpoint(source, revision)
    with TensorReader(checkpoint) as reader:
        return {key: reader(key).clone() for key in checkpoint.entries}


# ---- the steps


def _settle(
    config: EncoderConfig | str | None,
    raw: dict[str, Any] | None,
    fmt: ov.Format,
    entries: Mapping[str, Entry],
    source: str,
) -> EncoderConfig:
    """The configuration: the caller's, the file's, or the one variant that has exactly these shapes."""
    if isinstance(config, str):
        return ov.require_variant(config)
    if config is not None:
        return config
    if raw is not None:
        return ov.config_from(raw, fmt)
    found = {name: entry.shape for name, entry in entries.items()}
    known = {name: c for name, c in {**ov.VARIANTS, **ov.SOURCES}.items() if ov.FORMAT_OF[name] == fmt}
    fits = [name for name, c in known.items() if _skeleton(c, fmt)[1] == found]
    if len(fits) != 1:
        choice = f"shapes fit {' and '.join(fits)}" if fits else f"shapes fit none of {', '.join(known)}"
        raise ConfigError(
            f"no config.json, and the {choice}: pass config=, a configuration or the name of a variant",
            source=source,
            expected="config.json",
            got=tuple(fits),
        )
    return known[fits[0]]


def _skeleton(config: EncoderConfig, fmt: ov.Format) -> tuple[Encoder, dict[str, tuple[int, ...]]]:
    """The encoder without values, and the shapes of all its tensors by their names in `fmt`."""
    with torch.device("meta"):
        encoder = Encoder(config)
    theirs = ov.to_upstream(encoder.state_dict(), fmt, config.pixels.patch)
    return encoder, {name: tuple(t.shape) for name, t in theirs.items()}


def compare_names(
    expected: Mapping[str, tuple[int, ...]], entries: Mapping[str, Entry], allowed: Sequence[str], source: str
) -> tuple[str, ...]:
    """Every name and shape, before any value is read; returns the allowed misses. Raises KeyMismatch."""
    missing = [name for name in expected if name not in entries and name not in allowed]
    unexpected = [name for name in entries if name not in expected]
    misshaped = [
        (name, shape, entries[name].shape)
        for name, shape in expected.items()
        if name in entries and (entries[name].shape != shape or entries[name].dtype not in _FLOATS)
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
            f"the tensors do not fit: {'; '.join(parts)}",
            missing=missing,
            unexpected=unexpected,
            misshaped=misshaped,
            source=source,
        )
    return tuple(name for name in expected if name not in entries)


def stored_type(entries: Sequence[Entry]) -> torch.dtype:
    """The one type all tensors are kept in: the stored one, or the narrowest that holds all stored ones."""
    kinds = [_FLOATS[entry.dtype] for entry in entries]
    out = kinds[0] if kinds else torch.float32
    for kind in kinds[1:]:
        out = torch.promote_types(out, kind)
    return out


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


def initial_state(config: EncoderConfig, seed: int = 0) -> dict[str, Tensor]:
    """Seeded start values by our names: matrices N(0, 0.02), biases 0, norms 1 and 0, the probe N(0, 1); float32.

    Each tensor has a generator of its own, seeded from `seed` and its name, so its values do not depend on the others.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_packing_hf.py@28efa3a, except that the
    pooling head's in_proj is drawn like every other matrix.
    """
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in Encoder(config).state_dict().items()}
    out: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith(".bias"):
            out[name] = torch.zeros(shape)
        elif len(shape) == 1 and name != "pool.probe":
            out[name] = torch.ones(shape)
        else:
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            out[name] = torch.randn(shape, generator=generator)
            if name != "pool.probe":
                out[name] *= INIT_STD
    return out
