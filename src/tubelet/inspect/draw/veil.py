"""What is left out of a choice, drawn so that it can be read: a light veil on pages, half the light on photographs."""

import numpy as np

from tubelet.inspect.draw.lettering import Colour
from tubelet.shapes import Float, UInt8

VEIL: Colour = (205, 211, 222)
VEIL_SHARE = 0.5  # of the veil on a light page
LIGHT = 0.48  # that is left of the light of a photograph
LIFT = 14.0  # grey levels that its darkest parts are lifted by
GREY = 0.75  # of the colours that is taken out
PAGE = 150.0  # a frame whose median is lighter is a page


def luminance(pixels: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    return pixels.astype(np.float64) @ (0.299, 0.587, 0.114)


def is_page(frame: UInt8[np.ndarray, "H W 3"]) -> bool:
    """Whether most of a frame is light: told by the whole frame, so that all its views are drawn alike."""
    height, width = frame.shape[:2]
    some = frame[:: max(1, height // 200), :: max(1, width // 200)]
    return float(np.median(luminance(some))) > PAGE


def veiled(pixels: UInt8[np.ndarray, "H W 3"], page: bool) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels of a page under a light veil, or of a photograph at half its light, both nearly without colour.

    >>> veiled(np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8), page=True)[0].tolist()
    [[230, 233, 238], [102, 106, 111]]
    """
    grey = luminance(pixels)[..., None]
    muted = grey * GREY + pixels * (1 - GREY)
    out = muted * (1 - VEIL_SHARE) + np.array(VEIL) * VEIL_SHARE if page else muted * LIGHT + LIFT
    return np.rint(out).astype(np.uint8)
