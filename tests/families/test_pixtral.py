"""Pixtral's encoder against transformers: alone, packed by its own class, and inside llava and mistral3."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tests.families import cases, parity
from tests.families.cases import run_packed
from tests.families.parity import Pair
from tests.families.pictures import check_pictures, pixel_values
from tests.families.widths import PICTURES, TINY

from tubelet import load_encoder, save_encoder
from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.pixtral import FIELDS, PIXTRAL


@pytest.mark.parametrize("pair", cases.PIXTRAL, ids=str, indirect=True, scope="module")
def test_a_saved_folder_has_the_processor(pair: Pair, tmp_path: Path) -> None:
    processor = hf.AutoImageProcessor.from_pretrained(save_encoder(pair.ours, tmp_path / "out"))
    assert processor.size == {"longest_edge": pair.case.config.image_size}


# ---- whole models


@pytest.mark.parametrize("stored", [True, False], ids=["as written", "as its modules are named"])
@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_whole_models_give_their_tower(kind: str, stored: bool, tmp_path: Path) -> None:
    language = {**TINY, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 50, "num_key_value_heads": 1}
    parts: dict[str, Any] = {
        "vision_config": {**TINY, "image_size": 64, "model_type": "pixtral", "hidden_act": "silu"},
        "text_config": {**language, "model_type": "mistral"},
        "image_token_index": 3,
    }
    if kind == "llava":
        model = hf.LlavaForConditionalGeneration(hf.LlavaConfig(**parts, vision_feature_layer=-1))
    else:
        model = hf.Mistral3ForConditionalGeneration(hf.Mistral3Config(**parts))
    parity.randomise(model.eval())
    if stored:
        model.save_pretrained(tmp_path / "whole")
    else:
        parity.write_checkpoint(tmp_path / "whole", model.state_dict(), model.config.to_dict(), shards=3)
    ours = load_encoder(tmp_path / "whole")
    rows = parity.random_rows(PICTURES, ours.config)
    tower: Any = model.model.vision_tower
    with torch.no_grad():
        theirs = run_packed(tower, parity.normalise(rows, ours.pixels), ours.config, "transformer.layers")
        parity.compare(parity.run_ours(ours, rows), theirs)


# ---- configurations


def test_variants_say_themselves() -> None:
    for name, config in PIXTRAL.variants.items():
        assert PIXTRAL.config_from(PIXTRAL.config_to(config)) == config, name
    assert PIXTRAL.variants["pixtral_large_vision"].head_dim == 88


def test_variants_are_upstreams_sizes() -> None:
    parity.check_variants(PIXTRAL, hf.PixtralVisionModel, hf.PixtralVisionConfig)


def test_defaults_are_upstreams() -> None:
    said = hf.PixtralVisionConfig().to_dict()
    fields = {n: f for n, f in FIELDS.items() if n not in ("head_dim", "rope_theta", "rope_parameters")}
    assert {n: said[n] for n in fields} == {n: getattr(f, "default", f) for n, f in fields.items()}
    assert said["rope_parameters"] == {"rope_theta": FIELDS["rope_theta"], "rope_type": "axial"}
    assert PIXTRAL.config_from({}) == read_config(said, PIXTRAL, "pixtral")


def test_the_base_of_frequencies_has_stood_in_two_places() -> None:
    old = PIXTRAL.config_from({"rope_theta": 500.0, "head_dim": 64, "is_composition": True})
    new = PIXTRAL.config_from({"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}})
    assert old == new
    assert old.rope is not None
    assert old.rope.theta == 500.0


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"head_dim": 80}, "heads of 80"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "factor"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"image_sise": 16}, "image_sise"),
        ({"hidden_size": 36, "num_attention_heads": 6}, "head dim 6"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PIXTRAL.config_from(config)


# ---- pixels


@pytest.mark.parametrize(("size", "patch"), [(1024, 16), (308, 14)])
def test_pixels_are_the_processors(size: int, patch: int) -> None:
    config = PIXTRAL.config_from({"image_size": size, "patch_size": patch})
    assert PIXTRAL.processor_to is not None
    said = PIXTRAL.processor_to(config)
    for processor in (
        hf.PixtralImageProcessor(**said),
        hf.PixtralImageProcessor(size={"longest_edge": size}, patch_size={"height": patch, "width": patch}),
    ):
        check_pictures(pixel_values(processor), config.pixels, 12)


def test_pixels_of_models_that_merge() -> None:
    """Mistral Small 3.1's processor gives the picture processor patches of patch_size x spatial_merge_size."""
    merging = replace(PIXTRAL.variants["mistral_small_3_1_vision"].pixels, merge=2)
    processor = hf.PixtralImageProcessor(size={"longest_edge": 1540}, patch_size={"height": 28, "width": 28})
    check_pictures(pixel_values(processor), merging, 8)
