"""The vision tower of Idefics3 and SmolVLM: SigLIP's layers without a head, places looked up by where a patch begins.

Alone it sees pictures as one square of its size; what whole models cut of a picture is `language.vlm.idefics3`.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Table
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line, conv2d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import (
    BASE,
    COLOURS,
    INERT,
    LAYER_LINES,
    POSITION_IDS,
    PREFIXES,
    SO400M,
    image_size_of,
    processor_to,
    widths_from,
    widths_to,
)
from tubelet.pixels.recipe import CLIP_TOKENS, HALF, PixelRecipe

FIELDS = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_channels": COLOURS,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": Field("gelu_pytorch_tanh", choices=ACTS),
    "layer_norm_eps": 1e-6,
}
# What published files say of processors and of how the tower was made
BESIDE = frozenset({"max_image_size", "size", "use_base_siglip"})


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """Idefics3's vision part; a field that is absent has upstream's default. Raises ConfigError."""
    f = read_fields(config, FIELDS, INERT | BESIDE)
    patch, size = f["patch_size"], f["image_size"]
    if size < patch:
        raise ConfigError("image_size holds no patch", limit=patch, got=size)
    return EncoderConfig(
        **widths_from(f),
        pixels=PixelRecipe(
            patch, "square", size=size, interpolation="lanczos", mean=HALF, std=HALF, max_clip_tokens=CLIP_TOKENS
        ),
        rope=None,
        patch_bias=True,
        pre_norm=False,
        pool=False,
        spans=("frame",),
        table=Table(size // patch, size // patch, "buckets"),
    )


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    return {**widths_to(config), "image_size": image_size_of(config)}


def _tower(widths: Mapping[str, Any], patch: int, size: int) -> EncoderConfig:
    return config_from({**widths, "patch_size": patch, "image_size": size})


IDEFICS3 = Family(
    name="idefics3",
    model_types=("idefics3_vision", "smolvlm_vision", "idefics3", "smolvlm"),  # the last two of older files
    architecture="Idefics3VisionTransformer",
    formats={
        "idefics3": (
            Line("patch.weight", "embeddings.patch_embedding.weight", conv2d),
            Line("patch.bias", "embeddings.patch_embedding.bias"),
            Line("table.weight", "embeddings.position_embedding.weight"),
            *LAYER_LINES,
        )
    },
    config_from=config_from,
    config_to=config_to,
    holders=("idefics3", "smolvlm"),
    prefixes=PREFIXES,
    ignored=(POSITION_IDS,),
    processor_to=lambda config: processor_to(config, "SiglipImageProcessor"),
    variants={
        "smolvlm_256m_vision": _tower(BASE, 16, 512),  # and of 500M
        "smolvlm_2b_vision": _tower(SO400M, 14, 384),
        "idefics3_8b_vision": _tower(SO400M, 14, 364),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/idefics3/modeling_idefics3.py@v5.23.0",
)
