"""Qwen2-VL's tower against transformers: alone, inside the whole model, and its processors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.families.cases import QWEN2_WIDTHS
from tests.families.qwen import TEXT, TINY, check_images, check_videos, check_whole
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.qwen_clips import video_pixels
from tubelet.families.qwen_vl import FIELDS_2, QWEN2_VL, processor_to

# ---- whole models


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("prefix", [None, "visual.", "model.visual."])
def test_whole_models_give_their_tower(prefix: str | None, shards: int, tmp_path: Path) -> None:
    config = hf.Qwen2VLConfig(
        vision_config={**TINY, **QWEN2_WIDTHS, "hidden_size": TEXT["hidden_size"]}, text_config=TEXT
    )
    check_whole(hf.Qwen2VLForConditionalGeneration(config), tmp_path / "whole", prefix, shards)


# ---- configurations


PUBLISHED: dict[str, Any] = {
    "depth": 32,
    "embed_dim": 1280,
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_chans": 3,
    "hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
}


def test_published_configurations() -> None:
    whole = {"model_type": "qwen2_vl", "hidden_size": 3584, "vision_config": PUBLISHED}
    assert read_config(whole, QWEN2_VL, "qwen2_vl") == QWEN2_VL.variants["qwen2_vl_7b_vision"]
    assert QWEN2_VL.variants["qwen2_vl_2b_vision"].out == 1536
    for name, config in QWEN2_VL.variants.items():
        assert QWEN2_VL.config_from(QWEN2_VL.config_to(config)) == config, name


def test_defaults_are_upstreams() -> None:
    said = Qwen2VLVisionConfig().to_dict()
    fields = {n: f for n, f in FIELDS_2.items() if n in said and n != "rope_parameters"}
    assert fields.keys() == FIELDS_2.keys() - {"in_chans", "spatial_patch_size", "rope_parameters"}
    assert {n: said[n] for n in fields} == {n: getattr(f, "default", f) for n, f in fields.items()}
    assert read_config(said, QWEN2_VL, "qwen2_vl") == QWEN2_VL.config_from({})


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"spatial_patch_size": 16}, "spatial_patch_size"),
        ({"in_channels": 1}, "in_channels"),
        ({"mlp_ratio": 2.5}, "mlp_ratio"),
        ({"patch_size": [14, 14]}, "patch_size"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ({"embed_dim": 36, "num_heads": 6}, "head dim 6"),
        ({"window_size": 112}, "window_size"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        QWEN2_VL.config_from(config)


# ---- pixels


def test_pictures_are_the_processors() -> None:
    config = QWEN2_VL.variants["qwen2_vl_7b_vision"]
    assert hf.Qwen2VLImageProcessor().size == processor_to(config)["size"]
    check_images(hf.Qwen2VLImageProcessor(), config.pixels)
    check_images(hf.Qwen2VLImageProcessor(**processor_to(config)), config.pixels, 4)


def test_another_budget_is_the_processors() -> None:
    config = replace(QWEN2_VL.config_from({}), pixels=replace(QWEN2_VL.config_from({}).pixels, max_pixels=40_000))
    check_images(hf.Qwen2VLImageProcessor(**processor_to(config)), config.pixels)


@pytest.mark.parametrize("capped", [False, True])
def test_clips_are_the_processors(capped: bool) -> None:
    config = QWEN2_VL.config_from({})
    processor = hf.Qwen2VLVideoProcessor(cap_pixels_per_frame=capped)
    check_videos(processor, video_pixels(config, capped=capped))


def test_long_clips_share_their_budget() -> None:
    config = QWEN2_VL.config_from({"patch_size": 2})
    processor = hf.Qwen2VLVideoProcessor(
        patch_size=2, cap_pixels_per_frame=True, size={"shortest_edge": 16 * 16, "longest_edge": 28 * 28 * 768}
    )
    recipe = replace(video_pixels(config, capped=True), min_pixels=16 * 16)
    for frames in (16, 40, 97):  # 115,200 tokens of 4 x 4 pixels are 1,843,200: a share of 38,003 at the last
        check_videos(processor, recipe, (frames,), ((250, 300),))
