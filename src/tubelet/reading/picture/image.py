"""Pictures: a header without decoding, and one upright RGB frame.

file -> header, limits -> only what pixels need -> Pillow -> 8 bits -> profile -> alpha -> upright -> (1, H, W, 3)
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from tubelet.errors import DecodeError, UnsupportedFormat
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.limits import Limits
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.colour import Colour, sixteen_to_eight, tiff_sixteen_note, to_rgb
from tubelet.reading.picture.decode import decoding, open_picture, pack_rgb
from tubelet.reading.picture.exif import UPRIGHT
from tubelet.reading.picture.header import Header, is_animation, read_header
from tubelet.reading.picture.jpeg import jpeg_pixels, read_jpeg
from tubelet.reading.picture.png import PngInfo, png_pixels, read_png
from tubelet.reading.source import Format, Source
from tubelet.shapes import UInt8

WHITE: Colour = (255, 255, 255)


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


def decode_image(src: Source, limits: Limits, background: Colour = WHITE, *, allocate: Allocate = new_frames) -> Clip:
    """The picture as a Clip of one frame: upright, sRGB-coded, opaque. Of an animation or a file of pages, the first.

    background: what transparent parts are laid on. allocate: where the frame's memory comes from.
    The Clip's notes say what was done: composited, converted, first of several frames, orientation that means nothing.
    16-bit grey and PNG are scaled by rounding v / 257; 16-bit RGB TIFF by its high bytes. CMYK without a profile is
    converted by Pillow's plain formula. Gamma chunks, gain maps and XMP are not looked at. Pixels are those of
    Pillow's decoders (libjpeg-turbo, zlib-ng, libwebp, libtiff, libavif), bit for bit.
    Cost: decoding, and one copy of the pixels. The file is read into memory whole.
    Raises: DecodeError (damaged, cut short), LimitError (before anything is decoded), UnsupportedFormat (floats, HDR).

    >>> import io
    >>> from PIL import Image
    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (4, 2), (10, 20, 30)).save(buffer, "PNG")
    >>> from tubelet.reading.source import open_source
    >>> decode_image(open_source(buffer.getvalue(), Limits()), Limits()).frames[0, 0, 0].tolist()
    [10, 20, 30]
    """
    with decoding(src):
        picture, notes = _upright(src, limits, background)
        frames = allocate((1, picture.height, picture.width, 3))
        pack_rgb(picture, frames[0])
    return Clip(frames, (0.0,), source=src.name, notes=notes)


def decode_pixels(
    src: Source, limits: Limits, background: Colour, canvas: Canvas
) -> tuple[UInt8[np.ndarray, "H W C"], tuple[str, ...]]:
    """The pixels of `decode_image`'s frame, in the memory of `canvas`, and its notes: for work that is done at once.

    (H, W, 3), or (H, W, 4) whose last byte means nothing: an upright RGB JPEG is decoded right into the canvas and
    not copied. Valid until the canvas is used again. Raises: as `decode_image`.
    """
    with decoding(src):
        picture, notes = _upright(src, limits, background, canvas)
        return canvas.pixels(picture), notes


def _upright(
    src: Source, limits: Limits, background: Colour, canvas: Canvas | None = None
) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame as an upright, opaque RGB picture, and what was done to it."""
    header = read_header(src, limits)
    notes = list(header.notes)
    if header.frames > 1:
        what = "frames of an animation" if is_animation(src.format, header) else "pages"
        notes.append(f"the first of {header.frames} {what}")
    picture, profile, invert = _loaded(src, limits, header, notes, canvas)
    picture = to_rgb(picture, background, profile, notes=notes, invert=invert)
    if src.format != "TIFF" and header.orientation != 1:  # Pillow's TIFF reader turns by itself
        picture = picture.transpose(Image.Transpose[UPRIGHT[header.orientation]])
    if picture.size != header.upright:
        raise DecodeError("the decoded picture has another size than its header", expected=header.upright)
    return picture, tuple(notes)


