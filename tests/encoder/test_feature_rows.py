"""An encoder whose rows are another's features: the same layers, without a patch embedding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tubelet
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Item, pack
from tubelet.pixels.recipe import PixelRecipe

CONFIG = EncoderConfig(64, 2, 2, 96, PixelRecipe(4), patch_bias=True, prefix=2, spans=("frame", "item"))
GRIDS = ((2, 3, 4), (1, 2, 2))


def without_patches(encoder: Encoder) -> Encoder:
    out = Encoder(replace(encoder.config, embed=False, patch_bias=False))
    out.load_state_dict({k: x for k, x in encoder.state_dict().items() if not k.startswith("patch.")}, strict=True)
    return out.eval()


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("gradients", [True, False])
def test_features_go_where_embedded_pixels_go(prefix: int, gradients: bool):
    whole = tubelet.untrained(replace(CONFIG, prefix=prefix))
    rest = without_patches(whole)
    p = pack([torch.randn(t * h * w, 48) for t, h, w in GRIDS], [Item.of(*g) for g in GRIDS])
    with torch.set_grad_enabled(gradients):
        features = p.with_x(whole.patch(p.x))
        before = features.x.detach().clone()
        assert torch.allclose(rest(features).x, whole(p).x, atol=1e-5)
    assert torch.equal(features.x, before)  # in place means in a copy
    assert rest.dtype == torch.float32
    assert rest.to(torch.bfloat16)(features).dtype == torch.bfloat16


def test_what_it_cannot_read_or_be_is_told(tmp_path: Path):
    rest = without_patches(tubelet.untrained(CONFIG))
    pixels = pack([torch.randn(4, 48)], [Item.of(1, 2, 2)])
    with pytest.raises(ShapeError, match="reads 64"):
        rest(pixels)
    with pytest.raises(ConfigError):
        replace(CONFIG, embed=False)
    with pytest.raises(ConfigError):
        tubelet.save_encoder(rest, tmp_path / "out")
