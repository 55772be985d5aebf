"""Qwen2.5-VL's tower against transformers: its windows, alone, inside the whole model, and its processors."""

from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tests.families import parity
from tests.families.parity import Case, Pair
from tests.families.qwen import LARGER, MID, TEXT, TINY, check_images, check_videos, check_whole, run_windows
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.qwen_vl import FIELDS_2_5, QWEN2_5_VL, processor_to, video_pixels

WIDTHS: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "out_hidden_size": 40}
RAGGED = [(1, 2, 4), (3, 4, 4), (1, 6, 10), (2, 2, 2), (1, 10, 6)]  # windows of 4 x 4 whole and cut
CASES = {
    "tiny": (Qwen2_5_VLVisionConfig(**TINY, **WIDTHS, window_size=16, fullatt_block_indexes=[1]), RAGGED),
    "every layer in windows": (
        Qwen2_5_VLVisionConfig(**TINY, **WIDTHS, window_size=16, fullatt_block_indexes=[7]),
        RAGGED,
    ),
    "windows of 3 blocks of 3": (
        Qwen2_5_VLVisionConfig(
            **TINY,
            **WIDTHS,
            spatial_merge_size=3,
            temporal_patch_size=1,
            window_size=40,
            fullatt_block_indexes=[0, 2],
            rope_parameters={"rope_type": "axial", "rope_theta": 37.5},
        ),
        [(1, 3, 6), (3, 12, 3), (2, 9, 9), (1, 12, 21)],
    ),
    "mid": (
        Qwen2_5_VLVisionConfig(
            **MID, hidden_size=256, intermediate_size=684, out_hidden_size=192, fullatt_block_indexes=[2, 5]
        ),
        LARGER,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config, grids = CASES[request.param]
    case = Case(request.param, Qwen2_5_VisionTransformerPretrainedModel, config, run_windows, grids, "blocks")
    return parity.written(case, QWEN2_5_VL, tmp_path_factory.mktemp("qwen2_5_vl"))


def test_outputs(pair: Pair) -> None:
    found = parity.check_outputs(pair)
    assert "merged" in found
    assert len([name for name in found if name.startswith("hidden")]) == pair.config.layers + 1


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
@pytest.mark.parametrize("prefix", [None, "visual."])
def test_whole_models_give_their_tower(prefix: str | None, shards: int, tmp_path: Path) -> None:
    vision = {**TINY, **WIDTHS, "out_hidden_size": TEXT["hidden_size"], "window_size": 16, "fullatt_block_indexes": [1]}
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
