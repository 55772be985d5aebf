"""Pictures: a header without decoding, and one upright RGB frame.

file -> header, limits -> only what pixels need -> Pillow -> 8 bits -> profile -> alpha -> upright -> (1, H, W, 3)
"""

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from tubelet.errors import DecodeError
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.hdr import Hdr, HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.colour import Colour, HdrCodes, sixteen_to_eight, tiff_sixteen_note, to_rgb
from tubelet.reading.picture.decode import decoding, open_picture, pack_rgb
from tubelet.reading.picture.exif import UPRIGHT
from tubelet.reading.picture.header import Header, is_animation, read_header
from tubelet.reading.picture.heif import PrimaryItem, primary_item
from tubelet.reading.picture.jpeg import has_gain_map, jpeg_pixels, read_jpeg
from tubelet.reading.picture.png import PngInfo, png_pixels, read_png
from tubelet.reading.source import Format, Source
from tubelet.shapes import UInt8

WHITE: Colour = (255, 255, 255)
GAIN_MAP = "a gain map to high dynamic range is in the file, and was not applied"


@dataclass(frozen=True)
class PictureInfo:
    """What a header says. width, height: upright, as decoding will give them. frames: pages or animation frames."""

    width: int
    height: int
    frames: int
    format: Format


def probe_image(src: Source, limits: Limits) -> PictureInfo:
    """The PictureInfo of a picture, within the limits, from its header alone.

    Raises: DecodeError (damaged, cut short), LimitError (side, pixels, ratio, frames).
    """
    with decoding(src):
        header = read_header(src, limits)
    return PictureInfo(*header.upright, header.frames, src.format)


def decode_image(
    src: Source,
    limits: Limits,
    background: Colour = WHITE,
    *,
    hdr: HdrMode = "tonemap",
    allocate: Allocate = new_frames,
) -> Clip:
    """The picture as a Clip of one frame: upright, sRGB-coded, opaque. Of an animation or a file of pages, the first.

    background: what transparent parts are laid on. hdr: what becomes of PQ and HLG, as in `read`. allocate: where the
    frame's memory comes from.
    The Clip's notes say what was done: composited, converted, first of several frames, orientation that means nothing.
    16-bit grey and PNG are scaled by rounding v / 257; 16-bit RGB TIFF by its high bytes. CMYK without a profile is
    converted by Pillow's plain formula. Gamma chunks are not looked at, gain maps are noted. Pixels are those of
    Pillow's decoders (libjpeg-turbo, zlib-ng, libwebp, libtiff, libavif), bit for bit.
    Cost: decoding, and one copy of the pixels. The file is read into memory whole.
    Raises: DecodeError (damaged, cut short), LimitError (before anything is decoded), UnsupportedFormat (floats).

    >>> import io
    >>> from PIL import Image
    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (4, 2), (10, 20, 30)).save(buffer, "PNG")
    >>> from tubelet.reading.source import open_source
    >>> decode_image(open_source(buffer.getvalue(), Limits()), Limits()).frames[0, 0, 0].tolist()
    [10, 20, 30]
    """
    with decoding(src):
        picture, notes = _upright(src, limits, background, hdr)
        frames = allocate((1, picture.height, picture.width, 3))
        pack_rgb(picture, frames[0])
    return Clip(frames, (0.0,), source=src.name, notes=notes)


def decode_pixels(
    src: Source, limits: Limits, background: Colour, canvas: Canvas, hdr: HdrMode = "tonemap"
) -> tuple[UInt8[np.ndarray, "H W C"], tuple[str, ...]]:
    """The pixels of `decode_image`'s frame, in the memory of `canvas`, and its notes: for work that is done at once.

    (H, W, 3), or (H, W, 4) whose last byte means nothing: an upright RGB JPEG is decoded right into the canvas and
    not copied. Valid until the canvas is used again. Raises: as `decode_image`.
    """
    with decoding(src):
        picture, notes = _upright(src, limits, background, hdr, canvas)
        return canvas.pixels(picture), notes


