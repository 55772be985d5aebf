"""transformers' LLaVA 1.5, LlavaNext and LlavaOnevision as layouts.

    llava            one square a picture                      vision_feature_layer, multi_modal_projector.linear_1, _2
    llava_next       views: the whole and its tiles            image_grid_pinpoints (height, width), image_newline
    llava_onevision  the same for a picture that is alone in   vision_aspect_ratio "anyres_max_9": joined tiles are
                     its prompt; of several each is made       sampled down to about 9 views' tokens
                     square; clips have one view a frame,
                     pooled 2 x 2, and a newline at their end

Source: huggingface/transformers:src/transformers/models/llava, llava_next and llava_onevision@v5.23.0.
"""

from collections.abc import Mapping
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.processors import recipe_from
from tubelet.language.placing.rules import TokenIds
from tubelet.language.vlm.layout import Layout, ModelFiles, NamedProjector, fixed_side, joined_states
from tubelet.language.vlm.llava import ANYRES, most_views, pinpoints_of
from tubelet.language.vlm.scheme import Scheme
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule

NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
ONEVISION_SIDES = tuple(range(384, 2305, 384))
ONEVISION_PINPOINTS = tuple((h, w) for h in ONEVISION_SIDES for w in ONEVISION_SIDES)
_ACT = (("projector_hidden_act", (None, "gelu")), ("multimodal_projector_bias", (None, True)))
_IMAGE = ("image_token_index", "image_token_id")
_VIDEO = ("video_token_index", "video_token_id")
_LINEAR = {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2"}
# do_pad fills up batches, no pictures
_VIEWED = ("image_processor_type", "image_grid_pinpoints", "aspect_ratio_setting", "do_pad")


# ---- LLaVA 1.5


def plain_pixels(files: ModelFiles, recipe: PixelRecipe) -> PixelRecipe:
    """The recipe of LLaVA's own processor, which is CLIP's; of any other, what the encoder's family read of it."""
    if not _own_processor(files):
        return recipe
    rest = {name: value for name, value in files.processor.items() if name != "do_pad"}
    return recipe_from(rest | {"image_processor_type": "CLIPImageProcessor"}, recipe)


def plain_scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    """How LLaVA 1.5's parts fit together. Raises ConfigError, also for a tower of many sizes (Pixtral's)."""
    files.only(*_ACT)
    fixed_side(encoder.pixels)
    square = _own_processor(files) and bool(files.processor.get("do_pad"))
    states = joined_states(files, encoder, -2)
    return Scheme(TokenIds(image=files.token(32000, *_IMAGE)), encoder.pixels, states=states, square=square)


def _own_processor(files: ModelFiles) -> bool:
    kind = files.processor.get("image_processor_type")
    return isinstance(kind, str) and kind.startswith("LlavaImageProcessor")


# ---- LlavaNext


def next_pixels(files: ModelFiles, recipe: PixelRecipe) -> PixelRecipe:
    """Side of a view, filter, mean and std of LlavaNext's processor: CLIP's for each view. Views are cut by torch's
    filter, which its processor takes. Raises ConfigError where its views are not the tower's size."""
    return _viewed_pixels(files.processor, recipe, "LlavaNext", "CLIPImageProcessor")


def next_scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    """How LlavaNext's parts fit together. Raises ConfigError."""
    files.only(*_ACT)
    views = ViewRule(fixed_side(encoder.pixels), _pinpoints(files, encoder), join="unpad", compat="transformers-5")
    states = joined_states(files, encoder, -2)
    return Scheme(TokenIds(image=files.token(32000, *_IMAGE)), encoder.pixels, states=states, views=views)


# ---- LlavaOnevision


def onevision_pixels(files: ModelFiles, recipe: PixelRecipe) -> PixelRecipe:
    """Side of a view, filter, mean and std of LlavaOnevision's processor: a square for each view, and for each frame.

    Raises ConfigError where its views are not the tower's size, and where clips have other pixels than pictures.
    """
    found = _viewed_pixels(files.processor, recipe, "LlavaOnevision", "SiglipImageProcessor")
    said = {n: v for n, v in files.video.items() if n not in ("video_processor_type", "do_sample_frames", "fps")}
    said = {n: v for n, v in said.items() if n not in (*_VIEWED, "num_frames", "return_metadata", "do_sample")}
    clips = recipe_from(said | {"image_processor_type": "SiglipImageProcessor"}, found) if said else found
    if clips != found:
        raise ConfigError("clips have other pixels than pictures", expected=str(found), got=str(clips))
    return found


def onevision_scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    """How LlavaOnevision's parts fit together. Raises ConfigError."""
    files.only(*_ACT)
    ratio = files.config.get("vision_aspect_ratio", "anyres_max_9")
    if (most := most_views(ratio)) is None:
        raise ConfigError(f"{ratio!r:.40} is not anyres_max_N", expected="anyres_max_9", got=ratio)
    views = ViewRule(
        fixed_side(encoder.pixels),
        _pinpoints(files, encoder),
        pool="bilinear",
        join="unpad",
        compat="transformers-5",
        pooled_are="clips",
        most=most,
    )
    ids = TokenIds(image=files.token(151646, *_IMAGE), video=files.token(151647, *_VIDEO))
    states = joined_states(files, encoder, -1)
    return Scheme(ids, encoder.pixels, states=states, views=views, alone=True)


# ---- both


def _pinpoints(files: ModelFiles, encoder: EncoderConfig) -> tuple[tuple[int, int], ...]:
    """(height, width) of canvases. Raises ConfigError where configuration and processor have others."""
    side = fixed_side(encoder.pixels)
    usual = NEXT_PINPOINTS if files.kind == "llava_next" else ONEVISION_PINPOINTS
    said = files.config.get("image_grid_pinpoints")
    found = pinpoints_of(usual if said is None else said, side)
    theirs = files.processor.get("image_grid_pinpoints")
    if theirs is not None and pinpoints_of(theirs, side) != found:
        raise ConfigError(
            "config.json and the processor's file have other pinpoints", expected=found, got=f"{theirs!r:.80}"
        )
    return found


def _viewed_pixels(processor: Mapping[str, Any], recipe: PixelRecipe, model: str, plain: str) -> PixelRecipe:
    """The recipe of a processor that cuts views; `plain` is the one that does the same with one view."""
    kind = processor.get("image_processor_type", f"{model}ImageProcessor")
    if not isinstance(kind, str) or not kind.startswith(model):
        raise ConfigError(f"a {model} has no {kind!r:.60}", expected=f"{model}ImageProcessor", got=kind)
    if processor.get("aspect_ratio_setting", ANYRES) != ANYRES:
        said = processor["aspect_ratio_setting"]
        raise ConfigError(f"aspect_ratio_setting = {said!r:.40} is not read here", expected=ANYRES, got=said)
    rest = {name: value for name, value in processor.items() if name not in _VIEWED}
    found = recipe_from({"image_processor_type": plain, **rest}, recipe) if rest else recipe
    if found.size != recipe.size or found.shortest not in (None, found.size):
        raise ConfigError(
            f"views of {found.shortest or found.size} cut to {found.size}, the tower reads {recipe.size}",
            expected=recipe.size,
            got=found.size,
        )
    return found


def _projector(files: ModelFiles, encoder: EncoderConfig) -> NamedProjector:
    return NamedProjector("mlp2x_gelu", _LINEAR)


LLAVA_1_5 = Layout(plain_scheme, plain_pixels, _projector)
LLAVA_NEXT = Layout(next_scheme, next_pixels, _projector)
LLAVA_ONEVISION = Layout(onevision_scheme, onevision_pixels, _projector)
