"""Pixtral's encoder: pictures of their own ratio, rotary positions of (row, column), RMS norms, a gated MLP, no bias.

The frequencies of rows and columns interleave: theta^(-2k/n) for rows, theta^(-(2k + 1)/n) for columns. There is no
norm after the last layer and nothing to pool. Also inside llava (Pixtral 12B) and mistral3 (Mistral Small 3.1), whose
projector merges 2 x 2 patches: there sizes are multiples of two patches, replace(encoder.pixels, merge=2).
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig, Rope
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line, affine, conv2d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.towers import COLOURS, image_size_of, processor_to
from tubelet.pixels.recipe import CLIP_TOKENS, PixelRecipe

FIELDS = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": COLOURS,
    "image_size": 1024,
    "patch_size": 16,
    "hidden_act": Field("gelu", choices=ACTS),
    "head_dim": Field(None, kind=int, none=True),
    "rope_theta": 10000.0,  # of files before transformers 5, which has rope_parameters instead
    "rope_parameters": Field(
        {"rope_theta": Field(None, kind=float, none=True), "rope_type": Field("axial", choices=("axial", "default"))},
        none=True,
    ),
}
INERT = frozenset({"attention_dropout", "initializer_range", "is_composition", "image_token_id"})
EPS = 1e-5  # fixed upstream


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a vision configuration. Raises ConfigError for heads that do not fill the width."""
    f = read_fields(config, FIELDS, INERT)
    hidden, heads = f["hidden_size"], f["num_attention_heads"]
    if f["head_dim"] is not None and f["head_dim"] * heads != hidden:
        raise ConfigError(f"{heads} heads of {f['head_dim']} do not make {hidden}", expected=hidden, got=f["head_dim"])
    theta = (f["rope_parameters"] or {}).get("rope_theta")
    return EncoderConfig(
        hidden=hidden,
        layers=f["num_hidden_layers"],
        heads=heads,
        mlp=f["intermediate_size"],
        pixels=PixelRecipe(f["patch_size"], "longest_side", size=f["image_size"], max_clip_tokens=CLIP_TOKENS),
        norm="rms",
        eps=EPS,
        act=f["hidden_act"],
        rope=Rope("rotation", f["rope_theta"] if theta is None else theta, (0, 1, 1), (0.0, 0.0, 0.5), "halves"),
        post_norm=False,
        pool=False,
        spans=("frame",),
        gated=True,
        qkv_bias=False,
        proj_bias=False,
        mlp_bias=False,
    )


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse. Raises ConfigError for an encoder without rotary positions, or norms of another epsilon."""
    if config.rope is None or config.eps != EPS:
        raise ConfigError(
            f"a Pixtral encoder has rotary positions and norms of eps {EPS}", expected=EPS, got=config.eps
        )
    return {
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_channels": 3,
        "image_size": image_size_of(config, FIELDS["image_size"]),
        "patch_size": config.pixels.patch,
        "hidden_act": next(theirs for theirs, ours in ACTS.items() if ours == config.act),
        "head_dim": config.head_dim,
        "rope_parameters": {"rope_theta": config.rope.theta, "rope_type": "axial"},
    }


def _processor_to(config: EncoderConfig) -> dict[str, Any]:
    sizes = {"size": {"longest_edge": image_size_of(config, FIELDS["image_size"])}, "patch_size": config.pixels.patch}
    return {
        **processor_to(config, "SiglipImageProcessor"),
        "image_processor_type": "PixtralImageProcessor",
        "do_resize": True,
        "do_center_crop": False,
        **sizes,
    }


_LAYER = "transformer.layers.#"
_LINES = (
    Line("patch.weight", "patch_conv.weight", conv2d),
    Line("norm_pre.weight", "ln_pre.weight"),
    Line("layers.#.norm1.weight", f"{_LAYER}.attention_norm.weight"),
    *affine("layers.#.qkv", *(f"{_LAYER}.attention.{name}_proj" for name in "qkv")),
    *affine("layers.#.proj", f"{_LAYER}.attention.o_proj"),
    Line("layers.#.norm2.weight", f"{_LAYER}.ffn_norm.weight"),
    *affine("layers.#.fc1", f"{_LAYER}.feed_forward.gate_proj", f"{_LAYER}.feed_forward.up_proj"),
    *affine("layers.#.fc2", f"{_LAYER}.feed_forward.down_proj"),
)

PIXTRAL = Family(
    name="pixtral",
    model_types=("pixtral",),
    architecture="PixtralVisionModel",
    formats={"pixtral": _LINES},
    config_from=config_from,
    config_to=config_to,
    holders=("llava", "mistral3"),
    processor_to=_processor_to,
    variants={
        "pixtral_12b_vision": config_from({"hidden_act": "silu"}),
        "pixtral_large_vision": config_from(
            {"hidden_act": "silu", "hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 40}
        ),
        "mistral_small_3_1_vision": config_from({"hidden_act": "silu", "image_size": 1540, "patch_size": 14}),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/pixtral/modeling_pixtral.py, configuration_pixtral.py, "
    "image_processing_pixtral.py@v5.23.0",
)
