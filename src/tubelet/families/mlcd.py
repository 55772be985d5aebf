"""MLCD: CLIP's layers with rotary positions over (h, w) instead of a table, and learned angles for the class token."""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Head, Rope
from tubelet.errors import ConfigError
from tubelet.families.clip import LINES
from tubelet.families.family import Family, Line
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import (
    COLOURS,
    INERT,
    POSITION_IDS,
    PREFIXES,
    image_size_of,
    processor_to,
    widths_from,
    widths_to,
)
from tubelet.pixels.recipe import CLIP_TOKENS, PixelRecipe

_THETA = 10000.0
FIELDS = {
    "hidden_size": 1664,
    "intermediate_size": 8192,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_groups": Field(1, choices=(1,)),
    "num_channels": COLOURS,
    "image_size": 336,
    "patch_size": 14,
    "hidden_act": Field("gelu", choices=ACTS),
    "layer_norm_eps": 1e-5,
    "rope_parameters": Field({"rope_theta": _THETA, "rope_type": Field("axial", choices=("axial",))}, none=True),
}


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """MLCD's vision tower; a field that is absent has upstream's default."""
    f = read_fields(config, FIELDS, INERT)
    theta = _THETA if f["rope_parameters"] is None else f["rope_parameters"]["rope_theta"]
    return EncoderConfig(
        **widths_from(f),
        pixels=PixelRecipe(f["patch_size"], "shortest_crop", size=f["image_size"], max_clip_tokens=CLIP_TOKENS),
        rope=Rope("rotation", theta=theta, split=(0, 1, 1), layout="halves"),
        post_norm="pooled",
        head=Head("first"),
        prefix=1,
        prefix_angles=True,
        spans=("frame",),
        prefix_per="frame",
    )


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from`. Raises ConfigError for an encoder without rotary positions."""
    if config.rope is None:
        raise ConfigError("the mlcd format has no place for an encoder without rotary positions", expected="rope")
    return {
        **widths_to(config),
        "num_key_value_groups": 1,
        "image_size": image_size_of(config, 336),
        "rope_parameters": {"rope_theta": config.rope.theta, "rope_type": "axial"},
    }


MLCD = Family(
    name="mlcd",
    model_types=("mlcd_vision_model", "mlcd"),
    architecture="MLCDVisionModel",
    formats={"mlcd": (*LINES, Line("prefix_angles", "class_pos_emb"))},
    config_from=config_from,
    config_to=config_to,
    holders=("llava", "llava_next", "llava_onevision"),
    prefixes=PREFIXES,
    ignored=(POSITION_IDS, r"vision_rotary_embedding\.inv_freq"),
    processor_to=lambda config: processor_to(config, "CLIPImageProcessor"),
    variants={f"mlcd_vit_bigg_patch14_{size}": config_from({"image_size": size}) for size in (336, 448)},
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/mlcd@v5.23.0",
)
