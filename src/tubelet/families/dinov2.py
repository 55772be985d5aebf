"""DINOv2, plain and with registers: a class token, a learned table of positions, learned factors on every branch.

    DINOV2             dinov2                   the table resized by bicubic
    DINOV2_REGISTERS   dinov2_with_registers    by antialiased bicubic; learned tokens after the class token

The largest ones have a gated MLP. transformers 5 renames tensors as it reads them and names them back as it writes:
the first format is how they are stored, "..._modules" how its modules call them. What is pooled is the class token.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tubelet.encoder.config import EncoderConfig, Head, Table
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line, affine, batched, conv2d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import COLOURS, image_size_of, processor_to
from tubelet.pixels.recipe import CLIP_TOKENS, IMAGENET_MEAN, IMAGENET_STD, PixelRecipe

FIELDS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": Field(4, most=64),
    "hidden_act": Field("gelu", choices=ACTS),
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": COLOURS,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
FIELDS_REGISTERS = {**FIELDS, "patch_size": 16, "num_register_tokens": Field(4, least=0)}
# What the class has as a backbone, and what matters in training only
BACKBONE = frozenset(
    {"apply_layernorm", "reshape_hidden_states", "stage_names", "out_features", "out_indices"}
    | {"_out_features", "_out_indices", "drop_path_rate", "initializer_range", "layerscale_value"}
)
# Upstream keeps an intermediate_size that it never reads
INERT = BACKBONE | {"hidden_dropout_prob", "attention_probs_dropout_prob", "use_mask_token", "intermediate_size"}

CROP, SHORTEST = 224, 256  # of the processor, whatever the trained size


def _mlp_width(hidden: int, ratio: int, gated: bool) -> int:
    return (int(hidden * ratio * 2 / 3) + 7) // 8 * 8 if gated else hidden * ratio


def _config_from(config: Mapping[str, Any], registers: bool) -> EncoderConfig:
    f = read_fields(config, FIELDS_REGISTERS if registers else FIELDS, INERT)
    gated, side = f["use_swiglu_ffn"], f["image_size"] // f["patch_size"]
    if not side:
        raise ConfigError("image_size holds no patch", limit=f["patch_size"], got=f["image_size"])
    return EncoderConfig(
        hidden=f["hidden_size"],
        layers=f["num_hidden_layers"],
        heads=f["num_attention_heads"],
        mlp=_mlp_width(f["hidden_size"], f["mlp_ratio"], gated),
        pixels=PixelRecipe(
            f["patch_size"],
            "shortest_crop",
            size=CROP,
            shortest=SHORTEST,
            max_clip_tokens=CLIP_TOKENS,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        eps=f["layer_norm_eps"],
        act="silu" if gated else f["hidden_act"],
        rope=None,
        patch_bias=True,
        pre_norm=False,
        head=Head("first"),
        spans=("frame",),
        prefix_per="frame",
        gated=gated,
        qkv_bias=f["qkv_bias"],
        scale=True,
        table=Table(side, side, "bicubic_antialias" if registers else "bicubic", prefix=True),
        prefix=1 + f.get("num_register_tokens", 0),
    )


def _config_to(config: EncoderConfig, registers: bool) -> dict[str, Any]:
    hidden, mlp = config.hidden, config.mlp
    ratio = next((r for r in range(1, 65) if _mlp_width(hidden, r, config.gated) == mlp), None)
    if ratio is None or config.table is None:
        raise ConfigError(f"no mlp_ratio makes an MLP of {mlp} from {hidden}", got=mlp)
    out = {
        "hidden_size": hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "mlp_ratio": ratio,
        "hidden_act": next(theirs for theirs, ours in ACTS.items() if ours == config.act),
        "layer_norm_eps": config.eps,
        "image_size": image_size_of(config),
        "patch_size": config.pixels.patch,
        "num_channels": 3,
        "qkv_bias": config.qkv_bias,
        "use_swiglu_ffn": config.gated,
    }
    return {**out, "num_register_tokens": config.prefix - 1} if registers else out


def _processor_to(config: EncoderConfig) -> dict[str, Any]:
    said = {**processor_to(config, "CLIPImageProcessor"), "image_processor_type": "BitImageProcessor"}
    if config.pixels.rule in ("shortest_crop", "square", "native_crop"):
        return said
    return {**said, "size": {"shortest_edge": SHORTEST}, "crop_size": {"height": CROP, "width": CROP}}


def _lines(q: str, k: str, v: str, out: str, *gated: str) -> tuple[Line, ...]:
    """q, k, v, out: what is below attention. gated: below mlp, the matrices of a gated one, the last of them fc2."""
    layer, gates = "encoder.layer.#", gated[:-1]

    def first(c: EncoderConfig) -> tuple[int, ...]:
        return (0, *[2 * c.mlp // len(gates) for _ in gates]) if c.gated else (c.mlp, *[0 for _ in gates])

    def second(c: EncoderConfig) -> tuple[int, int]:
        return (0, c.hidden) if c.gated else (c.hidden, 0)

    return (
        Line("patch.weight", "embeddings.patch_embeddings.projection.weight", conv2d),
        Line("patch.bias", "embeddings.patch_embeddings.projection.bias"),
        Line(
            "prefix", ("embeddings.cls_token", "embeddings.register_tokens"), batched, rows=lambda c: (1, c.prefix - 1)
        ),
        Line(("table.prefix", "table.weight"), "embeddings.position_embeddings", batched),
        *affine("layers.#.norm1", f"{layer}.norm1"),
        *affine("layers.#.qkv", *(f"{layer}.attention.{name}" for name in (q, k, v))),
        *affine("layers.#.proj", f"{layer}.attention.{out}"),
        Line("layers.#.scale1", f"{layer}.layer_scale1.lambda1"),
        *affine("layers.#.norm2", f"{layer}.norm2"),
        *affine("layers.#.fc1", *(f"{layer}.mlp.{name}" for name in ("fc1", *gates)), rows=first),
        *affine("layers.#.fc2", f"{layer}.mlp.fc2", f"{layer}.mlp.{gated[-1]}", rows=second),
        Line("layers.#.scale2", f"{layer}.layer_scale2.lambda1"),
        *affine("norm_post", "layernorm"),
    )


_STORED = _lines("attention.query", "attention.key", "attention.value", "output.dense", "weights_in", "weights_out")
_MODULES = _lines("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_UNUSED = {"embeddings.mask_token": lambda c: (1, c.hidden)}
# Registers are stored, though empty, where there are none
_UNUSED_REGISTERS = {**_UNUSED, "embeddings.register_tokens": lambda c: (1, c.prefix - 1, c.hidden)}
# hidden_size, num_hidden_layers, num_attention_heads, use_swiglu_ffn of the published ones
_SIZES = {
    "small": (384, 12, 6, False),
    "base": (768, 12, 12, False),
    "large": (1024, 24, 16, False),
    "giant": (1536, 40, 24, True),
}


def _family(registers: bool) -> Family:
    name = "dinov2_with_registers" if registers else "dinov2"
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "use_swiglu_ffn", "image_size", "patch_size")
    return Family(
        name=name,
        model_types=(name,),
        architecture="Dinov2WithRegistersModel" if registers else "Dinov2Model",
        formats={name: _STORED, f"{name}_modules": _MODULES},
        config_from=partial(_config_from, registers=registers),
        config_to=partial(_config_to, registers=registers),
        prefixes=("", f"{name}."),
        processor_to=_processor_to,
        unused=_UNUSED_REGISTERS if registers else _UNUSED,
        variants={
            f"{name}_{size}": _config_from(dict(zip(keys, (*values, 518, 14), strict=True)), registers)
            for size, values in _SIZES.items()
        },
        verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
        source="huggingface/transformers:src/transformers/models/"
        f"{name}/modeling_{name}.py, {name}/configuration_{name}.py, bit/image_processing_bit.py@v5.23.0",
    )


DINOV2 = _family(registers=False)
DINOV2_REGISTERS = _family(registers=True)
