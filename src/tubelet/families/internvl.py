"""InternVL's vision transformer: a class token, a learned table of positions, learned factors on every branch.

The tower of InternVL 2.5, 3 and 3.5 up to 14B, which has 300 million values. There is no norm after its last layer, as
upstream has none where it averages (use_mean_pooling), and nothing to pool here. That of the largest models norms q and
k over all heads together: no encoder here does, so it is refused.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Table
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line, affine, batched, conv2d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import COLOURS, image_size_of, processor_to
from tubelet.pixels.recipe import CLIP_TOKENS, IMAGENET_MEAN, IMAGENET_STD, PixelRecipe

FIELDS = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": Field("gelu", choices=ACTS),
    "layer_norm_eps": 1e-6,
    "num_channels": COLOURS,
    "attention_bias": False,
    "image_size": 448,
    "patch_size": 14,
    "norm_type": Field("layer_norm", choices={"layer_norm": "layer", "rms_norm": "rms"}),
    "use_qk_norm": Field(False, choices=(False,)),
    "use_absolute_position_embeddings": Field(True, choices=(True,)),
    "use_mean_pooling": Field(True, choices=(True,)),
}
INERT = frozenset(
    {"hidden_dropout_prob", "attention_dropout", "projection_dropout", "initializer_range", "use_mask_token"}
    | {"layer_scale_init_value"}
)
_LAYER = "encoder.layer.#."
LINES = (
    Line("patch.weight", "embeddings.patch_embeddings.projection.weight", conv2d),
    Line("patch.bias", "embeddings.patch_embeddings.projection.bias"),
    Line("prefix", "embeddings.cls_token", batched),
    Line(("table.prefix", "table.weight"), "embeddings.position_embeddings", batched),
    *affine("layers.#.norm1", f"{_LAYER}layernorm_before"),
    *affine("layers.#.qkv", *(f"{_LAYER}attention.{part}_proj" for part in "qkv")),
    *affine("layers.#.proj", f"{_LAYER}attention.projection_layer"),
    Line("layers.#.scale1", f"{_LAYER}lambda_1"),
    *affine("layers.#.norm2", f"{_LAYER}layernorm_after"),
    *affine("layers.#.fc1", f"{_LAYER}mlp.fc1"),
    *affine("layers.#.fc2", f"{_LAYER}mlp.fc2"),
    Line("layers.#.scale2", f"{_LAYER}lambda_2"),
)


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """InternVL's vision part; a field that is absent has upstream's default. Raises ConfigError."""
    f = read_fields({**config, **_sides(config)}, FIELDS, INERT)
    patch, size = f["patch_size"], f["image_size"]
    if size < patch:
        raise ConfigError("image_size holds no patch", limit=patch, got=size)
    return EncoderConfig(
        hidden=f["hidden_size"],
        layers=f["num_hidden_layers"],
        heads=f["num_attention_heads"],
        mlp=f["intermediate_size"],
        pixels=PixelRecipe(
            patch, "square", size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, max_clip_tokens=CLIP_TOKENS
        ),
        norm=f["norm_type"],
        eps=f["layer_norm_eps"],
        act=f["hidden_act"],
        rope=None,
        patch_bias=True,
        pre_norm=False,
        post_norm=False,
        pool=False,
        qkv_bias=f["attention_bias"],
        scale=True,
        table=Table(size // patch, size // patch, "bicubic", prefix=True),
        prefix=1,
        prefix_per="frame",
        spans=("frame",),
    )


def _sides(config: Mapping[str, Any]) -> dict[str, Any]:
    """image_size and patch_size as one side, which files have twice. Raises ConfigError for sides that differ."""
    out: dict[str, Any] = {}
    for name in ("image_size", "patch_size"):
        said = config.get(name)
        if isinstance(said, list):
            if len(said) != 2 or said[0] != said[1]:
                raise ConfigError(f"{name} has two equal sides", expected=2, got=said)
            out[name] = said[0]
    return out


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from`."""
    size, patch = image_size_of(config, 448), config.pixels.patch
    return {
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "hidden_act": next(theirs for theirs, ours in ACTS.items() if ours == config.act),
        "layer_norm_eps": config.eps,
        "num_channels": 3,
        "attention_bias": config.qkv_bias,
        "image_size": [size, size],
        "patch_size": [patch, patch],
        "norm_type": {"layer": "layer_norm", "rms": "rms_norm"}[config.norm],
        "use_qk_norm": False,
        "use_absolute_position_embeddings": True,
        "use_mean_pooling": True,
    }


INTERNVL = Family(
    name="internvl",
    model_types=("internvl_vision",),
    architecture="InternVLVisionModel",
    formats={"internvl": LINES},
    config_from=config_from,
    config_to=config_to,
    holders=("internvl",),
    prefixes=("",),
    ignored=(r"embeddings\.mask_token",),
    processor_to=lambda config: processor_to(config, "SiglipImageProcessor"),
    variants={"internvit_300m_patch14_448": config_from({"attention_bias": True})},
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/internvl/modeling_internvl.py@v5.23.0",
)
