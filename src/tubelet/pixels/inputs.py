"""What a caller may have in hand: paths, bytes, file objects, Pillow pictures, arrays, tensors and clips."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tubelet.errors import InputError, LimitError, ShapeError
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.outline import Outline
from tubelet.reading.picture.opened import decode_opened, size_opened
from tubelet.reading.read import read


def is_one(images: Any) -> bool:
    """Whether `images` is one input by itself: a clip, picture, array, tensor, path, bytes or file object."""
    return isinstance(images, (Clip, Image.Image, np.ndarray, Tensor)) or is_source(images)


def listed(images: Any) -> list[Any]:
    """One input or any iterable of them as a list. Raises InputError for what is neither."""
    if is_one(images):
        return [images]
    if not isinstance(images, Iterable):
        raise InputError(f"a {type(images).__name__} is neither an image nor several", got=type(images).__name__)
    return list(images)


def clip_of(
    image: Any, *, fps: float | None = None, num_frames: int | None = None, limits: Limits | None = None
) -> Clip:
    """One input as a clip: upright, opaque RGB.

    Pillow pictures are turned, composited and refused as their files are (`reading.picture.opened`). Arrays are uint8
    with channels last, (H, W), (H, W, 3) or (F, H, W, 3); tensors are uint8 with channels first, (3, H, W) or
    (F, 3, H, W), or last. Frames of arrays and tensors are one second apart: they say nothing of time. All of them are
    under the same limits. Raises InputError and its kinds.
    """
    if isinstance(image, Clip):
        return image
    if is_source(image):
        return read([image], fps=fps, num_frames=num_frames, limits=limits or Limits())[0]
    if isinstance(image, Image.Image):
        return decode_opened(image, limits or Limits())
    if isinstance(image, (np.ndarray, Tensor)):
        return _from_array(image, limits or Limits())
    raise _unknown(image)


def is_source(image: Any) -> bool:
    """Whether it is a path, bytes or a file object, which have to be opened and decoded."""
    if isinstance(image, Image.Image):
        return False
    return isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(image, "read")


def memory_name(image: Any) -> str:
    """What an input in memory is called in messages and results."""
    if isinstance(image, Clip):
        return image.source
    if isinstance(image, (np.ndarray, Tensor)):
        return "<tensor>" if isinstance(image, Tensor) else "<array>"
    return "<picture>" if isinstance(image, Image.Image) else f"<{type(image).__name__}>"


def outline_of(image: Any, limits: Limits) -> Outline:
    """The size and the times of the clip that `clip_of` makes of an input in memory; no pixel is copied.

    Raises: as `clip_of`.
    """
    if isinstance(image, Clip):
        return Outline(image.width, image.height, image.times_s, moves=image.is_video)
    if isinstance(image, Image.Image):
        return Outline(*size_opened(image, limits), (0.0,))
    if not isinstance(image, (np.ndarray, Tensor)):
        raise _unknown(image)
    frames, height, width, _ = _sides(image, limits)
    return Outline(width, height, _seconds(frames), moves=image.ndim == 4)


def _unknown(image: Any) -> InputError:
    kind = type(image).__name__
    return InputError(f"a {kind} is not a path, bytes, file, Pillow picture, array, tensor or Clip", got=kind)


def _from_array(values: np.ndarray | Tensor, limits: Limits) -> Clip:
    frames, _, _, last = _sides(values, limits)
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    elif not last:
        array = np.moveaxis(array, -3, -1)
    whole = np.ascontiguousarray(array if array.ndim == 4 else array[None])
    return Clip(whole, _seconds(frames), source=memory_name(values), is_video=array.ndim == 4)


def _sides(values: np.ndarray | Tensor, limits: Limits) -> tuple[int, int, int, bool]:
    """(frames, height, width, whether the channels come last). Raises: ShapeError, LimitError."""
    shape, source = tuple(values.shape), memory_name(values)
    if values.dtype not in (torch.uint8, np.uint8):
        message = f"pixels in memory are uint8 (0 to 255), got {values.dtype} {shape}"
        raise ShapeError(message, source=source, expected="uint8", got=shape)
    first = len(shape) > 2 and shape[-3] == 3  # channels before height and width
    last = len(shape) > 2 and shape[-1] == 3
    if len(shape) not in (2, 3, 4) or (len(shape) > 2 and not (first or last)):
        raise ShapeError(
            f"expected an RGB picture or clip, got {shape}", source=source, expected="3 channels", got=shape
        )
    if first and isinstance(values, Tensor):  # where both would do, each library's own order
        last = False
    frames = shape[0] if len(shape) == 4 else 1
    height, width = shape[-3 if last else -2], shape[-2 if last else -1]
    try:
        limits.check_picture(width, height)
        limits.check_clip(frames, width, height)
    except LimitError as error:
        error.placed(source=source)
        raise
    return frames, height, width, last


def _seconds(frames: int) -> tuple[float, ...]:
    """Frames of arrays say nothing of time: one a second."""
    return tuple(float(i) for i in range(frames))
