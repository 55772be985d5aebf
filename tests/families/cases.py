"""The towers every family is compared on: transformers' class with random weights, and the grids of a pack for it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import transformers as hf
from tests.families import parity, widths
from tests.families.parity import Case, Outputs, run_grid_thw, run_images, run_naflex
from tests.families.qwen import LARGER, MIXED, run_windows
from tests.families.qwen import MID as QWEN_MID
from tests.families.qwen import TINY as QWEN_TINY
from tests.families.widths import CLIPS, PICTURES, TINY
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionTransformer

from tubelet import Packed
from tubelet.encoder.config import EncoderConfig
from tubelet.families.aimv2 import AIMV2 as AIMV2_FAMILY
from tubelet.families.clip import CLIP as CLIP_FAMILY
from tubelet.families.dinov2 import DINOV2 as DINOV2_FAMILY
from tubelet.families.dinov2 import DINOV2_REGISTERS
from tubelet.families.dinov3 import DINOV3 as DINOV3_FAMILY
from tubelet.families.idefics3 import IDEFICS3 as IDEFICS3_FAMILY
from tubelet.families.internvl import INTERNVL as INTERNVL_FAMILY
from tubelet.families.mlcd import MLCD as MLCD_FAMILY
from tubelet.families.pixtral import PIXTRAL as PIXTRAL_FAMILY
from tubelet.families.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from tubelet.families.siglip import SIGLIP as SIGLIP_FAMILY
from tubelet.families.siglip2 import SIGLIP2
from tubelet.pixels.patchify import unpatchify

MID = {**widths.MID, "num_hidden_layers": 4}
WIDE = [(1, 16, 16), (1, 12, 20), (1, 31, 8)]
ANY_SIZE = partial(run_images, interpolate_pos_encoding=True)

# ---- towers of one size

SIGLIP = [
    Case(
        "siglip tiny",
        SIGLIP_FAMILY,
        hf.SiglipVisionModel,
        hf.SiglipVisionConfig(**TINY, image_size=72, patch_size=14, layer_norm_eps=1e-5),  # 72 is 5.14 patches
        ANY_SIZE,
        PICTURES,
        "encoder.layers",
    ),
    Case(
        "siglip mid without its head, clips",
        SIGLIP_FAMILY,
        hf.SiglipVisionModel,
        hf.SiglipVisionConfig(**widths.MID, image_size=64, patch_size=16, vision_use_head=False, hidden_act="gelu"),
        ANY_SIZE,
        CLIPS,
        "encoder.layers",
    ),
    Case(
        "siglip2 naflex tiny",
        SIGLIP2,
        hf.Siglip2VisionModel,
        hf.Siglip2VisionConfig(**TINY, num_patches=25, patch_size=14),
        run_naflex,
        PICTURES,
        "encoder.layers",
    ),
    Case(
        "siglip2 naflex mid",
        SIGLIP2,
        hf.Siglip2VisionModel,
        hf.Siglip2VisionConfig(**widths.MID, num_patches=256, patch_size=16),
        run_naflex,
        WIDE,
        "encoder.layers",
    ),
]


def _clip(name: str, config: Any, grids: Any) -> Case:
    return Case(f"clip {name}", CLIP_FAMILY, hf.CLIPVisionModel, config, ANY_SIZE, grids, "encoder.layers")


CLIP = [
    _clip("tiny", hf.CLIPVisionConfig(**TINY, image_size=75, patch_size=14), PICTURES),  # 75 is 5.36 patches
    _clip(
        "mid, clips",
        hf.CLIPVisionConfig(**widths.MID, image_size=64, patch_size=16, hidden_act="gelu", layer_norm_eps=1e-6),
        CLIPS,
    ),
]


def _mlcd(name: str, config: Any, grids: Any) -> Case:
    return Case(f"mlcd {name}", MLCD_FAMILY, hf.MLCDVisionModel, config, run_images, grids, "encoder.layers")


MLCD_TINY = {**TINY, "hidden_size": 64}  # heads of a multiple of 4
MLCD = [
    _mlcd("tiny", hf.MLCDVisionConfig(**MLCD_TINY, image_size=42, patch_size=14), PICTURES),
    _mlcd(
        "mid, clips",
        hf.MLCDVisionConfig(
            **widths.MID, image_size=64, patch_size=16, rope_parameters={"rope_type": "axial", "rope_theta": 500.0}
        ),
        [(1, 4, 4), (3, 2, 5), (1, 12, 17)],
    ),
]


def _aimv2(name: str, config: Any, grids: Any) -> Case:
    return Case(f"aimv2 {name}", AIMV2_FAMILY, hf.Aimv2VisionModel, config, run_images, grids, "encoder.layers")


_AIMV2_BIASED: dict[str, Any] = {"use_head": False, "qkv_bias": True, "mlp_bias": True, "patch_size": 16}
AIMV2 = [
    _aimv2("table", hf.Aimv2VisionConfig(**TINY, image_size=74), [(1, 5, 5)] * 3),  # 74 is 5.29 patches
    _aimv2("native", hf.Aimv2VisionConfig(**TINY, is_native=True, rms_norm_eps=1e-3), PICTURES),
    _aimv2("native clips, bias, no head", hf.Aimv2VisionConfig(**TINY, is_native=True, **_AIMV2_BIASED), CLIPS),
    _aimv2(
        "table with bias",
        hf.Aimv2VisionConfig(**TINY, image_size=56, qkv_bias=True, hidden_act="gelu"),
        [(1, 4, 4)] * 2,
    ),
    _aimv2("mid", hf.Aimv2VisionConfig(**MID, is_native=True), WIDE),
]

# ---- towers of any size

DINO_TINY = {name: value for name, value in TINY.items() if name != "intermediate_size"}
_DINO_MID = {name: value for name, value in MID.items() if name != "intermediate_size"}


def _dinov2(name: str, config: Any, grids: Any) -> Case:
    family, model = (DINOV2_FAMILY, hf.Dinov2Model)
    if isinstance(config, hf.Dinov2WithRegistersConfig):
        family, model = DINOV2_REGISTERS, hf.Dinov2WithRegistersModel
    return Case(f"dinov2 {name}", family, model, config, run_images, grids, "encoder.layer")


_PLAIN, _REGISTERS = hf.Dinov2Config, hf.Dinov2WithRegistersConfig
DINOV2 = [
    _dinov2("tiny", _PLAIN(**DINO_TINY, image_size=74, mlp_ratio=3), PICTURES),  # 74 is 5.29 patches
    _dinov2(
        "gated clips, no bias",
        _PLAIN(**DINO_TINY, image_size=56, use_swiglu_ffn=True, qkv_bias=False, layer_norm_eps=1e-5),
        CLIPS,
    ),
    _dinov2("gated mid", _PLAIN(**_DINO_MID, image_size=518, use_swiglu_ffn=True), WIDE),
    _dinov2("registers tiny", _REGISTERS(**DINO_TINY, image_size=80, num_register_tokens=3), PICTURES),
    _dinov2(
        "no registers, clips",
        _REGISTERS(**DINO_TINY, image_size=64, num_register_tokens=0, hidden_act="quick_gelu"),
        CLIPS,
    ),
    _dinov2("registers, gated mid", _REGISTERS(**_DINO_MID, image_size=256, use_swiglu_ffn=True), WIDE[:2]),
]


def _dinov3(name: str, grids: Any, **said: Any) -> Case:
    config = hf.DINOv3ViTConfig(**said)
    return Case(f"dinov3 {name}", DINOV3_FAMILY, hf.DINOv3ViTModel, config, run_images, grids, "model.layer")


_GATED: dict[str, Any] = {"use_gated_mlp": True, "hidden_act": "silu"}
_UNBIASED: dict[str, Any] = {"query_bias": False, "value_bias": False, "proj_bias": False, "mlp_bias": False}
DINOV3 = [
    _dinov3("tiny", PICTURES, **TINY, num_register_tokens=4),
    _dinov3("clips, no registers, biased keys", CLIPS, **TINY, patch_size=14, key_bias=True, **_GATED),
    _dinov3("no bias, another theta", PICTURES, **TINY, num_register_tokens=1, rope_theta=37.5, **_UNBIASED),
    _dinov3("mid", WIDE, **MID, num_register_tokens=4, **_GATED),
]


def run_packed(model: hf.PreTrainedModel, p: Packed, config: EncoderConfig, layers: str) -> Outputs:
    """Pixtral: all pictures in one call, padded to one size as its processor does; the class packs them itself."""
    frames = [frame.permute(2, 0, 1) for clip in unpatchify(p, config.pixels) for frame in clip]
    sizes = torch.tensor([frame.shape[1:] for frame in frames])
    height, width = sizes.amax(dim=0).tolist()
    padded = torch.stack(
        [torch.nn.functional.pad(f, (0, width - f.shape[2], 0, height - f.shape[1]), value=7.0) for f in frames]
    )
    with parity.layer_states(model, layers) as states:
        out = model(pixel_values=padded.to(model.dtype), image_sizes=sizes)
    return Outputs(out.last_hidden_state[0], hidden=tuple(s[0] for s in states))


def _pixtral(name: str, config: Any, run: parity.Run, grids: Any) -> Case:
    return Case(f"pixtral {name}", PIXTRAL_FAMILY, hf.PixtralVisionModel, config, run, grids, "transformer.layers")


OTHER_THETA = {"rope_type": "axial", "rope_theta": 37.5}
PIXTRAL = [
    _pixtral("tiny", hf.PixtralVisionConfig(**TINY, patch_size=14, image_size=140), run_images, PICTURES),
    _pixtral("clips", hf.PixtralVisionConfig(**TINY, hidden_act="silu"), run_images, [(1, 4, 4), (3, 2, 5)]),
    _pixtral(
        "packed, another theta", hf.PixtralVisionConfig(**TINY, rope_parameters=OTHER_THETA), run_packed, PICTURES
    ),
    _pixtral("mid", hf.PixtralVisionConfig(**MID, hidden_act="silu"), run_packed, WIDE),
]

# ---- packed towers with a merger

QWEN2_WIDTHS: dict[str, Any] = {"embed_dim": 48, "hidden_size": 40, "mlp_ratio": 2}
QWEN_WIDTHS: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "out_hidden_size": 40}
_THREE: dict[str, Any] = {"spatial_merge_size": 3, "temporal_patch_size": 1, "rope_parameters": OTHER_THETA}
_THREES = [(1, 3, 6), (3, 6, 3), (2, 9, 9)]
_RAGGED = [(1, 2, 4), (3, 4, 4), (1, 6, 10), (2, 2, 2), (1, 10, 6)]  # windows of 4 x 4 whole and cut


def _qwen2(name: str, grids: Any, **said: Any) -> Case:
    model = Qwen2VisionTransformerPretrainedModel
    return Case(f"qwen2 {name}", QWEN2_VL, model, Qwen2VLVisionConfig(**said), run_grid_thw, grids, "blocks")


def _qwen2_5(name: str, grids: Any, **said: Any) -> Case:
    model = Qwen2_5_VisionTransformerPretrainedModel
    return Case(f"qwen2.5 {name}", QWEN2_5_VL, model, Qwen2_5_VLVisionConfig(**said), run_windows, grids, "blocks")


def _qwen3(name: str, grids: Any, places: int, deepstack: Sequence[int], **said: Any) -> Case:
    said |= {"num_position_embeddings": places, "deepstack_visual_indexes": list(deepstack)}
    return Case(
        f"qwen3 {name}", QWEN3_VL, Qwen3VLVisionModel, Qwen3VLVisionConfig(**said), run_grid_thw, grids, "blocks"
    )


_MID_WIDTHS: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "out_hidden_size": 192}
QWEN = [
    _qwen2("tiny", MIXED, **QWEN_TINY, **QWEN2_WIDTHS),
    _qwen2("merge 3, one frame a row", _THREES, **QWEN_TINY, **QWEN2_WIDTHS, **_THREE, hidden_act="silu"),
    _qwen2("mid", LARGER, **QWEN_MID, embed_dim=256, hidden_size=192),
    _qwen2_5("tiny", _RAGGED, **QWEN_TINY, **QWEN_WIDTHS, window_size=16, fullatt_block_indexes=[1]),
    _qwen2_5("every layer in windows", _RAGGED, **QWEN_TINY, **QWEN_WIDTHS, window_size=16, fullatt_block_indexes=[7]),
    _qwen2_5(
        "windows of 3 blocks of 3",
        [(1, 3, 6), (3, 12, 3), (2, 9, 9), (1, 12, 21)],
        **{**QWEN_TINY, **QWEN_WIDTHS, **_THREE, "window_size": 40, "fullatt_block_indexes": [0, 2]},
    ),
    _qwen2_5("mid", LARGER, **{**QWEN_MID, **_MID_WIDTHS, "intermediate_size": 684, "fullatt_block_indexes": [2, 5]}),
    _qwen3("tiny", [*MIXED, (1, 6, 6)], 36, [0, 2], **QWEN_TINY, **QWEN_WIDTHS),
    _qwen3("no deepstack, merge 3", _THREES, 25, [], **QWEN_TINY, **QWEN_WIDTHS, **_THREE),
    _qwen3("mid", LARGER, 576, [1, 3, 4], **QWEN_MID, **_MID_WIDTHS),
]


def _internvl(name: str, grids: Any, size: int, **said: Any) -> Case:
    config = hf.InternVLVisionConfig(**TINY, image_size=[size, size], patch_size=[14, 14], **said)
    return Case(f"internvl {name}", INTERNVL_FAMILY, hf.InternVLVisionModel, config, run_images, grids, "encoder.layer")


INTERNVL = [
    _internvl("tiny", PICTURES, 74, attention_bias=True),  # 74 is 5.29 patches
    _internvl("clips, no bias, rms", CLIPS, 56, norm_type="rms_norm", layer_norm_eps=1e-5),
]


def _idefics3(name: str, kind: Any, config: Any, grids: Any) -> Case:
    return Case(f"idefics3 {name}", IDEFICS3_FAMILY, kind, config, run_images, grids, "encoder.layers")


IDEFICS3 = [
    _idefics3(
        "tiny",
        Idefics3VisionTransformer,
        Idefics3VisionConfig(**TINY, image_size=74, patch_size=14),  # 74 is 5.29 patches
        PICTURES,
    ),
    # 25 patches on 25 places are not the places in turn
    _idefics3(
        "smolvlm, clips",
        SmolVLMVisionTransformer,
        SmolVLMVisionConfig(**TINY, image_size=100, patch_size=4, hidden_act="gelu", layer_norm_eps=1e-5),
        [(1, 25, 25), (3, 2, 5), (1, 31, 8)],
    ),
]
CASES = [*SIGLIP, *CLIP, *MLCD, *AIMV2, *DINOV2, *DINOV3, *PIXTRAL, *INTERNVL, *IDEFICS3, *QWEN]
