"""The model of a run, from its configuration: read, what is new made, adapters put in, what learns chosen."""

from dataclasses import replace
from typing import Any

import torch

from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.fields import refuse_code
from tubelet.language.placing.rules import LLAVA
from tubelet.language.project.config import MERGING
from tubelet.language.project.projector import Projector, build_projector
from tubelet.language.vlm.extra_files import SETTINGS_FILE, ExtraFiles
from tubelet.language.vlm.lavida import FrontEnd
from tubelet.language.vlm.layouts import LAYOUTS
from tubelet.language.vlm.llava import LLAVA_BASES
from tubelet.language.vlm.llava_tensors import read_embeddings
from tubelet.language.vlm.load_lm import load_speaker, require_transformers
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.scheme import MODEL_TYPE, Scheme
from tubelet.pixels.recipe import UNBUDGETED, PixelRecipe
from tubelet.reduce.siglip_text import SiglipText
from tubelet.train.language import LanguageTraining
from tubelet.train.lora import add_lora
from tubelet.train.pairs import PairTraining
from tubelet.train.run_config import ModelConfig, RunConfig
from tubelet.weights.load import load_encoder
from tubelet.weights.locate import find_folder

MERGE = 2  # side of the blocks that a new projector of a merging kind joins


def open_language(config: RunConfig) -> LanguageTraining:
    """The vision-language model of a run. Raises what loading raises, and ConfigError for parts it has not."""
    vlm = load_vlm(config.model, config.seed)
    if vlm.tokenizer is None:
        raise ConfigError("the folder has no tokenizer", source=config.model.path)
    if config.lora is None:
        return LanguageTraining(vlm, config.parts)
    torch.manual_seed(config.seed)  # of the adapters' first values
    add_lora(vlm, config.lora)
    return LanguageTraining(vlm, "lora")


def load_vlm(model: ModelConfig, seed: int) -> VLM:
    """The whole model, or a language model with a tower and a new projector. seed: of the new weights."""
    dtype = None if model.dtype == "stored" else getattr(torch, model.dtype)
    said = find_folder(model.path).config() or {}
    refuse_code(said)
    known = said.get("model_type") in (*LAYOUTS, *LLAVA_BASES, MODEL_TYPE)
    if known and model.projector is None:
        vlm = VLM.from_pretrained(model.path, dtype=dtype, vision_tower=model.vision_tower)
    elif known:
        old = VLM.from_pretrained(model.path, dtype=dtype, vision_tower=model.vision_tower)
        vlm = _joined(old.encoder, old.speaker, old.scheme, old.tokenizer, model.projector or "", seed)
    else:
        vlm = _from_parts(model, dtype, seed)
    scheme = vlm.scheme
    clips = None if scheme.video_pixels is None else _budgeted(scheme.video_pixels, model.max_pixels)
    vlm.scheme = replace(scheme, pixels=_budgeted(scheme.pixels, model.max_pixels), video_pixels=clips)
    return vlm


def _from_parts(model: ModelConfig, dtype: torch.dtype | None, seed: int) -> VLM:
    """A language model of transformers, a tower, and between them a new projector: where LLaVA's first stage begins."""
    if model.vision_tower is None or model.projector is None:
        raise ConfigError(
            "this folder is no whole model: model.vision_tower and model.projector say what goes before it",
            source=model.path,
        )
    folder = find_folder(model.path)
    extra = ExtraFiles(folder)
    lm = load_speaker(folder, {"text_config": folder.config() or {}}, dtype=dtype, settings=extra(SETTINGS_FILE))
    tokenizer = extra.tokenizer(lm.lm.config)
    encoder = load_encoder(model.vision_tower, dtype=dtype)
    scheme = Scheme(LLAVA, encoder.pixels, wording="image_tag")
    return _joined(encoder, lm, scheme, tokenizer, model.projector, seed)


def _joined(encoder: Encoder, lm: Any, scheme: Scheme, tokenizer: Any, kind: str, seed: int) -> VLM:
    """The parts with a new projector; one that merges gets pictures whose sides it divides."""
    config = encoder.config
    table: Any = lm.get_input_embeddings()
    wide = config.hidden * len(scheme.states) if scheme.states else config.out
    merging = kind in MERGING
    torch.manual_seed(seed)
    projector: Projector = build_projector(kind, wide, table.weight.shape[1], merge=MERGE if merging else None)
    if merging and config.merger is None:
        pixels = replace(scheme.pixels, merge=MERGE, order="block" if kind == "patch_merger" else scheme.pixels.order)
        scheme = replace(scheme, pixels=pixels)
    return VLM(encoder, lm, scheme, projector=projector, tokenizer=tokenizer).eval()


def _budgeted(recipe: PixelRecipe, most: int | None) -> PixelRecipe:
    if most is None:
        return recipe
    if recipe.rule in UNBUDGETED or most < recipe.unit**2:
        raise ConfigError(
            f"model.max_pixels has no meaning for the size rule {recipe.rule}, or is below a patch", got=most
        )
    return replace(
        recipe, max_pixels=most, min_pixels=None if recipe.min_pixels is None else min(recipe.min_pixels, most)
    )


def open_pairs(config: RunConfig) -> tuple[PairTraining, Any]:
    """The alignment of a run, and the language model's tokenizer."""
    model, alignment = config.model, config.alignment
    assert alignment is not None
    require_transformers("an alignment")
    from transformers import PreTrainedConfig

    dtype = None if model.dtype == "stored" else getattr(torch, model.dtype)
    encoder = None if model.vision_tower is None else load_encoder(model.vision_tower, dtype=dtype)
    front = FrontEnd.from_pretrained(model.path, encoder=encoder, dtype=dtype)
    text = None if model.text_tower is None else SiglipText.load(model.text_tower, dtype=dtype)
    tokenizer = ExtraFiles(find_folder(model.path)).tokenizer(PreTrainedConfig())  # its own type may be nobody's
    if tokenizer is None:
        raise ConfigError("the folder has no tokenizer", source=model.path)
    torch.manual_seed(config.seed)  # of the adapters' first values
    made = PairTraining(front, alignment, read_embeddings(model.path, dtype), text, config.seed)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return made, tokenizer
