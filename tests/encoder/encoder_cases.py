"""Small encoders with every parameter random, and packs for them."""

from collections.abc import Callable

import pytest
import torch

from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.encoder.model import Encoder
from tubelet.packed import Item, Packed, pack
from tubelet.pixels.recipe import PixelRecipe

GRIDS = ((1, 5, 7), (3, 2, 4), (1, 1, 1), (1, 6, 2), (1, 1, 1), (4, 2, 2))


def make(seed: int = 0, **changes: object) -> Encoder:
    fields: dict = {
        "hidden": 64,
        "layers": 3,
        "heads": 2,
        "mlp": 96,
        "pixels": PixelRecipe(patch=4),
        **changes,
    }
    encoder = Encoder(EncoderConfig(**fields))
    g = torch.Generator().manual_seed(seed)
    for name, p in encoder.named_parameters():
        spread = 0.2 if p.ndim == 1 else 1.6 / p.shape[1] ** 0.5
        values = torch.randn(p.shape, generator=g) * spread
        p.data.copy_(values + 1 if "norm" in name and name.endswith("weight") else values)
    return encoder.eval()


def make_merging(merge: int = 2, **changes: object) -> Encoder:
    recipe = PixelRecipe(patch=4, merge=merge, order="block")
    return make(pixels=recipe, pool=False, merger=Merger(merge=merge, out=40), **changes)


def make_pack(
    grids: tuple[tuple[int, int, int], ...] = GRIDS, width: int = 48, seed: int = 1, merge: int = 1
) -> Packed:
    items = [Item.of(*g, picture=i) for i, g in enumerate(grids)]
    g = torch.Generator().manual_seed(seed)
    return pack([torch.randn(i.grid.rows, width, generator=g) for i in items], items, merge=merge)


@pytest.fixture
def encoder() -> Encoder:
    return make()


@pytest.fixture
def packed() -> Packed:
    return make_pack()


@pytest.fixture
def build() -> Callable[..., Encoder]:
    return make
