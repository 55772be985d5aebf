"""Files that earlier versions wrote, word for word: each still means what it meant."""

import json
from dataclasses import replace

from tubelet.encoder.config import EncoderConfig
from tubelet.families.onevision import VARIANTS
from tubelet.families.qwen_vl import QWEN3_VL
from tubelet.integrations.transformers.config import TubeletConfig
from tubelet.integrations.transformers.model import TubeletImageProcessor
from tubelet.pixels.recipe import PixelRecipe

CONFIG = """{"deepstack_joined": true, "deepstack_layers": [5, 11, 17], "deepstack_norm_eps": 1e-06,
"deepstack_norm_type": "layer_norm", "deepstack_out_size": 2560, "head_bias": true, "head_norm_eps": null,
"head_norm_type": "rms_norm", "head_type": "probe", "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1024,
"image_mean": [0.5, 0.5, 0.5], "image_size": null, "image_std": [0.5, 0.5, 0.5], "initializer_range": 0.02,
"intermediate_size": 4096, "interpolation": "bicubic", "key_bias": true, "layer_norm_eps": 1e-06,
"layer_norm_type": "layer_norm", "layer_spans": ["frame"], "max_pixels": 16777216, "max_video_pixels": null,
"merge_size": 2, "merger_joined": false, "merger_norm_eps": 1e-06, "merger_norm_type": "layer_norm",
"min_pixels": 65536, "mlp_bias": true, "model_type": "tubelet", "num_attention_heads": 16, "num_channels": 3,
"num_hidden_layers": 24, "num_prefix_tokens": 0, "out_hidden_size": 2560, "patch_bias": true, "patch_order": "block",
"patch_size": 16, "post_norm_pooled": false, "prefix_angles": false, "prefix_first": false, "prefix_per": "item",
"proj_bias": true, "qk_norm_type": null, "qkv_bias": true, "resampler": "torch", "rope_layout": "halves",
"rope_mode": "rotation", "rope_origin": 0, "rope_places": "index", "rope_shift": [0.0, 0.0, 0.0],
"rope_split": [0, 1, 1], "rope_theta": 10000.0, "shortest_edge": null, "size_rule": "smart_compat", "span_frames": 1,
"span_side": null, "table_prefix": false, "table_resize": "corners", "table_size": [48, 48], "temporal_patch_size": 2,
"transformers_version": "5.24.0", "untrained": false, "use_embed_norm": false, "use_gated_mlp": false,
"use_head": false, "use_layer_scale": false, "use_post_norm": false, "use_pre_norm": false, "use_rope": true}"""
PROCESSOR = """{"do_normalize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
"image_processor_type": "TubeletImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711],
"interpolation": "bicubic", "max_pixels": 5000, "merge_size": 1, "patch_order": "raster", "patch_size": 14,
"resampler": "torch", "size_rule": "native_floor", "temporal_patch_size": 1}"""


def test_a_config_json():
    config = TubeletConfig.from_dict(json.loads(CONFIG))
    now = QWEN3_VL.variants["qwen3_vl_4b_vision"]
    assert config.encoder_config() == replace(now, pixels=replace(now.pixels, clips=None))  # clips as pictures then
    again = json.loads(TubeletConfig.of(config.encoder_config()).to_json_string())
    wanted = json.loads(CONFIG)
    for version in (again, wanted):  # of transformers
        version.pop("transformers_version")
    later = {"qk_norm_eps", "max_tokens", "max_clip_tokens", *(name for name in again if name.startswith("clip_"))}
    assert again == {**wanted, **dict.fromkeys(later)}
    assert TubeletConfig.of(now).encoder_config() == now


def test_budgets_and_clips_come_back():
    small = VARIANTS["llava_vit_packing_small"]
    assert TubeletConfig.of(small).encoder_config() == small
    processor = TubeletImageProcessor.of(QWEN3_VL.variants["qwen3_vl_4b_vision"].pixels.budgeted(77))
    assert TubeletImageProcessor.from_dict(processor.to_dict()).recipe == processor.recipe
    assert (processor.recipe.max_tokens, processor.recipe.of(clip=True).max_clip_tokens) == (77, 77)


def test_a_config_json_without_what_came_later():
    """Defaults are part of the format: a field that is not there means what it meant when it came."""
    config = TubeletConfig.from_dict({"model_type": "tubelet", "hidden_size": 64, "num_attention_heads": 2})
    assert config.encoder_config() == EncoderConfig(64, 12, 2, 3072, PixelRecipe(16))
    assert (config.hidden_act, config.head_norm_type, config.table_resize) == ("gelu", "rms_norm", "bicubic")


def test_a_preprocessor_config_json():
    processor = TubeletImageProcessor.from_dict(json.loads(PROCESSOR))
    assert processor.recipe == PixelRecipe(14, max_pixels=5000)
