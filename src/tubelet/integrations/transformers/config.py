"""An `EncoderConfig` under Hugging Face's names, as a closed set of fields that a config.json may hold.

A configuration file comes from strangers: every field is known here by name and type, what could name code to run is
refused, and what is unknown is refused too, because a field that is silently ignored is a model that silently differs.
"""

from typing import Any

from transformers import PreTrainedConfig

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.fields import CODE_FIELDS, HARMLESS_FIELDS
from tubelet.families.onevision_config import MODEL_TYPES, config_from
from tubelet.integrations.transformers.fields import (
    ENCODER_FIELDS,
    PIXEL_FIELDS,
    backend_of,
    checked,
    encoder_fields,
    encoder_of,
    with_spans,
)

_THEIRS = HARMLESS_FIELDS | {"experts_implementation", "_experts_implementation", "num_labels", "per_layer_config"}
_REFUSED = CODE_FIELDS - {"attn_implementation", "_attn_implementation"}
_NAMES = {"architectures", "model_type", "transformers_version"}  # of what a file was written by and for


def is_upstream(found: dict[str, Any]) -> bool:
    """Whether the fields of a config.json are upstream's. A type nobody here knows is not, and is refused later."""
    return isinstance(found.get("model_type"), str) and found["model_type"] in MODEL_TYPES


def own_fields(found: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config.json in upstream's form as those of a `TubeletConfig`; any others as they are.

    Raises ConfigError for what upstream's form does not have, above all fields that could name code.
    """
    if not is_upstream(found):
        return found
    kept = {name: value for name, value in found.items() if name in HARMLESS_FIELDS - _NAMES}
    return {**kept, **encoder_fields(config_from(found)), "model_type": TubeletConfig.model_type}


class TubeletConfig(PreTrainedConfig):
    """config.json of a tubelet encoder: the fields of ENCODER_FIELDS and PIXEL_FIELDS, checked one by one.

    A file in upstream's form is read as what it means in these fields. `untrained` says that the weights are random.
    Raises ConfigError for a value of the wrong type or range, for unknown fields and for those that could name code.

    >>> config = TubeletConfig.of(tubelet.untrained("llava_vit_packing_small").config)
    >>> config.hidden_size, config.encoder_config() == tubelet.untrained("llava_vit_packing_small").config
    (384, True)
    """

    model_type = "tubelet"

    def __init__(self, **kwargs: Any) -> None:
        named = sorted(_REFUSED & kwargs.keys())
        if named:
            raise ConfigError(f"{named[0]} can name code to run; it is refused", got=named[0])
        untrained = kwargs.pop("untrained", False)
        if not isinstance(untrained, bool):
            raise ConfigError("untrained is true or false", got=untrained)
        for name in ("attn_implementation", "_attn_implementation"):
            if kwargs.get(name) is not None:
                backend_of(kwargs[name])
        kwargs = with_spans(kwargs)
        ours = checked(ENCODER_FIELDS, kwargs) | checked(PIXEL_FIELDS, kwargs)
        unknown = sorted(kwargs.keys() - _THEIRS - CODE_FIELDS)
        if unknown:
            raise ConfigError(f"unknown field {', '.join(unknown[:8])}", got=tuple(unknown))
        super().__init__(**kwargs)
        for name, value in ours.items():
            setattr(self, name, value)
        self.untrained = untrained
        self.encoder_config()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From the fields of a config.json, tubelet's or upstream's."""
        return super().from_dict(own_fields(config_dict), **kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a config.json, upstream's already as tubelet's, and the keywords that were not used."""
        found, unused = super().get_config_dict(*args, **kwargs)
        return own_fields(found), unused

    @classmethod
    def of(cls, encoder: EncoderConfig) -> "TubeletConfig":
        """The same configuration under Hugging Face's names. Raises ConfigError for one that they cannot say."""
        config = cls(**encoder_fields(encoder))
        if config.encoder_config() != encoder:
            raise ConfigError("these names cannot say this configuration", got=encoder)
        return config

    def encoder_config(self) -> EncoderConfig:
        """What the fields mean, as they are now. Raises ConfigError."""
        return encoder_of(self)


def config_of(encoder: Encoder) -> TubeletConfig:
    """`TubeletConfig.of` its configuration, with the type of its weights and whether they are random."""
    config = TubeletConfig.of(encoder.config)
    config.dtype = encoder.patch.weight.dtype
    config.untrained = encoder.untrained
    return config
