"""tubelet's encoders through timm: `import tubelet.integrations.timm`, then `timm.create_model("llava_vit_base")`.

Registered are the names of upstream's factories (hf_llava_vit_*_ln, hf_llava_vit_packing_*_ln) and all variants of
`tubelet models`. What upstream's factories drop in silence (pretrained, checkpoint, any keyword) is honoured here, and
what cannot be honoured is a ConfigError.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models._features import FeatureGetterNet

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families import onevision as ov
from tubelet.families.match import matches
from tubelet.integrations.timm_model import POOLS, TimmEncoder, refuse_other_eps
from tubelet.weights.load import load_encoder, untrained
from tubelet.weights.locate import find_folder

SIZES = ("small", "base", "large", "huge", "giant")
# Upstream's factory -> the same network here. Its image_size is 448 in all of them.
SEED_NAMES = {f"hf_llava_vit_{kind}{size}_ln": f"llava_vit_{kind}{size}" for kind in ("", "packing_") for size in SIZES}
NAMES: dict[str, EncoderConfig] = {
    **{name: ov.VARIANTS[variant] for name, variant in SEED_NAMES.items()},
    **ov.VARIANTS,
    **ov.SOURCES,
}


@dataclass
class Arguments:
    """Every keyword that create_model may pass on, with its default.

    num_classes: of a linear head, 0 = none. global_pool: "map" (the pooling head), "avg", "max" or "" (no pooling);
    None = "map" where there is a pooling head, else "avg". img_size: the nominal size, an int or (height, width);
    dynamic_img_size=False refuses pictures of any other. patch_size, embed_dim, depth, num_heads, mlp_ratio: another
    network. drop_rate: dropout before the linear head. ckpt_path: upstream's word for a checkpoint. out_indices and
    output_fmt: of features_only. seed: of the start values when nothing is loaded.
    """

    num_classes: int = 0
    global_pool: str | None = None
    img_size: int | tuple[int, int] | None = None
    dynamic_img_size: bool = True
    in_chans: int = 3
    patch_size: int | None = None
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: float | None = None
    drop_rate: float = 0.0
    ckpt_path: str | os.PathLike[str] | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype | None = None
    features_only: bool = False
    out_indices: Any = 3
    output_fmt: str = "NCHW"
    feature_cls: str = "getter"
    seed: int = 0


def build(
    name: str,
    pretrained: bool | str | os.PathLike[str] = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> torch.nn.Module:
    """What timm.create_model gives for `name`: a TimmEncoder, or with features_only=True one that gives feature maps.

    pretrained: a folder, .safetensors file or hub id in any of the family's formats; True needs one in pretrained_cfg
    (`file` or `hf_hub_id`). create_model's own checkpoint_path takes a file in those formats or in this model's.
    Raises ConfigError for keywords that are unknown or cannot be honoured, and what `load_encoder` raises.
    """
    a = _arguments(kwargs)
    cfg = _pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    config = _network(NAMES[name], a)
    source = _source(name, pretrained, a.ckpt_path, cfg)
    if cache_dir is not None:
        raise ConfigError(
            "cache_dir is not used: huggingface_hub's HF_HOME says where downloads go", got=str(cache_dir)
        )
    if source is None:
        encoder = untrained(config, a.seed).to(a.device, a.dtype)
    else:
        encoder = _loaded(source, config, a)
    size = _size(a.img_size)
    if size is None:
        side = config.pixels.size or 448
        size = (side, side)
    model = TimmEncoder(
        encoder,
        num_classes=a.num_classes,
        global_pool=a.global_pool,
        img_size=size,
        dynamic_img_size=a.dynamic_img_size,
        drop_rate=a.drop_rate,
        seed=a.seed,
    )
    shown = replace(
        cfg, input_size=(3, *size), num_classes=a.num_classes, mean=config.pixels.mean, std=config.pixels.std
    )
    model.pretrained_cfg = model.default_cfg = shown.to_dict()
    return _features(model, a) if a.features_only else model.train()


def _arguments(kwargs: dict[str, Any]) -> Arguments:
    known = {f.name for f in fields(Arguments)}
    unknown = [k for k, v in kwargs.items() if k not in known and not (k.endswith(("_rate", "_drop")) and v == 0)]
    if unknown:
        raise ConfigError(
            f"{unknown[0]} cannot be honoured; there are {', '.join(sorted(known))}",
            expected=tuple(sorted(known)),
            got=tuple(unknown),
        )
    a = Arguments(**{k: v for k, v in kwargs.items() if k in known})
    if a.in_chans != 3:
        raise ConfigError("in_chans must be 3", expected=3, got=a.in_chans)
    if a.feature_cls != "getter":
        raise ConfigError("feature_cls must be getter", expected="getter", got=a.feature_cls)
    if a.global_pool is not None and a.global_pool not in POOLS:
        raise ConfigError(f"global_pool is one of {', '.join(map(repr, POOLS))}", expected=POOLS, got=a.global_pool)
    if not a.features_only and ("out_indices" in kwargs or "output_fmt" in kwargs):
        raise ConfigError(
            "out_indices and output_fmt belong to features_only=True", expected="features_only", got=False
        )
    return a


def _size(img_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if img_size is None:
        return None
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return int(height), int(width)


def _network(config: EncoderConfig, a: Arguments) -> EncoderConfig:
    """The configuration with the sizes that were asked for."""
    if a.patch_size is not None:
        config = replace(config, pixels=replace(config.pixels, patch=a.patch_size, size=None))
    if (size := _size(a.img_size)) is not None:
        if min(size) < config.pixels.unit:
            unit = config.pixels.unit
            raise ConfigError(f"img_size {size} is below one unit of {unit} pixels", limit=unit, got=size)
        config = replace(config, pixels=replace(config.pixels, size=min(size)))
    hidden = config.hidden if a.embed_dim is None else a.embed_dim
    mlp = config.mlp if a.embed_dim is None else round(config.mlp / config.hidden * hidden)
    return replace(
        config,
        hidden=hidden,
        layers=config.layers if a.depth is None else a.depth,
        heads=config.heads if a.num_heads is None else a.num_heads,
        mlp=mlp if a.mlp_ratio is None else round(hidden * a.mlp_ratio),
    )


def _pretrained_cfg(name: str, given: Any, overlay: Mapping[str, Any] | None) -> PretrainedCfg:
    if isinstance(given, str):
        raise ConfigError(f"{name} has no weights tagged {given!r:.60}: give pretrained=PATH", expected="", got=given)
    known = {f.name for f in fields(PretrainedCfg)}
    cfg = given or get_pretrained_cfg(name) or PretrainedCfg()
    values = {**(asdict(cfg) if isinstance(cfg, PretrainedCfg) else dict(cfg)), **(overlay or {})}
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"pretrained_cfg has no field {', '.join(unknown[:8])}", expected=tuple(sorted(known)))
    return PretrainedCfg(**values)


def _source(name: str, pretrained: Any, ckpt_path: Any, cfg: PretrainedCfg) -> str | os.PathLike[str] | None:
    """Where weights come from; None to start from seeded values."""
    named = [p for p in (ckpt_path, None if isinstance(pretrained, bool) else pretrained) if p]
    if len(named) == 2 and named[0] != named[1]:
        raise ConfigError("pretrained and ckpt_path name two checkpoints", expected=str(named[0]), got=str(named[1]))
    if named or not pretrained:
        return named[0] if named else None
    if cfg.url or cfg.state_dict:
        raise ConfigError("weights come from `file` or `hf_hub_id`, as safetensors", expected="file", got="url")
    source = cfg.file or cfg.hf_hub_id
    if source is None:
        raise ConfigError(
            f"no weights are published as {name}: give pretrained=PATH or pretrained_cfg=dict(file=PATH)",
            expected="a checkpoint",
            got=pretrained,
        )
    return source


def _loaded(source: str | os.PathLike[str], config: EncoderConfig, a: Arguments) -> Encoder:
    """The checkpoint, under its own config.json where it has one (so with its own eps), else under `config`."""
    folder = find_folder(source)
    own = folder.config() is not None
    if not own:
        found = matches((ov.FAMILY,), folder.home)
        refuse_other_eps(found[0].format if found else "packing", config)
    encoder = load_encoder(folder, config=None if own else config, device=a.device, dtype=a.dtype)
    shape = [f.name for f in fields(EncoderConfig) if f.name not in ("pixels", "eps", "head_eps", "merger")]
    other = [n for n in shape if getattr(encoder.config, n) != getattr(config, n)]
    other += [] if encoder.pixels.unit == config.pixels.unit else ["patch_size"]
    if other:
        theirs = tuple(getattr(encoder.config, n, encoder.pixels.patch) for n in other)
        raise ConfigError(
            f"the checkpoint is another network: {', '.join(other)} differ",
            source=str(source),
            expected=other,
            got=theirs,
        )
    return encoder


def _features(model: TimmEncoder, a: Arguments) -> torch.nn.Module:
    if a.num_classes:
        raise ConfigError("features_only has no classifier", expected=0, got=a.num_classes)
    getter = FeatureGetterNet(model, out_indices=a.out_indices, output_fmt=a.output_fmt)
    for name in ("pretrained_cfg", "default_cfg"):
        setattr(getter, name, model.pretrained_cfg)
    return getter


# ---- registration: timm finds a factory by its function name and the default_cfgs of its module


def _cfg(config: EncoderConfig) -> PretrainedCfg:
    side = config.pixels.size or 448
    return PretrainedCfg(
        input_size=(3, side, side),
        interpolation="bicubic",
        crop_pct=1.0,
        mean=config.pixels.mean,
        std=config.pixels.std,
        num_classes=0,
        first_conv="encoder.patch",
        classifier="head",
    )


def _factory(name: str) -> Callable[..., torch.nn.Module]:
    def create(pretrained: Any = False, **kwargs: Any) -> torch.nn.Module:
        return build(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"`{name}` for timm.create_model; keywords are those of `Arguments`."
    return create


default_cfgs = generate_default_cfgs({name: _cfg(config) for name, config in NAMES.items()})
for _name in NAMES:
    register_model(_factory(_name))
