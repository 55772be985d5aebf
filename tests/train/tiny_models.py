"""Tiny models with random weights in folders, and data sets for them: what example configurations name.

python -m tests.train.tiny_models FOLDER        writes all of them, as docs/guides/training.md begins
"""

import json
import sys
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import save_file
from tests.language.vlm.tiny_speakers import TAG_TEMPLATE, randomised, tokenizer, whole_model
from tests.train.data_sets import lcs558k

from tubelet.language.project.projector import build_projector

SIDE = 56
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}


def write_siglip(folder: Path) -> Path:
    """A whole SigLIP, both towers with their heads, and a tokenizer of letters."""
    torch.manual_seed(0)
    vision = {**TOWER, "image_size": SIDE, "patch_size": 14}
    text = {**TOWER, "vocab_size": 160, "max_position_embeddings": 16, "projection_size": 32}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
    randomised(model, 1, 0.1)
    model.save_pretrained(folder)
    tokenizer(None).save_pretrained(folder)
    return folder


def write_language_model(folder: Path) -> Path:
    """A Llama of two layers alone, with a tokenizer whose template writes <image>."""
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 160}
    config = hf.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=3)
    randomised(hf.LlamaForCausalLM(config), 2, 0.1).save_pretrained(folder)
    tokenizer(TAG_TEMPLATE).save_pretrained(folder)
    return folder


def write_qwen(folder: Path) -> Path:
    """A whole Qwen2.5-VL with its tokenizer."""
    whole_model("qwen2_5_vl").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_lavida(folder: Path) -> Path:
    """A LaViDa's projector, newline, views and token embeddings; its tower is the SigLIP beside."""
    torch.manual_seed(3)
    projector = build_projector("mlp2x_gelu", 32, 24)
    state = {f"model.mm_projector.{name}": tensor for name, tensor in projector.state_dict().items()}
    state |= {"model.image_newline": torch.zeros(24), "model.transformer.wte.weight": torch.randn(160, 24)}
    said = {
        "model_type": "llava_llada",
        "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[2 * SIDE, 2 * SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "bilinear",
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    tokenizer(None).save_pretrained(folder)
    return folder


def write_all(folder: Path) -> None:
    """models/{siglip,llama,qwen,lavida} and data/blip_laion_cc_sbu_558k.json with its pictures."""
    models = folder / "models"
    write_siglip(models / "siglip")
    write_language_model(models / "llama")
    write_qwen(models / "qwen")
    write_lavida(models / "lavida")
    (folder / "data").mkdir(exist_ok=True)
    lcs558k(folder / "data", 24)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
