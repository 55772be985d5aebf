"""A Pillow picture that a caller has in hand: the Clip that its file gives, with the same limits and the same errors.

    opened, nothing decoded or changed yet   its file is read, as if it had been named
    loaded, made or changed in memory        its pixels, by the same rules for limits, colours, alpha and orientation

What Pillow drops while loading is gone in the second case: low bytes of 16-bit samples, HDR signalling, and whether
data were missing.
"""

from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.picture.colour import Colour, grey_again, tiff_sixteen_note
from tubelet.reading.picture.decode import DECODER_ERRORS, READERS, decoding, quiet, translating
from tubelet.reading.picture.exif import ORIENTATION, judged, orientation_of, upright_size
from tubelet.reading.picture.header import read_header
from tubelet.reading.picture.image import WHITE, decode_image
from tubelet.reading.picture.paint import Loaded, paint
from tubelet.reading.source import open_source

NAME = "<picture>"


def decode_opened(picture: Image.Image, limits: Limits, background: Colour = WHITE) -> Clip:
    """The frame that a Pillow picture shows, as a Clip: upright, sRGB-coded, opaque.

    Cost: as `decode_image`; of a picture that is loaded, one copy. One that was only opened is not loaded by this.
    Raises: as `decode_image`, also for a picture that was closed.
    """
    with translating(NAME, picture.format or "picture"):
        if _as_opened(picture):
            with open_source(cast(Any, picture).fp, limits, name=NAME) as src:
                with decoding(src):
                    header = read_header(src, limits)
                sizes = {(header.width, header.height), header.upright}  # Pillow gives that of a TIFF upright
                if picture.size in sizes and orientation_opened(picture)[0] == header.orientation:
                    return decode_image(src, limits, background)
        limits.check_picture(*picture.size)
        picture.load()
        orientation, note = orientation_opened(picture)
        notes = [note] if note is not None else []
        width, height = upright_size(picture.width, picture.height, orientation)
        frames = np.empty((1, height, width, 3), np.uint8)
        paint(_loaded(picture, limits, notes), background, orientation, notes, frames[0])
    return Clip(frames, (0.0,), source=NAME, notes=tuple(dict.fromkeys(notes)))


def size_opened(picture: Image.Image, limits: Limits) -> tuple[int, int]:
    """Upright (width, height) of what `decode_opened` gives, with nothing decoded. Raises: as `decode_opened`."""
    with translating(NAME, picture.format or "picture"):
        limits.check_picture(*picture.size)
        if getattr(picture, "tag_v2", None) is not None and _as_opened(picture):  # turned when it is loaded
            with open_source(cast(Any, picture).fp, limits, name=NAME) as src, decoding(src):
                return read_header(src, limits).upright
        width, height = picture.size
        return upright_size(width, height, orientation_opened(picture)[0])


def orientation_opened(picture: Image.Image) -> tuple[int, str | None]:
    """The orientation 1..8 that is still to be made upright, and a note; also one that was set or deleted in memory."""
    info = picture.info
    exif, xmp = info.get("exif"), info.get("XML:com.adobe.xmp") or info.get("xmp")
    xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    raw = info.get("Raw profile type exif") or info.get("Raw profile type APP1")
    blocks = (value if isinstance(value, bytes) else None for value in (exif, xmp))
    said = orientation_of(next(blocks), next(blocks), raw if isinstance(raw, (str, bytes)) else None)
    if isinstance(picture, PngImageFile) and "exif" not in info and _as_opened(picture):
        return said  # Pillow would decode it to look for a block behind the pixels, and close its file
    try:
        with quiet():
            value = picture.getexif().get(ORIENTATION)
    except DECODER_ERRORS:  # a block that Pillow cannot read: what we found in it counts
        return said
    if value is None:
        return orientation_of(None, xmp if isinstance(xmp, bytes) else None) if exif and said[1] is None else said
    if isinstance(value, bytes) and len(value) == 1:  # how Pillow gives one of type BYTE
        value = value[0]
    try:
        whole = int(value) if int(value) == value else 0
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return said
    return judged(whole)


def _as_opened(picture: Image.Image) -> bool:
    """Whether nothing of the picture has been decoded or moved on since it was opened from a file of ours."""
    if not isinstance(picture, tuple(cast(Any, READERS.values()))) or picture.format not in (*READERS, "MPO"):
        return False
    opened = cast(Any, picture)
    file = getattr(opened, "fp", None)
    if file is None or getattr(file, "closed", False) or opened.tell() != 0:
        return False
    return bool(opened.tile) or opened.format == "WEBP"


def _loaded(picture: Image.Image, limits: Limits, notes: list[str]) -> Loaded:
    profile = picture.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) else None
    limits.check("max_metadata_bytes", len(profile or b""), "colour profile of")
    note = tiff_sixteen_note(picture)
    notes.extend(() if note is None else (note,))
    invert = getattr(picture, "tag_v2", {}).get(262) == 0
    return Loaded(grey_again(picture, profile), profile, invert)
