"""MLCD against transformers: outputs at any size, gradients (of the class token's angles as well), pixels."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tests.families import parity
from tests.families.cases import MLCD_TINY
from tests.families.pictures import check_pictures, pixel_values
from tests.families.widths import IMAGE_TOKEN, LANGUAGE

from tubelet import load_encoder
from tubelet.errors import ConfigError
from tubelet.families import mlcd
from tubelet.families.mlcd import MLCD


def test_a_llava_around_it_gives_its_tower(tmp_path: Path) -> None:
    tower = hf.MLCDVisionConfig(**MLCD_TINY, image_size=42, patch_size=14)
    config = hf.LlavaConfig(
        vision_config=tower.to_dict(),
        text_config={**LANGUAGE, "model_type": "llama"},
        image_token_index=IMAGE_TOKEN,
    )
    model = hf.LlavaForConditionalGeneration(config).eval()
    parity.randomise(model)
    model.save_pretrained(tmp_path)
    ours = load_encoder(tmp_path)
    rows = parity.random_rows([(1, 3, 3), (1, 2, 4)], ours.config)
    tower = model.model.vision_tower
    theirs = parity.run_images(tower, parity.normalise(rows, ours.pixels), ours.config, "encoder.layers")
    with torch.no_grad():
        parity.compare(parity.run_ours(ours, rows), theirs)


def test_variants_say_themselves() -> None:
    assert {c.pixels.size for c in MLCD.variants.values()} == {336, 448}
    for name, config in MLCD.variants.items():
        assert MLCD.config_from(MLCD.config_to(config)) == config, name


def test_defaults_are_upstreams() -> None:
    said = hf.MLCDVisionConfig().to_dict()
    for name, field in mlcd.FIELDS.items():
        default = getattr(field, "default", field)
        if name == "rope_parameters":
            default = {key: getattr(inner, "default", inner) for key, inner in default.items()}
        assert said[name] == default, name
    assert mlcd.config_from({"rope_parameters": None}) == mlcd.config_from({})  # as versions before 5 wrote it


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"num_key_value_groups": 2}, "num_key_value_groups"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type"),
        ({"hidden_size": 48, "num_attention_heads": 8}, "head dim 6"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        mlcd.config_from(config)


def test_pixels_are_the_processors() -> None:
    config = mlcd.config_from({})
    assert MLCD.processor_to is not None
    check_pictures(pixel_values(hf.CLIPImageProcessor(**MLCD.processor_to(config))), config.pixels, 15)
