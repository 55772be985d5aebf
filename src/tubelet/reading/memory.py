"""Pictures and clips that are in memory already: Pillow pictures, arrays, tensors and clips.

    Pillow picture            turned, composited and refused as its file is
    array (H, W) (H, W, 3)    uint8, 0 to 255, sRGB, channels last; (F, H, W, 3) is a clip
    tensor (3, H, W)          the same, channels first; (F, 3, H, W) is a clip

Channels may be where the other library has them, where only that fits. Frames of arrays and tensors say nothing of
time: they are one second apart. torch is not imported for it.
"""

import sys
from typing import Any

import numpy as np
from PIL import Image

from tubelet.errors import InputError, LimitError, ShapeError
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.outline import Outline
from tubelet.reading.picture.colour import Colour
from tubelet.reading.picture.image import WHITE
from tubelet.reading.picture.opened import decode_opened, size_opened


def is_memory(image: Any) -> bool:
    """Whether it is pixels in memory: a clip, a Pillow picture, an array or a tensor."""
    return isinstance(image, (Clip, Image.Image, np.ndarray)) or is_tensor(image)


def is_tensor(image: Any) -> bool:
    """Whether it is torch's; there is none where torch was never imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def memory_clip(image: Any, limits: Limits, background: Colour = WHITE) -> Clip:
    """Pixels in memory as a clip: upright, opaque RGB. A clip is given back as it is.

    Cost: one copy of the pixels, none of a contiguous array. Raises ShapeError for other shapes and types than those
    above, LimitError, and InputError for what is none of these.

        >>> memory_clip(np.zeros((2, 30, 40, 3), np.uint8), Limits())
        Clip('<array>', 40x30, 2 frames, 0.00..1.00 s)
    """
    if isinstance(image, Clip):
        return image
    if isinstance(image, Image.Image):
        return decode_opened(image, limits, background)
    if not is_memory(image):
        raise unknown_input(image)
    frames, _, _, last = _sides(image, limits)
    array = image.detach().cpu().numpy() if is_tensor(image) else image
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    elif not last:
        array = np.moveaxis(array, -3, -1)
    whole = np.ascontiguousarray(array if array.ndim == 4 else array[None])
    return Clip(whole, _seconds(frames), source=memory_name(image), is_video=array.ndim == 4)


def memory_name(image: Any) -> str:
    """What an input in memory is called in messages and results."""
    if isinstance(image, Clip):
        return image.source
    if is_tensor(image):
        return "<tensor>"
    kinds = {np.ndarray: "<array>", Image.Image: "<picture>"}
    return next((name for kind, name in kinds.items() if isinstance(image, kind)), f"<{type(image).__name__}>")


def outline_of(image: Any, limits: Limits) -> Outline:
    """The size and the times of the clip that `memory_clip` makes of an input; no pixel is copied.

    Raises: as `memory_clip`.
    """
    if isinstance(image, Clip):
        return Outline(image.width, image.height, image.times_s, moves=image.is_video)
    if isinstance(image, Image.Image):
        return Outline(*size_opened(image, limits), (0.0,))
    if not is_memory(image):
        raise unknown_input(image)
    frames, height, width, _ = _sides(image, limits)
    return Outline(width, height, _seconds(frames), moves=image.ndim == 4)


def unknown_input(image: Any) -> InputError:
    """What is said of something that is no input at all."""
    kind = type(image).__name__
    return InputError(f"a {kind} is not a path, bytes, file, Pillow picture, array, tensor or Clip", got=kind)


def _sides(values: Any, limits: Limits) -> tuple[int, int, int, bool]:
    """(frames, height, width, whether the channels come last). Raises: ShapeError, LimitError."""
    shape, source = tuple(values.shape), memory_name(values)
    if str(values.dtype).removeprefix("torch.") != "uint8":
        message = f"pixels in memory are uint8 (0 to 255), got {values.dtype} {shape}"
        raise ShapeError(message, source=source, expected="uint8", got=shape)
    first = len(shape) > 2 and shape[-3] == 3  # channels before height and width
    last = len(shape) > 2 and shape[-1] == 3
    if len(shape) not in (2, 3, 4) or (len(shape) > 2 and not (first or last)):
        raise ShapeError(
            f"expected an RGB picture or clip, got {shape}", source=source, expected="3 channels", got=shape
        )
    if first and is_tensor(values):  # where both would do, each library's own order
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
