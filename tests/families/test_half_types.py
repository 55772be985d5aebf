"""Half types against float32: the tokens of every family's tower, with weights that have what trained ones have."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from tubelet.encoder.layers import Layer
from tubelet.encoder.model import Encoder
from tubelet.inspect.speed.towers import TOWERS, Shape, Tower, pair, rows_of

SHAPE = Shape(hidden=128, heads=2, mlp=512, layers=6, patch=16, image=112)
MIXED = [(1, 8, 8), (1, 8, 12), (1, 6, 10)]
COSINE = 0.9995
Say = Callable[[str, object], None]


def like_trained(encoder: Encoder) -> Encoder:
    """Three channels that grow much larger than all others, and norms whose factors differ."""
    generator = torch.Generator().manual_seed(5)
    for name, w in encoder.named_parameters():
        if "norm" in name and name.endswith("weight"):
            w.mul_(torch.exp(0.4 * torch.randn(w.shape, generator=generator)))
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        layer.fc2.weight[torch.tensor([5, 60, 111])] *= 12
    return encoder


@pytest.mark.parametrize("tower", [t for t in TOWERS if t.weights], ids=lambda t: t.family)
@torch.no_grad()
def test_tokens_of_half_types_are_those_of_float32(tower: Tower, record_property: Say) -> None:
    encoder = like_trained(pair(tower, SHAPE)[0])
    side = SHAPE.image // SHAPE.patch
    p = rows_of(encoder.config, [(1, side, side)] * 4 if tower.kind == "square" else MIXED, torch.float32, "cpu")
    assert encoder.hidden_states(p, only=[6])[0].x.abs().max() > 20  # as trained towers have
    want = encoder(p).x.flatten()
    found = {}
    for kind in (torch.bfloat16, torch.float16):
        half = deepcopy(encoder).to(kind)
        found[kind] = torch.cosine_similarity(half(p.to("cpu", kind)).x.float().flatten(), want, dim=0).item()
    half = encoder.to(torch.bfloat16)
    half.layers[0].register_forward_hook(lambda *_: None)  # what has a hook runs as plain modules
    plain = torch.cosine_similarity(half(p.to("cpu", half.dtype)).x.float().flatten(), want, dim=0).item()
    assert 1 - found[torch.bfloat16] <= 1.15 * (1 - plain), (found, plain)  # in place is as near
    told = ", ".join(f"{cosine:.6f} in {str(kind).removeprefix('torch.')}" for kind, cosine in found.items())
    record_property("say", f"{tower.family}: cosine {told}")
    assert min(found.values()) >= COSINE, found
