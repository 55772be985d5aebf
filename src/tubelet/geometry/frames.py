"""Frames sized as VGGT was trained on them: 518 pixels wide, or a square. Spatial-MLLM gives it Qwen's sizes instead.

    crop      width 518, height its multiple of 14; what is above 518 is cut off at top and bottom
    upright   crop, with a portrait lying on its side first (a quarter turn clockwise), as for choosing frames by space
    pad       the longer side 518, white around it to 518 x 518
    square    black around it to a square, then to `side` x `side`

Source: diankun-wu/Spatial-MLLM:src/qwenvl/external/vggt/utils/load_fn.py, src/sampling/sa_sampling.py@9fc4738.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image

from tubelet.errors import ConfigError, LimitError, ShapeError
from tubelet.packed import Item, Packed, pack
from tubelet.shapes import UInt8

How = Literal["crop", "upright", "pad", "square"]
SIDE, PATCH = 518, 14
MOST_RATIO = 37  # of height over width: more would be one patch wide


class SizedFrames(NamedTuple):
    """Frames of one size and where the picture lies in them."""

    frames: UInt8[np.ndarray, "F H W 3"]
    content: tuple[float, float, float, float]  # left, top, right, bottom of the picture in these pixels
    turned: bool  # whether they lie on their side

    def rows(self) -> Packed:
        """One item of these frames, as `VGGT` reads it: uint8 rows in raster order. Raises ShapeError where 14 divides
        no side."""
        f, height, width, _ = self.frames.shape
        if height % PATCH or width % PATCH:
            raise ShapeError(f"{width} x {height} pixels are no whole patches", expected=PATCH, got=(height, width))
        h, w = height // PATCH, width // PATCH
        cut = self.frames.reshape(f, h, PATCH, w, PATCH, 3).transpose(0, 1, 3, 5, 2, 4)
        return pack([torch.from_numpy(np.ascontiguousarray(cut).reshape(f * h * w, -1))], [Item.of(f, h, w)])


def size_frames(frames: UInt8[np.ndarray, "F H W 3"], how: How = "crop", *, side: int = SIDE) -> SizedFrames:
    """The frames as VGGT's own loader sizes them, by Pillow's bicubic filter. side: of "square" alone.

    Raises ShapeError without frames, LimitError for pictures more than 37 times as long as wide (or wide as long),
    whose shorter side would be no patch.

        >>> size_frames(np.zeros((2, 480, 640, 3), np.uint8)).frames.shape
        (2, 392, 518, 3)
    """
    if how not in get_args(How):
        raise ConfigError(f"frames are sized by {', '.join(get_args(How))}", expected=get_args(How), got=how)
    if frames.ndim != 4 or frames.shape[3] != 3 or min(frames.shape) < 1 or side < 1:
        raise ShapeError(f"frames are (F, H, W, 3), at least one, got {frames.shape}", limit=1, got=frames.shape)
    turned = how == "upright" and frames.shape[1] > frames.shape[2]
    if turned:
        frames = np.rot90(frames, -1, axes=(1, 2))
    height, width = frames.shape[1:3]
    if max(height, width) > MOST_RATIO * min(height, width):
        raise LimitError(f"{width} x {height} pixels are too long for VGGT", limit=MOST_RATIO, got=(height, width))
    if how == "square":
        return _squared(frames, side)
    if how == "pad" and height > width:
        size = SIDE, _patches(width * (SIDE / height))
    else:
        size = _patches(height * (SIDE / width)), SIDE
    out = _resized(frames, size)
    if how == "pad":
        top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        white = np.full((len(out), SIDE, SIDE, 3), 255, np.uint8)
        white[:, top : top + size[0], left : left + size[1]] = out
        return SizedFrames(white, (left, top, left + size[1], top + size[0]), turned)
    above = max(0, (size[0] - SIDE) // 2)
    return SizedFrames(out[:, above : above + SIDE], (0, -above, SIDE, size[0] - above), turned)


def _patches(length: float) -> int:
    return round(length / PATCH) * PATCH


def _squared(frames: np.ndarray, side: int) -> SizedFrames:
    height, width = frames.shape[1:3]
    longest = max(height, width)
    top, left = (longest - height) // 2, (longest - width) // 2
    black = np.zeros((len(frames), longest, longest, 3), np.uint8)
    black[:, top : top + height, left : left + width] = frames
    scale = side / longest
    content = (left * scale, top * scale, (left + width) * scale, (top + height) * scale)
    return SizedFrames(_resized(black, (side, side)), content, False)


def _resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.empty((len(frames), *size, 3), np.uint8)
    for into, frame in zip(out, frames, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        into[:] = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return out
