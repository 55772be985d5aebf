"""Qwen3-VL's tower against transformers: positions, deepstack, inside dense and sparse models, processors."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.families.cases import QWEN_WIDTHS
from tests.families.qwen import TEXT, TINY, check_images, check_videos, check_whole
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.qwen_clips import qwen3_video_pixels
from tubelet.families.qwen_vl import FIELDS_3, QWEN3_VL, processor_to
from tubelet.pixels.fit import grid_of

# ---- whole models


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("prefix", [None, "model.visual."])
def test_whole_models_give_their_tower(prefix: str | None, kind: str, shards: int, tmp_path: Path) -> None:
    vision = {**TINY, **QWEN_WIDTHS, "out_hidden_size": TEXT["hidden_size"]}
    vision |= {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}
    if kind == "dense":
        model = hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(vision_config=vision, text_config=TEXT))
    else:
        sparse = {**TEXT, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
        model = hf.Qwen3VLMoeForConditionalGeneration(hf.Qwen3VLMoeConfig(vision_config=vision, text_config=sparse))
    check_whole(model, tmp_path / "whole", prefix, shards)


# ---- configurations


PUBLISHED: dict[str, Any] = {
    "deepstack_visual_indexes": [5, 11, 17],
    "depth": 24,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1024,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "model_type": "qwen3_vl",
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "out_hidden_size": 2560,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def test_published_configurations() -> None:
    whole = {"model_type": "qwen3_vl", "vision_config": PUBLISHED}
    config = read_config(whole, QWEN3_VL, "qwen3_vl")
    assert config == QWEN3_VL.variants["qwen3_vl_4b_vision"]
    assert config.table is not None
    assert (config.table.height, config.table.width) == (48, 48)
    assert QWEN3_VL.config_from(QWEN3_VL.config_to(config)) == config


def test_defaults_are_upstreams() -> None:
    said = Qwen3VLVisionConfig().to_dict()
    fields = {n: f for n, f in FIELDS_3.items() if n in said and n != "rope_parameters"}
    assert fields.keys() == FIELDS_3.keys() - {"in_chans", "spatial_patch_size", "rope_parameters"}
    defaults = {n: getattr(f, "default", f) for n, f in fields.items()}
    assert {n: tuple(v) if isinstance(v := said[n], list) else v for n in fields} == defaults
    assert read_config(said, QWEN3_VL, "qwen3_vl") == QWEN3_VL.config_from({})


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"num_position_embeddings": 2300}, "not a square"),
        ({"deepstack_visual_indexes": [16, 8]}, "ascend"),
        ({"deepstack_visual_indexes": [8, 8]}, "ascend"),
        ({"deepstack_visual_indexes": [27]}, "layers count 0..26"),
        ({"window_size": 112}, "window_size"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        QWEN3_VL.config_from(config)


# ---- pixels


def test_pictures_are_the_processors() -> None:
    config = QWEN3_VL.variants["qwen3_vl_4b_vision"]
    check_images(hf.Qwen2VLImageProcessor(**processor_to(config)), config.pixels)


@pytest.mark.parametrize("capped", [False, True])
def test_clips_are_the_processors(capped: bool) -> None:
    config = QWEN3_VL.config_from({})
    check_videos(hf.Qwen3VLVideoProcessor(cap_pixels_per_frame=capped), qwen3_video_pixels(config, capped=capped))


@pytest.mark.parametrize("capped", [False, True])
def test_sizes_of_clips_are_the_processors(capped: bool) -> None:
    rng = random.Random(11)
    for low, high in ((4096, 1 << 20), (4096, 25165824), (128 * 1024, 768 * 1024)):
        recipe = qwen3_video_pixels(QWEN3_VL.config_from({}), capped=capped)
        recipe = replace(recipe, min_pixels=low, max_video_pixels=high)
        size = {"shortest_edge": low, "longest_edge": high}
        processor = hf.Qwen3VLVideoProcessor(cap_pixels_per_frame=capped, size=size)
        for _ in range(1500):
            frames, height = rng.randint(2, 60), rng.randint(3, 900)
            width = rng.randint(max(1, height // 150), min(1500, height * 150))
            expected = processor.get_num_of_video_patches(frames, height, width)
            assert grid_of(height, width, frames, recipe).rows == expected, (frames, height, width)
