"""What LLaVA's own files say of views, pinpoints and how they are joined, and which language models they name.

    image_aspect_ratio "anyres", image_grid_pinpoints (width, height), mm_patch_merge_type     config.json
    "anyres_max_9" (LLaVA-OneVision): of a picture alone in its prompt, joined tiles are sampled down to about 9 views'
    tokens; of several each is made square; clips are pooled 2 x 2 by mm_spatial_pool_mode

Source: haotian-liu/LLaVA:llava/mm_utils.py and llava/model/llava_arch.py@c121f04; LLaVA-VL/LLaVA-NeXT:
llava/model/llava_arch.py and llava/train/train.py@6a192ce (several pictures, pooling, anyres_max).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tubelet.errors import ConfigError
from tubelet.language.vlm.layout import fixed_side
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import POOLS, Joining, ViewRule
from tubelet.weights.locate import CONFIG

ANYRES = "anyres"
JOINS: dict[str | None, Joining] = {None: "flat", "flat": "flat", "spatial": "spatial", "spatial_unpad": "unpad"}
MOST_PINPOINTS = 1024
# The language models LLaVA's own classes are built on
LLAVA_BASES = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_qwen": "qwen2",
    "llava_qwen2": "qwen2",
    "llava_qwen3": "qwen3",
    "llava_mistral": "mistral",
}
# The same by LLaVA's class, where files of several bases have one model_type (lmms-lab's say llava and mean Qwen2)
LLAVA_CLASSES = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
    "LlavaQwen2ForCausalLM": "qwen2",
    "LlavaQwen3ForCausalLM": "qwen3",
}


def llava_views(config: Mapping[str, Any], pixels: PixelRecipe) -> ViewRule | None:
    """The view rule of a LLaVA config.json; None where its pictures have one view. pixels: of its tower.

    Under "anyres" that clips are pooled (mm_spatial_pool_stride) is not read, so it is refused.
    Raises ConfigError for another way to cut or join views, pinpoints that are none, a tower without a fixed size.

        >>> said = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 672], [672, 336]]}
        >>> llava_views(said, tubelet.PixelRecipe(14, "square", size=336)).pinpoints
        ((672, 336), (336, 672))
    """
    ratio = config.get("image_aspect_ratio")
    most = most_views(ratio)
    if ratio != ANYRES and most is None:
        return None
    strides = (None, 0, 1) if most is None else (None, 2)
    for name, fine in (("mm_newline_position", (None, "one_token")), ("mm_spatial_pool_stride", strides)):
        if config.get(name) not in fine:
            raise ConfigError(f"{name} = {config[name]!r:.40} is not read here", expected=fine, got=config[name])
    merge = config.get("mm_patch_merge_type")
    if merge is not None and (not isinstance(merge, str) or merge not in JOINS):
        raise ConfigError(
            f"mm_patch_merge_type = {merge!r:.40} is not read here", expected=tuple(k for k in JOINS if k), got=merge
        )
    side = fixed_side(pixels)
    found = pinpoints_of(config.get("image_grid_pinpoints"), side)
    rule = ViewRule(side, tuple((h, w) for w, h in found), join=JOINS[merge])
    if most is None:
        return rule
    mode = config.get("mm_spatial_pool_mode", "bilinear")
    if mode not in POOLS:
        raise ConfigError(f"mm_spatial_pool_mode is one of {', '.join(POOLS)}", expected=POOLS, got=mode)
    return replace(rule, pool=mode, pooled_are="clips", most=most if rule.join == "unpad" else None)


def most_views(ratio: Any) -> int | None:
    """The N of "anyres_max_N", None for any other word.

    >>> most_views("anyres_max_9")
    9
    """
    found = re.fullmatch(r"anyres_max_([1-9][0-9]{0,3})", ratio) if isinstance(ratio, str) else None
    return None if found is None else int(found[1])


def pinpoints_of(said: Any, side: int) -> tuple[tuple[int, int], ...]:
    """Pairs as they stand there: a list of pairs, one in a text, or "(1x1),...,(6x6)", which counts tiles.

    Raises ConfigError for what is no list of pairs of sides.
    """
    if isinstance(said, str):
        pairs = [(int(a), int(b)) for a, b in re.findall(r"(\d{1,7})\s*[x,]\s*(\d{1,7})", said[: 1 << 16])]
        if "x" in said and pairs:
            (a, b), (c, d) = pairs[0], pairs[-1]
            if not 1 <= (c - a + 1) * (d - b + 1) <= MOST_PINPOINTS:
                raise ConfigError("image_grid_pinpoints has no or too many sizes", limit=MOST_PINPOINTS, got=said[:80])
            pairs = [(i * side, j * side) for i in range(a, c + 1) for j in range(b, d + 1)]
    elif isinstance(said, Sequence):
        pairs = [tuple(p) if isinstance(p, Sequence) and not isinstance(p, str) else (p,) for p in said]
    else:
        pairs = []
    right = all(len(p) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in p) for p in pairs)
    if not pairs or not right or len(pairs) > MOST_PINPOINTS:
        raise ConfigError(
            "image_grid_pinpoints is a list of pairs of sides", source=CONFIG, limit=MOST_PINPOINTS, got=f"{said!r:.80}"
        )
    return cast("tuple[tuple[int, int], ...]", tuple(pairs))
