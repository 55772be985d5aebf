"""Hugging Face style configurations of the OneVision family, each of its four formats with its own defaults."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.errors import ConfigError
from tubelet.families.fields import Field, read_fields
from tubelet.families.onevision_keys import Format
from tubelet.pixels.recipe import CLIP_TOKENS, PICTURE_TOKENS, PixelRecipe

FLOAT32_EPS = 2.0**-23  # of float32: what torch.nn.RMSNorm uses when it is given no eps

_ACTS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_NORMS = {"layer_norm": "layer", "rms_norm": "rms"}
_OV2_ONLY = frozenset({"out_hidden_size", "frame_windows_size", "tokens_per_second"})

MODEL_TYPES: dict[str, Format] = {
    "llava_vit_packing": "packing",
    "llava_vit": "standard",
    "onevision_encoder": "standard",  # HEAD's; LLaVA-OneVision-2 calls its tower the same, told apart by its fields
    "llava_onevision2": "ov2",
    "llava_vit_encoder": "source",  # ours: the training model has no configuration file
}
_WRITTEN_AS: dict[str, tuple[str, str]] = {
    "source": ("llava_vit_encoder", "LlavaViTEncoder"),
    "standard": ("onevision_encoder", "OneVisionEncoderModel"),
    "packing": ("llava_vit_packing", "LlavaViTPackingModel"),
    "ov2": ("onevision_encoder", "LlavaOnevision2VisionPretrainedModel"),
}

# With the packing model's defaults. The last three are ours: head_norm_eps where the head's RMSNorm has its own eps,
# has_merger=False for a tower that merges elsewhere, rope_mode "rotation" for a source encoder whose pairs turn.
# A source encoder may merge and see each frame by itself as well; the training model upstream does not.
FIELDS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": Field(3, choices=(3,)),
    "image_size": 448,
    "patch_size": 16,
    "temporal_patch_size": Field(1, choices=(1,)),
    "hidden_act": Field("gelu", choices=_ACTS),
    "layer_norm_eps": 1e-6,
    "layer_norm_type": Field("layer_norm", choices=_NORMS),
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "rope_temporal_size": Field(64, none=True),
    "use_head": True,
    "out_hidden_size": 1024,
    "spatial_merge_size": 1,
    "tokens_per_second": 1,
    "frame_windows_size": Field(4, least=0, none=True),
    "head_norm_eps": Field(None, kind=float),
    "has_merger": True,
    "rope_mode": Field("onevision", choices=("onevision", "rotation")),
}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "packing": {},
    "standard": {},
    "source": {
        "layer_norm_eps": 1e-5,
        "head_norm_eps": Field(FLOAT32_EPS, none=True),
        "frame_windows_size": Field(0, least=0),
    },
    "head": {**_LARGE, "patch_size": 14},
    "ov2": {**_LARGE, "patch_size": 14, "spatial_merge_size": 3, "use_head": False},
}


def format_of(config: Mapping[str, Any]) -> Format | None:
    """The format a configuration is written for, None when it does not say. Raises ConfigError for other families."""
    kind = config.get("model_type")
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise ConfigError(f"model_type is one of {', '.join(MODEL_TYPES)}", expected=tuple(MODEL_TYPES), got=kind)
    if kind == "onevision_encoder" and not _OV2_ONLY.isdisjoint(config):
        return "ov2"
    return MODEL_TYPES[kind]


def config_from(config: Mapping[str, Any], fmt: str | None = None) -> EncoderConfig:
    """The encoder a Hugging Face style configuration describes; a field that is absent has upstream's default.

    fmt: the format of the tensors, when the configuration has no model_type. Raises ConfigError naming the field for
    anything unknown, contradictory, of the wrong type or able to name code.
    """
    found = format_of(config)
    fmt = fmt or found
    if fmt is None:
        raise ConfigError("the configuration has no model_type", expected=tuple(MODEL_TYPES))
    if found is not None and found != fmt and (found, fmt) != ("standard", "ov2"):
        raise ConfigError(
            f"the configuration is for the {found} format, the tensors are {fmt}", expected=fmt, got=found
        )
    head = fmt == "standard" and config.get("model_type") == "onevision_encoder"
    defaults = dict(_DEFAULTS["head" if head else fmt])
    if fmt == "source" and config.get("layer_norm_type") == "rms_norm":
        defaults["layer_norm_eps"] = FLOAT32_EPS
    return _encoder(read_fields(config, {**FIELDS, **defaults}), fmt)


def _encoder(f: Mapping[str, Any], fmt: str) -> EncoderConfig:
    """What the checked fields mean in `fmt`."""
    patch, merge, eps, head_eps = f["patch_size"], f["spatial_merge_size"], f["layer_norm_eps"], f["head_norm_eps"]
    if fmt not in ("ov2", "source") and merge != 1:
        raise ConfigError("only the OV2 tower merges", expected=1, got=merge)
    if fmt != "source" and f["rope_mode"] != "onevision":
        raise ConfigError("upstream's own classes know one rope_mode", expected="onevision", got=f["rope_mode"])
    if f["rope_theta"] <= 0:
        raise ConfigError("rope_theta must be above zero", got=f["rope_theta"])
    size = f["image_size"] if f["image_size"] >= patch * merge else None  # nominal; the encoder reads any size
    recipe = PixelRecipe(patch, rule="native_floor", size=size, max_tokens=PICTURE_TOKENS, max_clip_tokens=CLIP_TOKENS)
    frames = f["frame_windows_size"] if fmt in ("ov2", "source") else 0
    if fmt == "ov2":
        budget = PixelRecipe(patch, rule="smart", merge=merge, order="block", size=size)
        recipe = replace(budget, min_pixels=256 * 28 * 28, max_pixels=1605632, max_clip_tokens=CLIP_TOKENS)
    elif merge > 1:
        recipe = replace(recipe, merge=merge, order="block")
    merger = Merger(merge, f["out_hidden_size"], eps) if f["has_merger"] and (fmt == "ov2" or merge > 1) else None
    return EncoderConfig(
        hidden=f["hidden_size"],
        layers=f["num_hidden_layers"],
        heads=f["num_attention_heads"],
        mlp=f["intermediate_size"],
        pixels=recipe,
        norm=f["layer_norm_type"],
        eps=eps,
        head_eps=None if head_eps in (None, eps) else head_eps,
        act=f["hidden_act"],
        rope=Rope(f["rope_mode"], theta=f["rope_theta"]),
        post_norm=f["use_head"] or fmt == "source",
        pool=f["use_head"],
        spans=("frame",) if frames else ("item",),
        span_frames=frames or 1,
        merger=merger,
    )


def config_to(config: EncoderConfig, fmt: str) -> dict[str, Any]:
    """The configuration upstream's class of `fmt` reads, with the encoder's own eps.

    Raises ConfigError where there is no word for an activation or for an encoder without rotary positions; what else a
    format cannot say is found by `families.write_config`.
    """
    model_type, architecture = _WRITTEN_AS[fmt]
    acts = {ours: theirs for theirs, ours in _ACTS.items()}
    if config.rope is None or config.act not in acts:
        lost = "rope=None" if config.rope is None else f"act={config.act}"
        raise ConfigError(f"the {fmt} format cannot say {lost}", expected=fmt, got=lost)
    out: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [architecture],
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_channels": 3,
        "image_size": config.pixels.size or 448,
        "patch_size": config.pixels.patch,
        "hidden_act": acts[config.act],
        "layer_norm_eps": config.eps,
        "layer_norm_type": next(k for k, v in _NORMS.items() if v == config.norm),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rope_theta": config.rope.theta,
        "use_head": config.pool,
    }
    if config.head_eps is not None or fmt == "source":
        out["head_norm_eps"] = config.eps if config.head_eps is None else config.head_eps
    if config.rope.mode != "onevision" and fmt == "source":
        out["rope_mode"] = config.rope.mode
    if config.spans == ("frame",) and fmt == "source":
        out["frame_windows_size"] = config.span_frames
    if config.merger is not None and fmt == "source":
        out |= {"spatial_merge_size": config.merger.merge, "out_hidden_size": config.merger.out}
    if fmt == "packing":
        out |= {"temporal_patch_size": 1, "spatial_merge_size": 1}
    elif fmt == "ov2":
        out |= {
            "temporal_patch_size": 1,
            "spatial_merge_size": config.pixels.merge,
            "frame_windows_size": config.span_frames if config.spans == ("frame",) else 0,
            "out_hidden_size": config.merger.out if config.merger else config.hidden,
            "tokens_per_second": 1,
        }
        if config.merger is None:
            out["has_merger"] = False
    return out
