"""transformers' InternVL as a layout: tiles of the canvas of the nearest ratio, 2 x 2 patches a row.

    a picture    "<img>" + 256 rows a tile, then of the whole + "</img>"
    a clip       "Frame1: <img>" + 256 rows + "</img>", and so on, a line a frame

Source: huggingface/transformers:src/transformers/models/internvl and got_ocr2@v5.23.0. Its processor cuts into tiles
whatever preprocessor_config.json says of that.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.processors import recipe_from
from tubelet.language.placing.rules import TokenIds
from tubelet.language.vlm.layout import Layout, ModelFiles, NamedProjector, fixed_side, joined_states
from tubelet.language.vlm.scheme import Scheme, Written
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule

MOST_TILES = 64
_START, _ROW, _END, _CLIP = "<img>", "<IMG_CONTEXT>", "</img>", "<video>"
_TILES = ("crop_to_patches", "min_patches", "max_patches")
_FRAMES = ("video_processor_type", "do_sample_frames", "initial_shift", "num_frames", "fps", "return_metadata")


def pixels(files: ModelFiles, recipe: PixelRecipe) -> PixelRecipe:
    """The square of InternVL's processor, for tiles and frames. Raises ConfigError for another processor, tiles that
    are not the tower's size, and clips that have other pixels than pictures."""
    kind = files.processor.get("image_processor_type", "GotOcr2ImageProcessor")
    if not isinstance(kind, str) or not kind.startswith("GotOcr2ImageProcessor"):
        raise ConfigError(f"an InternVL has no {kind!r:.60}", expected="GotOcr2ImageProcessor", got=kind)
    found = _square(files.processor, recipe, _TILES)
    clips = _square(files.video, found, (*_TILES, *_FRAMES))
    if found.size != recipe.size or clips != found:
        raise ConfigError("tiles and frames are as large as the tower's pictures", expected=recipe.size, got=found.size)
    return found


def _square(said: Mapping[str, Any], recipe: PixelRecipe, besides: tuple[str, ...]) -> PixelRecipe:
    plain = {name: value for name, value in said.items() if name not in besides}
    return recipe_from({**plain, "image_processor_type": "SiglipImageProcessor"}, recipe) if plain else recipe


def scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    """How InternVL's parts fit together. Raises ConfigError."""
    files.only(("projector_hidden_act", (None, "gelu")))
    _merge(files)
    least, most = (files.processor.get(name, usual) for name, usual in (("min_patches", 1), ("max_patches", 12)))
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in (least, most)) or not 1 <= least <= most:
        raise ConfigError("min_patches and max_patches count tiles from 1", got=(least, most))
    if most > MOST_TILES:
        raise ConfigError("max_patches is too large", limit=MOST_TILES, got=most)
    side = fixed_side(encoder.pixels)
    grids = [(rows, cols) for cols in range(1, most + 1) for rows in range(1, most + 1) if least <= rows * cols <= most]
    canvases = tuple((rows * side, cols * side) for rows, cols in sorted(grids, key=lambda grid: grid[0] * grid[1]))
    written = Written(_ROW, f"{_START}{_ROW}{_END}", _CLIP, f"Frame{{}}: {_START}{_ROW}{_END}", "\n")
    return Scheme(
        TokenIds(image=files.token(151667, "image_token_id", "image_token_index")),
        encoder.pixels,
        states=joined_states(files, encoder, -1),
        views=ViewRule(side, canvases, canvas="filled"),
        written=written,
    )


def projector(files: ModelFiles, encoder: EncoderConfig) -> NamedProjector:
    """Norm and matrices behind the pixel shuffle."""
    names = {"norm": "layer_norm", "mlp.0": "linear_1", "mlp.2": "linear_2"}
    names = {ours: f"multi_modal_projector.{theirs}" for ours, theirs in names.items()}
    return NamedProjector("pixel_shuffle", names, merge=_merge(files), eps=1e-5)


def _merge(files: ModelFiles) -> int:
    """Patches along a side of what becomes one row."""
    ratio = files.config.get("downsample_ratio", 0.5)
    if ratio not in (1, 0.5, 0.25):
        raise ConfigError("downsample_ratio is 1, 0.5 or 0.25", expected=0.5, got=ratio)
    return round(1 / ratio)


INTERNVL = Layout(scheme, pixels, projector)
