"""What CLIP, MLCD and SigLIP share: their widths as fields, the names of a layer's tensors, where a tower stands."""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.families.family import affine
from tubelet.families.fields import ACTS, Field

# Without defaults, which differ
WIDTHS = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "hidden_act": "act",
    "layer_norm_eps": "eps",
}
COLOURS = Field(3, choices=(3,))

# What changes nothing in inference: rates and initialisers; sizes of projectors and of vocabularies that LLaVA's and
# PaliGemma's configurations state of the tower; counts that follow from other fields
INERT = frozenset(
    {"attention_dropout", "dropout", "initializer_factor", "initializer_range", "num_image_tokens", "num_positions"}
    | {"projection_dim", "projector_hidden_act", "vocab_size"}
)

# Alone as transformers 5 writes it, or as 4 did; `tubelet.families.match` knows where whole models keep either
PREFIXES = ("", "vision_model.")
POSITION_IDS = r"embeddings\.position_ids"  # a count from 0, stored by older versions

_LAYER = "encoder.layers.#."
LAYER_LINES = (
    *affine("layers.#.norm1", f"{_LAYER}layer_norm1"),
    *affine("layers.#.qkv", *(f"{_LAYER}self_attn.{part}_proj" for part in "qkv")),
    *affine("layers.#.proj", f"{_LAYER}self_attn.out_proj"),
    *affine("layers.#.norm2", f"{_LAYER}layer_norm2"),
    *affine("layers.#.fc1", f"{_LAYER}mlp.fc1"),
    *affine("layers.#.fc2", f"{_LAYER}mlp.fc2"),
    *affine("norm_post", "post_layernorm"),
)


def widths_from(f: Mapping[str, Any]) -> dict[str, Any]:
    """Checked fields as arguments of `EncoderConfig`."""
    return {ours: f[theirs] for theirs, ours in WIDTHS.items()}


def widths_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `widths_from`, with the patch size."""
    out = {theirs: getattr(config, ours) for theirs, ours in WIDTHS.items()}
    out["hidden_act"] = next(theirs for theirs, ours in ACTS.items() if ours == config.act)
    return out | {"num_channels": 3, "patch_size": config.pixels.patch}


def image_size_of(config: EncoderConfig, nominal: int = 224) -> int:
    """The side upstream calls image_size: the recipe's where it has as many patches as the table of positions has
    places, else the table's; without a table nothing depends on it, and it is the recipe's or `nominal`."""
    size, patch = config.pixels.size, config.pixels.patch
    if config.table is None:
        return size or nominal
    return size if size and size // patch == config.table.height else config.table.height * patch


def processor_to(config: EncoderConfig, kind: str) -> dict[str, Any]:
    """The preprocessor_config.json of upstream's processor `kind` for this encoder's pixels.

    A recipe whose rule such a file can say (a square, a crop, no resize) is said as it is; any other gives way to the
    processor's own rule at the trained size.
    """
    recipe = config.pixels
    own = {"CLIPImageProcessor": "shortest_crop", "SiglipImageProcessor": "square", "Siglip2ImageProcessor": "naflex"}
    rule = recipe.rule if recipe.rule in ("square", "shortest_crop", "native_crop") else own[kind]
    rule = "naflex" if own[kind] == "naflex" else rule
    side = recipe.size if rule == recipe.rule and recipe.size else image_size_of(config)
    square = {"height": side, "width": side}
    sizes: dict[str, dict[str, Any]] = {
        "shortest_crop": {"size": {"shortest_edge": recipe.shortest or side}, "crop_size": square},
        "square": {"size": square},
        "native_crop": {},
        "naflex": {
            "patch_size": recipe.patch,
            "max_num_patches": (recipe.max_pixels or side * side) // recipe.patch**2,
        },
    }
    return {
        "image_processor_type": kind,
        **sizes[rule],
        "do_center_crop": rule == "shortest_crop",
        "do_resize": rule != "native_crop",
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": {"lanczos": 1, "bilinear": 2, "bicubic": 3}[recipe.interpolation],
        "rescale_factor": 1 / 255,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }


BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
GIANT = {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
