"""Tiny encoders for the doors to other libraries, with every parameter random."""

import torch

from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.encoder.model import Encoder
from tubelet.pixels.recipe import PixelRecipe

PLAIN = EncoderConfig(64, 3, 2, 96, PixelRecipe(4, size=16))
CONFIGS = {
    "plain": PLAIN,
    "rms, other eps": EncoderConfig(64, 2, 2, 96, PixelRecipe(4), norm="rms", eps=1e-3, head_eps=1e-2, act="gelu_tanh"),
    "no head": EncoderConfig(64, 2, 2, 96, PixelRecipe(4), post_norm=False, pool=False, pre_norm=False),
    "merger in windows": EncoderConfig(
        64,
        2,
        2,
        96,
        PixelRecipe(4, merge=2, order="block", rule="smart", min_pixels=64, max_pixels=4096),
        pool=False,
        spans=("frame",),
        merger=Merger(2, 40, 1e-5),
    ),
    "rotation of tubelets": EncoderConfig(
        64, 2, 2, 96, PixelRecipe(4, temporal=2), rope=Rope("rotation", 500.0, (4, 6, 6)), patch_bias=True
    ),
}


def random_encoder(config: EncoderConfig = PLAIN, seed: int = 0) -> Encoder:
    encoder = Encoder(config)
    g = torch.Generator().manual_seed(seed)
    for name, p in encoder.named_parameters():
        values = torch.randn(p.shape, generator=g) * (0.2 if p.ndim == 1 else 1.2 / p.shape[1] ** 0.5)
        p.data.copy_(values + 1 if "norm" in name and name.endswith("weight") else values)
    return encoder.eval()
