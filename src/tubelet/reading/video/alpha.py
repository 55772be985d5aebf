"""Pictures of a clip that say where they are transparent, laid on a background as those of still pictures are.

stored     straight alpha, in the picture, its palette, or (VP8, VP9) a stream of its own beside it
shown      round((colour * alpha + background * (255 - alpha)) / 255), before anything is resized
"""

import av.video
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from tubelet.reading.picture.colour import Colour, flatten
from tubelet.reading.video.file import decoder_errors
from tubelet.shapes import UInt8


def alpha_of(
    frame: av.video.VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"] | None:
    """The alpha of a picture at `size` (width, height), as 8 bits; None where it has none or is opaque all over."""
    form = frame.format
    if not form.has_palette and not any(part.is_alpha for part in form.components):
        return None
    with decoder_errors("converted to RGBA"):
        plain = reformatter.reformat(frame, *size, format="rgba", threads=1)
        alpha = np.ascontiguousarray(plain.to_ndarray()[..., 3])
    return None if alpha.min() == 255 else alpha


def laid_on(
    rgb: UInt8[np.ndarray, "h w 3"], alpha: UInt8[np.ndarray, "h w"], background: Colour
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture over a flat background."""
    return np.asarray(flatten(Image.fromarray(np.ascontiguousarray(rgb)), Image.fromarray(alpha), background))


def opaque(frame: av.video.VideoFrame, reformatter: VideoReformatter, background: Colour) -> av.video.VideoFrame | None:
    """The picture laid on `background` as an RGB picture of its stored size; None where it is opaque as it is.

    The colours of opaque parts are those that converting without alpha gives, bit for bit.
    """
    alpha = alpha_of(frame, reformatter, (frame.width, frame.height))
    if alpha is None:
        return None
    with decoder_errors("converted to RGB"):
        rgb = reformatter.reformat(frame, frame.width, frame.height, format="rgb24", threads=1).to_ndarray()
        shown = av.video.VideoFrame.from_ndarray(laid_on(rgb, alpha, background), format="rgb24")
    shown.pts = frame.pts  # not `opaque`: PyAV forgets an object that two frames name when the first of them goes
    return shown
