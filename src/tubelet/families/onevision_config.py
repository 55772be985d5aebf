"""Hugging Face style configurations of the OneVision family, read and written as closed sets of fields.

A configuration file comes from strangers, so every field is known here by name and type. Fields that name code to run
or switch trust on are refused by name wherever they stand; unknown fields are refused because a field that is silently
ignored is a model that silently differs.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from typing import Any

import torch

from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.errors import ConfigError
from tubelet.families.onevision_keys import Format
from tubelet.pixels.recipe import PixelRecipe

# A field of these names can make other libraries import or download code. They are never read and never written.
CODE_FIELDS = frozenset(
    {
        "auto_map",
        "trust_remote_code",
        "custom_pipelines",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation",
        "_experts_implementation_internal",
        "kernel_config",
        "use_kernels",
    }
)

# What Hugging Face writes into any configuration and what does not change the result of this encoder.
HARMLESS_FIELDS = frozenset(
    {
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "base_config_key",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "pruned_heads",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_bfloat16",
        "use_cache",
    }
)
_VLM_FIELDS = HARMLESS_FIELDS | {
    "vision_config",
    "text_config",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
}

FLOAT32_EPS = float(torch.finfo(torch.float32).eps)  # what torch.nn.RMSNorm uses when it is given no eps

_LARGEST = {"num_hidden_layers": 1024, "num_attention_heads": 1024, "patch_size": 1024, "spatial_merge_size": 64}
_LARGEST_SIZE = 1 << 20
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
_WRITTEN_AS: dict[Format, tuple[str, str]] = {
    "source": ("llava_vit_encoder", "LlavaViTEncoder"),
    "standard": ("onevision_encoder", "OneVisionEncoderModel"),
    "packing": ("llava_vit_packing", "LlavaViTPackingModel"),
    "ov2": ("onevision_encoder", "LlavaOnevision2VisionPretrainedModel"),
}


@dataclass
class _Fields:
    """Every field this family's configurations have, with the packing model's defaults. The last two are ours:
    head_norm_eps where the head's RMSNorm has its own eps, has_merger=False for an OV2 tower without its merger."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 16
    temporal_patch_size: int = 1
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    layer_norm_type: str = "layer_norm"
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    rope_theta: float = 10000.0
    rope_temporal_size: int | None = 64
    use_head: bool = True
    out_hidden_size: int = 1024
    spatial_merge_size: int = 1
    tokens_per_second: int = 1
    frame_windows_size: int | None = 4
    head_norm_eps: float | None = None
    has_merger: bool = True


_TYPES = {f.name: f.type for f in fields(_Fields)}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "packing": {},
    "standard": {},
    "source": {"layer_norm_eps": 1e-5, "head_norm_eps": FLOAT32_EPS},
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


def config_from(config: Mapping[str, Any], fmt: Format | None = None) -> EncoderConfig:
    """The encoder a Hugging Face style configuration describes; a field that is absent has upstream's default.

    fmt: the format of the tensors, when the configuration has no model_type. A whole LLaVA-OneVision-2 configuration
    is read at its vision_config. Raises ConfigError naming the field for anything unknown, contradictory, of the wrong
    type or able to name code.
    """
    _refuse_code(config)
    found = format_of(config)
    if config.get("model_type") == "llava_onevision2":
        _closed(config, _VLM_FIELDS)
        vision = config.get("vision_config")
        if not isinstance(vision, Mapping):
            raise ConfigError("llava_onevision2 needs a vision_config object", expected="vision_config", got=vision)
        config = vision
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
    return _encoder(_checked(config, defaults), fmt)


def _refuse_code(value: Any, path: str = "") -> None:
    """Look through everything inside `value`, without recursion, for a field that could name code."""
    todo: list[tuple[Any, str]] = [(value, path)]
    while todo:
        node, where = todo.pop()
        if isinstance(node, Mapping):
            for key, inner in node.items():
                if key in CODE_FIELDS:
                    raise ConfigError(
                        f"{where}{key} can name code to run; it is refused. Remove it, or pass config= to load without "
                        "reading this file",
                        got=str(key),
                    )
                todo.append((inner, f"{where}{key}."))
        elif isinstance(node, (list, tuple)):
            todo += [(inner, where) for inner in node]


def _closed(config: Mapping[str, Any], known: Set[str]) -> None:
    unknown = sorted(str(key) for key in config if key not in known)
    if unknown:
        raise ConfigError(f"unknown field {', '.join(unknown[:8])}", got=tuple(unknown))


