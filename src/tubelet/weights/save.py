"""An encoder into a folder that the upstream classes of a format can read: config.json and model.safetensors."""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, RunError, WeightsError
from tubelet.families.catalogue import families, home_of, write_config
from tubelet.families.family import Family, to_theirs
from tubelet.packed.file import write_tensors
from tubelet.weights.load import report_of
from tubelet.weights.locate import CONFIG, PROCESSOR, SINGLE
from tubelet.weights.opened import open_weights
from tubelet.weights.tensors import TensorReader, same_bits
from tubelet.writing import folder_place, new_folder, write_json

_PART = re.compile(  # what a folder of a checkpoint holds that one of our writers, or a tokenizer's, may have made
    r"(config|conversion|adapter_config|generation_config|(video_)?preprocessor_config|processor_config)\.json"
    r"|[\w.-]+\.safetensors(\.index\.json)?"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|vocab\.txt|merges\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model|chat_template\.jinja|additional_chat_templates"
)


@door
def save_encoder(
    encoder: Encoder,
    folder: str | os.PathLike[str],
    fmt: str | None = None,
    *,
    overwrite: bool = False,
    notes: dict[str, str] | None = None,
) -> Path:
    """Write the encoder in a format of its family (None: the one it came in) and return the folder.

    The folder appears whole or not at all: it is written beside its place, flushed, read back and renamed. The
    configuration carries the encoder's own eps; tensors upstream keeps and never reads are zeros; a preprocessor
    configuration is written where the family has one. `notes` go into the safetensors metadata. Cost: the weights are
    written and read once.
    Raises ConfigError when the format cannot say what the encoder is, WeightsError where something stands that is not
    a checkpoint or may not be overwritten, InputError for no place or weights without values, RunError for a full disk.

        >>> folder = tubelet.save_encoder(tubelet.untrained("llava_vit_packing_small"), "small")
        >>> tubelet.load_encoder(folder).untrained
        True
    """
    files = encoder_files(encoder, fmt, notes or {})
    with staged(folder, overwrite) as beside:
        files.write(beside)
    return Path(folder)


class EncoderFiles(NamedTuple):
    """What the folder of an encoder holds."""

    tensors: Mapping[str, Tensor]  # by their names in the file
    metadata: Mapping[str, str]  # of the safetensors file
    configs: Mapping[str, Mapping[str, Any]]  # JSON files by name

    def write(self, folder: Path) -> None:
        """Write it into a new folder and read it back. Raises OSError, RunError where it comes back as something else,
        and what `load_encoder` raises."""
        write_tensors(folder / SINGLE, self.tensors, self.metadata)
        for name, said in self.configs.items():
            write_json(folder / name, said)
        with TensorReader(open_weights(folder).checkpoint) as read:
            for name, tensor in self.tensors.items():
                if not same_bits({name: tensor}, {name: read(name)}):
                    raise RunError("it was not written as it is", source=folder.name, got=name)


def encoder_files(encoder: Encoder, fmt: str | None, notes: Mapping[str, str]) -> EncoderFiles:
    """What `save_encoder` writes. Raises ConfigError when the format cannot say what the encoder is."""
    family, layout = _layout(encoder, fmt)
    config = write_config(encoder.config, family, layout)
    dtype = encoder.dtype
    metadata = {"format": "pt", "layout": layout, "table": family.table_id, **notes}
    if encoder.untrained:
        metadata["untrained"] = "true"
    theirs = to_theirs(encoder.state_dict(), family.formats[layout], encoder.config)
    unused = {name: torch.zeros(shape(encoder.config), dtype=dtype) for name, shape in family.unused.items()}
    configs = {CONFIG: {**config, "dtype": str(dtype).removeprefix("torch.")}}
    if family.processor_to is not None:
        configs[PROCESSOR] = family.processor_to(encoder.config)
    return EncoderFiles({family.prefixes[0] + n: t for n, t in {**unused, **theirs}.items()}, metadata, configs)


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


def staged(target: str | os.PathLike[str], overwrite: bool) -> AbstractContextManager[Path]:
    """A new folder of a checkpoint, as `writing.new_folder` makes it; `overwrite` replaces a checkpoint and no other.

    Raises WeightsError where something else stands there.
    """
    return new_folder(target, _is_part, overwrite=overwrite, error=WeightsError)


def checkpoint_place(target: str | os.PathLike[str], overwrite: bool) -> Path:
    """The folder that `staged` would write. Raises what it raises; writes nothing."""
    return folder_place(target, _is_part, overwrite=overwrite, error=WeightsError)


def _is_part(name: str) -> bool:
    return _PART.fullmatch(name) is not None
