"""Upstream's own folders in transformers: config.json as upstream writes it, tensors under upstream's names.

    model_type            whose
    llava_vit_packing     the packing model
    llava_vit             the standard model
    onevision_encoder     the released encoder, and LLaVA-OneVision-2's vision tower, told apart by its fields
    llava_vit_encoder     the training model, as `tubelet convert --to source` writes it

What is read becomes a `TubeletConfig` and a `TubeletModel` at once, so there is one model here and not one a format.
What these save is tubelet's own form; `tubelet convert` writes upstream's. A whole LLaVA-OneVision-2, model type
`llava_onevision2`, is a language model too and is not registered: `tubelet.load_encoder` reads the tower out of it.
"""

import os
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.integrations.transformers.config import TubeletConfig, is_upstream
from tubelet.weights.load import load_encoder

HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_HONOURED = ("revision", "subfolder")


class _Upstream(PreTrainedConfig):
    """A name in the table of AutoConfig; making one makes the `TubeletConfig` it means."""

    def __new__(cls, **fields: Any) -> Any:
        return TubeletConfig.from_dict({**fields, "model_type": cls.model_type})

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        return TubeletConfig.from_dict(config_dict, **kwargs)


class _Packing(_Upstream):
    model_type = "llava_vit_packing"


class _Standard(_Upstream):
    model_type = "llava_vit"


class _Released(_Upstream):
    model_type = "onevision_encoder"


class _Training(_Upstream):
    model_type = "llava_vit_encoder"


def upstream_encoder(
    source: str | os.PathLike[str], config: TubeletConfig | None, hub: dict[str, Any]
) -> Encoder | None:
    """The encoder of a folder or hub id whose config.json is upstream's; None where it is not, or there is none.

    config: the caller's, None for the file's. hub: the keywords of HUB that were given. Raises what `load_encoder`
    raises, and ConfigError for a keyword that it has no use for.
    """
    try:
        found, _ = PreTrainedConfig.get_config_dict(source, **hub)
    except OSError:  # no such file; without the caller's configuration transformers says so itself
        return None
    if not is_upstream(found):
        return None
    unused = [name for name, value in hub.items() if name not in _HONOURED and value]
    folder, inner = Path(source), hub.get("subfolder") or ""
    here = os.path.isdir(folder)  # noqa: PTH112  that of Path raises where a name is too long
    if unused or (inner and not here):
        name = unused[0] if unused else "subfolder"
        raise ConfigError(
            f"{name} means nothing for files in upstream's form; fetch them first and give the folder",
            expected=_HONOURED,
            got=name,
        )
    wanted = None if config is None else config.encoder_config()
    return load_encoder(folder / inner if here else source, config=wanted, revision=hub.get("revision"))


def register_upstream() -> None:
    """Make AutoConfig know upstream's model types."""
    for door in (_Packing, _Standard, _Released, _Training):
        AutoConfig.register(door.model_type, door, exist_ok=True)
