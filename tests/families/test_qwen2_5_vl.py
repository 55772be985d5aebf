"""Qwen2.5-VL's tower against transformers: its windows, alone, inside the whole model, and its processors."""

from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.families.cases import QWEN_WIDTHS
from tests.families.qwen import TEXT, TINY, check_images, check_videos, check_whole, run_windows
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.qwen_clips import video_pixels
from tubelet.families.qwen_vl import FIELDS_2_5, QWEN2_5_VL, processor_to

# ---- whole models


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("prefix", [None, "visual."])
def test_whole_models_give_their_tower(prefix: str | None, shards: int, tmp_path: Path) -> None:
    vision = {
        **TINY,
        **QWEN_WIDTHS,
        "out_hidden_size": TEXT["hidden_size"],
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    config = hf.Qwen2_5_VLConfig(vision_config=vision, text_config=TEXT)
    model = hf.Qwen2_5_VLForConditionalGeneration(config)
    check_whole(model, tmp_path / "whole", prefix, shards, run_windows)


# ---- configurations


PUBLISHED: dict[str, Any] = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}


def test_published_configurations() -> None:
    whole = {"model_type": "qwen2_5_vl", "hidden_size": 3584, "vision_config": PUBLISHED}
    config = read_config(whole, QWEN2_5_VL, "qwen2_5_vl")
    assert config == QWEN2_5_VL.variants["qwen2_5_vl_7b_vision"]
    assert config.span_side == 8
    assert QWEN2_5_VL.variants["qwen2_5_vl_3b_vision"].out == 2048
    for name, variant in QWEN2_5_VL.variants.items():
        assert QWEN2_5_VL.config_from(QWEN2_5_VL.config_to(variant)) == variant, name


def test_defaults_are_upstreams() -> None:
    said = Qwen2_5_VLVisionConfig().to_dict()
    fields = {n: f for n, f in FIELDS_2_5.items() if n in said and n != "rope_parameters"}
    assert fields.keys() == FIELDS_2_5.keys() - {"in_chans", "spatial_patch_size", "rope_parameters"}
    defaults = {n: getattr(f, "default", f) for n, f in fields.items()}
    assert {n: tuple(v) if isinstance(v := said[n], list) else v for n in fields} == defaults
    assert read_config(said, QWEN2_5_VL, "qwen2_5_vl") == QWEN2_5_VL.config_from({})


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"window_size": 20}, "windows of 0"),
        ({"fullatt_block_indexes": [1.5]}, "fullatt_block_indexes"),
        ({"fullatt_block_indexes": "all"}, "fullatt_block_indexes"),
        ({"tokens_per_second": -1}, "tokens_per_second"),
        ({"deepstack_visual_indexes": [1]}, "deepstack_visual_indexes"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        QWEN2_5_VL.config_from(config)


# ---- pixels: Qwen2-VL's processors, which tests/families/test_qwen2_vl.py tries at more sizes


def test_pictures_and_clips_are_the_processors() -> None:
    config = QWEN2_5_VL.variants["qwen2_5_vl_7b_vision"]
    check_images(hf.Qwen2VLImageProcessor(**processor_to(config)), config.pixels, 6)
    check_videos(hf.Qwen2VLVideoProcessor(cap_pixels_per_frame=False), video_pixels(config))
