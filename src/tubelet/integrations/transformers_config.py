"""An `EncoderConfig` under Hugging Face's names, as a closed set of fields that a config.json may hold.

A configuration file comes from strangers: every field is known here by name and type, what could name code to run is
refused, and what is unknown is refused too, because a field that is silently ignored is a model that silently differs.
"""

from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, get_args

from transformers import PreTrainedConfig

from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.fields import CODE_FIELDS, HARMLESS_FIELDS
from tubelet.families.onevision_config import MODEL_TYPES, config_from
from tubelet.pixels.recipe import CLIP_MEAN, CLIP_STD, INTERPOLATIONS, RESAMPLERS, RULES, PixelRecipe

BACKENDS = {"tubelet": "auto", "sdpa": "sdpa", "flash_attention_2": "flash"}  # attn_implementation -> ours
_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_NORMS = {"layer_norm": "layer", "rms_norm": "rms"}
_THEIRS = HARMLESS_FIELDS | {"experts_implementation", "_experts_implementation", "num_labels", "per_layer_config"}
_REFUSED = CODE_FIELDS - {"attn_implementation", "_attn_implementation"}
_NAMES = {"architectures", "model_type", "transformers_version"}  # of what a file was written by and for


@dataclass
class PixelFields:
    """A `PixelRecipe` under Hugging Face's names. resampler, interpolation, patch_order and size_rule are its own
    words."""

    patch_size: int = 16
    temporal_patch_size: int = 1
    merge_size: int = 1
    patch_order: str = "raster"
    size_rule: str = "native_floor"
    image_size: int | None = None
    shortest_edge: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_video_pixels: int | None = None
    resampler: str = "torch"
    interpolation: str = "bicubic"
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD


@dataclass
class EncoderFields:
    """The rest of an `EncoderConfig` under Hugging Face's names. head_norm_eps: of the pooling head's norm, None =
    layer_norm_eps. out_hidden_size: of a merger over merge_size^2 tokens, None = there is none. window_frames: frames
    one attention segment spans, None = the whole item."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_channels: int = 3
    hidden_act: str = "gelu"
    layer_norm_type: str = "layer_norm"
    layer_norm_eps: float = 1e-6
    head_norm_eps: float | None = None
    rope_mode: str = "onevision"
    rope_theta: float = 10000.0
    rope_split: tuple[int, ...] = (4, 6, 6)
    patch_bias: bool = False
    use_pre_norm: bool = True
    use_post_norm: bool = True
    use_head: bool = True
    window_frames: int | None = None
    out_hidden_size: int | None = None
    merger_norm_eps: float = 1e-6
    initializer_range: float = 0.02


def checked(kind: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """All fields of `kind`, taken out of `given` where they are there, lists made tuples. Raises ConfigError."""
    out = {}
    for f in fields(kind):
        value = given.pop(f.name, f.default)
        value = tuple(value) if isinstance(value, list) else value
        if not _is(value, f.type):
            raise ConfigError(f"{f.name} has a value of the wrong type: {value!s:.60}", expected=str(f.type), got=value)
        out[f.name] = value
    return out


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is(value, k) for k in get_args(kind))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if args := get_args(kind):
        return isinstance(value, tuple) and len(value) == 3 and all(_is(v, args[0]) for v in value)
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def recipe_of(holder: Any) -> PixelRecipe:
    """The recipe that an object with `PixelFields`' attributes stands for. Raises ConfigError."""
    f = PixelFields(**checked(PixelFields, {f.name: getattr(holder, f.name) for f in fields(PixelFields)}))
    return PixelRecipe(
        patch=f.patch_size,
        rule=_one_of("size_rule", f.size_rule),
        temporal=f.temporal_patch_size,
        merge=f.merge_size,
        order=_one_of("patch_order", f.patch_order),
        size=f.image_size,
        shortest=f.shortest_edge,
        min_pixels=f.min_pixels,
        max_pixels=f.max_pixels,
        max_video_pixels=f.max_video_pixels,
        resampler=_one_of("resampler", f.resampler),
        interpolation=_one_of("interpolation", f.interpolation),
        mean=(f.image_mean[0], f.image_mean[1], f.image_mean[2]),
        std=(f.image_std[0], f.image_std[1], f.image_std[2]),
    )


