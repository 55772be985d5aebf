"""Pictures: a header without decoding, and one upright RGB frame.

file -> header, limits -> only what pixels need -> Pillow -> 8 bits -> profile -> alpha -> upright -> (1, H, W, 3)
"""

from dataclasses import dataclass

import numpy as np

from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.hdr import HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.colour import Colour
from tubelet.reading.picture.decode import decoding
from tubelet.reading.picture.header import Header, is_animation, read_header
from tubelet.reading.picture.loading import load_first
from tubelet.reading.picture.paint import paint
from tubelet.reading.source import Format, Source
from tubelet.shapes import UInt8

WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class PictureInfo:
    """What a header says."""

    width: int  # upright, as decoding will give them
    height: int
    frames: int  # pages or frames of an animation, as far as they are whole
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
    converted by Pillow's plain formula, after an inversion where it stands in a JPEG. Gamma chunks are not looked at,
    gain maps are noted. Pixels are those of Pillow's decoders (libjpeg-turbo, zlib-ng, libwebp, libtiff, libavif), bit
    for bit. What is wrong behind the picture's own data is a note. complete=False: a JPEG or PNG lacks picture data
    that its decoder filled in; of damage that leaves a picture of the right length nothing is known.
    Cost: decoding, and one copy of the pixels; at most 4 x the decoded size. The file is read into memory whole.
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
        header, notes = _described(src, limits)
        loaded = load_first(src, limits, header, hdr, notes, None)
        width, height = header.upright
        frames = allocate((1, height, width, 3))
        paint(loaded, background, header.orientation, notes, frames[0])
    whole = loaded.complete
    return Clip(
        frames,
        (0.0,),
        source=src.name,
        complete=whole,
        frames_expected=None if whole else 1,
        notes=tuple(dict.fromkeys(notes)),
    )


def decode_pixels(
    src: Source, limits: Limits, background: Colour, canvas: Canvas, hdr: HdrMode = "tonemap"
) -> tuple[UInt8[np.ndarray, "H W C"], tuple[str, ...], bool]:
    """The pixels of `decode_image`'s frame, in the memory of `canvas`, its notes, and whether it is complete.

    (H, W, 3), or (H, W, 4) whose last byte means nothing: an upright RGB JPEG is decoded right into the canvas and
    not copied. For work that is done at once: valid until the canvas is used again. Raises: as `decode_image`.
    """
    with decoding(src):
        header, notes = _described(src, limits)
        loaded = load_first(src, limits, header, hdr, notes, canvas if header.orientation == 1 else None)
        if loaded.plain and header.orientation == 1:
            return canvas.pixels(loaded.picture), tuple(dict.fromkeys(notes)), loaded.complete
        pixels = canvas.room(*reversed(header.upright))
        paint(loaded, background, header.orientation, notes, pixels)
        return pixels, tuple(dict.fromkeys(notes)), loaded.complete


def _described(src: Source, limits: Limits) -> tuple[Header, list[str]]:
    """The header, and what a person might want to know of the file."""
    header = read_header(src, limits)
    notes = list(header.notes)
    if header.frames > 1:
        what = "frames of an animation" if is_animation(src.format, header) else "pages"
        notes.append(f"the first of {header.frames} {what}")
    if header.fault is not None:
        notes.append(f"what stands behind the first picture is damaged and was not read: {header.fault}")
    return header, notes
