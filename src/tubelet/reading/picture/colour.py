"""Every pixel mode a picture can have -> 8-bit sRGB-coded RGB, and what was done to get there, in words.

16 bit -> 8 bit    round(v / 257), never clipped
profile -> sRGB    LittleCMS, when the file carries a profile that is not sRGB already
alpha -> opaque    round((colour * alpha + background * (255 - alpha)) / 255), the same for every way to store alpha
"""

import io
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from tubelet.errors import DecodeError, UnsupportedFormat
from tubelet.reading.hdr import Hdr, full_span, to_sdr
from tubelet.reading.picture.decode import DECODER_ERRORS

Colour = tuple[int, int, int]
_SIXTEEN = frozenset(("I;16", "I;16B", "I;16L", "I;16N"))
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "LAB"}
_ALMOST_SRGB = 2  # grey levels by which a profile may differ from sRGB and still be called sRGB
_TO_EIGHT = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)  # round(v / 257); 257 is odd: no ties


class HdrCodes(NamedTuple):
    """That a picture's values are PQ or HLG. narrow: with room below black and above white. deep: (H, W) or (H, W, 3)
    values of 16 bits, where the picture itself has only 8 of them."""

    hdr: Hdr
    narrow: bool = False
    deep: np.ndarray | None = None


def no_stated_range(*, floats: bool) -> UnsupportedFormat:
    """The error for samples of which no file says what is black and what is white."""
    what = "floats" if floats else "32-bit or signed integers"
    words = f"pixels are {what} of no stated range; scale them to 8 or 16 bits first"
    return UnsupportedFormat(words, got="F" if floats else "I")


def to_rgb(
    picture: Image.Image,
    background: Colour,
    profile: bytes | None = None,
    *,
    notes: list[str],
    invert: bool = False,
    codes: HdrCodes | None = None,
) -> Image.Image:
    """A loaded picture of any mode as an opaque RGB picture. Appends to `notes` what a person might want to know.

    profile: an ICC profile from the file; one that is broken or of another colour space is ignored, with a note.
    invert: 16-bit grey in which 0 is white (TIFF). codes: tone-map the picture instead of asking a profile.
    Cost: nothing for RGB without a profile; one pass for most others; a profile costs about 10 ms per megapixel.
    Raises: UnsupportedFormat for floats and 32-bit integers, whose range no file states.
    """
    if picture.mode in ("F", "I"):
        raise no_stated_range(floats=picture.mode == "F")
    if picture.mode in _SIXTEEN:
        picture = _grey16(picture, invert)
    colours, alpha = _split(picture)
    colours = _managed(colours, profile, notes) if codes is None else _tone_mapped(colours, codes, notes)
    if alpha is None or alpha.getextrema() == (255, 255):
        return colours
    notes.append(f"transparent parts composited on RGB {background}")
    return flatten(colours, alpha, background)


def grey_again(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """A loaded RGB picture without any colour as grey, where its profile is one of grey; any other as it is.

    libavif and libwebp give grey pictures as RGB, and their profile stays that of grey. Cost: a look at every pixel.
    """
    if not profile or profile[16:20] != b"GRAY" or picture.mode not in ("RGB", "RGBX", "RGBA"):
        return picture
    rows = max(1, (1 << 20) // picture.width)
    for top in range(0, picture.height, rows):
        band = np.asarray(picture.crop((0, top, picture.width, min(top + rows, picture.height))))
        if (band[..., :2] != band[..., 1:3]).any():
            return picture
    if picture.mode == "RGBA":
        return Image.merge("LA", (picture.getchannel("R"), picture.getchannel("A")))
    return picture.getchannel("R")


def _tone_mapped(colours: Image.Image, codes: HdrCodes, notes: list[str]) -> Image.Image:
    values, bits = (np.asarray(colours.convert("RGB")), 8) if codes.deep is None else (codes.deep, 16)
    red, green, blue = (values, values, values) if values.ndim == 2 else np.moveaxis(values, -1, 0)
    notes.append(codes.hdr.note("tonemap"))
    out = np.empty((*values.shape[:2], 3), np.uint8)
    return Image.fromarray(to_sdr(red, green, blue, codes.hdr, full_span(bits, codes.narrow), out))


def flatten(colours: Image.Image, alpha: Image.Image, background: Colour) -> Image.Image:
    """An RGB picture over a flat background, by its alpha: round((c * a + b * (255 - a)) / 255) exactly."""
    opaque = Image.new("RGB", colours.size, background)
    opaque.paste(colours, (0, 0), alpha)
    return opaque


def sixteen_to_eight(values: np.ndarray) -> np.ndarray:
    """uint16 0..65535 -> uint8 by rounding v / 257, so that an 8-bit picture stored as 16 bits comes back unchanged."""
    return _TO_EIGHT[values]


def _grey16(picture: Image.Image, invert: bool) -> Image.Image:
    """A 16-bit grey picture as L, or as LA where one grey value is transparent (compared at 16 bits)."""
    values = np.asarray(picture).astype(np.uint16, copy=False)  # I;16B arrives big-endian
    grey = sixteen_to_eight(~values if invert else values)
    key = picture.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(values == key, 0, 255).astype(np.uint8)], axis=-1))


