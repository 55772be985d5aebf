"""Qwen3-VL's tower against transformers: positions, deepstack, inside dense and sparse models, processors."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.families import parity
from tests.families.parity import Case, Pair
from tests.families.qwen import LARGER, MID, MIXED, TEXT, TINY, check_images, check_videos, check_whole
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.qwen_vl import FIELDS_3, QWEN3_VL, processor_to, qwen3_video_pixels
from tubelet.pixels.resize import grid_of

WIDTHS: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "out_hidden_size": 40}
CASES = {
    "tiny": (
        Qwen3VLVisionConfig(**TINY, **WIDTHS, num_position_embeddings=36, deepstack_visual_indexes=[0, 2]),
        [*MIXED, (1, 6, 6)],
    ),
    "no deepstack, merge 3": (
        Qwen3VLVisionConfig(
            **TINY,
            **WIDTHS,
            spatial_merge_size=3,
            temporal_patch_size=1,
            num_position_embeddings=25,
            deepstack_visual_indexes=[],
            rope_parameters={"rope_type": "axial", "rope_theta": 37.5},
        ),
        [(1, 3, 6), (3, 6, 3), (2, 9, 9)],
    ),
    "mid": (
        Qwen3VLVisionConfig(
            **MID,
            hidden_size=256,
            intermediate_size=688,
            out_hidden_size=192,
            num_position_embeddings=576,
            deepstack_visual_indexes=[1, 3, 4],
        ),
        LARGER,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config, grids = CASES[request.param]
    case = Case(request.param, Qwen3VLVisionModel, config, parity.run_grid_thw, grids, "blocks")
    return parity.written(case, QWEN3_VL, tmp_path_factory.mktemp("qwen3_vl"))


def test_outputs(pair: Pair) -> None:
    found = parity.check_outputs(pair)
    assert "merged" in found
    assert len([name for name in found if name.startswith("hidden")]) == pair.config.layers + 1
    assert len([name for name in found if name.startswith("deepstack")]) == len(pair.config.deepstack)


def test_packing(pair: Pair) -> None:
    parity.check_packing(pair)


def test_gradients(pair: Pair) -> None:
    parity.check_gradients(pair)


def test_bf16(pair: Pair) -> None:
    parity.check_bf16(pair)


def test_save_back(pair: Pair, tmp_path: Path) -> None:
    parity.check_save_back(pair, tmp_path / "out")
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.patch_size == pair.config.pixels.patch
    assert list(processor.image_mean) == list(pair.config.pixels.mean)


# ---- whole models


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("prefix", [None, "model.visual."])
def test_whole_models_give_their_tower(prefix: str | None, kind: str, shards: int, tmp_path: Path) -> None:
    vision = {**TINY, **WIDTHS, "out_hidden_size": TEXT["hidden_size"]}
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
