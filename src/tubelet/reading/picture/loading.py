"""One decoder for each format: only what the pixels need goes in, the first frame comes out as it is stored."""

import io
from typing import Any, cast

import numpy as np
from PIL import Image, ImageFile

from tubelet.errors import DecodeError
from tubelet.reading.hdr import Hdr, HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.colour import HdrCodes, grey_again, tiff_sixteen_note
from tubelet.reading.picture.decode import open_picture
from tubelet.reading.picture.header import Header
from tubelet.reading.picture.heif import PrimaryItem, primary_item
from tubelet.reading.picture.jpeg import JpegInfo, JpegPixels, has_gain_map, jpeg_pixels, lacks_scans, read_jpeg
from tubelet.reading.picture.paint import Loaded
from tubelet.reading.picture.png import PngInfo, missing_rows, png_pixels, read_png
from tubelet.reading.source import Source

GAIN_MAP = "a gain map to high dynamic range is in the file, and was not applied"
_GREY = {127, 128}  # what libjpeg leaves where data are missing; the first of them in inverted inks


def load_first(
    src: Source, limits: Limits, header: Header, hdr: HdrMode, notes: list[str], canvas: Canvas | None
) -> Loaded:
    """The first frame of a picture whose header is within the limits; appends to `notes` what was seen.

    canvas: what an RGB JPEG may be decoded into. Raises: what the decoders raise, and DecodeError, LimitError.
    """
    loaded = _loaded(src, limits, header, hdr, notes, canvas)
    if loaded.picture.size != (header.width, header.height):
        raise DecodeError(
            "the decoded picture has another size than its header",
            expected=(header.width, header.height),
            got=loaded.picture.size,
        )
    return loaded


def _loaded(
    src: Source, limits: Limits, header: Header, hdr: HdrMode, notes: list[str], canvas: Canvas | None
) -> Loaded:
    if src.format == "JPEG":
        return _jpeg(src, limits, notes, canvas)
    if src.format == "PNG":
        return _png(src, limits, hdr, notes)
    codes = None
    if src.format == "AVIF":
        item = primary_item(src.file, limits)
        if hdr == "tonemap" and item.deep and (item.hdr is not None or item.colours is None):
            from tubelet.reading.picture.deep_avif import deep_avif  # loads FFmpeg, which most pictures can do without

            deep = deep_avif(src, limits, item.colours, notes)
            if deep is not None:
                notes.extend((GAIN_MAP,) if item.gain_map else ())
                return Loaded(deep)
        codes = avif_codes(item, hdr, notes)
    picture = open_picture(src.format, src.file)
    invert = False
    if src.format == "TIFF":
        note = tiff_sixteen_note(picture)
        notes.extend(() if note is None else (note,))
        invert = getattr(picture, "tag_v2", {}).get(262) == 0
    _check_size(picture, (header.width, header.height))
    profile = picture.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) else None
    limits.check("max_metadata_bytes", len(profile or b""), "colour profile of")
    if src.format == "WEBP":
        shown = _webp(picture)
    else:
        picture.load()
        shown = picture
    return Loaded(grey_again(shown, profile), profile, invert, codes)


def _check_size(picture: ImageFile.ImageFile, size: tuple[int, int]) -> None:
    """Memory is allocated by what Pillow read; the limits were checked on what we read."""
    if picture.size != size:
        raise DecodeError("the header has two sizes", expected=size, got=picture.size)


def _webp(picture: ImageFile.ImageFile) -> Image.Image:
    """The first frame in the memory that libwebp's binding gives it, its decoder's own given back.

    Pillow's `load` copies it while two canvases of the decoder are still held.
    """
    opened = cast(Any, picture)
    mode, decoder = picture.mode, opened._decoder
    opened._decoder = None
    data = decoder.get_next()
    del decoder
    if data is None:
        raise DecodeError("the WEBP data is damaged")
    return Image.frombuffer("RGBX" if mode == "RGB" else mode, picture.size, data[0], "raw", opened.rawmode, 0, 1)


def _jpeg(src: Source, limits: Limits, notes: list[str], canvas: Canvas | None) -> Loaded:
    """JPEG without its metadata, decoded in one call instead of pieces of 64 KiB.

    CMYK is inverted, as Pillow and browsers do with every file: the marker that would say so is often missing.
    """
    data = src.file.read()
    found = read_jpeg(io.BytesIO(data), limits)
    if has_gain_map(data, found):
        notes.append(GAIN_MAP)
    pixels = jpeg_pixels(data, found)
    picture = _open_jpeg(pixels.data, found)
    if canvas is not None and picture.mode == "RGB" and found.icc is None:
        canvas.lend(picture)
    picture.load()
    return Loaded(picture, found.icc, complete=_whole_jpeg(picture, data, found, pixels, notes))


def _open_jpeg(data: bytes, found: JpegInfo) -> ImageFile.ImageFile:
    picture = open_picture("JPEG", io.BytesIO(data))
    _check_size(picture, (found.width, found.height))
    picture.decodermaxblock = max(len(data), 1 << 16)
    return picture