def _split(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour channels (L, RGB, CMYK or LAB) and alpha (L), whichever way the file stores transparency."""
    mode = picture.mode
    if mode in ("La", "RGBa"):  # premultiplied
        picture = picture.convert(mode.upper())
        mode = picture.mode
    if "transparency" in picture.info and mode in ("1", "L", "P", "RGB"):
        picture = picture.convert("RGBA")
    elif mode in ("P", "PA"):
        palette = picture.palette
        has_alpha = mode == "PA" or (palette is not None and palette.mode.endswith("A"))
        picture = picture.convert("RGBA" if has_alpha else "RGB")
    elif mode in ("1", "YCbCr", "RGBX", "HSV"):
        picture = picture.convert("L" if mode == "1" else "RGB")
    if picture.mode in ("LA", "RGBA"):
        alpha = picture.getchannel("A")
        return picture.convert(picture.mode[:-1]), alpha
    if picture.mode not in _SPACES:
        raise UnsupportedFormat(f"pixels of mode {picture.mode} are not read", got=picture.mode)
    return picture, None


def _managed(colours: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Colour channels as sRGB-coded RGB, through the profile when it fits and changes anything."""
    if profile or colours.mode == "LAB":
        transform = _transform(profile if colours.mode != "LAB" else None, colours.mode)
        if transform == "broken":
            notes.append("the colour profile is broken or of another colour space, and was ignored")
        elif transform != "srgb":
            converted = ImageCms.applyTransform(colours, transform)
            if converted is None:
                raise DecodeError("the colour profile could not be applied")
            by = "" if colours.mode == "LAB" else " by the embedded profile"
            notes.append(f"{colours.mode} colours converted to sRGB{by}")
            return converted
    if colours.mode == "RGB":
        return colours
    if colours.mode == "CMYK":
        notes.append("CMYK colours converted without a profile")
    return colours.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | Literal["srgb", "broken"]:
    """LittleCMS's transform from a profile (None: CIE Lab) to sRGB; "srgb" when it would change next to nothing."""
    try:
        given = ImageCms.createProfile("LAB") if profile is None else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if profile is not None and getattr(given.profile, "xcolor_space", "").strip() != _SPACES[mode]:
            return "broken"
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode not in ("L", "RGB"):
            return transform
        steps = np.linspace(0, 255, 17).round().astype(np.uint8)
        lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(17, -1, 3)
        probe = Image.fromarray(lattice if mode == "RGB" else np.ascontiguousarray(lattice[..., 0]))
        after = ImageCms.applyTransform(probe, transform)
        if after is None:
            return "broken"
        change = np.abs(np.asarray(after).astype(int) - np.asarray(probe.convert("RGB")).astype(int))
        return "srgb" if change.max() <= _ALMOST_SRGB else transform
    except DECODER_ERRORS:  # a profile that LittleCMS refuses changes no pixel
        return "broken"


def tiff_sixteen_note(picture: Image.Image) -> str | None:
    """A note for RGB and CMYK TIFF of 16 bits: Pillow keeps each sample's high byte, at most a level below rounding."""
    bits = getattr(picture, "tag_v2", {}).get(258, ())
    deep = isinstance(bits, tuple) and len(bits) > 1 and max(bits) == 16
    return "16-bit samples were read as their high bytes" if deep else None
