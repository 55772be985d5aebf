"""Tiny towers that pool their first prefix token, written by transformers, and what they pool a picture to."""

from pathlib import Path

import transformers as hf
from tests.families.parity import randomise
from tests.families.widths import TINY
from torch import Tensor, no_grad, stack

from tubelet import Clip, patchify
from tubelet.pixels.patchify import normalise, unpatchify
from tubelet.pixels.recipe import PixelRecipe

_DEEP = {name: TINY[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
TOWERS: dict[str, tuple[type[hf.PreTrainedModel], hf.PreTrainedConfig]] = {
    "clip": (hf.CLIPVisionModel, hf.CLIPVisionConfig(**TINY, image_size=64, patch_size=16)),
    "mlcd": (hf.MLCDVisionModel, hf.MLCDVisionConfig(**{**TINY, "hidden_size": 64}, image_size=64, patch_size=16)),
    "dinov2": (hf.Dinov2Model, hf.Dinov2Config(**_DEEP, image_size=224)),
    "dinov2_with_registers": (hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**_DEEP, image_size=224)),
    "dinov3": (hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**TINY, image_size=64, num_register_tokens=4)),
}


def write_tower(name: str, folder: Path) -> hf.PreTrainedModel:
    """The tower with random weights, saved in `folder` as transformers does it."""
    kind, config = TOWERS[name]
    model = kind(config).eval()
    randomise(model)
    model.save_pretrained(folder)
    return model


@no_grad()
def pooled_by_peer(model: hf.PreTrainedModel, clip: Clip, recipe: PixelRecipe) -> Tensor:
    """(D,): the mean of what the peer pools each frame to, one frame in one call."""
    frames = unpatchify(normalise(patchify([clip], recipe), recipe), recipe)[0]
    return stack([model(pixel_values=f.permute(2, 0, 1)[None]).pooler_output[0] for f in frames]).mean(0)
