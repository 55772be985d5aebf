"""How Qwen2-VL, Qwen2.5-VL and Qwen3-VL size clips: by a budget of a frame, or of the whole clip."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.fields import refuse_code
from tubelet.pixels.recipe import PixelRecipe

WHERE = "the video processor's file"


def video_pixels(config: EncoderConfig, *, capped: bool = False) -> PixelRecipe:
    """The recipe for clips of Qwen2-VL and Qwen2.5-VL: 128 to 768 tokens a frame, whatever its length, and with
    `capped` an even share of 115,200 tokens at most: cap_pixels_per_frame of upstream, qwen-vl-utils' rule.

        >>> from tubelet.families.qwen_vl import qwen2_from
        >>> video_pixels(qwen2_from({})).max_pixels
        602112

    Source: huggingface/transformers:src/transformers/models/qwen2_vl/video_processing_qwen2_vl.py@v5.23.0.
    """
    total = int(128_000 * config.pixels.unit**2 * 0.9) if capped else None
    low, high = 128 * 28 * 28, 768 * 28 * 28
    return replace(config.pixels, clips=None, min_pixels=low, max_pixels=high, max_video_pixels=total)


def qwen3_video_pixels(config: EncoderConfig, *, capped: bool = False) -> PixelRecipe:
    """The recipe for clips of Qwen3-VL: 128 to 768 tokens of 32 x 32 pixels for all frames together, as its video
    processor has it by default; with `capped` upstream's cap_pixels_per_frame as well.

        >>> from tubelet.families.qwen_vl import qwen3_from
        >>> qwen3_video_pixels(qwen3_from({})).max_video_pixels
        786432

    Published processors have larger budgets: `dataclasses.replace` min_pixels and max_video_pixels by theirs.
    Source: huggingface/transformers:src/transformers/models/qwen3_vl/video_processing_qwen3_vl.py@v5.23.0.
    """
    frame = 768 * config.pixels.unit**2 if capped else None
    low, high = 128 * 32 * 32, 768 * 32 * 32
    return replace(
        config.pixels,
        clips=None,
        rule="smart_clip_compat",
        min_pixels=low,
        max_pixels=frame,
        max_video_pixels=high,
    )


def clip_pixels(encoder: EncoderConfig, said: Mapping[str, Any], *, whole: bool = False) -> PixelRecipe:
    """The recipe for clips: the family's own, with the budget that its video processor's file says, if there is one.

    said: {} without one. whole: a budget is of a whole clip, as Qwen3-VL's, and not of a frame. Published Qwen2-VL and
    Qwen2.5-VL folders have no such file; their clips are sized as qwen-vl-utils does, which was published with them
    (transformers gives clips the limits of pictures then). Raises ConfigError.
    """
    refuse_code(said)
    capped = said.get("cap_pixels_per_frame") or False
    if not isinstance(capped, bool):
        raise ConfigError("cap_pixels_per_frame is true or false", source=WHERE, got=capped)
    for name, own in (("patch_size", "patch"), ("temporal_patch_size", "temporal"), ("merge_size", "merge")):
        if said.get(name, getattr(encoder.pixels, own)) != getattr(encoder.pixels, own):
            raise ConfigError(f"{name} is not the encoder's", source=WHERE, got=said[name])
    recipe = (qwen3_video_pixels if whole else video_pixels)(encoder, capped=capped)
    recipe = replace(recipe, mean=encoder.pixels.mean, std=encoder.pixels.std)
    low, high = _clip_budget(said)
    if low is None:
        return recipe
    return replace(recipe, min_pixels=low, **{"max_video_pixels" if whole else "max_pixels": high})


def _clip_budget(said: Mapping[str, Any]) -> tuple[int, int] | tuple[None, None]:
    """Least and most pixels, under either of the names they have had; None where a file says neither."""
    size = said.get("size", {})
    size = size if isinstance(size, Mapping) else {"size": size}
    found = [
        said.get(old, size.get(new)) for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
    ]
    if found == [None, None] and not size:
        return None, None
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1 << 40 for n in found):
        raise ConfigError("size has the numbers shortest_edge and longest_edge", source=WHERE, got=dict(size))
    low, high = found
    return low, high
