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
    merger.*              merger.* (ours)              -                          -                      merger.*

Three tensors also change shape: the patch convolution (D, 3, p, p) is our matrix (D, 3 p p), whose columns are
(channel, row, column); the probe (1, 1, D) is our (D,); q, k and v are the three thirds of our qkv along dim 0.
Sources: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/convert_*.py@28efa3a,
EvolvingLMMs-Lab/LLaVA-OneVision-2:transformers_impl/merge_ov2/remap.py@2c3c25e.
"""

from typing import Literal

from tubelet.families.family import Line, conv2d, single

Format = Literal["packing", "standard", "source", "ov2"]
FORMATS: tuple[Format, ...] = ("packing", "standard", "source", "ov2")

# Buffers of the rotary tables: angles are always computed from the configuration
IGNORED = (r"(.*\.)?(video_rope|rotary_emb)\..*", r"(.*\.)?inv_freq(_[thw])?")


def _both(ours: str, theirs: str) -> tuple[Line, ...]:
    """The weight and the bias of one module; "{}" stands for q, k and v where a format keeps them apart."""
    parts = [theirs.format(part) for part in "qkv"] if "{}" in theirs else [theirs]
    return tuple(Line(f"{ours}.{leaf}", tuple(f"{part}.{leaf}" for part in parts)) for leaf in ("weight", "bias"))


def _patch(theirs: str) -> tuple[Line, ...]:
    return (Line("patch.weight", f"{theirs}.weight", conv2d),)


def _layers(prefix: str, **names: str) -> tuple[Line, ...]:
    return tuple(line for ours, theirs in names.items() for line in _both(f"layers.#.{ours}", f"{prefix}.#.{theirs}"))


_HEAD = (
    Line("pool.probe", "head.probe", single),
    Line("pool.in_proj.weight", "head.attention.in_proj_weight"),
    Line("pool.in_proj.bias", "head.attention.in_proj_bias"),
    *_both("pool.out_proj", "head.attention.out_proj"),
    *_both("pool.norm", "head.norm"),
    *_both("pool.fc1", "head.mlp.fc1"),
    *_both("pool.fc2", "head.mlp.fc2"),
)
_MERGER = (
    *_both("merger.norm", "merger.ln_q"),
    *_both("merger.fc1", "merger.mlp.0"),
    *_both("merger.fc2", "merger.mlp.2"),
)
_HF_LAYER = {"norm1": "layer_norm1", "norm2": "layer_norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_HF = (*_both("norm_pre", "layernorm_pre"), *_both("norm_post", "layernorm_post"), *_HEAD)
_APART = _layers("encoder.layers", **_HF_LAYER, qkv="self_attn.{}_proj", proj="self_attn.out_proj")
_FUSED = _layers("encoder.layers", **_HF_LAYER, qkv="self_attn.qkv", proj="self_attn.proj")

TABLES: dict[str, tuple[Line, ...]] = {
    "packing": (*_patch("patch_embed.proj"), *_HF, *_FUSED),
    "standard": (*_patch("embeddings.patch_embedding"), *_HF, *_APART),
    "source": (
        *_patch("conv1"),
        *_both("norm_pre", "ln_pre"),
        *_both("norm_post", "ln_post"),
        *_HEAD,
        *_MERGER,
        *_layers(
            "transformer.layers",
            norm1="ln_1",
            qkv="attn.in_proj",
            proj="attn.out_proj",
            norm2="ln_2",
            fc1="mlp.0",
            fc2="mlp.2",
        ),
    ),
    "ov2": (
        *_patch("embeddings.patch_embedding"),
        *_HF,
        *_FUSED,
        *_MERGER,
    ),
}
