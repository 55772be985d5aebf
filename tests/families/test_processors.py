"""preprocessor_config.json of live processors as recipes: the same grids and pixels."""

from dataclasses import replace
from typing import Any

import pytest
import transformers as hf
from tests.families.pictures import check_pictures, pixel_values

from tubelet.errors import ConfigError
from tubelet.families.processors import recipe_from
from tubelet.pixels.recipe import IMAGENET_MEAN, IMAGENET_STD, PixelRecipe

ANY = PixelRecipe(14, "smart")
IMAGENET: dict[str, Any] = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}


@pytest.mark.parametrize(
    ("processor", "rule", "levels"),
    [
        (hf.CLIPImageProcessor(), "shortest_crop", 0.0),
        (hf.SiglipImageProcessor(size={"height": 384, "width": 384}, resample=2), "square", 0.0),
        (hf.BitImageProcessor(size={"shortest_edge": 256}, crop_size=224, **IMAGENET), "shortest_crop", 0.0),
        (hf.DINOv3ViTImageProcessor(), "square", 1.0),
        (hf.PixtralImageProcessor(patch_size=14, size={"longest_edge": 140}), "longest_side", 0.0),
        (hf.CLIPImageProcessor(do_resize=False, do_center_crop=False), "native_crop", 0.0),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, (str, float)) else str(v),
)
def test_live_processors(processor: Any, rule: str, levels: float) -> None:
    recipe = recipe_from(processor.to_dict(), ANY)
    assert recipe.rule == rule
    check_pictures(pixel_values(processor), recipe, 10, levels)


def test_budgets() -> None:
    naflex = recipe_from(hf.Siglip2ImageProcessor(max_num_patches=64).to_dict(), PixelRecipe(16))
    assert (naflex.rule, naflex.max_pixels, naflex.interpolation, naflex.std) == (
        "naflex",
        64 * 256,
        "bilinear",
        (0.5,) * 3,
    )
    qwen = PixelRecipe(14, "smart_compat", temporal=2, merge=2, order="block")
    said = recipe_from(hf.Qwen2VLImageProcessor(min_pixels=784, max_pixels=78400).to_dict(), qwen)
    assert (said.rule, said.min_pixels, said.max_pixels, said.merge) == ("smart_compat", 784, 78400, 2)


def test_what_is_absent_or_null_keeps_the_recipe() -> None:
    for kind in ("CLIP", "Bit", "Siglip", "Siglip2", "ViT", "DINOv3ViT", "Pixtral", "Qwen2VL"):
        for said in (
            {},
            dict.fromkeys(("size", "crop_size", "resample", "do_center_crop", "image_mean", "min_pixels")),
        ):
            assert recipe_from({"image_processor_type": f"{kind}ImageProcessorFast", **said}, ANY) == ANY


@pytest.mark.parametrize("kind", ["CLIP", "Bit"])
def test_some_crop_unless_told_not_to(kind: str) -> None:
    said = {"image_processor_type": f"{kind}ImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224}
    assert recipe_from(said, ANY) == replace(ANY, rule="shortest_crop", size=224, shortest=256)
    square = {**said, "size": {"height": 256, "width": 256}, "do_center_crop": False}
    assert recipe_from(square, recipe_from(said, ANY)) == replace(ANY, rule="square", size=256)


def test_published_qwen2_vl() -> None:
    """Qwen/Qwen2-VL-7B-Instruct says its budget twice, under names transformers has left behind since."""
    said = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056}
    twice = {**said, "size": {"min_pixels": 3136, "max_pixels": 12845056}, "patch_size": 14}
    for each in (said, twice, {"image_processor_type": "Qwen2VLImageProcessor", "size": twice["size"]}):
        assert recipe_from(each, ANY) == replace(ANY, min_pixels=3136, max_pixels=12845056)
    live = hf.Qwen2VLImageProcessor(min_pixels=784, size={"shortest_edge": 3136, "longest_edge": 78400})
    found = recipe_from({**live.to_dict(), "temporal_patch_size": None, "merge_size": None}, ANY)
    assert (found.min_pixels, found.max_pixels) == (784, 78400)


def test_files_of_the_first_versions() -> None:
    """openai/clip-vit-large-patch14 as it is published."""
    old = {
        "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 224,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
    }  # fmt: skip
    assert recipe_from(old, ANY) == PixelRecipe(14, "shortest_crop", size=224)


def test_processors_that_cut_views_change_nothing() -> None:
    assert recipe_from(hf.LlavaOnevisionImageProcessor().to_dict(), ANY) is ANY
    assert recipe_from({}, ANY) is ANY


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"size": {"height": 224, "width": 336}}, "224 x 336"),
        ({"size": {"height": "224", "width": 224}}, "size.height"),
        ({"size": True}, "size"),
        ({"resample": 0}, "resample"),
        ({"resample": [3]}, "resample"),
        ({"do_rescale": False}, "do_rescale"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "above zero"),
        ({"do_resize": False, "do_center_crop": True}, "crop"),
        ({"size": {"height": 8, "width": 8}}, "below one unit"),
        ({"auto_map": {"AutoImageProcessor": "code.Mine"}}, "auto_map"),
        ({"do_equalise": True}, "unknown field do_equalise of a Siglip processor"),
        ({"do_resize": "no"}, "do_resize is true or false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"rescale_factor": True}, "rescale_factor"),
        ({"do_pad": True}, "padded"),
        ({"size_divisor": 32}, "padded"),
        ({"image_processor_type": "Siglip2ImageProcessor", "patch_size": 16}, "patch_size is 16, the encoder's is 14"),
        ({"image_processor_type": "Qwen2VLImageProcessor", "merge_size": 2}, "merge_size"),
        ({"image_processor_type": "Qwen2VLImageProcessor", "size": {"height": 28}}, "shortest_edge and longest_edge"),
        ({"image_processor_type": "Qwen2VLImageProcessor", "size": 448}, "shortest_edge and longest_edge"),
    ],
)
def test_what_no_recipe_can_say_is_refused(said: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        recipe_from({"image_processor_type": "SiglipImageProcessor", **said}, ANY)