def _whole_jpeg(picture: Image.Image, data: bytes, found: JpegInfo, pixels: JpegPixels, notes: list[str]) -> bool:
    """Whether libjpeg had data for all it gave; asked where the file does not end well or its last pixel is the grey
    that is left where data are missing. Then it is decoded once more, with other bits behind its data.

    Raises: DecodeError for a file that stops before its picture does.
    """
    last = picture.getpixel((picture.width - 1, picture.height - 1))
    whole = not pixels.gaps
    if whole and (pixels.doubt or set(last[:3] if isinstance(last, tuple) else (last,)) <= _GREY):
        other = _open_jpeg(pixels.otherwise_ended(), found)
        other.load()
        whole = _same(picture, other) and not (found.progressive and not pixels.ended and lacks_scans(data, found))
    if not whole and not pixels.ended:
        raise DecodeError("the JPEG is cut off inside its picture")
    if not whole:
        notes.append("the JPEG's picture data are damaged or end early; what is missing was filled in by its decoder")
    elif not pixels.ended:
        notes.append("the JPEG ends without its end marker")
    return whole


def _same(one: Image.Image, other: Image.Image) -> bool:
    rows = max(1, (1 << 20) // one.width)
    for top in range(0, one.height, rows):
        box = (0, top, one.width, min(top + rows, one.height))
        if one.crop(box).convert(other.mode).tobytes() != other.crop(box).tobytes():  # a canvas has a filler byte
            return False
    return True


def _png(src: Source, limits: Limits, hdr: HdrMode, notes: list[str]) -> Loaded:
    """PNG reduced to its pixel chunks, their checksums verified; samples of 16 bits with both bytes.

    Pillow has no mode of 16 bits for more than one channel and keeps the high byte. Asked for big-endian samples it
    gives the high bytes, asked for little-endian ones the low bytes: two decodings. Grey and alpha have the byte layout
    of 8-bit RGBA: one, and their bytes are taken apart.
    """
    data = src.file.read()
    found = read_png(io.BytesIO(data), limits, whole=True)
    notes.extend(note for note in found.notes if note not in notes)
    if found.gain_map:
        notes.append(GAIN_MAP)
    codes = hdr_codes(found.hdr, hdr, notes, narrow=found.narrow)
    pixels = png_pixels(data, found)
    low, hidden = None, None
    if found.bits < 16 or found.colour == 0:
        picture = _decoded_png(pixels)
    elif found.colour == 4:
        both = _decoded_png(pixels, "RGBA")
        picture = Image.merge("LA", (both.getchannel("R"), both.getchannel("B")))
        low = Image.merge("LA", (both.getchannel("G"), both.getchannel("A")))
    else:
        picture = _decoded_png(pixels)
        low = _decoded_png(pixels, ("RGB" if found.colour == 2 else "RGBA") + ";16L")
        hidden = _hidden(found)
        picture.info.pop("transparency", None)
    loaded = Loaded(picture, found.icc, codes=codes, low=low, hidden=hidden)
    if _ends_in_zeros(picture) and missing_rows(data, found):
        loaded.complete = False
        notes.append("the PNG's picture data end early; what is missing was filled with zeros")
    return loaded


def _decoded_png(pixels: bytes, mode: str | None = None) -> ImageFile.ImageFile:
    picture = open_picture("PNG", io.BytesIO(pixels))
    if mode is not None:
        picture.tile = [tile._replace(args=mode) for tile in picture.tile]
    picture.load()
    return picture


def _hidden(found: PngInfo) -> tuple[int, int, int] | None:
    """The transparent colour of an RGB picture of 16 bits."""
    if found.transparency is None or found.colour == 6:
        return None
    if len(found.transparency) != 6:
        raise DecodeError("the transparent colour of the PNG has a wrong length")
    red, green, blue = np.frombuffer(found.transparency, ">u2").tolist()
    return red, green, blue


def _ends_in_zeros(picture: Image.Image) -> bool:
    """Whether one of the last two rows holds nothing but zeros, as where a decoder got no data."""
    width, height = picture.size
    rows = [picture.crop((0, y, width, y + 1)) for y in range(max(0, height - 2), height)]
    return any(row.getbbox(alpha_only=False) is None for row in rows)


def hdr_codes(found: Hdr | None, mode: HdrMode, notes: list[str], *, narrow: bool = False) -> HdrCodes | None:
    """What `to_rgb` is to tone-map; None, with a note where the picture is HDR, when nothing is."""
    if found is None or mode == "tonemap":
        return None if found is None else HdrCodes(found, narrow)
    notes.append(found.note(mode))
    return None


def avif_codes(item: PrimaryItem, mode: HdrMode, notes: list[str]) -> HdrCodes | None:
    """What `to_rgb` is to tone-map of an AVIF that Pillow decodes, which gives 8 bits of each sample."""
    if item.gain_map:
        notes.append(GAIN_MAP)
    if item.deep:
        notes.append("more than 8 bits per sample were reduced to 8")
    return hdr_codes(item.hdr, mode, notes)
