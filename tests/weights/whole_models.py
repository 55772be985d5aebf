"""Checkpoints of any family, alone or inside a whole vision-language model, in one file or in shards; from seeds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.families.catalogue import write_config
from tubelet.families.family import Family, to_theirs
from tubelet.weights.locate import CONFIG, INDEX, SINGLE

LANGUAGE = {
    "model.language_model.embed_tokens.weight": (4096, 64),
    "model.language_model.layers.0.mlp.up_proj.weight": (512, 64),
    "lm_head.weight": (4096, 64),
}


def small(family: Family) -> EncoderConfig:
    """A published network of the family, cut to one layer with one head."""
    config = min(family.variants.values(), key=lambda c: c.hidden)
    spans, width = config.spans[-1:], config.head_dim  # of windows and frames in turn the frame
    deepstack = (0,) if config.deepstack else ()
    return replace(config, hidden=width, heads=1, mlp=width, layers=1, spans=spans, deepstack=deepstack)


def tensors_of(family: Family, config: EncoderConfig, seed: int = 0) -> tuple[Encoder, dict[str, Tensor]]:
    """An encoder with seeded values, and the same under the family's names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        encoder = Encoder(config)
    state = {k: 0.1 * torch.randn(t.shape, generator=generator) for k, t in encoder.state_dict().items()}
    fmt = next(iter(family.formats))
    theirs = {k: v.clone().contiguous() for k, v in to_theirs(state, family.formats[fmt], config).items()}
    encoder.load_state_dict(state, assign=True)
    return encoder.eval(), theirs


def config_of(family: Family, config: EncoderConfig) -> dict[str, Any]:
    return write_config(config, family, next(iter(family.formats)))


def whole(folder: Path, family: Family, prefix: str, shards: int = 1) -> tuple[Encoder, dict[str, Tensor]]:
    """A whole model in `folder`, its vision part under `prefix`; of several shards the last is the language model's."""
    config = small(family)
    encoder, theirs = tensors_of(family, config)
    vision = {prefix + k: v for k, v in theirs.items()}
    language = {k: torch.full(shape, torch.nan) for k, shape in LANGUAGE.items()}
    folder.mkdir(parents=True, exist_ok=True)
    said = {"model_type": "some_vlm", "vision_config": config_of(family, config), "text_config": {"hidden_size": 64}}
    (folder / CONFIG).write_text(json.dumps(said), encoding="utf-8")
    if shards == 1:
        save_file({**language, **vision}, str(folder / SINGLE))
        return encoder, theirs
    keys, parts = list(vision), []
    parts = [{k: vision[k] for k in keys[i :: shards - 1]} for i in range(shards - 1)] + [language]
    weight_map: dict[str, str] = {}
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, str(folder / name))
        weight_map |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    return encoder, theirs
