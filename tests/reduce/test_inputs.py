"""What methods read, made of an encoder; pictures made smaller within a budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.encoder.attention_scores import attention_scores
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, InputError, LimitError
from tubelet.families.siglip import SIGLIP
from tubelet.packed import Grid
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reduce.condense import fitting_grid
from tubelet.reduce.inputs import inputs_of, smaller_patches
from tubelet.reduce.methods import choose
from tubelet.reduce.relevance import in_joint_space
from tubelet.reduce.settings import Settings
from tubelet.weights.load import untrained


def clip(height: int, width: int, frames: int = 1, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3)).astype(np.uint8)
    return Clip(pixels, tuple(0.5 * i for i in range(frames)), is_video=frames > 1)


def tiny(pool: bool = True) -> Encoder:
    return untrained(EncoderConfig(64, 2, 2, 64, PixelRecipe(16), pool=pool)).eval()


def siglip() -> Encoder:
    config = SIGLIP.config_from(
        {
            "hidden_size": 64,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        }
    )
    return untrained(config).eval()


def test_one_run_gives_what_each_function_gives():
    encoder = tiny()
    patches = patchify([clip(64, 96), clip(48, 48, seed=1)], encoder.pixels)
    found = inputs_of(encoder, patches, ("attention", "keys"), layer=0)
    tokens, received, keys = attention_scores(encoder, patches, layer=0)
    assert found.tokens.equal(tokens)
    assert found.attention is not None
    assert found.keys is not None
    assert torch.equal(found.attention, received)
    assert torch.equal(found.keys, keys)
    plain = inputs_of(encoder, patches)
    torch.testing.assert_close(plain.tokens.x, tokens.x, rtol=1e-4, atol=1e-5)
    assert plain.attention is plain.keys is None
    assert not plain.tokens.x.requires_grad


def test_text_is_looked_for_where_it_was_trained():
    encoder = siglip()
    patches = patchify([clip(64, 64)], encoder.pixels)
    text = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    found = inputs_of(encoder, patches, text=text)
    assert found.features is not None
    with torch.no_grad():
        assert torch.equal(found.features.x, in_joint_space(encoder, found.tokens).x)
    assert inputs_of(encoder, patches).features is None
    assert inputs_of(encoder, patches, text=text, space="rows").features is None
    kept = choose("shirg", found, budget=5).kept
    assert kept.lengths == (5,)
    assert torch.equal(kept.x, found.tokens.x[kept.pos[:, 1].long() * 4 + kept.pos[:, 2].long()])
    headless = tiny(pool=False)
    rows = patchify([clip(64, 64)], headless.pixels)
    assert inputs_of(headless, rows, text=text).features is None
    with pytest.raises(ConfigError, match="pooling head"):
        inputs_of(headless, rows, text=text, space="head")


@pytest.mark.usefixtures("as_in_production")
def test_another_space_is_refused():
    encoder = tiny()
    with pytest.raises(InputError, match="auto, head or rows"):
        inputs_of(encoder, patchify([clip(32, 32)], encoder.pixels), space="pooled")  # pyright: ignore


def every_grid(grid: Grid, rows: int) -> float:
    """The most that any grid within the budget keeps: cells times likeness of shape."""
    wanted = grid.h / grid.w
    found = [
        h * w * min(h / w / wanted, wanted / (h / w))
        for h in range(1, grid.h + 1)
        for w in range(1, grid.w + 1)
        if h * w * grid.t <= rows
    ]
    return max(found)


@settings(deadline=None, max_examples=50)
@given(st.integers(16, 200), st.integers(16, 200), st.integers(1, 3), st.integers(1, 60), st.integers(1, 2))
def test_smaller_pictures_stay_within_the_budget(height: int, width: int, frames: int, budget: int, merge: int):
    recipe = PixelRecipe(16, merge=merge, order="block" if merge > 1 else "raster")
    whole = patchify([clip(height, width, frames)], recipe).items[0]
    if budget // merge**2 < frames:
        with pytest.raises(LimitError, match="frames"):
            smaller_patches([clip(height, width, frames)], recipe, budget=budget, per_unit=merge**2)
        return
    small = smaller_patches([clip(height, width, frames)], recipe, budget=budget, per_unit=merge**2).check()
    item = small.items[0]
    assert len(small.x) <= budget
    assert (item.box, item.times_s, item.grid.t) == (whole.box, whole.times_s, whole.grid.t)
    units = Grid(frames, whole.grid.h // merge, whole.grid.w // merge)
    got = Grid(frames, item.grid.h // merge, item.grid.w // merge)
    assert got == fitting_grid(units, budget // merge**2)
    ratio = got.h / got.w / (units.h / units.w)
    assert got.h * got.w * min(ratio, 1 / ratio) == pytest.approx(every_grid(units, budget // merge**2))


def test_a_budget_of_all_is_the_picture_itself():
    recipe = PixelRecipe(16)
    pictures = [clip(70, 100), clip(40, 33, frames=2, seed=1)]
    whole = patchify(pictures, recipe)
    assert smaller_patches(pictures, recipe, budget=1000).equal(whole)


def test_what_is_cropped_away_stays_away():
    recipe = PixelRecipe(16, "shortest_crop", size=64)
    wide = np.zeros((1, 64, 192, 3), np.uint8)
    wide[:, :, 64:128] = 200  # the middle third is what the crop keeps
    small = smaller_patches([Clip(wide, (0.0,))], recipe, budget=4)
    assert small.items[0].box == (64.0, 0.0, 128.0, 64.0)
    assert bool((small.x == 200).all())


def test_down_sampling_is_one_of_the_methods():
    encoder = tiny()
    pictures = [clip(96, 64)]

    def smaller(budget: int):
        with torch.no_grad():
            return encoder(smaller_patches(pictures, encoder.pixels, budget=budget))

    found = inputs_of(encoder, patchify(pictures, encoder.pixels), smaller=smaller)
    kept = choose("downsample", found, budget=7, settings=Settings()).kept
    assert kept.items[0].grid == (1, 3, 2)
    assert kept.x.shape == (6, 64)
