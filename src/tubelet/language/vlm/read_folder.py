"""A whole model in a folder: four layouts in, one out.

    complete Qwen2-VL, Qwen2.5-VL, Qwen3-VL    vision_config and text_config, or flat; model.visual. ...  (qwen.py)
    Spatial-MLLM                               Qwen2.5-VL's, spatial_config; spatial_encoder. ..., connector. ...
    transformers' LLaVA, Gemma 3, SmolVLM ...  vision_config, text_config; multi_modal_projector. ...  (layouts.py)
    LLaVA                                      mm_projector_type, mm_vision_select_layer ...; model.mm_projector. ...
    what tubelet writes (save.py)              vision_config, text_config and a section `tubelet`; and these tensors

        model.image_newline     of models whose views are unpadded         tubelet.language.vlm.llava reads it
        vision_tower. ...       the encoder under its family's names       tubelet.load_encoder reads it
        model.mm_projector. ... the projector under LLaVA's                tubelet.load_projector reads it
        language_model. ...     the language model under transformers'     tubelet.language.vlm.load_lm reads it

Each part is read by its own strict reader, and no file names code or a path: LLaVA's tower, where it is not inside, is
named by the caller.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.catalogue import require_variant, variants
from tubelet.families.fields import refuse_code
from tubelet.families.processors import recipe_from
from tubelet.geometry.branch import SpatialBranch, load_branch
from tubelet.language.placing.rules import LLAVA, QWEN2_VL
from tubelet.language.project.config import SETTINGS
from tubelet.language.project.files import load_projector
from tubelet.language.project.named import load_named_projector
from tubelet.language.project.projector import Projector
from tubelet.language.vlm.extra_files import SETTINGS_FILE, ExtraFiles
from tubelet.language.vlm.layout import ModelFiles
from tubelet.language.vlm.layouts import LAYOUTS, files_of, is_layout
from tubelet.language.vlm.llava import ANYRES, JOINS, LLAVA_BASES, llava_views, most_views
from tubelet.language.vlm.llava_states import state_numbers
from tubelet.language.vlm.llava_tensors import read_newline
from tubelet.language.vlm.load_lm import load_speaker, require_transformers
from tubelet.language.vlm.qwen import RULES, SPATIAL_MLLM, spatial_level, without_spatial
from tubelet.language.vlm.scheme import MODEL_TYPE, Scheme, scheme_from
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.load import load_encoder
from tubelet.weights.locate import CONFIG, PROCESSOR, SECTION, CheckpointFolder, Source, find_folder
from tubelet.weights.opened import open_weights
from tubelet.weights.tensors import wanted_type

if TYPE_CHECKING:
    from tubelet.language.vlm.causal_lm import PlacedCausalLM

TOWER = "vision_tower."


@dataclass(frozen=True, eq=False)
class ModelParts:
    """What a whole model consists of. tokenizer: transformers', or None. newline: of joined views, or None. spatial:
    geometry whose rows are added to the encoder's, or None."""

    encoder: Encoder
    projector: Projector | None
    speaker: "PlacedCausalLM"
    scheme: Scheme
    tokenizer: Any = None
    newline: Tensor | None = None
    spatial: SpatialBranch | None = None


def load_model_parts(
    source: Source,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    vision_tower: str | os.PathLike[str] | None = None,
) -> ModelParts:
    """The parts of the model in a folder or of a hub id; `VLM.from_pretrained` describes the arguments.

    Raises ConfigError for a configuration of no known layout, and what the readers of the parts raise.
    """
    require_transformers("a vision-language model")
    folder = find_folder(source, revision)
    dtype = wanted_type(dtype, folder)
    config = folder.config()
    if config is None:
        raise ConfigError("a whole model needs its config.json", source=folder.name, expected=CONFIG)
    refuse_code(config)
    extra = ExtraFiles(folder)
    kind = config.get("model_type")
    level = spatial_level(config) if kind in (SPATIAL_MLLM, MODEL_TYPE) else None
    if kind == SPATIAL_MLLM:
        config = without_spatial(config)
        kind, folder = config["model_type"], replace(folder, described=config)
    layout = is_layout(config)
    if kind in LLAVA_BASES and not layout:
        encoder, projector, scheme = _llava(folder, config, dtype, device, vision_tower, extra)
    elif vision_tower is not None:
        raise ConfigError("vision_tower is for LLaVA's layout; this model holds its own", got=str(vision_tower))
    elif kind == MODEL_TYPE:
        encoder = load_encoder(folder, dtype=dtype, device=device)
        scheme = _own(config, encoder)
        projector = load_projector(folder, dtype=dtype, device=device) if SETTINGS in config else None
    elif layout:
        encoder, projector, scheme = _laid_out(files_of(folder, config), folder, dtype, device)
        scheme = scheme if level is None else replace(scheme, rule=QWEN2_VL)
    else:
        known = (MODEL_TYPE, SPATIAL_MLLM, *dict.fromkeys((*LAYOUTS, *LLAVA_BASES)))
        raise ConfigError(f"no whole model of model_type {kind!r:.60} is known", expected=known, got=kind)
    ends = scheme.views is not None and scheme.views.join == "unpad"
    newline = read_newline(folder, dtype, device) if ends else None
    speaker = load_speaker(folder, config, dtype=dtype, device=device, settings=extra(SETTINGS_FILE))
    known = kind in RULES and level is None  # transformers knows its own model types only
    tokenizer = extra.tokenizer(None if known else speaker.lm.config)
    spatial = None
    if level is not None:
        spatial = load_branch(folder, encoder.pixels, level=level, dtype=dtype, device=device)
    return ModelParts(encoder, projector, speaker, scheme, tokenizer, newline, spatial)


