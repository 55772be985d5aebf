"""Whatever a caller has in hand (paths, bytes, Pillow pictures, arrays, tensors, clips) as clips and as packed rows."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tubelet.errors import InputError, ShapeError, TubeletError
from tubelet.packed import Packed
from tubelet.pixels.load import load_patches
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.picture.colour import to_rgb
from tubelet.reading.read import read

WHITE = (255, 255, 255)


def is_one(images: Any) -> bool:
    """Whether `images` is one input by itself: a clip, picture, array, tensor, path, bytes or file object."""
    return isinstance(images, (Clip, Image.Image, np.ndarray, Tensor)) or _is_source(images)


def listed(images: Any) -> list[Any]:
    """One input or any iterable of them as a list. Raises InputError for what is neither."""
    if is_one(images):
        return [images]
    if not isinstance(images, Iterable):
        raise InputError(f"a {type(images).__name__} is neither an image nor several", got=type(images).__name__)
    return list(images)


def rows_of(
    images: Sequence[Any],
    recipe: PixelRecipe,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    limits: Limits | None = None,
) -> Packed:
    """uint8 rows of every input, one item each, `picture` its index.

    Files go straight into the rows, frame by frame; a mixture with pictures in memory is decoded first. A 4-D array or
    tensor is one clip. Raises what reading and `fit` raise, naming the item.
    """
    if all(_is_source(image) for image in images):
        return load_patches(list(images), recipe, fps=fps, num_frames=num_frames, limits=limits).packed
    clips: list[Clip] = []
    for i, image in enumerate(images):
        try:
            clips.append(clip_of(image, fps=fps, num_frames=num_frames, limits=limits))
        except TubeletError as e:
            raise e.placed(item=i) from e.__cause__
    return patchify(clips, recipe)


def clip_of(
    image: Any, *, fps: float | None = None, num_frames: int | None = None, limits: Limits | None = None
) -> Clip:
    """One input as a clip: upright, opaque RGB.

    Pillow pictures are turned and composited as files are. Arrays are uint8 with channels last, (H, W), (H, W, 3) or
    (F, H, W, 3); tensors are uint8 with channels first, (3, H, W) or (F, 3, H, W), or last. Frames of arrays and
    tensors are one second apart: they say nothing of time. Raises InputError and its kinds.
    """
    if isinstance(image, Clip):
        return image
    if _is_source(image):
        return read([image], fps=fps, num_frames=num_frames, limits=limits or Limits())[0]
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, (np.ndarray, Tensor)):
        return _from_array(image)
    raise InputError(
        f"a {type(image).__name__} is not a path, bytes, file, Pillow picture, array, tensor or Clip",
        got=type(image).__name__,
    )


def _is_source(image: Any) -> bool:
    if isinstance(image, Image.Image):
        return False
    return isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(image, "read")


def _from_pillow(picture: Image.Image) -> Clip:
    notes: list[str] = []
    profile = picture.info.get("icc_profile")
    turned = ImageOps.exif_transpose(picture)
    rgb = to_rgb(turned, WHITE, profile if isinstance(profile, bytes) else None, notes=notes)
    return Clip(np.array(rgb, dtype=np.uint8)[None], (0.0,), source="<picture>", notes=tuple(notes))


def _from_array(values: np.ndarray | Tensor) -> Clip:
    source = f"<{'tensor' if isinstance(values, Tensor) else 'array'}>"
    shape = tuple(values.shape)
    if values.dtype not in (torch.uint8, np.uint8):
        raise ShapeError(
            f"pixels in memory are uint8 (0 to 255), got {values.dtype} {shape}",
            source=source,
            expected="uint8",
            got=shape,
        )
    first = len(shape) > 2 and shape[-3] == 3  # channels before height and width
    last = len(shape) > 2 and shape[-1] == 3
    if isinstance(values, Tensor):
        last = last and not first
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    elif array.ndim not in (3, 4) or not (first or last):
        raise ShapeError(
            f"expected an RGB picture or clip, got {shape}", source=source, expected="3 channels", got=shape
        )
    elif not last:
        array = np.moveaxis(array, -3, -1)
    frames = np.ascontiguousarray(array if array.ndim == 4 else array[None])
    times = tuple(float(i) for i in range(len(frames)))
    return Clip(frames, times, source=source, is_video=array.ndim == 4)
