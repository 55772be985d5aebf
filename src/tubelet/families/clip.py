"""CLIP's vision transformer: a class token, a learned table of positions, a norm before the layers.

Only the pooled class token takes the final norm; the patches' features are those of the last layer, as LLaVA reads
them. Upstream takes other sizes than the trained one with interpolate_pos_encoding=True: here every grid is taken.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Head, Table
from tubelet.families.family import Family, Line, affine, conv2d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import (
    BASE,
    COLOURS,
    INERT,
    LARGE,
    LAYER_LINES,
    POSITION_IDS,
    PREFIXES,
    image_size_of,
    processor_to,
    widths_from,
    widths_to,
)
from tubelet.pixels.recipe import CLIP_TOKENS, PixelRecipe

FIELDS = {
    **BASE,
    "num_channels": COLOURS,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": Field("quick_gelu", choices=ACTS),
    "layer_norm_eps": 1e-5,
}
LINES = (
    Line("patch.weight", "embeddings.patch_embedding.weight", conv2d),
    Line("prefix", "embeddings.class_embedding", lambda x, config: x[0]),
    *affine("norm_pre", "pre_layrnorm"),  # upstream's spelling
    *LAYER_LINES,
)


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """CLIP's vision part; a field that is absent has upstream's default."""
    f = read_fields(config, FIELDS, INERT)
    side = f["image_size"] // f["patch_size"]
    return EncoderConfig(
        **widths_from(f),
        pixels=PixelRecipe(f["patch_size"], "shortest_crop", size=f["image_size"], max_clip_tokens=CLIP_TOKENS),
        rope=None,
        post_norm="pooled",
        head=Head("first"),
        prefix=1,
        spans=("frame",),
        prefix_per="frame",
        table=Table(side, side, "bicubic", prefix=True),
    )


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {**widths_to(config), "image_size": image_size_of(config)}


CLIP = Family(
    name="clip",
    model_types=("clip_vision_model",),
    architecture="CLIPVisionModel",
    formats={"clip": (*LINES, Line(("table.prefix", "table.weight"), "embeddings.position_embedding.weight"))},
    config_from=config_from,
    config_to=config_to,
    holders=("clip", "llava", "llava_next", "llava_next_video", "vipllava"),
    prefixes=PREFIXES,
    ignored=(POSITION_IDS,),
    processor_to=lambda config: processor_to(config, "CLIPImageProcessor"),
    variants={
        "clip_vit_base_patch32": config_from({**BASE, "patch_size": 32}),
        "clip_vit_base_patch16": config_from({**BASE, "patch_size": 16}),
        "clip_vit_large_patch14": config_from({**LARGE, "patch_size": 14}),
        "clip_vit_large_patch14_336": config_from({**LARGE, "patch_size": 14, "image_size": 336}),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/clip@v5.23.0",
)
