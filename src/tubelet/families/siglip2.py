"""SigLIP2 NaFlex: SigLIP's layers for pictures of their own ratio, of as many patches as fit.

The patch matrix reads (row, column, channel) and the table of positions is resized by an antialiased bilinear filter.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tubelet.encoder.config import EncoderConfig, Table
from tubelet.errors import ConfigError
from tubelet.families.family import Family, Line
from tubelet.families.fields import Field, read_fields
from tubelet.families.siglip import LINES, SHARED, tower
from tubelet.families.towers import BASE, INERT, PREFIXES, SO400M, processor_to, widths_to
from tubelet.pixels.recipe import CLIP_TOKENS, HALF, PixelRecipe

if TYPE_CHECKING:
    from torch import Tensor

FIELDS = {**SHARED, "num_patches": Field(256, most=1 << 16)}


def colours_last(x: "Tensor", config: EncoderConfig) -> "Tensor":
    """(D, 3 p p) with the values of a row in the order (row, column, channel)."""
    patch = config.pixels.patch
    return x.unflatten(1, (3, patch, patch)).permute(0, 2, 3, 1).flatten(1)


def colours_first(x: "Tensor", config: EncoderConfig) -> "Tensor":
    """The inverse of `colours_last`."""
    patch = config.pixels.patch
    return x.unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2).flatten(1)


def config_from(config: Mapping[str, Any]) -> EncoderConfig:
    """The vision part of SigLIP2 NaFlex; a field that is absent has upstream's default.

    Its recipe fills as many patches as the table has places, which is what upstream's processor does by default.
    """
    f = read_fields(config, FIELDS, INERT)
    patch, places = f["patch_size"], f["num_patches"]
    side = math.isqrt(places)
    if side * side != places:
        raise ConfigError(f"num_patches {places} is not a square, which the table of positions is", got=places)
    most = places * patch * patch
    pixels = PixelRecipe(
        patch, "naflex", max_pixels=most, interpolation="bilinear", mean=HALF, std=HALF, max_clip_tokens=CLIP_TOKENS
    )
    return tower(f, pixels, Table(side, side, "bilinear_antialias"))


def config_to(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `config_from`. Raises ConfigError for an encoder without a table of positions."""
    if config.table is None:
        raise ConfigError("the siglip2 format has no place for an encoder without a table", expected="table")
    places = config.table.height * config.table.width
    return {**widths_to(config), "vision_use_head": config.pool, "num_patches": places}


SIGLIP2 = Family(
    name="siglip2",
    model_types=("siglip2_vision_model",),
    architecture="Siglip2VisionModel",
    formats={
        "siglip2": (
            Line("patch.weight", "embeddings.patch_embedding.weight", colours_last, colours_first),
            *LINES,
        )
    },
    config_from=config_from,
    config_to=config_to,
    holders=("siglip2",),
    prefixes=PREFIXES,
    processor_to=lambda config: processor_to(config, "Siglip2ImageProcessor"),
    variants={
        f"siglip2_{name}_patch16_naflex": config_from({**widths, "patch_size": 16})
        for name, widths in (("base", BASE), ("so400m", SO400M))
    },
    verified=("outputs", "gradients", "bf16", "pixels", "save_back"),
    source="huggingface/transformers:src/transformers/models/siglip2@v5.23.0",
)
