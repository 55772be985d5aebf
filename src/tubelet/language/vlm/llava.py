"""What the files of LLaVA and of transformers' LlavaNext say of views: pinpoints, joining, newline; and a projector.

    LLaVA      image_aspect_ratio "anyres", image_grid_pinpoints (width, height), mm_patch_merge_type
               model.image_newline
    LlavaNext  image_grid_pinpoints (height, width), vision_feature_layer, vision_feature_select_strategy
               image_newline, multi_modal_projector.linear_1, .linear_2; under "model." in memory

Source: haotian-liu/LLaVA:llava/mm_utils.py and llava/model/llava_arch.py@c121f04; huggingface/transformers:
src/transformers/models/llava_next@v5.23.0.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, KeyMismatch, NotFinite
from tubelet.families.processors import recipe_from
from tubelet.language.placing.align import TokenIds
from tubelet.language.project.projector import Projector, build_projector
from tubelet.language.vlm.scheme import Scheme
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import Joining, ViewRule
from tubelet.weights.locate import CONFIG, CheckpointFolder, Source, find_folder
from tubelet.weights.tensors import TensorReader, compare_names, stored_type

ANYRES = "anyres"
JOINS: dict[str | None, Joining] = {None: "flat", "flat": "flat", "spatial": "spatial", "spatial_unpad": "unpad"}
NEWLINES = ("model.image_newline", "image_newline")
TABLES = ("model.embed_tokens.weight", "model.transformer.wte.weight", "language_model.model.embed_tokens.weight")
LLAVA_NEXT = "llava_next"
NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
MOST_PINPOINTS = 1024
_PREFIXES = ("multi_modal_projector.", "model.multi_modal_projector.")
_LINEAR = {"linear_1": "0", "linear_2": "2"}


# ---- LLaVA's own layout


def llava_views(config: Mapping[str, Any], pixels: PixelRecipe) -> ViewRule | None:
    """The view rule of a LLaVA config.json; None where its pictures have one view. pixels: of its tower.

    Pictures keep all their rows; that clips are pooled (mm_spatial_pool_stride) is not read, so it is refused.
    Raises ConfigError for another way to cut or join views, pinpoints that are none, a tower without a fixed size.

        >>> said = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 672], [672, 336]]}
        >>> llava_views(said, tubelet.PixelRecipe(14, "square", size=336)).pinpoints
        ((672, 336), (336, 672))
    """
    if config.get("image_aspect_ratio") != ANYRES:
        return None
    for name, fine in (("mm_newline_position", (None, "one_token")), ("mm_spatial_pool_stride", (None, 0, 1))):
        if config.get(name) not in fine:
            raise ConfigError(f"{name} = {config[name]!r:.40} is not read here", expected=fine, got=config[name])
    merge = config.get("mm_patch_merge_type")
    if merge is not None and (not isinstance(merge, str) or merge not in JOINS):
        raise ConfigError(
            f"mm_patch_merge_type = {merge!r:.40} is not read here", expected=tuple(k for k in JOINS if k), got=merge
        )
    side = _fixed(pixels)
    found = _pinpoints(config.get("image_grid_pinpoints"), side)
    return ViewRule(side, tuple((h, w) for w, h in found), join=JOINS[merge])


def _fixed(pixels: PixelRecipe) -> int:
    if pixels.size is None:
        raise ConfigError(f"views need a tower of a fixed size; its rule is {pixels.rule}", got=pixels.rule)
    return pixels.size


def _pinpoints(said: Any, side: int) -> tuple[tuple[int, int], ...]:
    """Pairs as they stand there: a list of pairs, one in a text, or "(1x1),...,(6x6)", which counts tiles."""
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


def read_newline(source: Source, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
    """The learned newline of a checkpoint, (D,). Raises KeyMismatch where it has none, NotFinite."""
    return _tensor(source, NEWLINES, 1, "views that are unpadded need a newline", dtype, device)


def read_embeddings(source: Source, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
    """A checkpoint's table of token embeddings, (V, D), also of a language model that transformers does not have.

    Raises KeyMismatch where it has none, NotFinite.
    """
    return _tensor(source, TABLES, 2, "the checkpoint has no token embeddings", dtype, device)


def _tensor(
    source: Source, names: tuple[str, ...], axes: int, problem: str, dtype: torch.dtype | None, device: Any
) -> Tensor:
    """The one tensor under the first of these names. Raises KeyMismatch, NotFinite."""
    folder = find_folder(source)
    key = next((name for name in names if name in folder.home), None)
    if key is None:
        raise KeyMismatch(problem, missing=(names[0],), source=folder.name)
    shape = folder.checkpoint({key}).entries[key].shape
    if len(shape) != axes:
        raise KeyMismatch(f"{key} has the shape {shape}", misshaped=[(key, (1,) * axes, shape)], source=folder.name)
    return _read(folder, {"tensor": key}, dtype, device)["tensor"]


# ---- transformers' LlavaNext


def next_projector(
    folder: CheckpointFolder, config: Mapping[str, Any], dtype: torch.dtype | None, device: torch.device | str
) -> Projector:
    """The two matrices of a LlavaNext checkpoint as mlp2x_gelu. Raises ConfigError, KeyMismatch, NotFinite."""
    for name, fine in (("projector_hidden_act", (None, "gelu")), ("multimodal_projector_bias", (None, True))):
        if config.get(name) not in fine:
            raise ConfigError(f"{name} = {config[name]!r:.40} is not read here", expected=fine, got=config[name])
    prefix = next((p for p in _PREFIXES if f"{p}linear_1.weight" in folder.home), _PREFIXES[0])
    keys = {
        f"{ours}.{leaf}": f"{prefix}{theirs}.{leaf}" for theirs, ours in _LINEAR.items() for leaf in ("weight", "bias")
    }
    missing = tuple(key for key in keys.values() if key not in folder.home)
    if missing:
        raise KeyMismatch("the file holds no projector", missing=missing, source=folder.name)
    entries = {name: folder.checkpoint({key}).entries[key] for name, key in keys.items()}
    shape = entries["0.weight"].shape
    if len(shape) != 2 or min(shape) < 1:
        raise KeyMismatch(f"linear_1 has the shape {shape}", misshaped=[(keys["0.weight"], (1, 1), shape)])
    with torch.device("meta"):
        projector = build_projector("mlp2x_gelu", shape[1], shape[0])
    compare_names({name: tuple(t.shape) for name, t in projector.state_dict().items()}, entries, (), folder.name)
    projector.load_state_dict(_read(folder, keys, dtype, device), assign=True)
    return projector


def next_scheme(config: Mapping[str, Any], encoder: EncoderConfig, processor: Mapping[str, Any]) -> Scheme:
    """How LlavaNext's parts fit together; `encoder` has the pixels that `next_pixels` gave. Raises ConfigError for what
    would read pictures in another way."""
    token = config.get("image_token_index", config.get("image_token_id", 32000))
    if not isinstance(token, int) or isinstance(token, bool):
        raise ConfigError("image_token_index is a token id", source=CONFIG, got=token)
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != ("default" if encoder.prefix else "full"):
        raise ConfigError(
            f"vision_feature_select_strategy {strategy!r:.40} keeps a class token, or drops a patch as if it were one",
            expected="default" if encoder.prefix else "full",
            got=strategy,
        )
    layers = config.get("vision_feature_layer", -2)
    wanted: list[Any] = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    count = encoder.layers + 1
    if not wanted or not all(isinstance(n, int) and not isinstance(n, bool) and -count <= n < count for n in wanted):
        raise ConfigError(f"vision_feature_layer counts {count} hidden states", source=CONFIG, limit=count, got=layers)
    side = _fixed(encoder.pixels)
    pinpoints = _pinpoints(config.get("image_grid_pinpoints", NEXT_PINPOINTS), side)
    theirs = processor.get("image_grid_pinpoints")
    if theirs is not None and _pinpoints(theirs, side) != pinpoints:
        raise ConfigError(
            "config.json and the processor's file have other pinpoints", expected=pinpoints, got=f"{theirs!r:.80}"
        )
    views = ViewRule(side, pinpoints, join="unpad", compat="transformers-5")
    return Scheme(TokenIds(image=token), encoder.pixels, states=tuple(n % count for n in wanted), views=views)


def next_pixels(processor: Mapping[str, Any], recipe: PixelRecipe) -> PixelRecipe:
    """Side of a view, filter, mean and std of LlavaNext's processor: CLIP's for each view. Views are cut by torch's
    filter, which its processor takes. Raises ConfigError where its views are not the tower's size."""
    kind = processor.get("image_processor_type", "LlavaNextImageProcessor")
    if not isinstance(kind, str) or not kind.startswith("LlavaNext"):
        raise ConfigError(f"a LlavaNext has no {kind!r:.60}", expected="LlavaNextImageProcessor", got=kind)
    if processor.get("aspect_ratio_setting", ANYRES) != ANYRES:
        said = processor["aspect_ratio_setting"]
        raise ConfigError(f"aspect_ratio_setting = {said!r:.40} is not read here", expected=ANYRES, got=said)
    # do_pad fills up batches, no pictures
    own = ("image_processor_type", "image_grid_pinpoints", "aspect_ratio_setting", "do_pad")
    plain = {name: value for name, value in processor.items() if name not in own}
    found = recipe_from({"image_processor_type": "CLIPImageProcessor", **plain}, recipe) if plain else recipe
    if found.size != recipe.size or found.shortest not in (None, found.size):
        raise ConfigError(
            f"views of {found.shortest or found.size} cut to {found.size}, the tower reads {recipe.size}",
            expected=recipe.size,
            got=found.size,
        )
    return found


# ---- both


def _read(
    folder: CheckpointFolder, keys: Mapping[str, str], dtype: torch.dtype | None, device: torch.device | str
) -> dict[str, Tensor]:
    checkpoint = folder.checkpoint(set(keys.values()))
    kind = dtype or stored_type([checkpoint.entries[key] for key in keys.values()])
    out: dict[str, Tensor] = {}
    with TensorReader(checkpoint) as read:
        for name, key in keys.items():
            out[name] = read(key).to(device, kind, copy=True)
            if not bool(out[name].isfinite().all()):
                raise NotFinite(f"NaN or infinity in {key} as {kind}", source=folder.name, got=key)
    return out
