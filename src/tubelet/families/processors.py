"""Pixel recipes as preprocessor_config.json says them: what config.json leaves open.

A network is published with sizes, filters and statistics that its configuration does not have: SigLIP2's bilinear,
DINOv2's 256 before a crop of 224, AIMv2's pictures that nobody resizes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tubelet.errors import ConfigError
from tubelet.families.fields import refuse_code
from tubelet.pixels.recipe import Interpolation, PixelRecipe

# Processors that make one picture of one picture. Others cut views or are unknown: they change nothing here.
PLAIN = ("CLIP", "Bit", "Siglip", "Siglip2", "ViT", "DINOv3ViT", "Pixtral", "Qwen2VL")
_INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def recipe_from(processor: Mapping[str, Any], recipe: PixelRecipe) -> PixelRecipe:
    """`recipe` with the size rule, filter, mean and std of a preprocessor_config.json, if it is of a plain processor.

    A field that is absent keeps what the recipe has; patch, temporal, merge and order are the encoder's own. Raises
    ConfigError for a field that could name code and for what no recipe can say (sides that differ, other filters,
    pixels that are not rescaled by 1/255).
    Source: huggingface/transformers:src/transformers/image_processing_backends.py@v5.23.0 and the families' own.

        >>> size = {"height": 384, "width": 384}
        >>> said = {"image_processor_type": "SiglipImageProcessor", "resample": 2, "size": size}
        >>> found = recipe_from(said, PixelRecipe(patch=16, rule="square", size=224))
        >>> found.size, found.interpolation
        (384, 'bilinear')
    """
    refuse_code(processor)
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type"))
    if not isinstance(kind, str) or _plain(kind) not in PLAIN:
        return recipe
    for name in ("do_rescale", "do_normalize"):
        if processor.get(name, True) is not True:
            raise ConfigError(f"{name} must be true: an encoder reads normalised pixels", expected=True, got=False)
    changes: dict[str, Any] = _rule(processor, _plain(kind), recipe)
    if "resample" in processor:
        number = processor["resample"]
        if not isinstance(number, int) or number not in _INTERPOLATIONS:
            raise ConfigError(f"resample is 2 or 3, got {number!r:.40}", expected=tuple(_INTERPOLATIONS), got=number)
        changes["interpolation"] = _INTERPOLATIONS[number]
    for theirs, ours in (("image_mean", "mean"), ("image_std", "std")):
        if theirs in processor:
            changes[ours] = _three(theirs, processor[theirs])
    return replace(recipe, **changes)


def _plain(kind: str) -> str:
    for end in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(end)
    return kind


def _rule(p: Mapping[str, Any], kind: str, recipe: PixelRecipe) -> dict[str, Any]:
    """Rule, sizes and budget."""
    size, crops = p.get("size"), p.get("do_center_crop", kind == "CLIP") is True
    if p.get("do_resize", True) is not True:
        if crops:
            raise ConfigError("a crop without a resize has no rule here", expected="do_resize", got=False)
        return {"rule": "native_crop", "size": None, "shortest": None}
    if kind == "Siglip2":
        places = _side("max_num_patches", p.get("max_num_patches", 256))
        return {"rule": "naflex", "max_pixels": places * recipe.patch**2}
    if kind == "Qwen2VL":
        sizes = (
            size
            if isinstance(size, Mapping)
            else {"shortest_edge": p.get("min_pixels"), "longest_edge": p.get("max_pixels")}
        )
        return {
            ours: _side(theirs, sizes[theirs])
            for theirs, ours in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels"))
            if sizes.get(theirs) is not None
        }
    if size is None:
        return {}
    if kind == "Pixtral":
        longest = size.get("longest_edge") if isinstance(size, Mapping) else size
        return {"rule": "longest_side", "size": _side("size.longest_edge", longest)}
    if not crops:
        return {"rule": "square", "size": _square("size", size)}
    side = _square("crop_size", p["crop_size"]) if "crop_size" in p else recipe.size
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    shortest = _side("size.shortest_edge", shortest)
    return {"rule": "shortest_crop", "size": side, "shortest": None if shortest == side else shortest}


def _square(name: str, size: Any) -> int:
    """The side of {"height": n, "width": n}, or of n."""
    if not isinstance(size, Mapping):
        return _side(name, size)
    sides = _side(f"{name}.height", size.get("height")), _side(f"{name}.width", size.get("width"))
    if sides[0] != sides[1]:
        raise ConfigError(f"{name} is {sides[0]} x {sides[1]}: no rule has sides that differ", got=sides)
    return sides[0]


def _side(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 32:
        raise ConfigError(f"{name} is a whole number of pixels, got {value!r:.40}", expected=name, got=value)
    return value


def _three(name: str, value: Any) -> tuple[float, float, float]:
    right = isinstance(value, (list, tuple)) and len(value) == 3
    if not right or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 255 for v in value):
        raise ConfigError(f"{name} is three numbers, got {value!r:.60}", expected=name, got=value)
    if name == "image_std" and not all(value):
        raise ConfigError("image_std must be above zero", expected=name, got=value)
    return float(value[0]), float(value[1]), float(value[2])
