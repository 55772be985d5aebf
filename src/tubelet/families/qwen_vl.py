"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: packed, 2 x 2 blocks in order, two frames a row, a merger.

    Qwen2-VL     layer norms, quick_gelu; `hidden_size` is the merger's width there, `embed_dim` the tower's
    Qwen2.5-VL   RMS norms, a gated MLP, attention inside windows in all layers but a few
    Qwen3-VL     positions from a resized table as well, and mergers of chosen layers besides the last (deepstack)

Rows attend within their own row of time only, and turn by (row, column). tokens_per_second says how a language model
counts time: it is checked, nothing here reads it, and it is not written. tubelet.families.qwen_clips sizes
clips as upstream does.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import isqrt
from typing import Any

from tubelet.encoder.config import EncoderConfig, Merger, Rope, Span, Table
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line, affine, conv3d
from tubelet.families.fields import ACTS, Field, read_fields
from tubelet.families.qwen_clips import clip_pixels, qwen3_video_pixels, video_pixels
from tubelet.families.towers import COLOURS
from tubelet.pixels.recipe import CLIP_MEAN, CLIP_STD, HALF, PixelRecipe

_SHARED = {
    "depth": 32,
    "num_heads": 16,
    "in_channels": COLOURS,
    "in_chans": COLOURS,  # in the published files, where in_channels is meant
    "patch_size": 14,
    "spatial_patch_size": Field(None, kind=int, none=True),  # in the published files, beside patch_size
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "rope_parameters": Field(
        {"rope_theta": Field(10000.0, none=True), "rope_type": Field("axial", choices=("axial", "default"))}, none=True
    ),
}
FIELDS_2 = _SHARED | {
    "hidden_act": Field("quick_gelu", choices=ACTS),
    "embed_dim": 1280,
    "hidden_size": 3584,
    "mlp_ratio": 4,
}
FIELDS_2_5 = _SHARED | {
    "hidden_act": Field("silu", choices=ACTS),
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "tokens_per_second": 4,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": Field((7, 15, 23, 31), kind=list),
}
FIELDS_3 = _SHARED | {
    "depth": 27,
    "hidden_act": Field("gelu_pytorch_tanh", choices=ACTS),
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 16,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": Field((8, 16, 24), kind=list),
}
INERT = frozenset({"initializer_range"})
EPS = 1e-6  # of every norm, fixed upstream


