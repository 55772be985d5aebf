"""Sizes of VGGT's own loader, and rows that hold the pixels they show."""

import numpy as np
import pytest
import torch

from tubelet.errors import ConfigError, LimitError, ShapeError
from tubelet.geometry.frames import SizedFrames, size_frames
from tubelet.geometry.vggt import untrained_vggt, vggt_config
from tubelet.pixels.recipe import IMAGENET_MEAN, IMAGENET_STD


def noise(f: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (f, h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "how", "shape", "content"),
    [
        ((480, 640), "crop", (392, 518), (0, 0, 518, 392)),
        ((640, 480), "crop", (518, 518), (0, -84, 518, 602)),
        ((640, 480), "upright", (392, 518), (0, 0, 518, 392)),
        ((640, 480), "pad", (518, 518), (63, 0, 455, 518)),
        ((640, 480), "square", (518, 518), (64.75, 0, 453.25, 518)),
        ((1, 1), "crop", (518, 518), (0, 0, 518, 518)),
        ((1, 37), "crop", (14, 518), (0, 0, 518, 14)),
    ],
)
def test_sizes(size: tuple[int, int], how: str, shape: tuple[int, int], content: tuple[float, ...]):
    found = size_frames(noise(2, *size), how)  # pyright: ignore
    assert found.frames.shape == (2, *shape, 3)
    assert found.content == pytest.approx(content)
    assert found.turned == (how == "upright")
    assert found.rows().items[0].grid == (2, shape[0] // 14, shape[1] // 14)


def test_rows_hold_the_normalised_pixels():
    frames = noise(2, 28, 42)
    model = untrained_vggt(vggt_config(layers=1, width=32, heads=2, patch_layers=None))
    got = model.aggregator.patch(SizedFrames(frames, (0, 0, 42, 28), False).rows().x)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    x = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std
    kernel = model.aggregator.patch.weight.view(-1, 3, 14, 14)
    want = torch.nn.functional.conv2d(x, kernel, stride=14).flatten(2).mT.reshape(12, -1)
    assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.usefixtures("as_in_production")
def test_what_has_no_size_is_told():
    with pytest.raises(ConfigError):
        size_frames(noise(1, 4, 4), "stretch")  # pyright: ignore
    for bad in (noise(1, 4, 4)[:0], noise(1, 4, 4)[:, :0], noise(1, 4, 4)[..., :1]):
        with pytest.raises(ShapeError):
            size_frames(bad)
    with pytest.raises(LimitError):
        size_frames(noise(1, 1, 38))
    with pytest.raises(ShapeError):
        size_frames(noise(1, 4, 4), "square", side=30).rows()
