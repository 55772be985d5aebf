"""The names of the same tensors in the four formats OneVision weights are published in, and the way between them.

    ours                  source (training)            standard, HEAD             packing                OV2
    patch                 conv1                        embeddings.patch_embedding patch_embed.proj       as standard
    norm_pre, norm_post   ln_pre, ln_post              layernorm_pre, _post       as standard            as standard
    layers.i              transformer.layers.i         encoder.layers.i           as standard            as standard
      norm1, norm2          ln_1, ln_2                   layer_norm1, layer_norm2   as standard            as standard
      qkv                   attn.in_proj                 self_attn.{q,k,v}_proj     self_attn.qkv          as packing
      proj                  attn.out_proj                self_attn.out_proj         self_attn.proj         as packing
      fc1, fc2              mlp.0, mlp.2                 mlp.fc1, mlp.fc2           as standard            as standard
    pool.*                head.*                       as source                  as source              as source
    merger.*              -                            -                          -                      merger.*

Three tensors also change shape: the patch convolution (D, 3, p, p) is our matrix (D, 3 p p), whose columns are
(channel, row, column); the probe (1, 1, D) is our (D,); q, k and v are the three thirds of our qkv along dim 0.
Sources: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/convert_*.py@28efa3a,
EvolvingLMMs-Lab/LLaVA-OneVision-2:transformers_impl/merge_ov2/remap.py@2c3c25e.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from tubelet.errors import ConfigError, KeyMismatch

Format = Literal["source", "standard", "packing", "ov2"]
FORMATS: tuple[Format, ...] = ("source", "standard", "packing", "ov2")
TABLE_ID = "onevision-keys-1"  # written into converted files; raise it when a name or a shape below changes

_HF_LAYER, _SOURCE_LAYER = "encoder.layers.#.", "transformer.layers.#."
_HEAD = {
    "pool.probe": "head.probe",
    "pool.in_proj.weight": "head.attention.in_proj_weight",
    "pool.in_proj.bias": "head.attention.in_proj_bias",
    "pool.out_proj": "head.attention.out_proj",
    "pool.norm": "head.norm",
    "pool.fc1": "head.mlp.fc1",
    "pool.fc2": "head.mlp.fc2",
}
_HF_COMMON = {
    "norm_pre": "layernorm_pre",
    "norm_post": "layernorm_post",
    "layers.#.norm1": _HF_LAYER + "layer_norm1",
    "layers.#.norm2": _HF_LAYER + "layer_norm2",
    "layers.#.fc1": _HF_LAYER + "mlp.fc1",
    "layers.#.fc2": _HF_LAYER + "mlp.fc2",
    **_HEAD,
}
_FUSED = {"layers.#.qkv": _HF_LAYER + "self_attn.qkv", "layers.#.proj": _HF_LAYER + "self_attn.proj"}
_EMBEDDINGS = {"patch": "embeddings.patch_embedding"}

# Ours -> theirs. A "#" stands for the layer number; "{}" for q, k and v where the format keeps them apart.
_NAMES: dict[Format, dict[str, str]] = {
    "source": {
        "patch": "conv1",
        "norm_pre": "ln_pre",
        "norm_post": "ln_post",
        "layers.#.norm1": _SOURCE_LAYER + "ln_1",
        "layers.#.qkv": _SOURCE_LAYER + "attn.in_proj",
        "layers.#.proj": _SOURCE_LAYER + "attn.out_proj",
        "layers.#.norm2": _SOURCE_LAYER + "ln_2",
        "layers.#.fc1": _SOURCE_LAYER + "mlp.0",
        "layers.#.fc2": _SOURCE_LAYER + "mlp.2",
        **_HEAD,
    },
    "standard": {
        **_HF_COMMON,
        **_EMBEDDINGS,
        "layers.#.qkv": _HF_LAYER + "self_attn.{}_proj",
        "layers.#.proj": _HF_LAYER + "self_attn.out_proj",
    },
    "packing": {**_HF_COMMON, **_FUSED, "patch": "patch_embed.proj"},
    "ov2": {
        **_HF_COMMON,
        **_FUSED,
        **_EMBEDDINGS,
        "merger.norm": "merger.ln_q",
        "merger.fc1": "merger.mlp.0",
        "merger.fc2": "merger.mlp.2",
    },
}

# Where whole checkpoints keep the vision tower: LLaVA-OneVision-2, and LLaVA forks, whose tower is itself a wrapper
_TOWERS = ("model.visual.", "model.vision_tower.vision_tower.")
_ROPE_BUFFER = re.compile(r"(^|\.)(video_rope|rotary_emb)\.|(^|\.)inv_freq(_[thw])?$")
_LAYER = re.compile(r"(?<=\blayers\.)\d+(?=\.)")


def known_format(name: str) -> Format:
    """`name` as one of FORMATS. Raises ConfigError listing them."""
    for fmt in FORMATS:
        if fmt == name:
            return fmt
    raise ConfigError(f"the formats are {', '.join(FORMATS)}", expected=FORMATS, got=name)


def upstream_names(ours: str, fmt: Format) -> tuple[str, ...]:
    """What one of our tensors is called in `fmt`: one name, or the three of q, k and v.

    >>> upstream_names("layers.3.qkv.bias", "packing")
    ('encoder.layers.3.self_attn.qkv.bias',)

    Raises ConfigError when the format has no place for it.
    """
    number = _LAYER.search(ours)
    general = _LAYER.sub("#", ours, count=1)
    module, _, leaf = general.rpartition(".")
    table = _NAMES[fmt]
    theirs = table.get(general) or (f"{table[module]}.{leaf}" if module in table else None)
    if theirs is None:
        raise ConfigError(f"the {fmt} format has no place for {ours}", expected=fmt, got=ours)
    if number is not None:
        theirs = theirs.replace("#", number.group(), 1)
    return tuple(theirs.format(part) for part in "qkv") if "{}" in theirs else (theirs,)


def to_upstream(state: Mapping[str, Tensor], fmt: Format, patch: int) -> dict[str, Tensor]:
    """Our state_dict (or gradients, or meta tensors) under the names and shapes of `fmt`; views where possible."""
    out: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        names = upstream_names(ours, fmt)
        if ours == "patch.weight":
            tensor = tensor.unflatten(1, (-1, patch, patch))
        elif ours == "pool.probe":
            tensor = tensor.view(1, 1, -1)
        out.update(zip(names, tensor.chunk(3) if len(names) == 3 else (tensor,), strict=True))
    return out


def from_upstream(shapes: Mapping[str, Sequence[int]], fmt: Format, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Our state_dict, each tensor read from `fmt` by its upstream name; `shapes` are those of our tensors."""
    out: dict[str, Tensor] = {}
    for ours, shape in shapes.items():
        parts = [read(name) for name in upstream_names(ours, fmt)]
        out[ours] = torch.cat(parts) if len(parts) > 1 else parts[0].reshape(tuple(shape))
    return out


