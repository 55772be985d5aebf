"""DINOv3 ViT: a class token and registers, rotary positions of patch centres, learned factors on every branch.

A patch turns by where its centre is in a picture of -1 .. 1, whatever the picture's size; prefix tokens do not turn.
Keys have no bias in the published ones. What is pooled is the class token. transformers 5 puts `model.` before the
layers as it reads them and takes it off as it writes: "dinov3" is how they are stored, "dinov3_modules" how its modules
call them.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Head, Rope
from tubelet.errors import ConfigError
from tubelet.families.dinov2 import BACKBONE
from tubelet.families.family import Family, Line, affine, batched, conv2d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import COLOURS, image_size_of, processor_to, widths_from, widths_to
from tubelet.pixels.recipe import CLIP_TOKENS, IMAGENET_MEAN, IMAGENET_STD, PixelRecipe

FIELDS = {
    "patch_size": 16,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "hidden_act": Field("gelu", choices=ACTS),
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "image_size": 224,
    "num_channels": COLOURS,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
    "num_register_tokens": 0,
}
PROCESSOR = "DINOv3ViTImageProcessorFast"
INERT = BACKBONE | {
    "attention_dropout",
    "pos_embed_shift",
    "pos_embed_jitter",
    "pos_embed_rescale",
    "return_class_token",
}


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """Raises ConfigError where q and v do not agree on having a bias, or k alone has one."""
    f = read_fields(config, FIELDS, INERT)
    bias = f["query_bias"]
    if f["value_bias"] != bias or (f["key_bias"] and not bias):
        raise ConfigError(
            "query_bias and value_bias go together, and key_bias only with them",
            got=(bias, f["key_bias"], f["value_bias"]),
        )
    return EncoderConfig(
        **widths_from(f),
        pixels=PixelRecipe(
            f["patch_size"],
            "square",
            size=f["image_size"],
            max_clip_tokens=CLIP_TOKENS,
            interpolation="bilinear",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        rope=Rope("rotation", f["rope_theta"], (0, 1, 1), layout="halves", places="centred"),
        patch_bias=True,
        pre_norm=False,
        head=Head("first"),
        spans=("frame",),
        prefix_per="frame",
        gated=f["use_gated_mlp"],
        qkv_bias=bias,
        key_bias=f["key_bias"],
        proj_bias=f["proj_bias"],
        mlp_bias=f["mlp_bias"],
        scale=True,
        prefix=1 + f["num_register_tokens"],
    )


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse. Raises ConfigError for an encoder without rotary positions."""
    if config.rope is None:
        raise ConfigError("a DINOv3 ViT has rotary positions", expected="rope", got=None)
    return {
        **widths_to(config),
        "rope_theta": config.rope.theta,
        "image_size": image_size_of(config),
        "query_bias": config.qkv_bias,
        "key_bias": config.qkv_bias and config.key_bias,
        "value_bias": config.qkv_bias,
        "proj_bias": config.proj_bias,
        "mlp_bias": config.mlp_bias,
        "use_gated_mlp": config.gated,
        "num_register_tokens": config.prefix - 1,
    }


def _lines(layer: str) -> tuple[Line, ...]:
    def biases(c: EncoderConfig) -> tuple[int, ...]:
        return (c.hidden, c.hidden, 0, c.hidden) if c.key_bias else (c.hidden, 0, c.hidden, c.hidden)

    q, k, v = (f"{layer}.attention.{name}_proj" for name in "qkv")
    gate, up = f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"
    return (
        Line("patch.weight", "embeddings.patch_embeddings.weight", conv2d),
        Line("patch.bias", "embeddings.patch_embeddings.bias"),
        Line(
            "prefix", ("embeddings.cls_token", "embeddings.register_tokens"), batched, rows=lambda c: (1, c.prefix - 1)
        ),
        *affine("layers.#.norm1", f"{layer}.norm1"),
        Line("layers.#.qkv.weight", (f"{q}.weight", f"{k}.weight", f"{v}.weight")),
        Line("layers.#.qkv.bias", (f"{q}.bias", f"{k}.bias", None, f"{v}.bias"), rows=biases),
        *affine("layers.#.proj", f"{layer}.attention.o_proj"),
        Line("layers.#.scale1", f"{layer}.layer_scale1.lambda1"),
        *affine("layers.#.norm2", f"{layer}.norm2"),
        *affine("layers.#.fc1", gate, up, rows=lambda c: (c.mlp if c.gated else 0, c.mlp)),
        *affine("layers.#.fc2", f"{layer}.mlp.down_proj"),
        Line("layers.#.scale2", f"{layer}.layer_scale2.lambda1"),
        *affine("norm_post", "norm"),
    )


def _variant(hidden: int, mlp: int, layers: int, heads: int, gated: bool = False, bias: bool = True) -> EncoderConfig:
    sizes = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads}
    kinds = {"use_gated_mlp": gated, "hidden_act": "silu" if gated else "gelu", "query_bias": bias, "value_bias": bias}
    return config_from({**sizes, **kinds, "num_register_tokens": 4})


def _processor_to(config: EncoderConfig) -> dict[str, Any]:
    if config.pixels.rule == "shortest_crop":  # upstream's own processor does not crop
        return processor_to(config, "CLIPImageProcessor")
    return {**processor_to(config, "SiglipImageProcessor"), "image_processor_type": PROCESSOR}


DINOV3 = Family(
    name="dinov3_vit",
    model_types=("dinov3_vit",),
    architecture="DINOv3ViTModel",
    formats={"dinov3": _lines("layer.#"), "dinov3_modules": _lines("model.layer.#")},
    config_from=config_from,
    config_to=config_to,
    processor_to=_processor_to,
    unused={
        "embeddings.mask_token": lambda c: (1, 1, c.hidden),
        "embeddings.register_tokens": lambda c: (1, c.prefix - 1, c.hidden),  # stored, though empty, where there are 0
    },
    variants={
        "dinov3_vits16": _variant(384, 1536, 12, 6),
        "dinov3_vits16plus": _variant(384, 1536, 12, 6, gated=True),
        "dinov3_vitb16": _variant(768, 3072, 12, 12),
        "dinov3_vitl16": _variant(1024, 4096, 24, 16),
        "dinov3_vith16plus": _variant(1280, 5120, 32, 20, gated=True),
        "dinov3_vit7b16": _variant(4096, 8192, 40, 32, gated=True, bias=False),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/dinov3_vit/modeling_dinov3_vit.py, "
    "configuration_dinov3_vit.py, image_processing_dinov3_vit.py@v5.23.0, convert_dinov3_vit_to_hf.py@a77460f",
)
