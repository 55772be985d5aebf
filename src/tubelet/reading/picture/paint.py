"""A decoded picture into the frame it will be, a band of rows at a time: colours, alpha, and the turn upright.

Each step of `to_rgb` makes another picture of the size that it is given. Of bands of a few rows none of them is large,
so that a picture of any kind needs little more than what its decoder holds and the frame.

    stored rows    0..n   n..m          upright, turned by 6: a band of rows becomes a band of columns, from the right
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tubelet.reading.picture.colour import Colour, HdrCodes, sixteen_to_eight, to_rgb
from tubelet.reading.picture.decode import pack_rgb
from tubelet.reading.picture.exif import UPRIGHT

_BAND_PIXELS = 1 << 20


@dataclass
class Loaded:
    """The first frame of a file as its decoder gives it, and what has to be known to show it."""

    picture: Image.Image
    profile: bytes | None = None
    invert: bool = False  # 16-bit grey in which 0 is white
    codes: HdrCodes | None = None  # what is to be tone-mapped
    low: Image.Image | None = None  # the low bytes of samples of 16 bits, whose high bytes `picture` holds
    hidden: tuple[int, int, int] | None = None  # the colour of 16 bits that is transparent
    complete: bool = True  # False: the decoder filled in what the file lacks, and that is known

    @property
    def plain(self) -> bool:
        """Whether the pixels are what will be shown, but for a turn."""
        picture = self.picture
        if picture.mode != "RGB" or "transparency" in picture.info:
            return False
        return not (self.profile or self.codes is not None or self.low is not None)


def paint(loaded: Loaded, background: Colour, orientation: int, notes: list[str], frame: np.ndarray) -> None:
    """Writes a loaded picture, turned upright, into `frame` (H, W, 3), and appends to `notes` what was done to it."""
    picture = loaded.picture
    if loaded.plain and orientation == 1:
        pack_rgb(picture, frame)
        return
    rows = max(1, _BAND_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        shown = _shown(loaded, top, bottom, background, notes)
        if orientation != 1:
            shown = shown.transpose(Image.Transpose[UPRIGHT[orientation]])
        place = _place(frame, top, bottom, orientation)
        if place.flags.c_contiguous:
            pack_rgb(shown, place)
        else:
            place[...] = np.asarray(shown)


def _place(frame: np.ndarray, top: int, bottom: int, orientation: int) -> np.ndarray:
    """The part of an upright frame that the stored rows from `top` to `bottom` fill."""
    if orientation >= 5:
        width = frame.shape[1]
        return frame[:, width - bottom : width - top] if orientation in (6, 7) else frame[:, top:bottom]
    height = frame.shape[0]
    return frame[height - bottom : height - top] if orientation in (3, 4) else frame[top:bottom]


def _shown(loaded: Loaded, top: int, bottom: int, background: Colour, notes: list[str]) -> Image.Image:
    """Some rows of a loaded picture as opaque RGB, not turned."""
    picture, codes = _rows(loaded.picture, top, bottom), loaded.codes
    if loaded.low is not None:
        picture, values = _deep(np.asarray(picture), np.asarray(_rows(loaded.low, top, bottom)), loaded.hidden)
        codes = None if codes is None else codes._replace(deep=values)
    elif codes is not None and picture.mode.startswith("I;16"):
        codes = codes._replace(deep=np.asarray(picture))
    return to_rgb(picture, background, loaded.profile, notes=notes, invert=loaded.invert, codes=codes)


def _rows(picture: Image.Image, top: int, bottom: int) -> Image.Image:
    if (top, bottom) == (0, picture.height):
        return picture
    return picture.crop((0, top, picture.width, bottom))


def _deep(high: np.ndarray, low: np.ndarray, hidden: tuple[int, int, int] | None) -> tuple[Image.Image, np.ndarray]:
    """High and low bytes as a picture of 8 bits, rounded, and as colours of 16 bits."""
    values = high.astype(np.uint16) << 8 | low
    eight = sixteen_to_eight(values)
    if hidden is not None:
        shows = (values != np.array(hidden, np.uint16)).any(axis=-1, keepdims=True)
        eight = np.concatenate([eight, np.where(shows, 255, 0).astype(np.uint8)], axis=-1)
    colours = values[..., 0] if values.shape[-1] == 2 else values[..., :3]
    return Image.fromarray(eight), colours
