"""The door to Pillow: which reader a format gets, what it may raise, and how its pixels become an array.

Readers are called directly, never through Image.open: that would try others, read a JPEG's further pictures and warn
about sizes which `tubelet.reading.limits` has already judged.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from tubelet.reading.picture.exif import ORIENTATION
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
    """`translating` for what a file's decoder raises; what the caller's object raised comes before it."""
    with translating(src.name, src.format):
        try:
            yield
        finally:
            src.check_file()


@contextmanager
def translating(name: str, kind: str) -> Iterator[None]:
    """The one place where what a picture decoder raises becomes an error of ours. Foreign text stays in `__cause__`."""
    try:
        yield
    except TubeletError as error:
        error.placed(source=name)
        raise
    except MemoryError as error:
        raise LimitError("there is not enough memory to decode it", source=name) from error
    except DECODER_ERRORS as error:
        raise DecodeError(
            f"the {kind} data is damaged, cut short or of a kind that is not decoded ({type(error).__name__})",
            source=name,
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Drops Pillow's warnings of what it finds in EXIF, which change no pixel. Python's warning filters belong to the
    whole process, so that one at a time is in here."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_picture(file_format: Format, file: BinaryFile) -> ImageFile.ImageFile:
    """Pillow's reader of exactly this format, opened: header parsed, no pixel decoded.

    TIFF and AVIF readers parse EXIF while opening and warn about what they find in it; those two are opened quietly.
    """
    if file_format not in ("TIFF", "AVIF"):
        picture = READERS[file_format](cast(Any, file))
        if isinstance(picture, WebPImagePlugin.WebPImageFile) and picture.is_animated and picture.mode == "RGB":
            picture._mode = picture.rawmode = "RGBA"  # frames without alpha need not cover the canvas
        return picture
    with quiet():
        picture = READERS[file_format](cast(Any, file))
        if file_format == "TIFF":
            tags = picture.getexif()
            for group in (0x8769, 0x8825, 0xA005):  # EXIF, GPS, interoperability: read here, kept, not read again
                with suppress(KeyError):  # so Pillow before 13 says that EXIF names no interoperability
                    tags.get_ifd(group)
            # Its reader would turn the picture by some types of the tag and not by others; here it comes as stored.
            tags.pop(ORIENTATION, None)
            picture._size = cast(Any, picture)._tile_size
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
