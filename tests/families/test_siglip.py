"""SigLIP, fixed sizes and NaFlex, against transformers: outputs, gradients, pixels, and whole models on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tests.families import parity
from tests.families.cases import ANY_SIZE
from tests.families.pictures import check_pictures, pixel_values
from tests.families.widths import IMAGE_TOKEN, LANGUAGE, TEXT, TINY

from tubelet import Clip, load_encoder, patchify
from tubelet.errors import ConfigError
from tubelet.families import siglip, siglip2
from tubelet.families.siglip import SIGLIP
from tubelet.families.siglip2 import SIGLIP2
from tubelet.pixels.recipe import HALF, PixelRecipe

# ---- configurations


@pytest.mark.parametrize("family", [SIGLIP, SIGLIP2], ids=lambda f: f.name)
def test_variants_say_themselves(family: Any) -> None:
    assert family.variants
    for name, config in family.variants.items():
        again = family.config_from(family.config_to(config))
        interpolation = "bilinear" if name.startswith("siglip2") else "bicubic"  # of the two, no configuration says it
        assert config.pixels.interpolation == interpolation, name
        assert replace(again, pixels=replace(again.pixels, interpolation=interpolation)) == config, name


def test_defaults_are_upstreams() -> None:
    assert siglip.config_from({}) == siglip.config_from(hf.SiglipVisionConfig().to_diff_dict())
    for family, config in ((siglip, hf.SiglipVisionConfig()), (siglip2, hf.Siglip2VisionConfig())):
        said = config.to_dict()
        for name, field in family.FIELDS.items():
            default = getattr(field, "default", field)
            assert said[name] == default, name


def test_published_sizes_are_those_of_the_names() -> None:
    so400m = SIGLIP.variants["siglip_so400m_patch14_384"]
    assert (so400m.hidden, so400m.layers, so400m.mlp, so400m.pixels.patch) == (1152, 27, 4304, 14)
    assert so400m.table is not None
    assert (so400m.table.height, so400m.pixels.size) == (27, 384)
    assert SIGLIP2.variants["siglip2_so400m_patch16_naflex"].pixels.max_pixels == 256 * 16 * 16
    giant = SIGLIP.variants["siglip2_giant_opt_patch16_384"]
    assert (giant.hidden, giant.layers, giant.heads, giant.mlp, giant.pixels.size) == (1536, 40, 16, 6144, 384)


PALIGEMMA = {
    "hidden_size": 1152, "intermediate_size": 4304, "model_type": "siglip_vision_model", "num_attention_heads": 16,
    "num_hidden_layers": 27, "num_image_tokens": 256, "patch_size": 14, "projection_dim": 2048,
    "projector_hidden_act": "gelu_fast", "vision_use_head": False,
}  # fmt: skip


def test_what_released_configurations_say_besides_is_known() -> None:
    config = siglip.config_from(PALIGEMMA)
    assert (config.hidden, config.pool, config.pixels.size) == (1152, False, 224)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"num_patches": 255}, "num_patches 255"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_channels": 1}, "num_channels"),
        ({"image_sise": 16}, "image_sise"),
        ({"hidden_size": 100, "num_attention_heads": 12}, "heads"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        siglip2.config_from(config)


def test_a_tower_with_a_recipe_of_its_own_keeps_its_image_size() -> None:
    config = siglip.config_from({"image_size": 384, "patch_size": 14})
    native = replace(config, pixels=replace(config.pixels, rule="native_floor", size=None))
    assert siglip.config_to(config)["image_size"] == 384
    assert siglip.config_to(native)["image_size"] == 378


# ---- pixels


def naflex(processor: Any, patch: int) -> Any:
    """The NaFlex processor's rows as a picture and their grid."""

    def run(picture: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
        out = processor(images=torch.from_numpy(picture).permute(2, 0, 1), return_tensors="pt")
        h, w = out["spatial_shapes"][0].tolist()
        rows = out["pixel_values"][0][: h * w].view(h, w, patch, patch, 3)
        return rows.permute(4, 0, 2, 1, 3).reshape(3, h * patch, w * patch), (h, w)

    return run


@pytest.mark.parametrize(("size", "patch"), [(224, 16), (384, 14)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_the_processors(size: int, patch: int, interpolation: Any) -> None:
    config = siglip.config_from({"image_size": size, "patch_size": patch})
    recipe = replace(config.pixels, interpolation=interpolation)
    said = SIGLIP.processor_to(replace(config, pixels=recipe))  # type: ignore[misc]
    check_pictures(pixel_values(hf.SiglipImageProcessor(**said)), recipe, 12)


@pytest.mark.parametrize(("patch", "places"), [(16, 256), (14, 100)])
def test_naflex_pixels_are_the_processors(patch: int, places: int) -> None:
    config = siglip2.config_from({"num_patches": places, "patch_size": patch})
    said = SIGLIP2.processor_to(config)  # type: ignore[misc]
    check_pictures(naflex(hf.Siglip2ImageProcessor(**said), patch), config.pixels, 25)


@pytest.mark.parametrize("resampler", [("torch", 1.0), ("pillow", 0.0)])
def test_pixels_of_the_slow_processor(resampler: tuple[Any, float]) -> None:
    recipe = PixelRecipe(16, "square", size=64, mean=HALF, std=HALF, interpolation="bilinear", resampler=resampler[0])
    processor = hf.SiglipImageProcessorPil(size={"height": 64, "width": 64}, resample=2)
    check_pictures(pixel_values(processor), recipe, 12, levels=resampler[1], low=70)


def test_any_other_recipe_may_be_used() -> None:
    encoder = SIGLIP.variants["siglip_base_patch16_224"]
    clip = Clip(np.zeros((1, 100, 250, 3), np.uint8), (0.0,))
    native = replace(encoder.pixels, rule="native_floor")
    assert patchify([clip], native).items[0].grid == (1, 6, 15)
    assert patchify([clip], encoder.pixels).items[0].grid == (1, 14, 14)


# ---- whole models on disk


def whole(kind: str) -> hf.PreTrainedModel:
    """A tiny random model of pictures and text around a SigLIP tower."""
    tower = {**TINY, "image_size": 42, "patch_size": 14}
    vlm: dict[str, Any] = {"image_token_index": IMAGE_TOKEN}
    bare = {**tower, "model_type": "siglip_vision_model", "vision_use_head": False}
    if kind == "siglip":
        return hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=tower))
    if kind == "siglip2":
        places = {**TINY, "patch_size": 14, "num_patches": 9}
        return hf.Siglip2Model(hf.Siglip2Config(text_config=TEXT, vision_config=places))
    if kind == "llava_onevision":
        language = {**LANGUAGE, "model_type": "qwen2"}
        return hf.LlavaOnevisionForConditionalGeneration(
            hf.LlavaOnevisionConfig(vision_config=bare, text_config=language, video_token_index=38, **vlm)
        )
    language = {**LANGUAGE, "head_dim": 16, "model_type": "gemma"}
    return hf.PaliGemmaForConditionalGeneration(
        hf.PaliGemmaConfig(vision_config={**bare, "projection_dim": 32}, text_config=language, projection_dim=32, **vlm)
    )


@pytest.mark.parametrize("released", [False, True], ids=["as written now", "as released"])
@pytest.mark.parametrize("kind", ["siglip", "siglip2", "llava_onevision", "paligemma"])
def test_whole_models_give_their_tower(kind: str, released: bool, tmp_path: Path) -> None:
    """As transformers writes them today, and with the names that releases before 5.0 have, in shards."""
    model = whole(kind).eval()
    parity.randomise(model)
    model.save_pretrained(tmp_path / "now")
    folder = tmp_path / "now"
    if released:
        renamed = {
            name.replace("vision_tower.", "vision_tower.vision_model."): tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        folder = parity.write_checkpoint(tmp_path / "then", renamed, model.config.to_dict(), shards=3)
    ours = load_encoder(folder)
    tower = model.vision_model if hasattr(model, "vision_model") else model.model.vision_tower  # type: ignore[union-attr]
    rows = parity.random_rows([(1, 3, 3), (1, 2, 4)], ours.config)
    run = parity.run_naflex if kind == "siglip2" else ANY_SIZE
    theirs = run(tower, parity.normalise(rows, ours.pixels), ours.config, "encoder.layers")  # type: ignore[arg-type]
    with torch.no_grad():
        parity.compare(parity.run_ours(ours, rows), theirs)
