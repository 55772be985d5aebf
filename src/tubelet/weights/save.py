"""An encoder into a folder that the upstream classes of a format can read: config.json and model.safetensors."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, WeightsError
from tubelet.families.catalogue import families, home_of, write_config
from tubelet.families.family import Family, to_theirs
from tubelet.packed.file import write_tensors
from tubelet.weights.load import report_of
from tubelet.weights.locate import CONFIG, PROCESSOR, SINGLE


def save_encoder(
    encoder: Encoder,
    folder: str | os.PathLike[str],
    fmt: str | None = None,
    *,
    overwrite: bool = False,
    notes: dict[str, str] | None = None,
) -> Path:
    """Write the encoder in a format of its family (None: the one it came in) and return the folder.

    The folder appears whole or not at all: it is written beside its place, flushed and renamed. The configuration
    carries the encoder's own eps; tensors upstream keeps and never reads are zeros; a preprocessor configuration is
    written where the family has one. `notes` go into the safetensors metadata. Cost: one copy of the weights.
    Raises ConfigError when the format cannot say what the encoder is, WeightsError when the folder is in use.

        >>> folder = tubelet.save_encoder(tubelet.untrained("llava_vit_packing_small"), "small")
        >>> tubelet.load_encoder(folder).untrained
        True
    """
    family, layout = _layout(encoder, fmt)
    config = write_config(encoder.config, family, layout)
    dtype = encoder.patch.weight.dtype
    metadata = {"format": "pt", "layout": layout, "table": family.table_id, **(notes or {})}
    if encoder.untrained:
        metadata["untrained"] = "true"
    theirs = to_theirs(encoder.state_dict(), family.formats[layout], encoder.config)
    unused = {name: torch.zeros(shape(encoder.config), dtype=dtype) for name, shape in family.unused.items()}
    tensors = {
        family.prefixes[0] + name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in {**unused, **theirs}.items()
    }
    files = {CONFIG: {**config, "dtype": str(dtype).removeprefix("torch.")}}
    if family.processor_to is not None:
        files[PROCESSOR] = family.processor_to(encoder.config)
    with staged(Path(folder), overwrite) as beside:
        write_tensors(beside / SINGLE, tensors, metadata)
        for name, said in files.items():
            (beside / name).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def _layout(encoder: Encoder, fmt: str | None) -> tuple[Family, str]:
    """The family and format to write: of the encoder's own family; of one built by hand, any that has the format."""
    report = report_of(encoder)
    if report is not None and report.family is not None and report.format is not None:
        family = next(f for f in families() if f.name == report.family)
        return family, known_format(family, fmt or report.format)
    if fmt is None:
        home = home_of(encoder.config)
        if home is None:
            raise ConfigError("no family can say what this encoder is", expected=tuple(f.name for f in families()))
        return home
    having = [family for family in families() if fmt in family.formats]
    if not having:
        known = tuple(name for family in families() for name in family.formats)
        raise ConfigError(f"the formats are {', '.join(known)}", expected=known, got=fmt)
    return having[0], fmt


def known_format(family: Family, fmt: str) -> str:
    """`fmt` where it is a format of the family. Raises ConfigError listing them."""
    if fmt not in family.formats:
        known = tuple(family.formats)
        raise ConfigError(f"the formats of {family.name} are {', '.join(known)}", expected=known, got=fmt)
    return fmt


@contextmanager
def staged(target: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends well and disappears when it does not.

    Raises WeightsError when something is there already, unless it is an empty folder or `overwrite` replaces it.
    """
    used = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if used and not (overwrite and target.is_dir()):
        raise WeightsError("the output exists already; overwrite=True replaces it", source=str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    tag = secrets.token_hex(6)
    beside = target.with_name(f".{target.name}.{tag}")
    beside.mkdir()
    try:
        yield beside
        for path in (*sorted(beside.iterdir()), beside):
            _flush(path)
        if used:
            old = target.with_name(f".{target.name}.{tag}.old")
            target.rename(old)
            beside.rename(target)
            shutil.rmtree(old)
        else:
            beside.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