def _upright(
    src: Source, limits: Limits, background: Colour, hdr: HdrMode, canvas: Canvas | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame as an upright, opaque RGB picture, and what was done to it."""
    header = read_header(src, limits)
    notes = list(header.notes)
    if header.frames > 1:
        what = "frames of an animation" if is_animation(src.format, header) else "pages"
        notes.append(f"the first of {header.frames} {what}")
    loaded = _loaded(src, limits, header, hdr, notes, canvas)
    invert = loaded.invert
    picture = to_rgb(loaded.picture, background, loaded.profile, notes=notes, invert=invert, codes=loaded.codes)
    if src.format != "TIFF" and header.orientation != 1:  # Pillow's TIFF reader turns by itself
        picture = picture.transpose(Image.Transpose[UPRIGHT[header.orientation]])
    if picture.size != header.upright:
        raise DecodeError("the decoded picture has another size than its header", expected=header.upright)
    return picture, tuple(notes)


class _Loaded(NamedTuple):
    """The decoded first frame as Pillow gives it, the colour profile, whether 16-bit grey has 0 as white, and what is
    to be tone-mapped."""

    picture: Image.Image
    profile: bytes | None = None
    invert: bool = False
    codes: HdrCodes | None = None


def _loaded(
    src: Source, limits: Limits, header: Header, hdr: HdrMode, notes: list[str], canvas: Canvas | None
) -> _Loaded:
    if src.format == "JPEG":
        return _jpeg(src, limits, notes, canvas if header.orientation == 1 else None)
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
                return _Loaded(deep)
        codes = avif_codes(item, hdr, notes)
    picture = open_picture(src.format, src.file)
    invert = False
    if src.format == "TIFF":
        note = tiff_sixteen_note(picture)
        notes.extend(() if note is None else (note,))
        invert = getattr(picture, "tag_v2", {}).get(262) == 0
    _check_size(picture, header.upright if src.format == "TIFF" else (header.width, header.height))
    picture.load()
    profile = picture.info.get("icc_profile")
    if isinstance(profile, bytes):
        limits.check("max_metadata_bytes", len(profile), "colour profile of")
    return _Loaded(picture, profile if isinstance(profile, bytes) else None, invert, codes)


def _check_size(picture: ImageFile.ImageFile, size: tuple[int, int]) -> None:
    """Memory is allocated by what Pillow read; the limits were checked on what we read."""
    if picture.size != size:
        raise DecodeError("the header has two sizes", expected=size, got=picture.size)


def _jpeg(src: Source, limits: Limits, notes: list[str], canvas: Canvas | None) -> _Loaded:
    """JPEG without its metadata, decoded in one call instead of pieces of 64 KiB."""
    data = src.file.read()
    found = read_jpeg(io.BytesIO(data), limits)
    if has_gain_map(data, found):
        notes.append(GAIN_MAP)
    picture = open_picture("JPEG", io.BytesIO(jpeg_pixels(data, found)))
    _check_size(picture, (found.width, found.height))
    if found.channels == 4 and not found.adobe:  # inks as they are; Pillow takes every CMYK JPEG for Adobe's, inverted
        picture.tile = [tile._replace(args=("CMYK", "")) for tile in picture.tile]
    picture.decodermaxblock = max(len(data), 1 << 16)
    if canvas is not None and picture.mode == "RGB" and found.icc is None:
        canvas.lend(picture)
    picture.load()
    return _Loaded(picture, found.icc)


def _png(src: Source, limits: Limits, hdr: HdrMode, notes: list[str]) -> _Loaded:
    """PNG reduced to its pixel chunks, every checksum verified; samples of 16 bits with both bytes."""
    data = src.file.read()
    found = read_png(io.BytesIO(data), limits, whole=True)
    if found.gain_map:
        notes.append(GAIN_MAP)
    codes = hdr_codes(found.hdr, hdr, notes, narrow=found.narrow)
    pixels = png_pixels(data, found)
    if found.bits == 16 and found.colour != 0:
        picture, values = _deep_png(pixels, found)
        values = values[..., 0] if found.colour == 4 else values[..., :3]
    else:
        picture = open_picture("PNG", io.BytesIO(pixels))
        picture.load()
        values = np.asarray(picture) if found.bits == 16 else None
    return _Loaded(picture, found.icc, codes=None if codes is None else codes._replace(deep=values))


def _deep_png(pixels: bytes, info: PngInfo) -> tuple[Image.Image, np.ndarray]:
    """16-bit RGB, RGBA or grey+alpha PNG as an 8-bit picture, rounded from both bytes of every sample, and the samples.

    Pillow has no 16-bit mode for these and keeps the high byte. Asked for big-endian samples it gives the high bytes,
    asked for little-endian ones the low bytes: two decodings. Grey+alpha has the byte layout of 8-bit RGBA: one.
    """

    def decoded(mode: str | None) -> np.ndarray:
        picture = open_picture("PNG", io.BytesIO(pixels))
        if mode is not None:
            picture.tile = [tile._replace(args=mode) for tile in picture.tile]
        picture.load()
        return np.asarray(picture)

    if info.colour == 4:
        bytes_ = decoded("RGBA").astype(np.uint16)
        values = bytes_[..., 0::2] << 8 | bytes_[..., 1::2]
        return Image.fromarray(sixteen_to_eight(values)), values
    mode = "RGB" if info.colour == 2 else "RGBA"
    values = decoded(None).astype(np.uint16) << 8 | decoded(f"{mode};16L")
    eight = sixteen_to_eight(values)
    if info.transparency is None or info.colour == 6:
        return Image.fromarray(eight), values
    if len(info.transparency) != 6:
        raise DecodeError("the transparent colour of the PNG has a wrong length")
    hidden = (values == np.frombuffer(info.transparency, ">u2")).all(axis=-1, keepdims=True)
    return Image.fromarray(np.concatenate([eight, np.where(hidden, 0, 255).astype(np.uint8)], axis=-1)), values


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
