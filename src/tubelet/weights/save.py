"""An encoder into a folder that the upstream classes of a format can read: config.json and model.safetensors."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from tubelet.encoder.model import Encoder
from tubelet.errors import WeightsError
from tubelet.families import onevision as ov
from tubelet.weights.load import report_of
from tubelet.weights.locate import CONFIG, SINGLE


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
    carries the encoder's own eps. `notes` go into the safetensors metadata. Cost: one copy of the weights.
    Raises ConfigError when the format cannot say what the encoder is, WeightsError when the folder is in use.
    """
    report = report_of(encoder)
    layout = ov.known_format(fmt or (report.format if report else "packing"))
    config = ov.config_to(encoder.config, layout)
    kind = str(encoder.patch.weight.dtype).removeprefix("torch.")
    metadata = {"format": "pt", "layout": layout, "table": ov.TABLE_ID, **(notes or {})}
    if getattr(encoder, "untrained", False):
        metadata["untrained"] = "true"
    theirs = ov.to_upstream(encoder.state_dict(), layout, encoder.pixels.patch)
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in theirs.items()}
    with staged(Path(folder), overwrite) as beside:
        (beside / SINGLE).touch()  # its mode is the one the user's umask gives; the writer would make it private
        mode = (beside / SINGLE).stat().st_mode
        save_file(tensors, str(beside / SINGLE), metadata=metadata)
        (beside / SINGLE).chmod(mode)
        (beside / CONFIG).write_text(json.dumps({**config, "dtype": kind}, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


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
