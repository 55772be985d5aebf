"""A small folder in Spatial-MLLM's layout, as upstream's save_pretrained writes it."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.language.vlm.tiny_speakers import tokenizer, whole_model

from tubelet.geometry.branch import CONNECTOR, NETWORK
from tubelet.geometry.fuse import Connector, connector_tensors
from tubelet.geometry.vggt import VGGT, untrained_vggt, vggt_config
from tubelet.geometry.vggt_keys import to_theirs

NETWORK_CONFIG = vggt_config(layers=2, width=32, heads=2, patch_layers=1, table=4)


def network() -> VGGT:
    made = untrained_vggt(NETWORK_CONFIG, seed=3)
    with torch.no_grad():
        for i, weight in enumerate(made.parameters()):
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
            weight.copy_(1 + 0.1 * noise if weight.ndim == 1 else 0.2 * noise)
    return made


def write_spatial_folder(out: Path) -> Path:
    """As upstream's save_pretrained under transformers 4.51 writes it: flat, no "model." before the tower, and all of
    VGGT's heads in it, of which nothing is read."""
    whole_model("qwen2_5_vl").save_pretrained(out)
    tensors = {}
    for name, tensor in load_file(out / "model.safetensors").items():
        tensors[name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")] = tensor
    torch.manual_seed(0)
    tensors |= {NETWORK + name: x for name, x in to_theirs(network().state_dict(), NETWORK_CONFIG).items()}
    tensors |= {CONNECTOR + name: x for name, x in connector_tensors(Connector(64, 64)).items()}
    tensors[f"{NETWORK}track_head.corr_mlp.weight"] = torch.full((2, 2), float("nan"))
    tensors[f"{NETWORK}camera_head.token_norm.weight"] = torch.full((64,), float("nan"))
    save_file({name: x.contiguous() for name, x in tensors.items()}, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    said = config | config.pop("text_config") | {"model_type": "spatial-mllm"}
    said.pop("text_config", None)  # it was joined before it was taken out
    said |= {"spatial_config": {"embed_dim": 32, "img_size": 56, "patch_size": 14}, "tie_word_embeddings": False}
    said |= {"connector_config": {"connector_type": "mlp_add", "spatial_embeds_layer_idx": -1}}
    (out / "config.json").write_text(json.dumps(said))
    tokenizer().save_pretrained(out)
    return out
