"""A tiny network in each format, with values unlike any initialisation."""

import torch
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.families import onevision as ov
from tubelet.weights.load import initial_state

TINY = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 2,
}


def tiny_config(fmt: ov.Format, **fields: object) -> EncoderConfig:
    return ov.config_from({**TINY, "image_size": 8, "use_head": True, **fields}, fmt)


def random_state(config: EncoderConfig, seed: int = 0) -> dict[str, Tensor]:
    """Values unlike any initialisation: every bias and norm is random too."""
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(t.shape, generator=generator) * 0.3 for k, t in initial_state(config).items()}


def random_encoder(config: EncoderConfig, seed: int = 0) -> Encoder:
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder.load_state_dict(random_state(config, seed), assign=True)
    return encoder.eval()