def pixel_fields(recipe: PixelRecipe) -> dict[str, Any]:
    """The inverse of `recipe_of`."""
    return {
        "patch_size": recipe.patch,
        "temporal_patch_size": recipe.temporal,
        "merge_size": recipe.merge,
        "patch_order": recipe.order,
        "size_rule": recipe.rule,
        "image_size": recipe.size,
        "shortest_edge": recipe.shortest,
        "min_pixels": recipe.min_pixels,
        "max_pixels": recipe.max_pixels,
        "max_video_pixels": recipe.max_video_pixels,
        "resampler": recipe.resampler,
        "interpolation": recipe.interpolation,
        "image_mean": recipe.mean,
        "image_std": recipe.std,
    }


_WORDS: dict[str, dict[str, Any]] = {
    "size_rule": {w: w for w in RULES},
    "patch_order": {w: w for w in ("raster", "block")},
    "resampler": {w: w for w in RESAMPLERS},
    "interpolation": {w: w for w in INTERPOLATIONS},
    "rope_mode": {w: w for w in ("onevision", "rotation")},
    "hidden_act": _ACTS,
    "layer_norm_type": _NORMS,
    "attn_implementation": BACKENDS,
}


def _one_of(name: str, value: Any) -> Any:
    known = _WORDS[name]
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} is one of {', '.join(known)}, got {value!r:.60}", expected=tuple(known), got=value)
    return known[value]


def backend_of(attn_implementation: Any) -> Any:
    """The encoder's attention backend for an `attn_implementation`. Raises ConfigError for any other word."""
    return _one_of("attn_implementation", attn_implementation)


def encoder_fields(encoder: EncoderConfig) -> dict[str, Any]:
    """A configuration under Hugging Face's names."""
    return {
        "hidden_size": encoder.hidden,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp,
        "hidden_act": next(k for k, v in _ACTS.items() if v == encoder.act),
        "layer_norm_type": next(k for k, v in _NORMS.items() if v == encoder.norm),
        "layer_norm_eps": encoder.eps,
        "head_norm_eps": encoder.head_eps,
        "rope_mode": encoder.rope.mode,
        "rope_theta": encoder.rope.theta,
        "rope_split": encoder.rope.split,
        "patch_bias": encoder.patch_bias,
        "use_pre_norm": encoder.pre_norm,
        "use_post_norm": encoder.post_norm,
        "use_head": encoder.pool,
        "window_frames": encoder.window,
        "out_hidden_size": None if encoder.merger is None else encoder.merger.out,
        "merger_norm_eps": 1e-6 if encoder.merger is None else encoder.merger.eps,
        **pixel_fields(encoder.pixels),
    }


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
    """config.json of a tubelet encoder: the fields of `EncoderFields` and `PixelFields`, checked one by one.

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
        ours = checked(EncoderFields, kwargs) | checked(PixelFields, kwargs)
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
        f = EncoderFields(**checked(EncoderFields, {f.name: getattr(self, f.name) for f in fields(EncoderFields)}))
        if f.num_channels != 3:
            raise ConfigError("num_channels must be 3", expected=3, got=f.num_channels)
        recipe = recipe_of(self)
        return EncoderConfig(
            hidden=f.hidden_size,
            layers=f.num_hidden_layers,
            heads=f.num_attention_heads,
            mlp=f.intermediate_size,
            pixels=recipe,
            norm=_one_of("layer_norm_type", f.layer_norm_type),
            eps=f.layer_norm_eps,
            head_eps=f.head_norm_eps,
            act=_one_of("hidden_act", f.hidden_act),
            rope=Rope(
                _one_of("rope_mode", f.rope_mode), f.rope_theta, (f.rope_split[0], f.rope_split[1], f.rope_split[2])
            ),
            patch_bias=f.patch_bias,
            pre_norm=f.use_pre_norm,
            post_norm=f.use_post_norm,
            pool=f.use_head,
            window=f.window_frames,
            merger=None if f.out_hidden_size is None else Merger(recipe.merge, f.out_hidden_size, f.merger_norm_eps),
        )


def config_of(encoder: Encoder) -> TubeletConfig:
    """`TubeletConfig.of` its configuration, with the type of its weights and whether they are random."""
    config = TubeletConfig.of(encoder.config)
    config.dtype = encoder.patch.weight.dtype
    config.untrained = getattr(encoder, "untrained", False)
    return config
