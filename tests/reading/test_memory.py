"""Pixels in memory, read as files are: Pillow pictures, arrays, tensors and clips."""

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet import read
from tubelet.errors import InputError, LimitError, ShapeError
from tubelet.reading.limits import Limits

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("given", "frames"),
    [
        (PIXELS[0], PIXELS[:1]),
        (PIXELS, PIXELS),
        (PIXELS[0, :, :, 0], np.repeat(PIXELS[:1, :, :, :1], 3, -1)),
        (np.moveaxis(PIXELS, -1, 1), PIXELS),  # channels first, where only that fits
        (torch.from_numpy(PIXELS).permute(0, 3, 1, 2), PIXELS),
        (torch.from_numpy(PIXELS[0]).permute(2, 0, 1), PIXELS[:1]),
        (torch.from_numpy(PIXELS[0]), PIXELS[:1]),
        (Image.fromarray(PIXELS[0]), PIXELS[:1]),
    ],
)
def test_one_input_is_one_clip(given: object, frames: np.ndarray):
    [clip] = read(given)
    assert np.array_equal(clip.frames, frames)
    assert clip.times_s == tuple(float(i) for i in range(len(frames)))
    assert np.array_equal(read([given, clip])[0].frames, frames)
    assert read(clip)[0] is clip


def test_a_picture_is_turned_and_laid_on_the_background():
    seen = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    assert (read(seen, background=(1, 2, 3))[0].frames == (1, 2, 3)).all()
    seen.getexif()[0x0112] = 6
    assert read(seen)[0].frames.shape == (1, 4, 2, 3)


@pytest.mark.parametrize(
    "given", [PIXELS.astype(np.float32) / 255, torch.zeros(3, 4, 5), PIXELS[..., :2], PIXELS[0, 0, 0]]
)
def test_other_types_and_shapes_are_refused(given: object):
    with pytest.raises(ShapeError):
        read(given)


def test_limits_and_items_are_as_with_files():
    with pytest.raises(LimitError) as caught:
        read([PIXELS[0, :2, :2], PIXELS], limits=Limits(max_pixels=10))
    assert (caught.value.item, caught.value.limit) == (1, 10)
    left = read([PIXELS, torch.zeros(3)], on_error="skip")
    assert [type(one).__name__ for one in left] == ["Clip", "ShapeError"]
    with pytest.raises(InputError, match="not int"):
        read([7])