def _loaded(
    src: Source, limits: Limits, header: Header, notes: list[str], canvas: Canvas | None
) -> tuple[Image.Image, bytes | None, bool]:
    """The decoded first frame as Pillow gives it, the colour profile, and whether 16-bit grey has 0 as white."""
    if src.format == "JPEG":
        return _jpeg(src, limits, canvas if header.orientation == 1 else None)
    if src.format == "PNG":
        return _png(src, limits, notes)
    if src.format == "AVIF":
        _refuse_hdr_avif(src, notes)
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
    return picture, profile if isinstance(profile, bytes) else None, invert


def _check_size(picture: ImageFile.ImageFile, size: tuple[int, int]) -> None:
    """Memory is allocated by what Pillow read; the limits were checked on what we read."""
    if picture.size != size:
        raise DecodeError("the header has two sizes", expected=size, got=picture.size)


def _jpeg(src: Source, limits: Limits, canvas: Canvas | None) -> tuple[Image.Image, bytes | None, bool]:
    """JPEG without its metadata, decoded in one call instead of pieces of 64 KiB."""
    data = src.file.read()
    found = read_jpeg(io.BytesIO(data), limits)
    picture = open_picture("JPEG", io.BytesIO(jpeg_pixels(data, found)))
    _check_size(picture, (found.width, found.height))
    if found.channels == 4 and not found.adobe:  # inks as they are; Pillow takes every CMYK JPEG for Adobe's, inverted
        picture.tile = [tile._replace(args=("CMYK", "")) for tile in picture.tile]
    picture.decodermaxblock = max(len(data), 1 << 16)
    if canvas is not None and picture.mode == "RGB" and found.icc is None:
        canvas.lend(picture)
    picture.load()
    return picture, found.icc, False


def _png(src: Source, limits: Limits, notes: list[str]) -> tuple[Image.Image, bytes | None, bool]:
    """PNG reduced to its pixel chunks, every checksum verified; samples of 16 bits with both bytes."""
    data = src.file.read()
    found = read_png(io.BytesIO(data), limits, whole=True)
    if found.hdr:
        raise UnsupportedFormat("an HDR picture (PQ or HLG) has no stated curve to 8 bits", got="cICP")
    pixels = png_pixels(data, found)
    if found.bits == 16 and found.colour != 0:
        return _deep_png(pixels, found), found.icc, False
    picture = open_picture("PNG", io.BytesIO(pixels))
    picture.load()
    return picture, found.icc, False


def _deep_png(pixels: bytes, info: PngInfo) -> Image.Image:
    """16-bit RGB, RGBA or grey+alpha PNG as an 8-bit picture, rounded from both bytes of every sample.

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
        return Image.fromarray(sixteen_to_eight(bytes_[..., 0::2] << 8 | bytes_[..., 1::2]))
    mode = "RGB" if info.colour == 2 else "RGBA"
    values = decoded(None).astype(np.uint16) << 8 | decoded(f"{mode};16L")
    eight = sixteen_to_eight(values)
    if info.transparency is None or info.colour == 6:
        return Image.fromarray(eight)
    if len(info.transparency) != 6:
        raise DecodeError("the transparent colour of the PNG has a wrong length")
    hidden = (values == np.frombuffer(info.transparency, ">u2")).all(axis=-1, keepdims=True)
    return Image.fromarray(np.concatenate([eight, np.where(hidden, 0, 255).astype(np.uint8)], axis=-1))


def _refuse_hdr_avif(src: Source, notes: list[str]) -> None:
    """PQ and HLG AVIF are refused by their colr box; more than 8 bits are reduced by libavif, with a note."""
    head = src.file.read(1 << 16)
    src.file.seek(0)
    colr = head.find(b"colrnclx")
    if colr >= 0 and int.from_bytes(head[colr + 10 : colr + 12], "big") in (16, 18):
        raise UnsupportedFormat("an HDR picture (PQ or HLG) has no stated curve to 8 bits", got="colr nclx")
    av1c = head.find(b"av1C")
    if av1c >= 0 and len(head) > av1c + 6 and head[av1c + 6] & 0x40:
        notes.append("more than 8 bits per sample were reduced to 8")