def qwen2_from(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a Qwen2-VL vision configuration. Raises ConfigError."""
    f = read_fields(config, FIELDS_2, INERT)
    merger = Merger(f["spatial_merge_size"], f["hidden_size"], EPS)
    return with_clips(_encoder(f, f["embed_dim"], f["embed_dim"] * f["mlp_ratio"], merger), video_pixels)


def qwen2_5_from(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a Qwen2.5-VL vision configuration. A window's side is rounded down to whole blocks, and numbers of
    layers there are none of mean nothing, as upstream. Raises ConfigError."""
    f = read_fields(config, FIELDS_2_5, INERT)
    merge = f["spatial_merge_size"]
    side = f["window_size"] // merge // f["patch_size"] * merge
    full = set(f["fullatt_block_indexes"])
    merger = Merger(merge, f["out_hidden_size"], EPS, "rms")
    base = _encoder(f, f["hidden_size"], f["intermediate_size"], merger)
    spans: tuple[Span, ...] = tuple("frame" if i in full else "window" for i in range(f["depth"]))
    return with_clips(replace(base, norm="rms", gated=True, spans=spans, span_side=side), video_pixels)


def qwen3_from(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder of a Qwen3-VL vision configuration. Raises ConfigError, also for a table of positions that is not
    square and for deepstack layers that do not ascend."""
    f = read_fields(config, FIELDS_3, INERT)
    places, deep = f["num_position_embeddings"], f["deepstack_visual_indexes"]
    side = isqrt(places)
    if side * side != places:
        raise ConfigError(f"num_position_embeddings = {places} is not a square", expected=side * side, got=places)
    if list(deep) != sorted(set(deep)):
        raise ConfigError(f"deepstack_visual_indexes {list(deep)} do not ascend", got=deep)
    merger = Merger(f["spatial_merge_size"], f["out_hidden_size"], EPS)
    base = _encoder(f, f["hidden_size"], f["intermediate_size"], merger)
    pixels = replace(base.pixels, min_pixels=1 << 16, max_pixels=1 << 24, mean=HALF, std=HALF)
    base = with_clips(replace(base, pixels=pixels), qwen3_video_pixels)
    return replace(
        base,
        patch_bias=True,
        table=Table(side, side, "corners"),
        deepstack=tuple(deep),
        deepstack_merger=replace(merger, joined=True) if deep else None,
    )


def with_clips(base: EncoderConfig, clips: Callable[[EncoderConfig], PixelRecipe]) -> EncoderConfig:
    """The encoder whose recipe also says how clips are sized."""
    return replace(base, pixels=replace(base.pixels, clips=clips(base)))


def _encoder(f: Mapping[str, Any], hidden: int, mlp: int, merger: Merger) -> EncoderConfig:
    patch, merge = f["patch_size"], f["spatial_merge_size"]
    if f["spatial_patch_size"] not in (None, patch):
        raise ConfigError("spatial_patch_size is not patch_size", expected=patch, got=f["spatial_patch_size"])
    theta = (f["rope_parameters"] or {}).get("rope_theta") or 10000.0
    return EncoderConfig(
        hidden=hidden,
        layers=f["depth"],
        heads=f["num_heads"],
        mlp=mlp,
        pixels=PixelRecipe(
            patch,
            "smart_compat",
            temporal=f["temporal_patch_size"],
            merge=merge,
            order="block",
            min_pixels=56 * 56,
            max_pixels=28 * 28 * 1280,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        ),
        eps=EPS,
        act=f["hidden_act"],
        rope=Rope("rotation", theta, (0, 1, 1), layout="halves"),
        pre_norm=False,
        post_norm=False,
        pool=False,
        spans=("frame",),
        merger=merger,
    )


# ---- back to configurations


def qwen2_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `qwen2_from`. Raises ConfigError."""
    said = _shared_to(config)
    ratio = {"embed_dim": config.hidden, "mlp_ratio": config.mlp // config.hidden}
    return said | ratio | {"hidden_size": config.out}


def qwen2_5_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `qwen2_5_from`. Raises ConfigError."""
    if config.span_side is None:
        raise ConfigError("a Qwen2.5-VL encoder has windows", expected="span_side", got=None)
    full = [i for i, span in enumerate(config.layer_spans) if span == "frame"]
    windows = {"window_size": config.span_side * config.pixels.patch, "fullatt_block_indexes": full}
    return _shared_to(config) | _widths_to(config) | windows


def qwen3_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `qwen3_from`. Raises ConfigError."""
    if config.table is None:
        raise ConfigError("a Qwen3-VL encoder has a table of positions", expected="table", got=None)
    places = {"num_position_embeddings": config.table.height * config.table.width}
    return _shared_to(config) | _widths_to(config) | places | {"deepstack_visual_indexes": list(config.deepstack)}


def _widths_to(config: EncoderConfig) -> dict[str, Any]:
    return {"hidden_size": config.hidden, "intermediate_size": config.mlp, "out_hidden_size": config.out}


def _shared_to(config: EncoderConfig) -> dict[str, Any]:
    if config.rope is None or config.merger is None or config.eps != EPS:
        raise ConfigError(
            f"these encoders have rotary positions, a merger and norms of eps {EPS}", expected=EPS, got=config.eps
        )
    return {
        "depth": config.layers,
        "num_heads": config.heads,
        "in_channels": 3,
        "patch_size": config.pixels.patch,
        "spatial_merge_size": config.pixels.merge,
        "temporal_patch_size": config.pixels.temporal,
        "hidden_act": next(theirs for theirs, ours in ACTS.items() if ours == config.act),
        "rope_parameters": {"rope_theta": config.rope.theta, "rope_type": "axial"},
    }


# ---- pixels


def processor_to(config: EncoderConfig) -> dict[str, Any]:
    """The preprocessor_config.json of upstream's image processor for this encoder's pixels."""
    recipe = config.pixels
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": recipe.patch,
        "temporal_patch_size": recipe.temporal,
        "merge_size": recipe.merge,
        "size": {"shortest_edge": recipe.min_pixels or 56 * 56, "longest_edge": recipe.max_pixels or 28 * 28 * 1280},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }


# ---- names


_ATTENTION = (
    *affine("layers.#.norm1", "blocks.#.norm1"),
    *affine("layers.#.qkv", "blocks.#.attn.qkv"),
    *affine("layers.#.proj", "blocks.#.attn.proj"),
    *affine("layers.#.norm2", "blocks.#.norm2"),
)
_PATCH = (Line("patch.weight", "patch_embed.proj.weight", conv3d), Line("patch.bias", "patch_embed.proj.bias"))
_MERGER_2 = (
    *affine("merger.norm", "merger.ln_q"),
    *affine("merger.fc1", "merger.mlp.0"),
    *affine("merger.fc2", "merger.mlp.2"),
)
_LINES_2 = (
    *_PATCH,
    *_ATTENTION,
    *affine("layers.#.fc1", "blocks.#.mlp.fc1"),
    *affine("layers.#.fc2", "blocks.#.mlp.fc2"),
    *_MERGER_2,
)
_LINES_2_5 = (
    *_PATCH,
    *_ATTENTION,
    *affine("layers.#.fc1", "blocks.#.mlp.gate_proj", "blocks.#.mlp.up_proj"),
    *affine("layers.#.fc2", "blocks.#.mlp.down_proj"),
    *_MERGER_2,
)
_LINES_3 = (
    *_PATCH,
    Line("table.weight", "pos_embed.weight"),
    *_ATTENTION,
    *affine("layers.#.fc1", "blocks.#.mlp.linear_fc1"),
    *affine("layers.#.fc2", "blocks.#.mlp.linear_fc2"),
    *(
        line
        for ours, theirs in (("merger", "merger"), ("deepstack.#", "deepstack_merger_list.#"))
        for part, name in (("norm", "norm"), ("fc1", "linear_fc1"), ("fc2", "linear_fc2"))
        for line in affine(f"{ours}.{part}", f"{theirs}.{name}")
    ),
)
_IGNORED = (r"rotary_pos_emb\.(original_)?inv_freq",)  # computed from the configuration
_SOURCE = "huggingface/transformers:src/transformers/models/{0}/modeling_{0}.py, configuration_{0}.py@v5.23.0"
_TOWER_2_5 = {"hidden_size": 1280}
_TOWER_3 = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}

QWEN2_VL = Family(
    clips_from=clip_pixels,
    name="qwen2_vl",
    model_types=("qwen2_vl_vision", "qwen2_vl"),
    architecture="Qwen2VisionTransformerPretrainedModel",
    formats={"qwen2_vl": _LINES_2},
    config_from=qwen2_from,
    config_to=qwen2_to,
    holders=("qwen2_vl",),
    ignored=_IGNORED,
    processor_to=processor_to,
    variants={
        "qwen2_vl_2b_vision": qwen2_from({"hidden_size": 1536}),
        "qwen2_vl_7b_vision": qwen2_from({"hidden_size": 3584}),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source=_SOURCE.format("qwen2_vl"),
)
QWEN2_5_VL = Family(
    clips_from=clip_pixels,
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl_vision", "qwen2_5_vl"),
    architecture="Qwen2_5_VisionTransformerPretrainedModel",
    formats={"qwen2_5_vl": _LINES_2_5},
    config_from=qwen2_5_from,
    config_to=qwen2_5_to,
    holders=("qwen2_5_vl",),
    ignored=_IGNORED,
    processor_to=processor_to,
    variants={
        "qwen2_5_vl_3b_vision": qwen2_5_from({**_TOWER_2_5, "out_hidden_size": 2048}),
        "qwen2_5_vl_7b_vision": qwen2_5_from({**_TOWER_2_5, "out_hidden_size": 3584}),
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source=_SOURCE.format("qwen2_5_vl"),
)
QWEN3_VL = Family(
    clips_from=partial(clip_pixels, whole=True),
    name="qwen3_vl",
    model_types=("qwen3_vl_vision", "qwen3_vl", "qwen3_vl_moe_vision", "qwen3_vl_moe"),
    architecture="Qwen3VLVisionModel",
    formats={"qwen3_vl": _LINES_3},
    config_from=qwen3_from,
    config_to=qwen3_to,
    holders=("qwen3_vl", "qwen3_vl_moe"),
    ignored=_IGNORED,
    processor_to=processor_to,
    variants={"qwen3_vl_4b_vision": qwen3_from({**_TOWER_3, "out_hidden_size": 2560})},
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source=_SOURCE.format("qwen3_vl"),
)
