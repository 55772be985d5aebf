"""Which family reads which configuration, and which variants there are."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, near_names
from tubelet.families.family import Family
from tubelet.families.fields import refuse_code
from tubelet.families.match import Match, matches
from tubelet.families.processors import recipe_from
from tubelet.pixels.recipe import PixelRecipe

_LAYER = re.compile(r"\.\d+(?=\.)")
# (module, the families in it), imported when the first checkpoint is looked at
MODULES = (
    ("onevision", ("FAMILY",)),
    ("clip", ("CLIP",)),
    ("mlcd", ("MLCD",)),
    ("siglip", ("SIGLIP",)),
    ("siglip2", ("SIGLIP2",)),
    ("idefics3", ("IDEFICS3",)),
    ("dinov2", ("DINOV2", "DINOV2_REGISTERS")),
    ("dinov3", ("DINOV3",)),
    ("aimv2", ("AIMV2",)),
    ("pixtral", ("PIXTRAL",)),
    ("internvl", ("INTERNVL",)),
    ("qwen_vl", ("QWEN2_VL", "QWEN2_5_VL", "QWEN3_VL")),
)


@cache
def families() -> tuple[Family, ...]:
    """Every family there is.

    >>> [family.name for family in families()][0]
    'onevision'
    """
    modules = [(import_module(f"{__package__}.{module}"), names) for module, names in MODULES]
    return tuple(getattr(module, name) for module, names in modules for name in names)


def find(config: Mapping[str, Any] | None, keys: Collection[str]) -> tuple[Match, ...]:
    """The families and formats a checkpoint can be of, the likeliest first, from its config.json and its keys.

    The configuration's model type decides the family where there is one, the tensors' names the format, and both
    otherwise. Several are given where names alone cannot tell them apart. Raises ConfigError when no family knows the
    model type or the names, saying what was found.
    """
    known, said = families(), None
    if config is not None:
        vision = vision_part(config)
        said = vision.get("model_type")
        if said is not None:
            known = tuple(f for f in known if _says(f, config, vision))
        if not known:
            types = sorted({t for f in families() for t in (*f.model_types, *f.holders)})
            where = " in its vision_config" if "vision_config" in config else ""
            raise ConfigError(f"no family here has the model_type {said!r:.80}{where}", expected=tuple(types), got=said)
    if said is None and (theirs := foreign(keys)):
        raise ConfigError(theirs, got=tuple(sorted(keys)[:8]))
    found = matches(known, keys)
    if not found:
        raise _unknown(known if said is not None else (), said, keys)
    family = found[0].family
    if config is None or family.dialects is None:
        return found
    held = config.get("model_type") in family.holders
    wanted = family.dialects.format_of(config if held else vision_part(config))
    return tuple(sorted(found, key=lambda m: m.format != wanted)) if wanted else found


def foreign(keys: Collection[str]) -> str | None:
    """What to say of a vision transformer with timm's names or DINOv2's own, which look like Qwen2-VL's; else None.

    Theirs have a table and a class token as bare parameters, and factors called gamma; Qwen's have none of them.

    >>> foreign(["visual.patch_embed.proj.weight", "visual.blocks.0.attn.qkv.weight"])
    """
    names = {_LAYER.sub(".#", key) for key in keys}
    if "blocks.#.attn.qkv.weight" not in names and "blocks.#.#.attn.qkv.weight" not in names:
        return None
    if not names & {"pos_embed", "cls_token"}:
        return None
    if not names & {"blocks.#.ls1.gamma", "blocks.#.#.ls1.gamma", "blocks.#.gamma_1"}:
        return "these are the tensor names of a vision transformer of timm, which are not read; transformers' names are"
    if "pos_embed" in names:
        registers = "with-registers-" if names & {"register_tokens", "reg_token"} else ""
        family, ours = "DINOv2", f"facebook/dinov2-{registers}base"
    else:
        family, ours = "DINOv3", "facebook/dinov3-vitb16-pretrain-lvd1689m"
    whose = "Meta's own" if names & {"mask_token", "register_tokens", "storage_tokens"} else "timm's"
    return f"these are the tensor names of {family} in {whose} form, which is not read; {ours} and its kind are"


def vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the vision encoder: all of it, or what stands under `vision_config`.

    A part without a model_type has the whole model's. The rest is searched for fields that could name code and is not
    read further. Raises ConfigError.

        >>> vision_part({"model_type": "qwen2_vl", "hidden_size": 1536, "vision_config": {"depth": 32}})
        {'model_type': 'qwen2_vl', 'depth': 32}
    """
    refuse_code(config)
    if "vision_config" not in config:
        return config
    vision = config["vision_config"]
    if not isinstance(vision, Mapping):
        raise ConfigError("vision_config is an object", expected="vision_config", got=type(vision).__name__)
    return {"model_type": config.get("model_type"), **vision} if "model_type" in config else vision


def read_config(config: Mapping[str, Any], family: Family, fmt: str) -> EncoderConfig:
    """The encoder that a family's configuration, or a whole model's, describes. Raises ConfigError."""
    vision = vision_part(config)
    return family.config_from(vision) if family.dialects is None else family.config_from(vision, fmt)