# ---- the layouts


def _laid_out(
    files: ModelFiles, folder: CheckpointFolder, dtype: torch.dtype | None, device: torch.device | str
) -> tuple[Encoder, Projector | None, Scheme]:
    layout = LAYOUTS[files.kind]
    encoder = _encoder(folder, dtype, device, partial(layout.pixels, files))
    scheme = layout.scheme(files, encoder.config)  # before more weights are read
    named = layout.projector(files, encoder.config)
    if named is None:
        return encoder, None, scheme
    how: dict[str, Any] = {"merge": named.merge, "eps": named.eps, "dtype": dtype, "device": device}
    return encoder, load_named_projector(folder, named.kind, named.names, **how), scheme


def _encoder(
    folder: CheckpointFolder,
    dtype: torch.dtype | None,
    device: torch.device | str,
    pixels: Callable[[PixelRecipe], PixelRecipe],
) -> Encoder:
    """The encoder of the folder, with the pixels that the whole model's files say, where these are not its own."""
    found = open_weights(folder).config
    wanted = pixels(found.pixels)
    config = None if wanted == found.pixels else replace(found, pixels=wanted)
    return load_encoder(folder, config=config, dtype=dtype, device=device)


def _own(config: Mapping[str, Any], encoder: Encoder) -> Scheme:
    said = config.get(SECTION)
    if not isinstance(said, Mapping):
        raise ConfigError(f"the section {SECTION} is missing", source=CONFIG, expected=SECTION)
    return scheme_from(said, encoder.pixels.mean, encoder.pixels.std)


def _llava(
    folder: CheckpointFolder,
    config: Mapping[str, Any],
    dtype: torch.dtype | None,
    device: torch.device | str,
    tower: str | os.PathLike[str] | None,
    extra: ExtraFiles,
) -> tuple[Encoder, Projector, Scheme]:
    """LLaVA's tower, projector and how they are used. Raises ConfigError for what would silently read pictures in
    another way: views that are resized to a number, start and end tokens, a class token among the features."""
    ratio = config.get("image_aspect_ratio")
    most = most_views(ratio)
    anyres = ratio == ANYRES or most is not None
    for name, fine in (
        ("image_aspect_ratio", (None, "square", "pad", ANYRES, *(() if most is None else (ratio,)))),
        ("mm_patch_merge_type", tuple(JOINS) if anyres else (None, "flat")),
        ("mm_use_im_start_end", (None, False)),
        ("mm_use_im_patch_token", (None, False, True)),
    ):
        if config.get(name) not in fine:
            raise ConfigError(f"{name} = {config[name]!r:.40} is not read here", expected=fine, got=config[name])
    inner = any(key.startswith(("model.vision_tower.", "vision_tower.")) for key in folder.home)
    named = config.get("mm_vision_tower") or config.get("vision_tower")
    if tower is None and not inner:
        raise ConfigError(
            f"the vision tower is not in the file; its configuration says {named!r:.80}: pass vision_tower=, a folder "
            "or a hub id",
            expected="vision_tower",
            got=named,
        )
    depth = None  # of the tower that the numbers of layers count from
    if inner:
        said = _tower_config(tower)
        depth = said.layers if isinstance(said, EncoderConfig) else None
        encoder = load_encoder(folder, config=_without_last(said, folder), dtype=dtype, device=device)
    else:
        assert tower is not None
        encoder = load_encoder(tower, dtype=dtype, device=device)
    layer, feature = config.get("mm_vision_select_layer", -2), config.get("mm_vision_select_feature", "patch")
    if not isinstance(layer, int) or isinstance(layer, bool) or not isinstance(feature, str):
        raise ConfigError("mm_vision_select_layer is an integer and mm_vision_select_feature a name", source=CONFIG)
    if "cls" in feature and encoder.config.prefix:
        raise ConfigError(f"{feature} puts the class token among the rows, which is not read here", got=feature)
    states = state_numbers(feature, layer, depth or encoder.config.layers)
    projector = load_projector(folder, dtype=dtype, device=device)
    pixels = recipe_from(extra(PROCESSOR), encoder.pixels)
    square = config.get("image_aspect_ratio") == "pad"
    views = llava_views(config, pixels)
    if views is not None:
        pixels = replace(pixels, resampler="pillow")  # whose filter LLaVA cuts views with
    scheme = Scheme(LLAVA, pixels, states=states, wording="image_tag", square=square, views=views)
    return encoder, projector, replace(scheme, alone=most is not None)


def _without_last(config: EncoderConfig | str | None, folder: CheckpointFolder) -> EncoderConfig | str | None:
    """The tower as LLaVA-NeXT stores a SigLIP: without its last layer and its head, which it never runs."""
    if not isinstance(config, EncoderConfig) or config.prefix or not config.pool:
        return config
    last = f".layers.{config.layers - 1}."
    whole = any(last in key and "vision_tower." in key for key in folder.home)
    return config if whole else replace(config, layers=config.layers - 1, pool=False)


def _tower_config(tower: str | os.PathLike[str] | None) -> EncoderConfig | str | None:
    """What a tower inside a LLaVA file is: a variant's name, or what a checkpoint elsewhere says of itself."""
    if tower is None or str(tower) in variants():
        return None if tower is None else require_variant(str(tower))[1]
    return open_weights(tower).config
