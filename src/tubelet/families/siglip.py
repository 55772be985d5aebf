"""SigLIP, and SigLIP2 of a fixed size: no class token, a learned table of positions, a probe that pools.

SigLIP2's checkpoints of a fixed size have this configuration and these tensors. Their pictures are resized by a
bilinear filter, which the variants say and of a checkpoint's files only preprocessor_config.json.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tubelet.encoder.config import EncoderConfig, Head, Table
from tubelet.families.family import Family, Line, affine, conv2d, single
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import (
    BASE,
    COLOURS,
    GIANT,
    INERT,
    LARGE,
    LAYER_LINES,
    POSITION_IDS,
    PREFIXES,
    SO400M,
    image_size_of,
    processor_to,
    widths_from,
    widths_to,
)
from tubelet.pixels.recipe import CLIP_TOKENS, HALF, Interpolation, PixelRecipe

SHARED = {
    **BASE,
    "num_channels": COLOURS,
    "patch_size": 16,
    "hidden_act": Field("gelu_pytorch_tanh", choices=ACTS),
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
FIELDS = {**SHARED, "image_size": 224}
LINES = (
    Line("patch.bias", "embeddings.patch_embedding.bias"),
    Line("table.weight", "embeddings.position_embedding.weight"),
    *LAYER_LINES,
    Line("pool.probe", "head.probe", single),
    Line("pool.in_proj.weight", "head.attention.in_proj_weight"),
    Line("pool.in_proj.bias", "head.attention.in_proj_bias"),
    *affine("pool.out_proj", "head.attention.out_proj"),
    *affine("pool.norm", "head.layernorm"),
    *affine("pool.fc1", "head.mlp.fc1"),
    *affine("pool.fc2", "head.mlp.fc2"),
)


def tower(f: Mapping[str, Any], pixels: PixelRecipe, table: Table) -> EncoderConfig:
    """Checked fields of SigLIP or SigLIP2 as an encoder."""
    return EncoderConfig(
        **widths_from(f),
        pixels=pixels,
        rope=None,
        patch_bias=True,
        pre_norm=False,
        pool=f["vision_use_head"],
        head=Head("probe", norm="layer"),
        spans=("frame",),
        table=table,
    )


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """SigLIP's vision part; a field that is absent has upstream's default."""
    f = read_fields(config, FIELDS, INERT)
    patch, size = f["patch_size"], f["image_size"]
    pixels = PixelRecipe(patch, "square", size=size, mean=HALF, std=HALF, max_clip_tokens=CLIP_TOKENS)
    return tower(f, pixels, Table(size // patch, size // patch, "bicubic"))


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {**widths_to(config), "vision_use_head": config.pool, "image_size": image_size_of(config)}


def _networks(
    name: str, interpolation: Interpolation, *rows: tuple[str, dict[str, int], int, tuple[int, ...]]
) -> dict[str, EncoderConfig]:
    """Variants by name, from rows of (size of network, its widths, patch, sizes of picture)."""
    out: dict[str, EncoderConfig] = {}
    for network, widths, patch, sizes in rows:
        for size in sizes:
            config = config_from({**widths, "patch_size": patch, "image_size": size})
            pixels = replace(config.pixels, interpolation=interpolation)
            out[f"{name}_{network}_patch{patch}_{size}"] = replace(config, pixels=pixels)
    return out


SIGLIP = Family(
    name="siglip",
    model_types=("siglip_vision_model",),
    architecture="SiglipVisionModel",
    formats={"siglip": (Line("patch.weight", "embeddings.patch_embedding.weight", conv2d), *LINES)},
    config_from=config_from,
    config_to=config_to,
    holders=("siglip", "llava_onevision", "paligemma", "gemma3", "aya_vision", "cohere2_vision", "llava", "llava_next"),
    prefixes=PREFIXES,
    ignored=(POSITION_IDS,),
    processor_to=lambda config: processor_to(config, "SiglipImageProcessor"),
    variants={
        **_networks(
            "siglip",
            "bicubic",
            ("base", BASE, 16, (224, 256, 384, 512)),
            ("large", LARGE, 16, (256, 384)),
            ("so400m", SO400M, 14, (224, 384)),
        ),
        **_networks(
            "siglip2",
            "bilinear",
            ("base", BASE, 32, (256,)),
            ("base", BASE, 16, (224, 256, 384, 512)),
            ("large", LARGE, 16, (256, 384, 512)),
            ("so400m", SO400M, 14, (224, 384)),
            ("so400m", SO400M, 16, (256, 384, 512)),
            ("giant_opt", GIANT, 16, (256, 384)),
        ),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/siglip@v5.23.0",
)