def bare_names(keys: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """({name in the format: key in the file}, keys ignored by rule) of a checkpoint's keys.

    A leading `module.` (data parallel) and any `_orig_mod` (torch.compile) are taken off. Where keys start with
    `model.visual.` or `model.vision_tower.vision_tower.` the file is a whole vision-language model: the tower is read
    and the rest ignored. Buffers of the rotary tables are ignored: angles are always computed from the configuration.
    Raises KeyMismatch when two keys mean the same tensor.
    """
    unwrapped: list[tuple[str, str]] = []
    for key in keys:
        parts = [part for part in key.split(".") if part != "_orig_mod"]
        while len(parts) > 1 and parts[0] == "module":
            parts = parts[1:]
        unwrapped.append((".".join(parts), key))
    tower = next((t for t in _TOWERS if any(name.startswith(t) for name, _ in unwrapped)), "")
    named: dict[str, str] = {}
    ignored: list[str] = []
    twice: list[str] = []
    for name, key in unwrapped:
        if not name.startswith(tower) or _ROPE_BUFFER.search(name):
            ignored.append(key)
            continue
        name = name.removeprefix(tower)
        if name in named:
            twice += [named[name], key]
        named[name] = key
    if twice:
        raise KeyMismatch(f"two keys for one tensor: {' and '.join(twice[:2])}", unexpected=twice)
    return named, tuple(ignored)


def detect(names: Iterable[str]) -> tuple[Format, ...]:
    """The formats that know most of these names, best first and alone unless several know equally many.

    Empty when none of the names is known. One missing or misspelt tensor does not change the answer.
    """
    general = {_LAYER.sub("#", name, count=1) for name in names}
    known: dict[Format, int] = {}
    for fmt in FORMATS:
        patterns = {p.format(c) for p in _NAMES[fmt].values() for c in ("qkv" if "{}" in p else "q")}
        known[fmt] = sum(name in patterns or name.rpartition(".")[0] in patterns for name in general)
    best = max(known.values())
    return tuple(fmt for fmt in FORMATS if known[fmt] == best) if best else ()
