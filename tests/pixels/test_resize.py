"""Resampling: bit for bit torchvision's and Pillow's own, from any layout; and the crops and canvases around it."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet.errors import LimitError, ShapeError
from tubelet.pixels.fit import fit
from tubelet.pixels.load import load_patches
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import ResizeBuffers, pad_frames, resize_frames
from tubelet.pixels.sizes import Pad, anyres
from tubelet.pixels.stream import plan_inputs
from tubelet.pixels.views import Pyramid, view_items
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


SIZES = [
    ((480, 640), (476, 644)),
    ((75, 50), (28, 28)),
    ((37, 91), (140, 210)),
    ((300, 20), (28, 14)),
    ((5, 3), (14, 14)),
]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_torch_equals_torchvision(
    before: tuple[int, int], after: tuple[int, int], frames: int, interpolation: str
) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    pixels = noise(frames, *before, 3)
    kind = pytest.importorskip("torchvision.transforms").InterpolationMode(interpolation)
    expected = transforms.resize(
        pixels.permute(0, 3, 1, 2).contiguous(), list(after), interpolation=kind, antialias=True
    )
    got = resize_frames(pixels, Pad(*after, 0, 0, *after), interpolation=interpolation)
    assert torch.equal(got, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_memory_used_again_changes_nothing(interpolation: str) -> None:
    buffers = ResizeBuffers()
    for _ in range(2):
        for before, after in [*SIZES, ((60, 40), (60, 28)), ((40, 60), (28, 60)), ((28, 28), (28, 28))]:
            for channels in (3, 4):
                pixels, size = noise(2, *before, channels), Pad(*after, 0, 0, *after)
                fresh = resize_frames(pixels, size, interpolation=interpolation)
                assert torch.equal(resize_frames(pixels, size, interpolation=interpolation, buffers=buffers), fresh)
    first = resize_frames(noise(1, 90, 80, 3), Pad(28, 28, 0, 0, 28, 28), buffers=buffers)
    second = resize_frames(noise(1, 80, 90, 3), Pad(28, 28, 0, 0, 28, 28), buffers=buffers)
    assert first.data_ptr() == second.data_ptr()


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_pillow_equals_pillow(before: tuple[int, int], after: tuple[int, int], interpolation: str) -> None:
    pixels = noise(2, *before, 3)
    got = resize_frames(pixels, Pad(*after, 0, 0, *after), resampler="pillow", interpolation=interpolation)
    for frame, result in zip(pixels, got, strict=True):
        expected = Image.fromarray(frame.numpy()).resize(after[::-1], Image.Resampling[interpolation.upper()])
        assert np.array_equal(result.numpy(), np.asarray(expected))


def test_the_resamplers_agree_where_pictures_shrink() -> None:
    smooth = torch.arange(200)[:, None, None] // 2 + torch.arange(300)[None, :, None] // 3 + torch.arange(3) * 20
    pixels = smooth.clamp(0, 255).to(torch.uint8)[None]
    size = Pad(112, 140, 0, 0, 112, 140)
    torch_, pillow = resize_frames(pixels, size), resize_frames(pixels, size, resampler="pillow")
    assert (torch_.int() - pillow.int()).abs().max() <= 1


def test_four_bytes_a_pixel_and_odd_strides_give_the_same_three() -> None:
    pixels = noise(1, 90, 120, 4)
    size = Pad(56, 70, 0, 0, 56, 70)
    expected = resize_frames(pixels[..., :3].contiguous(), size)
    assert torch.equal(resize_frames(pixels, size)[..., :3], expected)
    turned = pixels[..., :3].permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    assert torch.equal(resize_frames(turned, size), expected)
    assert torch.equal(
        resize_frames(pixels, size, resampler="pillow"), resize_frames(pixels[..., :3], size, resampler="pillow")
    )


@pytest.mark.parametrize("resampler", ["torch", "pillow"])
def test_nothing_is_done_to_a_picture_of_the_right_size(resampler: str) -> None:
    pixels = noise(2, 28, 42, 3)
    got = resize_frames(pixels, fit(28, 42, PixelRecipe(patch=14)), resampler=resampler)
    assert torch.equal(got, pixels)


def test_a_crop_is_cut_out_of_the_resized_picture() -> None:
    pixels = noise(1, 50, 75, 3)
    size = fit(50, 75, PixelRecipe(patch=14, rule="shortest_crop", size=56))
    whole = resize_frames(pixels, Pad(56, 84, 0, 0, 56, 84))
    assert torch.equal(resize_frames(pixels, size), whole[:, :, 14:70])


def test_the_canvas_around_a_picture_is_black() -> None:
    pixels = noise(1, 50, 75, 3) // 2 + 64
    pad = anyres(50, 75, [(56, 112)])
    canvas = pad_frames(pixels, pad, resampler="pillow")
    assert canvas.shape == (1, 56, 112, 3)
    inside = canvas[:, pad.top : pad.top + pad.resize_h, pad.left : pad.left + pad.resize_w]
    assert torch.equal(inside, resize_frames(pixels, pad, resampler="pillow"))
    assert int(canvas.sum()) == int(inside.sum())


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(1, 4, 4, 2, dtype=torch.uint8), torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(1, 4, 4, 3)],
)
def test_other_shapes_and_types_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ShapeError):
        resize_frames(pixels, Pad(14, 14, 0, 0, 14, 14))


def test_an_unknown_resampler_or_filter_is_refused() -> None:
    with pytest.raises(ShapeError, match="torch or pillow"):
        resize_frames(noise(1, 4, 4, 3), Pad(14, 14, 0, 0, 14, 14), resampler="opencv")
    with pytest.raises(ShapeError, match="bicubic, bilinear, lanczos"):
        resize_frames(noise(1, 4, 4, 3), Pad(14, 14, 0, 0, 14, 14), interpolation="nearest")


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "square", "size": 10**9},
        {"rule": "shortest_crop", "size": 10**9},
        {"rule": "shortest_crop", "size": 28, "shortest": 10**9},
        {"rule": "smart", "min_pixels": 2**32},
        {"rule": "smart_compat", "min_pixels": 2**32, "max_pixels": 2**33},
    ],
)
def test_sizes_after_resizing_are_under_the_limits(options: dict[str, Any]):
    """Nothing is allocated: a plan says it, and loading, patchifying and sparse reading ask the same."""
    recipe = PixelRecipe(patch=14, **options)
    with pytest.raises(LimitError, match="after resizing"):
        fit(90, 60, recipe)
    [plan] = plan_inputs([Image.new("RGB", (60, 90))], recipe, on_error="skip")
    assert isinstance(plan.error, LimitError)
    with pytest.raises(LimitError, match="after resizing"):
        load_patches([Image.new("RGB", (60, 90))], recipe)
    with pytest.raises(LimitError, match="after resizing"):
        patchify([Clip(np.zeros((1, 90, 60, 3), np.uint8), (0.0,))], recipe)


def test_the_callers_limits_count_after_resizing_too():
    recipe = PixelRecipe(patch=14, rule="square", size=140)
    with pytest.raises(LimitError, match=r"after resizing.*max_pixels"):
        load_patches([Image.new("RGB", (60, 90))], recipe, limits=Limits(max_pixels=10_000))
    with pytest.raises(LimitError, match=r"after resizing.*max_clip_pixels"):
        fit(20, 20, recipe, 9, Limits(max_clip_pixels=100_000))
    assert load_patches([Image.new("RGB", (60, 90))], recipe, limits=Limits(max_pixels=140 * 140)).packed.lengths


def test_views_are_under_the_limits():
    with pytest.raises(LimitError, match="after resizing"):
        view_items(600, 900, (0.0,), 0, PixelRecipe(patch=14), Pyramid(((100_000, 100_000),)))
