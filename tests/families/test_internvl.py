"""InternVL's vision transformer against transformers: configurations, pixels, whole models on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tests.families.pictures import check_pictures, pixel_values
from tests.families.widths import IMAGE_TOKEN, LANGUAGE, TINY

from tubelet import load_encoder
from tubelet.errors import ConfigError
from tubelet.families import internvl
from tubelet.families.internvl import INTERNVL
from tubelet.weights.save import save_encoder


def test_variants_say_themselves() -> None:
    for name, config in INTERNVL.variants.items():
        assert INTERNVL.config_from(INTERNVL.config_to(config)) == config, name
    tower = INTERNVL.variants["internvit_300m_patch14_448"]
    assert (tower.hidden, tower.layers, tower.heads, tower.mlp, tower.qkv_bias) == (1024, 24, 16, 4096, True)
    assert tower.table is not None and (tower.table.height, tower.pixels.size) == (32, 448)


def test_defaults_are_upstreams() -> None:
    said = hf.InternVLVisionConfig().to_dict()
    for name, field in internvl.FIELDS.items():
        value = said[name]
        assert (value[0] if isinstance(value, (list, tuple)) else value) == getattr(field, "default", field), name


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"use_mean_pooling": False}, "use_mean_pooling"),
        ({"image_size": [448, 224]}, "image_size"),
        ({"patch_size": [14, 14, 14]}, "patch_size"),
        ({"image_size": 7}, "patch"),
        ({"registers": 4}, "registers"),
    ],
    ids=str,
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        internvl.config_from(config)


def test_pixels_are_the_processors() -> None:
    config = INTERNVL.variants["internvit_300m_patch14_448"]
    size = {"height": 448, "width": 448}
    processor = hf.GotOcr2ImageProcessor(size=size, image_mean=config.pixels.mean, image_std=config.pixels.std)
    check_pictures(pixel_values(processor), config.pixels, 15)


def test_its_tower_is_read_from_a_whole_model(tmp_path: Path) -> None:
    vision = hf.InternVLVisionConfig(**TINY, image_size=[56, 56], patch_size=[14, 14], attention_bias=True)
    text = hf.Qwen2Config(**LANGUAGE)
    model = hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)
    ).eval()
    model.save_pretrained(tmp_path / "whole")
    encoder = load_encoder(tmp_path / "whole")
    save_encoder(encoder, tmp_path / "alone")
    tower = hf.InternVLVisionModel.from_pretrained(tmp_path / "alone")
    theirs = dict(model.model.vision_tower.state_dict())
    assert all(torch.equal(t, theirs[name]) for name, t in tower.state_dict().items())
