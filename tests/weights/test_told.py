"""What is said of weights that are somebody's, but not to be loaded as an encoder."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tubelet.errors import ConfigError, WeightsError
from tubelet.families.catalogue import foreign
from tubelet.weights.load import load_encoder


def test_a_folder_with_an_adapter_says_so_and_of_what(tmp_path: Path):
    save_file({"base_model.model.q.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="holds a LoRA adapter, not a model"):
        load_encoder(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}))
    with pytest.raises(
        WeightsError, match=r"holds a LoRA adapter of Qwen/Qwen2-VL-2B-Instruct, not a model.*load_lora"
    ):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_small_patch14_dinov2", "DINOv2 in timm's form, which is not read; facebook/dinov2-base"),
        ("vit_small_patch14_reg4_dinov2", "DINOv2 in timm's form.*facebook/dinov2-with-registers-base"),
        ("vit_base_patch16_siglip_224", "a vision transformer of timm"),
    ],
)
def test_timm_s_names_are_not_taken_for_qwen2_vl(name: str, said: str, tmp_path: Path):
    with torch.device("meta"):
        made = timm.create_model(name, pretrained=False, depth=2)
    tensors = {key: torch.zeros(2, 2) for key in made.state_dict()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 0}))  # as timm's hub has it
    with pytest.raises(ConfigError, match=said):
        load_encoder(tmp_path)


def test_metas_own_names_of_dinov2_and_dinov3():
    layer = [f"blocks.0.{name}" for name in ("attn.qkv.weight", "ls1.gamma", "norm1.weight")]
    chunked = [name.replace("blocks.0", "blocks.0.7") for name in layer]
    for names in (layer, chunked):
        assert "DINOv2 in Meta's own form" in str(foreign([*names, "cls_token", "pos_embed", "mask_token"]))
    assert "DINOv3 in Meta's own form" in str(foreign([*layer, "cls_token", "storage_tokens", "mask_token"]))
    qwen = ["visual.blocks.0.attn.qkv.weight", "visual.patch_embed.proj.weight", "visual.pos_embed.weight"]
    assert foreign(qwen) is None and foreign([name.removeprefix("visual.") for name in qwen]) is None


def test_a_name_of_a_network_is_told_from_weights():
    with pytest.raises(WeightsError, match=r"no such file or folder.*tubelet.untrained makes it with random ones"):
        load_encoder("siglip_base_patch16_224")
    with pytest.raises(WeightsError, match=r"did you mean siglip_base_patch16_224 or"):
        load_encoder("siglip_base_patch16_22")
