"""Resampling to the size that `tubelet.pixels.fit` chose.

Antialiased, bicubic, bilinear or Lanczos, on uint8, bit-equal to torchvision's (resampler "torch") or to Pillow's
(resampler "pillow"); the two differ by a few grey levels where pictures grow.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tubelet.errors import RunError, ShapeError
from tubelet.pixels.fit import Fit
from tubelet.pixels.recipe import INTERPOLATIONS, RESAMPLERS
from tubelet.pixels.sizes import Pad

# torch's operators by filter; Lanczos since torch 2.12
UPSAMPLE = {name: f"_upsample_{name}2d_aa" for name in INTERPOLATIONS}


class ResizeBuffers:
    """Memory for what one thread resamples, used again for the next picture: fresh memory costs about a tenth more."""

    def __init__(self) -> None:
        self._bytes = {"between": np.empty(0, np.uint8), "after": np.empty(0, np.uint8)}

    def take(self, name: str, frames: int, height: int, width: int, channels: int) -> Tensor:
        """(F, H, W, C) uint8 in the part of that name, not cleared."""
        need = frames * height * width * channels
        if self._bytes[name].size < need:
            self._bytes[name] = np.empty(need, np.uint8)
        return torch.from_numpy(self._bytes[name][:need].reshape(frames, height, width, channels))


def resize_frames(
    frames: Tensor,
    size: Fit | Pad,
    *,
    resampler: str = "torch",
    interpolation: str = "bicubic",
    buffers: ResizeBuffers | None = None,
) -> Tensor:
    """(F, H, W, C) uint8 frames, resized and cropped as `size` says: (F, height, width, C) uint8, C = 3 or 4.

    A view of the resized frames where a crop is taken; the input itself where nothing has to change. "torch" runs on
    one thread, on channels-last bytes: with other strides torch takes a path five times as slow. "pillow" gives C = 3.
    buffers: where torch's result lies until they are used again; None gives memory of its own. Raises ShapeError,
    RunError for torch's Lanczos where torch is older than 2.12.
    """
    if frames.ndim != 4 or frames.shape[3] not in (3, 4) or frames.dtype != torch.uint8:
        raise ShapeError(f"frames must be (F, H, W, 3) uint8, got {frames.dtype} {tuple(frames.shape)}")
    if resampler not in RESAMPLERS:
        raise ShapeError("resampler is torch or pillow", expected=RESAMPLERS, got=resampler)
    if interpolation not in INTERPOLATIONS:
        raise ShapeError(
            f"interpolation is one of {', '.join(INTERPOLATIONS)}", expected=INTERPOLATIONS, got=interpolation
        )
    out = frames
    if tuple(frames.shape[1:3]) != (size.resize_h, size.resize_w):
        if resampler == "pillow":
            out = _by_pillow(frames, size.resize_h, size.resize_w, interpolation)
        else:
            out = _by_torch(frames, size.resize_h, size.resize_w, interpolation, buffers)
    if isinstance(size, Fit) and size.crop is not None:
        left, top, right, bottom = size.crop
        out = out[:, top:bottom, left:right]
    return out


def _by_torch(frames: Tensor, height: int, width: int, interpolation: str, buffers: ResizeBuffers | None) -> Tensor:
    # An F = 1 batch must keep channels-last strides: index a batch axis first and permute after, never the reverse.
    planes = frames.contiguous().permute(0, 3, 1, 2)
    aten = torch.ops.aten
    if not hasattr(aten, UPSAMPLE[interpolation]):
        raise RunError(f"torch {torch.__version__} has no {interpolation}; that of resampler 'pillow' is always there")
    if buffers is None:
        return F.interpolate(planes, size=(height, width), mode=interpolation, antialias=True).permute(0, 2, 3, 1)
    # The same two passes, rows first, as the one call makes; but what lies between them is memory used before.
    count, high, _, channels = frames.shape
    between = buffers.take("between", count, high, width, channels)
    after = buffers.take("after", count, height, width, channels)
    resample = getattr(aten, UPSAMPLE[interpolation]).out
    resample(planes, [high, width], False, None, None, out=between.permute(0, 3, 1, 2))
    resample(between.permute(0, 3, 1, 2), [height, width], False, None, None, out=after.permute(0, 3, 1, 2))
    return after


def _by_pillow(frames: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    kind = Image.Resampling[interpolation.upper()]
    resized = [np.asarray(Image.fromarray(f).resize((width, height), kind)) for f in frames[..., :3].numpy()]
    return torch.from_numpy(np.stack(resized))


def pad_frames(frames: Tensor, pad: Pad, *, resampler: str = "torch") -> Tensor:
    """(F, H, W, 3) uint8 frames, resized and laid in the middle of a black canvas as `pad` says. Raises ShapeError."""
    small = resize_frames(frames, pad, resampler=resampler)
    canvas = small.new_zeros(small.shape[0], pad.height, pad.width, small.shape[3])
    canvas[:, pad.top : pad.top + pad.resize_h, pad.left : pad.left + pad.resize_w] = small
    return canvas