def write_config(config: EncoderConfig, family: Family, fmt: str) -> dict[str, Any]:
    """The configuration upstream's class of this format reads; `read_config` gives `config` back, with the family's
    `processor_to` for mean and std.

    Raises ConfigError naming what the format cannot say.
    """
    said = family.config_to(config) if family.dialects is None else family.config_to(config, fmt)
    out = {"model_type": family.model_types[0], "architectures": [family.architecture], **said}
    read = read_config(out, family, fmt)
    if family.processor_to is not None:
        read = replace(read, pixels=recipe_from(family.processor_to(config), read.pixels))
    lost = differences(read, config)
    if lost:
        raise ConfigError(f"the {fmt} format cannot say {', '.join(lost)}", expected=fmt, got=tuple(lost))
    return out


def differences(said: EncoderConfig, meant: EncoderConfig) -> list[str]:
    """Names of what changes the result and would be lost; how pictures are sized is not part of these formats."""
    lost = [
        f"{f}={getattr(meant, f)}"
        for f in EncoderConfig.__dataclass_fields__
        if f not in ("pixels", "eps", "head_eps") and getattr(said, f) != getattr(meant, f)
    ]
    effective = [(c.eps, c.eps if c.head_eps is None else c.head_eps) for c in (said, meant)]
    lost += [] if effective[0] == effective[1] else [f"eps={effective[1]}"]
    for name in ("patch", "temporal", "merge", "mean", "std"):
        if getattr(said.pixels, name) != getattr(meant.pixels, name):
            lost.append(f"pixels.{name}={getattr(meant.pixels, name)}")
    if said.pixels.order != meant.pixels.order and meant.pixels.merge > 1:
        lost.append(f"pixels.order={meant.pixels.order}")
    return lost


def variant_of(config: EncoderConfig, family: Family, fmt: str) -> str | None:
    """The first variant of this format that is this network, whatever its eps and image size; None without one."""
    for name, known in family.variants.items():
        if _network(known) == _network(config) and (family.dialects is None or format_of(family, name) == fmt):
            return name
    return None


def _network(config: EncoderConfig) -> tuple[Any, ...]:
    """What tells networks apart: everything but eps, sizes of pictures and the merger's width."""
    pixels = PixelRecipe(config.pixels.patch, temporal=config.pixels.temporal, order="block")
    bare = replace(config, eps=1.0, head_eps=None, pixels=pixels, merger=None, deepstack=(), deepstack_merger=None)
    return bare, config.merger and config.merger.merge, config.deepstack


def variants() -> dict[str, tuple[Family, EncoderConfig]]:
    """Every published network by name, with its family.

    >>> variants()["llava_vit_packing_small"][1].layers
    6
    """
    return {name: (family, config) for family in families() for name, config in family.variants.items()}


def require_variant(name: str) -> tuple[Family, EncoderConfig]:
    """A published network by name. Raises ConfigError listing what there is."""
    known = variants()
    if name not in known:
        raise ConfigError(
            f"no variant called {name!r:.60}{near_names(name, known)}; there are {', '.join(known)}",
            expected=tuple(known),
            got=name,
        )
    return known[name]


def format_of(family: Family, variant: str | None) -> str:
    """The format a variant is published in; of no variant the one that is written by default."""
    first = next(iter(family.formats))
    return first if family.dialects is None else family.dialects.variants.get(variant or "", first)


def home_of(config: EncoderConfig) -> tuple[Family, str] | None:
    """The first family and format that can say what this encoder is; None where none can.

    >>> family, fmt = home_of(variants()["llava_vit_packing_small"][1])
    >>> family.name, fmt
    ('onevision', 'packing')
    """
    for family in families():
        for fmt in family.formats:
            if _can_say(config, family, fmt):
                return family, fmt
    return None


def _can_say(config: EncoderConfig, family: Family, fmt: str) -> bool:
    try:
        write_config(config, family, fmt)
    except ConfigError:
        return False
    return True


def _says(family: Family, config: Mapping[str, Any], vision: Mapping[str, Any]) -> bool:
    """Whether the model type is this family's. A holder's own type counts where the vision part has none."""
    if vision.get("model_type") in family.model_types:
        return True
    own = config.get("vision_config")
    silent = isinstance(own, Mapping) and own.get("model_type") is None
    return silent and config.get("model_type") in family.holders


def _unknown(known: tuple[Family, ...], said: Any, keys: Collection[str]) -> ConfigError:
    """What to say when no name is known: what was looked for, and what the file holds instead."""
    starts = sorted({".".join(key.split(".")[:2]) for key in keys})
    shown = f"they begin with {', '.join(starts[:6])}{' ...' if len(starts) > 6 else ''}" if starts else "it has none"
    if not known:
        return ConfigError(
            f"no family knows these tensor names; {shown}",
            expected=tuple(f.name for f in families()),
            got=tuple(sorted(keys)[:8]),
        )
    names = " or ".join(f.name for f in known)
    other = matches(families(), keys)
    instead = f"; they are those of {other[0].family.name}" if other else ""
    return ConfigError(
        f"model_type {said!r:.80} is {names}, but no tensor has one of its names: {shown}{instead}",
        expected=names,
        got=tuple(sorted(keys)[:8]),
    )
