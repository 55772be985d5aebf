"""AIMv2: a norm of the patches before positions are added, RMS norms, a gated MLP; no class token.

Positions are a learned table, or sines and cosines in the "native" ones, which take pictures as they are. A learned
query pools where there is a head. The upstream class reads grids of the table's size only; others resize the table here
by antialiased bicubic, as timm does with these weights.

Formats: "aimv2" (aimv2_vision_model, also inside aimv2), and "aimv2_apple", the names of the checkpoints' own code.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Head, Table
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line, affine, batched, conv2d, single
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import COLOURS, image_size_of, processor_to
from tubelet.pixels.recipe import CLIP_TOKENS, PICTURE_TOKENS, PixelRecipe

FIELDS = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_channels": COLOURS,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": Field("silu", choices=ACTS),
    "rms_norm_eps": 1e-5,
    "qkv_bias": False,
    "mlp_bias": False,
    "use_head": True,
    "is_native": False,
    "use_bias": Field(False, choices=(False,)),  # apple's own code's name for mlp_bias
}
INERT = frozenset({"attention_dropout", "projection_dropout", "initializer_range", "num_queries"})


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a vision configuration."""
    f = read_fields(config, FIELDS, INERT)
    patch, size, native = f["patch_size"], f["image_size"], f["is_native"]
    side = size // patch
    return EncoderConfig(
        hidden=f["hidden_size"],
        layers=f["num_hidden_layers"],
        heads=f["num_attention_heads"],
        mlp=f["intermediate_size"],
        pixels=PixelRecipe(patch, "native_crop", max_tokens=PICTURE_TOKENS, max_clip_tokens=CLIP_TOKENS)
        if native
        else PixelRecipe(patch, "shortest_crop", size=size, max_clip_tokens=CLIP_TOKENS),
        norm="rms",
        eps=f["rms_norm_eps"],
        act=f["hidden_act"],
        rope=None,
        patch_bias=True,
        pre_norm=False,
        pool=f["use_head"],
        head=Head("query", bias=f["qkv_bias"]),
        spans=("frame",),
        gated=True,
        qkv_bias=f["qkv_bias"],
        proj_bias=f["qkv_bias"],
        mlp_bias=f["mlp_bias"],
        embed_norm=True,
        table=Table(side, side, "sincos" if native else "bicubic_antialias"),
    )


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse. Raises ConfigError for an encoder without a table of positions."""
    if config.table is None:
        raise ConfigError("an AIMv2 encoder adds positions", expected="table", got=None)
    return {
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_channels": 3,
        "image_size": image_size_of(config),
        "patch_size": config.pixels.patch,
        "hidden_act": next(theirs for theirs, ours in ACTS.items() if ours == config.act),
        "rms_norm_eps": config.eps,
        "qkv_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "use_head": config.pool,
        "is_native": config.table.resize == "sincos",
    }


def _processor_to(config: EncoderConfig) -> dict[str, Any]:
    said = processor_to(config, "CLIPImageProcessor")
    if config.pixels.rule in ("shortest_crop", "square", "native_crop"):
        return said
    sized = config.table is not None and config.table.resize != "sincos"
    return {**said, "do_resize": sized, "do_center_crop": sized}


_PROBE = Line("pool.probe", "head.cls_token", single)
_TRANSFORMERS = (
    Line("patch.weight", "embeddings.patch_embed.weight", conv2d),
    Line("patch.bias", "embeddings.patch_embed.bias"),
    Line("norm_embed.weight", "embeddings.rms_norm.weight"),
    Line("table.weight", "embeddings.position_embedding.weight"),
    Line("layers.#.norm1.weight", "encoder.layers.#.rms_norm1.weight"),
    *affine("layers.#.qkv", *(f"encoder.layers.#.attention.{name}_proj" for name in "qkv")),
    *affine("layers.#.proj", "encoder.layers.#.attention.out_proj"),
    Line("layers.#.norm2.weight", "encoder.layers.#.rms_norm2.weight"),
    *affine("layers.#.fc1", "encoder.layers.#.ffn.gate_proj", "encoder.layers.#.ffn.up_proj"),
    *affine("layers.#.fc2", "encoder.layers.#.ffn.down_proj"),
    Line("norm_post.weight", "rms_norm.weight"),
    _PROBE,
    *affine("pool.kv", "head.k_proj", "head.v_proj"),
    *affine("pool.out_proj", "head.output_proj"),
)
_APPLE = (
    Line("patch.weight", "preprocessor.patchifier.proj.weight", conv2d),
    Line("patch.bias", "preprocessor.patchifier.proj.bias"),
    Line("norm_embed.weight", "preprocessor.patchifier.norm.weight"),
    Line("table.weight", "preprocessor.pos_embed", batched),
    Line("layers.#.norm1.weight", "trunk.blocks.#.norm_1.weight"),
    *affine("layers.#.qkv", "trunk.blocks.#.attn.qkv"),
    *affine("layers.#.proj", "trunk.blocks.#.attn.proj"),
    Line("layers.#.norm2.weight", "trunk.blocks.#.norm_2.weight"),
    *affine("layers.#.fc1", "trunk.blocks.#.mlp.fc1", "trunk.blocks.#.mlp.fc3"),
    *affine("layers.#.fc2", "trunk.blocks.#.mlp.fc2"),
    Line("norm_post.weight", "trunk.post_trunk_norm.weight"),
    _PROBE,
    *affine("pool.kv", "head.k", "head.v"),
    *affine("pool.out_proj", "head.linear"),
)


def _variant(hidden: int, mlp: int, heads: int, image_size: int = 224, **more: bool) -> EncoderConfig:
    sizes = {"hidden_size": hidden, "intermediate_size": mlp, "num_attention_heads": heads, "image_size": image_size}
    return config_from({"use_head": False, **sizes, **more})


_SIZES = {"large": (1024, 2816, 8), "huge": (1536, 4096, 12), "1b": (2048, 5632, 16), "3b": (3072, 8192, 24)}
AIMV2 = Family(
    name="aimv2",
    model_types=("aimv2_vision_model",),
    architecture="Aimv2VisionModel",
    formats={"aimv2": _TRANSFORMERS, "aimv2_apple": _APPLE},
    config_from=config_from,
    config_to=config_to,
    holders=("aimv2",),
    prefixes=("", "image_encoder."),
    processor_to=_processor_to,
    variants={
        **{f"aimv2_{n}_patch14_{s}": _variant(*sizes, s) for n, sizes in _SIZES.items() for s in (224, 336, 448)},
        "aimv2_large_patch14_224_lit": _variant(*_SIZES["large"], use_head=True),
        "aimv2_large_patch14_native": _variant(*_SIZES["large"], is_native=True),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/aimv2/modeling_aimv2.py, configuration_aimv2.py@v5.23.0, "
    "convert_aimv2_original_pytorch_to_hf.py@2341119; huggingface/pytorch-image-models:timm/models/"
    "vision_transformer.py@v1.0.31",
)
