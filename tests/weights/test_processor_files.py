"""How pictures are sized, from the files that transformers' own processors save beside the weights, and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.families.pictures import check_pictures, pixel_values
from tests.weights.tiny_models import random_encoder, tiny_config
from tests.weights.whole_models import small, whole
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tubelet.errors import ConfigError
from tubelet.families.catalogue import families
from tubelet.families.family import Family
from tubelet.weights.load import load_encoder
from tubelet.weights.locate import PROCESSOR, PROCESSORS
from tubelet.weights.save import save_encoder

FAMILIES = {family.name: family for family in families()}
RED: dict[str, Any] = {"image_mean": [0.6, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
SQUARE: dict[str, Any] = {"size": {"height": 128, "width": 128}}
CROP: dict[str, Any] = {"size": {"shortest_edge": 160}, "crop_size": {"height": 128, "width": 128}}


def qwen(family: str) -> Any:
    return hf.Qwen2VLImageProcessor(min_pixels=4096, max_pixels=65536, patch_size=patch_of(family))


def patch_of(family: str) -> int:
    return small(FAMILIES[family]).pixels.patch


# family, processor, what the recipe says, grey levels between the pixels (None: its values are rows, not pictures)
CASES = [
    ("clip", hf.CLIPImageProcessor(**CROP, **RED), {"rule": "shortest_crop", "size": 128, "shortest": 160}, 0.0),
    ("clip", hf.CLIPImageProcessor(**SQUARE, do_center_crop=False), {"rule": "square", "size": 128}, 0.0),
    ("mlcd", hf.CLIPImageProcessor(**CROP, resample=2), {"interpolation": "bilinear", "shortest": 160}, 0.0),
    ("siglip", hf.SiglipImageProcessor(**SQUARE, resample=2), {"interpolation": "bilinear", "size": 128}, 0.0),
    ("internvl", hf.SiglipImageProcessor(**SQUARE, resample=2), {"interpolation": "bilinear", "size": 128}, 0.0),
    ("idefics3", hf.SiglipImageProcessor(**SQUARE, resample=1), {"interpolation": "lanczos", "size": 128}, 0.0),
    ("siglip2", hf.Siglip2ImageProcessor(max_num_patches=64), {"rule": "naflex", "max_pixels": 64 * 256}, None),
    ("dinov2", hf.BitImageProcessor(**CROP, **RED), {"rule": "shortest_crop", "size": 128, "shortest": 160}, 0.0),
    ("dinov2_with_registers", hf.BitImageProcessor(**CROP, resample=2), {"interpolation": "bilinear"}, 0.0),
    ("dinov3_vit", hf.DINOv3ViTImageProcessor(**SQUARE), {"rule": "square", "size": 128}, 1.0),
    ("dinov3_vit", hf.BitImageProcessor(**CROP), {"rule": "shortest_crop", "size": 128, "shortest": 160}, 0.0),
    ("aimv2", hf.CLIPImageProcessor(**CROP), {"rule": "shortest_crop", "size": 128, "shortest": 160}, 0.0),
    ("aimv2", hf.CLIPImageProcessor(do_resize=False, do_center_crop=False), {"rule": "native_crop"}, 0.0),
    (
        "pixtral",
        hf.PixtralImageProcessor(size={"longest_edge": 140}, patch_size=patch_of("pixtral")),
        {"size": 140},
        0.0,
    ),
    ("qwen2_vl", qwen("qwen2_vl"), {"min_pixels": 4096, "max_pixels": 65536}, None),
    ("qwen2_5_vl", qwen("qwen2_5_vl"), {"min_pixels": 4096, "max_pixels": 65536}, None),
    ("qwen3_vl", qwen("qwen3_vl"), {"min_pixels": 4096, "max_pixels": 65536}, None),
]


@pytest.mark.parametrize(
    ("name", "processor", "said", "levels"), CASES, ids=lambda v: v if isinstance(v, str) else None
)
def test_a_saved_processor_gives_the_recipe_and_comes_back(
    name: str, processor: Any, said: dict[str, Any], levels: float | None, tmp_path: Path
):
    family: Family = FAMILIES[name]
    whole(tmp_path / "in", family, "vision_tower.")
    default = load_encoder(tmp_path / "in").pixels
    assert default == small(family).pixels
    processor.save_pretrained(tmp_path / "in")
    encoder = load_encoder(tmp_path / "in")
    assert encoder.pixels != default
    assert {field: getattr(encoder.pixels, field) for field in said} == said
    assert list(encoder.pixels.mean) == pytest.approx(processor.image_mean)
    assert list(encoder.pixels.std) == pytest.approx(processor.image_std)
    if levels is not None:
        check_pictures(pixel_values(processor), encoder.pixels, 4, levels, low=40, high=300)
    saved = save_encoder(encoder, tmp_path / "out")
    assert load_encoder(saved).pixels == encoder.pixels
    again = hf.AutoImageProcessor.from_pretrained(saved)
    if levels is not None:
        check_pictures(pixel_values(again), encoder.pixels, 4, levels, low=40, high=300)
    else:
        assert again.size == processor.size
        assert getattr(again, "max_num_patches", None) == getattr(processor, "max_num_patches", None)


def test_every_family_with_a_processor_has_a_case():
    assert {name for name, *_ in CASES} == {f.name for f in FAMILIES.values() if f.processor_to is not None}


def test_the_file_of_a_whole_processor_counts_first(tmp_path: Path):
    """transformers 5 keeps the image processor of a whole model inside processor_config.json."""
    whole(tmp_path, FAMILIES["clip"], "vision_tower.")
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="b")))
    hf.LlavaProcessor(hf.CLIPImageProcessor(**CROP), tokenizer, patch_size=14).save_pretrained(tmp_path)
    assert "image_processor" in json.loads((tmp_path / PROCESSORS).read_text(encoding="utf-8"))
    assert not (tmp_path / PROCESSOR).exists()
    assert load_encoder(tmp_path).pixels.size == 128
    hf.CLIPImageProcessor(size={"shortest_edge": 96}, crop_size=96).save_pretrained(tmp_path)
    assert load_encoder(tmp_path).pixels.size == 128
    (tmp_path / PROCESSORS).write_text(json.dumps({"processor_class": "LlavaProcessor"}), encoding="utf-8")
    assert load_encoder(tmp_path).pixels.size == 96


def test_onevision_keeps_its_native_rule(tmp_path: Path):
    first = random_encoder(tiny_config("packing"))
    folder = save_encoder(first, tmp_path / "packing")
    assert not (folder / PROCESSOR).exists()
    hf.CLIPImageProcessor(**CROP).save_pretrained(folder)
    assert load_encoder(folder).pixels == first.pixels
    assert first.pixels.rule == "native_floor"


def test_a_given_configuration_counts_instead(tmp_path: Path):
    family = FAMILIES["clip"]
    whole(tmp_path, family, "vision_tower.")
    hf.CLIPImageProcessor(**CROP).save_pretrained(tmp_path)
    given = replace(small(family), pixels=replace(small(family).pixels, rule="native_floor"))
    assert load_encoder(tmp_path, config=given).config == given


@pytest.mark.parametrize(
    ("file", "said", "word"),
    [
        (PROCESSOR, {"auto_map": {"AutoImageProcessor": "code.Mine"}}, "auto_map can name code"),
        (PROCESSOR, {"image_processor_type": "CLIPImageProcessor", "sharpen": 2}, "unknown field sharpen"),
        (PROCESSOR, {"image_processor_type": "CLIPImageProcessor", "resample": 0}, "resample"),
        (PROCESSOR, [], "JSON object"),
        (PROCESSORS, {"auto_map": {"AutoProcessor": "code.Mine"}, "image_processor": {}}, "auto_map can name code"),
        (PROCESSORS, {"image_processor": {"auto_map": {"AutoImageProcessor": "code.Mine"}}}, "auto_map can name code"),
        (PROCESSORS, {"image_processor": 3}, "image_processor is an object"),
    ],
)
def test_what_cannot_be_meant_is_refused(file: str, said: Any, word: str, tmp_path: Path):
    whole(tmp_path, FAMILIES["clip"], "vision_tower.")
    (tmp_path / file).write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ConfigError, match=word):
        load_encoder(tmp_path)
