"""Memory that pictures are decoded into one after the other.

Page faults and copies of a fresh picture cost as much as decoding its JPEG data, at 12 megapixels. Pillow keeps RGB as
four bytes a pixel; here it decodes into four bytes a pixel of ours, which stay.
"""

import numpy as np
from PIL import Image, ImageFile

from tubelet.reading.picture.decode import pack_rgb


class Canvas:
    """Room for one picture at a time, grown to the largest so far. Not for two threads at once."""

    def __init__(self) -> None:
        self._room = np.empty(0, np.uint8)
        self._lent: object = None

    def lend(self, picture: ImageFile.ImageFile) -> None:
        """Let `picture`, opened as RGB and not loaded yet, decode into this memory. What was here before is lost."""
        width, height = picture.size
        pixels = self._take(height, width, 4)
        # The storage of an RGBX picture over foreign bytes: R, G, B and a filler, as an RGB picture has them too.
        self._lent = Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1).im
        picture.im = self._lent

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """The pixels of a loaded RGB picture, (H, W, 3), or (H, W, 4) with a filler where it was decoded right here.

        Valid until the next picture. Cost: one copy, or nothing for a picture this memory was lent to.
        """
        if self._lent is not None and picture.im is self._lent:
            return self._take(picture.height, picture.width, 4)
        pixels = self.room(picture.height, picture.width)
        pack_rgb(picture, pixels)
        return pixels

    def room(self, height: int, width: int) -> np.ndarray:
        """Room for RGB pixels, (H, W, 3), valid until the next picture. What was here before is lost."""
        return self._take(height, width, 3)

    def _take(self, height: int, width: int, channels: int) -> np.ndarray:
        need = height * width * channels
        if self._room.size < need:
            self._lent = None
            self._room = np.empty(need, np.uint8)
        return self._room[:need].reshape(height, width, channels)
