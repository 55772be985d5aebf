"""The door to Pillow: which reader a format gets, what it may raise, and how its pixels become an array.

Readers are called directly, never through Image.open: that would try others, read a JPEG's further pictures and warn
about sizes which `tubelet.reading.limits` has already judged.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from tubelet.errors import DecodeError, LimitError, TubeletError
from tubelet.reading.source import BinaryFile, Format, Source

READERS: dict[Format, Callable[[Any], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

# Everything that Pillow's readers and codecs were seen to raise on damaged input, and the families they belong to.
DECODER_ERRORS = (
    OSError,  # truncated, unidentified, codec errors
    SyntaxError,  # how Pillow's readers say "not mine"
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    EOFError,
    BufferError,
    Warning,  # where the program turns warnings into errors
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
)

_PACK_BYTES = 1 << 16  # what Pillow packs at a time: stays in the second-level cache until it is copied out
_quiet = threading.Lock()


@contextmanager
def decoding(src: Source) -> Iterator[None]:
    """The one place where what a picture decoder raises becomes an error of ours. Foreign text stays in `__cause__`."""
    try:
        yield
    except TubeletError as error:
        error.placed(source=src.name)
        raise
    except MemoryError as error:
        raise LimitError("there is not enough memory to decode it", source=src.name) from error
    except DECODER_ERRORS as error:
        raise DecodeError(
            f"the {src.format} data is damaged, cut short or of a kind that is not decoded ({type(error).__name__})",
            source=src.name,
        ) from error


def open_picture(file_format: Format, file: BinaryFile) -> ImageFile.ImageFile:
    """Pillow's reader of exactly this format, opened: header parsed, no pixel decoded.

    TIFF and AVIF readers parse EXIF while opening and warn about what they find in it. Python's warning filters belong
    to the whole process, so these two are opened one at a time; the warnings change no pixel and are dropped.
    """
    if file_format not in ("TIFF", "AVIF"):
        picture = READERS[file_format](cast(Any, file))
        if isinstance(picture, WebPImagePlugin.WebPImageFile) and picture.is_animated and picture.mode == "RGB":
            picture._mode = picture.rawmode = "RGBA"  # frames without alpha need not cover the canvas
        return picture
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = READERS[file_format](cast(Any, file))
        if file_format == "TIFF":
            picture.info.pop("xmp", None)  # the orientation that counts is the tag's, as for every other format
            tags = picture.getexif()
            for group in (0x8769, 0x8825, 0xA005):  # EXIF, GPS, interoperability: read here, kept, not read again
                tags.get_ifd(group)
        return picture


def pack_rgb(picture: Image.Image, out: np.ndarray) -> None:
    """Writes the pixels of a loaded RGB picture into `out` (H, W, 3): one copy, without a second buffer of that size.

    `np.asarray(picture)` would make two: Pillow packs its four bytes a pixel into pieces, joins them, and numpy copies.
    """
    if picture.mode != "RGB" or out.shape != (picture.height, picture.width, 3) or not out.flags.c_contiguous:
        raise DecodeError(f"a {picture.mode} picture of {picture.size} does not fit into {out.shape}")
    picture.load()
    target = memoryview(out.data).cast("B")
    encoder = Image._getencoder("RGB", "raw", ("RGB",))
    try:
        encoder.setimage(picture.im, (0, 0, *picture.size))
        place, status = 0, 0
        while not status:
            _, status, piece = encoder.encode(max(_PACK_BYTES, picture.width * 4))
            target[place : place + len(piece)] = piece
            place += len(piece)
    finally:
        encoder.cleanup()
    if status < 0 or place != target.nbytes:
        raise DecodeError("the decoded pixels could not be copied out", expected=target.nbytes, got=place)