def _checked(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> _Fields:
    """Fields with types and ranges checked one by one."""
    _closed(config, HARMLESS_FIELDS | _TYPES.keys())
    given: dict[str, Any] = {key: value for key, value in config.items() if key in _TYPES}
    for name, value in given.items():
        _check_type(name, value)
    return _Fields(**{**defaults, **given})


def _check_type(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` has the type and range of field `name`."""
    wanted = _TYPES[name]
    if value is None and wanted in (int | None, float | None):
        return
    if wanted is bool or wanted is str:
        right = isinstance(value, bool) if wanted is bool else isinstance(value, str)
    elif wanted in (int, int | None):
        right = isinstance(value, int) and not isinstance(value, bool)
    else:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right or value is None:
        raise ConfigError(f"{name} has a value of the wrong type: {type(value).__name__}", expected=name, got=value)
    if wanted in (int, int | None):
        least, most = 0 if name == "frame_windows_size" else 1, _LARGEST.get(name, _LARGEST_SIZE)
    elif wanted in (float, float | None):
        least, most = 0, 1e12  # NaN is not in any range
    else:
        return
    if not least <= value <= most:
        raise ConfigError(f"{name} must be {least:g} to {most:g}, got {value!s:.40}", limit=(least, most), got=value)


def _one_of(name: str, value: str, known: Mapping[str, Any]) -> Any:
    if value not in known:
        raise ConfigError(f"{name} is one of {', '.join(known)}, got {value!r:.60}", expected=tuple(known), got=value)
    return known[value]


def _encoder(f: _Fields, fmt: Format) -> EncoderConfig:
    """What the checked fields mean in `fmt`."""
    for name, only in (("num_channels", 3), ("temporal_patch_size", 1)):
        if getattr(f, name) != only:
            raise ConfigError(f"{name} must be {only} in this family", expected=only, got=getattr(f, name))
    if fmt != "ov2" and f.spatial_merge_size != 1:
        raise ConfigError("only the OV2 tower merges", expected=1, got=f.spatial_merge_size)
    if f.rope_theta <= 0:
        raise ConfigError("rope_theta must be above zero", got=f.rope_theta)
    merger, merge = None, f.spatial_merge_size
    size = f.image_size if f.image_size >= f.patch_size * merge else None  # nominal; the encoder reads any size
    if fmt == "ov2":
        recipe = PixelRecipe(
            f.patch_size,
            rule="smart",
            merge=merge,
            order="block",
            size=size,
            min_pixels=256 * 28 * 28,
            max_pixels=1605632,
        )
        merger = Merger(merge, f.out_hidden_size, f.layer_norm_eps) if f.has_merger else None
    else:
        recipe = PixelRecipe(f.patch_size, rule="native_floor", size=size)
    return EncoderConfig(
        hidden=f.hidden_size,
        layers=f.num_hidden_layers,
        heads=f.num_attention_heads,
        mlp=f.intermediate_size,
        pixels=recipe,
        norm=_one_of("layer_norm_type", f.layer_norm_type, _NORMS),
        eps=float(f.layer_norm_eps),
        head_eps=None if f.head_norm_eps in (None, f.layer_norm_eps) else float(f.head_norm_eps),
        act=_one_of("hidden_act", f.hidden_act, _ACTS),
        rope=Rope(theta=float(f.rope_theta)),
        post_norm=f.use_head or fmt == "source",
        pool=f.use_head,
        window=(f.frame_windows_size or None) if fmt == "ov2" else None,
        merger=merger,
    )


def config_to(config: EncoderConfig, fmt: Format) -> dict[str, Any]:
    """The configuration upstream's class of `fmt` reads, with the encoder's own eps; `config_from` gives `config` back.

    Raises ConfigError naming what the format cannot say (a merger, a frame window, a norm without a head ...).
    """
    model_type, architecture = _WRITTEN_AS[fmt]
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
        "hidden_act": next(k for k, v in _ACTS.items() if v == config.act),
        "layer_norm_eps": config.eps,
        "layer_norm_type": next(k for k, v in _NORMS.items() if v == config.norm),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rope_theta": config.rope.theta,
        "use_head": config.pool,
    }
    if config.head_eps is not None or fmt == "source":
        out["head_norm_eps"] = config.eps if config.head_eps is None else config.head_eps
    if fmt == "packing":
        out |= {"temporal_patch_size": 1, "spatial_merge_size": 1}
    elif fmt == "ov2":
        out |= {
            "temporal_patch_size": 1,
            "spatial_merge_size": config.pixels.merge,
            "frame_windows_size": config.window or 0,
            "out_hidden_size": config.merger.out if config.merger else config.hidden,
            "tokens_per_second": 1,
        }
        if config.merger is None:
            out["has_merger"] = False
    lost = _differences(config_from(out, fmt), config)
    if lost:
        raise ConfigError(f"the {fmt} format cannot say {', '.join(lost)}", expected=fmt, got=tuple(lost))
    return out


def _differences(said: EncoderConfig, meant: EncoderConfig) -> list[str]:
    """Names of what changes the result and would be lost; how pictures are sized is not part of these formats."""
    lost = [
        f"{f.name}={getattr(meant, f.name)}"
        for f in fields(EncoderConfig)
        if f.name not in ("pixels", "eps", "head_eps") and getattr(said, f.name) != getattr(meant, f.name)
    ]
    effective = [(c.eps, c.eps if c.head_eps is None else c.head_eps) for c in (said, meant)]
    lost += [] if effective[0] == effective[1] else [f"eps={effective[1]}"]
    for name in ("patch", "temporal", "merge", "mean", "std"):
        if getattr(said.pixels, name) != getattr(meant.pixels, name):
            lost.append(f"pixels.{name}={getattr(meant.pixels, name)}")
    if said.pixels.order != meant.pixels.order and meant.pixels.merge > 1:
        lost.append(f"pixels.order={meant.pixels.order}")
    return lost
