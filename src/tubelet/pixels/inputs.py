"""What a caller may have in hand: paths, bytes, file objects, Pillow pictures, arrays, tensors and clips."""

import os
from collections.abc import Iterable
from typing import Any

from PIL import Image

from tubelet.errors import InputError
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.memory import is_memory, memory_clip
from tubelet.reading.read import read


def is_one(images: Any) -> bool:
    """Whether `images` is one input by itself: a clip, picture, array, tensor, path, bytes or file object."""
    return is_memory(images) or is_source(images)


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
    """One input as a clip: upright, opaque RGB; what is in memory as `reading.memory` says.

    Raises InputError and its kinds.
    """
    if is_source(image):
        return read([image], fps=fps, num_frames=num_frames, limits=limits or Limits())[0]
    return memory_clip(image, limits or Limits())


def is_source(image: Any) -> bool:
    """Whether it is a path, bytes or a file object, which have to be opened and decoded."""
    if isinstance(image, Image.Image):
        return False
    return isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(image, "read")
