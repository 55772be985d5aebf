"""Pixel recipes as preprocessor_config.json says them: what config.json leaves open.

A network is published with sizes, filters and statistics that its configuration does not have: SigLIP2's bilinear,
DINOv2's 256 before a crop of 224, AIMv2's pictures that nobody resizes.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tubelet.errors import ConfigError
from tubelet.families.fields import refuse_code
from tubelet.pixels.recipe import Interpolation, PixelRecipe

# Processors that make one picture of one picture. Others cut views or are unknown: they change nothing here.
PLAIN = ("CLIP", "Bit", "Siglip", "Siglip2", "ViT", "DINOv3ViT", "Pixtral", "Qwen2VL")
_INTERPOLATIONS: dict[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_CROPPING = ("CLIP", "Bit")  # processors that crop unless told not to

# What is read, and what changes no pixel of one picture: how files name their writer, how batches are put together
_READ = frozenset(
    {"image_processor_type", "feature_extractor_type", "do_resize", "size", "resample", "do_center_crop", "crop_size"}
    | {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad", "size_divisor"}
    | {"patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels", "max_num_patches"}
)
_INERT = frozenset(
    {"processor_class", "_processor_class", "_valid_processor_keys", "do_convert_rgb", "default_to_square"}
    | {"data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "image_seq_length"}
    | {"pad_size", "use_fast", "backend", "transformers_version"}
)


def recipe_from(processor: Mapping[str, Any], recipe: PixelRecipe) -> PixelRecipe:
    """`recipe` with the size rule, filter, mean and std of a preprocessor_config.json, if it is of a plain processor.

    A field that is absent or null keeps what the recipe has; patch, temporal, merge and order are the encoder's own.
    Raises ConfigError for a field that could name code, for an unknown one, and for what no recipe can say (sides that
    differ, other filters, pixels that are not rescaled by 1/255, patches that are not the encoder's).
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
    processor = {name: value for name, value in processor.items() if value is not None}
    _check(processor, _plain(kind), recipe)
    changes: dict[str, Any] = _rule(processor, _plain(kind), recipe)
    if "resample" in processor:
        number = processor["resample"]
        if not isinstance(number, int) or number not in _INTERPOLATIONS:
            raise ConfigError(f"resample is 1, 2 or 3, got {number!r:.40}", expected=tuple(_INTERPOLATIONS), got=number)
        changes["interpolation"] = _INTERPOLATIONS[number]
    for theirs, ours in (("image_mean", "mean"), ("image_std", "std")):
        if theirs in processor:
            changes[ours] = _three(theirs, processor[theirs])
    return replace(recipe, **changes)


def _plain(kind: str) -> str:
    for end in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(end)
    return kind


def _check(p: Mapping[str, Any], kind: str, recipe: PixelRecipe) -> None:
    """Raise ConfigError for unknown fields and for those whose value would mean other pixels than any recipe's."""
    unknown = sorted(str(name) for name in p.keys() - _READ - _INERT)
    if unknown:
        names = ", ".join(name[:60] for name in unknown[:8])
        raise ConfigError(f"unknown field {names} of a {kind} processor", got=tuple(unknown))
    for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad"):
        if not isinstance(p.get(name, True), bool):
            raise ConfigError(f"{name} is true or false, got {p[name]!r:.40}", expected=(True, False), got=p[name])
    for name in ("do_rescale", "do_normalize"):
        if not p.get(name, True):
            raise ConfigError(f"{name} must be true: an encoder reads normalised pixels", expected=True, got=False)
    factor = p.get("rescale_factor", 1 / 255)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isclose(factor, 1 / 255):
        raise ConfigError(f"rescale_factor must be 1/255, got {factor!r:.40}", expected=1 / 255, got=factor)
    if "size_divisor" in p or (p.get("do_pad") and kind != "Pixtral"):  # Pixtral's only fills up batches
        raise ConfigError("pictures are not padded here: do_pad and size_divisor", expected=False, got=True)
    own = {"patch_size": recipe.patch, "temporal_patch_size": recipe.temporal, "merge_size": recipe.merge}
    for name, value in own.items() if kind in ("Siglip2", "Qwen2VL") else ():
        if p.get(name, value) != value:
            raise ConfigError(f"{name} is {p[name]!r:.40}, the encoder's is {value}", expected=value, got=p[name])


def _rule(p: Mapping[str, Any], kind: str, recipe: PixelRecipe) -> dict[str, Any]:
    """Rule, sizes and budget."""
    size, crops = p.get("size"), p.get("do_center_crop", kind in _CROPPING)
    if not p.get("do_resize", True):
        if crops:
            raise ConfigError("a crop without a resize has no rule here", expected="do_resize", got=False)
        return {"rule": "native_crop", "size": None, "shortest": None}
    if kind == "Siglip2":
        if "max_num_patches" not in p:
            return {}
        places = _side("max_num_patches", p["max_num_patches"])
        return {"rule": "naflex", "max_pixels": places * recipe.patch**2}
    if kind == "Qwen2VL":
        return _budget(p, size)
    if size is None:
        return {}
    if kind == "Pixtral":
        longest = size.get("longest_edge") if isinstance(size, Mapping) else size
        return {"rule": "longest_side", "size": _side("size.longest_edge", longest), "shortest": None}
    if not crops:
        return {"rule": "square", "size": _square("size", size), "shortest": None}
    side = _square("crop_size", p["crop_size"]) if "crop_size" in p else recipe.size
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size
    shortest = _side("size.shortest_edge", shortest)
    return {"rule": "shortest_crop", "size": side, "shortest": None if shortest == side else shortest}


def _budget(p: Mapping[str, Any], size: Any) -> dict[str, int]:
    """Qwen's: min_pixels and max_pixels count before those in `size`, where files have them under either name."""
    if size is None:
        size = {}
    if not isinstance(size, Mapping) or size.keys() - {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"}:
        raise ConfigError(f"size is shortest_edge and longest_edge, got {size!r:.80}", got=size)
    out: dict[str, int] = {}
    for ours, theirs in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        said = (p.get(ours), size.get(theirs), size.get(ours))
        value = next((v for v in said if v is not None), None)
        if value is not None:
            out[ours] = _side(ours, value)
    return out


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
