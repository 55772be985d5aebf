"""From a decoded picture to upright RGB: colour matrix and range, square pixels, and the turn the container asks for.

    stored 720 x 576, pixels 16:11, turned 90        RGB, square pixels 1047 x 576         upright 576 x 1047

Conversion is FFmpeg's swscale as PyAV sets it up by default, bit for bit what `frame.to_ndarray(format="rgb24")` gives,
so that frames equal those of other readers built on it. It honours the matrix (BT.601, BT.709, BT.2020, SMPTE 240M) and
the range (limited, full) that the stream states; where none is stated BT.601 and limited are taken, as all of FFmpeg
does. Against exact arithmetic it is within 3 levels for 8-bit 4:2:0 and within 4 for 10-bit (0.5 where a side is odd).
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

import av.video
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from tubelet.errors import DecodeError
from tubelet.reading.hdr import Hdr, HdrMode, Span, full_span, hdr_of, to_sdr
from tubelet.reading.limits import Limits
from tubelet.reading.picture.colour import Colour
from tubelet.reading.video.alpha import alpha_of, laid_on, opaque
from tubelet.reading.video.file import decoder_errors
from tubelet.shapes import UInt8

_MATRICES: Final = frozenset((0, 1, 2, 4, 5, 6, 7, 9, 10))  # AVColorSpace values that swscale knows
_UNSPECIFIED: Final = 2
_UNSTATED: Final = (0, _UNSPECIFIED)
_BT2020: Final = 9
_FULL: Final = 2  # AVColorRange
_PLANES: Final = re.compile(r"gbrp|gbrp\d+le")


class Told(NamedTuple):
    """What a container says of a stream's colours, by the numbers of H.273."""

    curve: int = _UNSPECIFIED
    primaries: int = _UNSPECIFIED
    matrix: int = _UNSPECIFIED


_UNTOLD: Final = Told()


@dataclass(frozen=True)
class Upright:
    """How stored pictures become upright ones: they are resized to square pixels, then turned, in this order."""

    stored_w: int
    stored_h: int
    square_w: int  # the size with square pixels
    square_h: int
    transpose: bool = False  # rows become columns
    flip_rows: bool = False  # top becomes bottom
    flip_columns: bool = False
    hdr: HdrMode = "tonemap"  # what becomes of PQ and HLG frames; all others are not touched by it
    told: Told = _UNTOLD  # where a frame does not say what it is
    background: Colour = (255, 255, 255)  # what transparent parts are laid on

    @property
    def width(self) -> int:
        return self.square_h if self.transpose else self.square_w

    @property
    def height(self) -> int:
        return self.square_w if self.transpose else self.square_h

    def turned(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The picture turned, as a view of the same memory."""
        out = rgb.transpose(1, 0, 2) if self.transpose else rgb
        return out[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def upright(
    width: int,
    height: int,
    sample_aspect: Fraction | None,
    turn: tuple[float, float, float, float] | None,
    limits: Limits,
) -> tuple[Upright, list[str]]:
    """The way from stored to upright pictures, and what a person should know of it.

    Square pixels are reached by making the narrower side longer (bicubic), never by dropping pixels. turn: (a, b, c, d)
    of x' = a x + c y, y' = b x + d y; one that is not a multiple of a right angle is brought to the nearest.
    Raises: LimitError when the picture would be too large or too narrow.
    """
    notes: list[str] = []
    square_w, square_h = width, height
    if sample_aspect and sample_aspect > 0 and sample_aspect != 1:
        if sample_aspect > 1:
            square_w = max(1, round(width * sample_aspect))
        else:
            square_h = max(1, round(height / sample_aspect))
        notes.append(f"pixels of {sample_aspect.numerator}:{sample_aspect.denominator} made square")
    a, b, c, d = turn or (1.0, 0.0, 0.0, 1.0)
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    main, other = (abs(b) + abs(c), abs(a) + abs(d)) if transpose else (abs(a) + abs(d), abs(b) + abs(c))
    if other > 0.01 * main:
        notes.append("the turn asked for is not a right angle; the nearest was taken")
    flips = (b < 0, c < 0) if transpose else (d < 0, a < 0)
    way = Upright(width, height, square_w, square_h, transpose, *flips)
    limits.check_picture(way.width, way.height)
    return way, notes


def check_size(frame: av.video.VideoFrame, way: Upright) -> None:
    """Raise DecodeError when a picture has not the size that the way starts from."""
    if (frame.width, frame.height) != (way.stored_w, way.stored_h):
        raise DecodeError(
            f"the picture size changes from {way.stored_w} x {way.stored_h} to {frame.width} x {frame.height}",
            expected=(way.stored_w, way.stored_h),
            got=(frame.width, frame.height),
        )


class Painter:
    """Turns decoded frames into upright RGB, one thread's worth; collects notes about what it met."""

    def __init__(self, way: Upright) -> None:
        self._way = way
        self._reformatter = VideoReformatter()
        self.notes: set[str] = set()

    def paint(self, frame: av.video.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """Upright RGB, a view that is valid while `frame` and the result live; rows may be padded or turned.

        Raises: DecodeError when the size differs from the one the file declares, or cannot be converted.
        """
        way = self._way
        check_size(frame, way)
        hdr = self._hdr(frame)
        mapped = hdr is not None and way.hdr == "tonemap"
        self._remark(frame, hdr, "BT.2020" if mapped else "BT.601")
        if hdr is not None and mapped:
            return way.turned(self._tone_mapped(frame, hdr))
        shown = opaque(frame, self._reformatter, way.background)
        if shown is not None:
            self.notes.add(_composited(way.background))
            frame = shown
        with decoder_errors("converted to RGB"):
            rgb = self._converted(frame, "rgb24")
            plane = rgb.planes[0]
            if plane.line_size < 0:  # stored bottom up
                return way.turned(rgb.to_ndarray())
            array = np.ndarray(
                (way.square_h, way.square_w, 3), np.uint8, buffer=memoryview(plane), strides=(plane.line_size, 3, 1)
            )
        return way.turned(array)

    def _hdr(self, frame: av.video.VideoFrame) -> Hdr | None:
        """By what the stream states, and where it states nothing by what the container does."""
        told = self._way.told
        curve, primaries = frame.color_trc, frame.color_primaries
        return hdr_of(
            told.curve if curve in _UNSTATED else curve, told.primaries if primaries in _UNSTATED else primaries
        )

    def _tone_mapped(self, frame: av.video.VideoFrame, hdr: Hdr) -> UInt8[np.ndarray, "h w 3"]:
        """swscale's 16 bits are the stored ones shifted up; of limited range 8.8 fixed point, with white at 255."""
        way, parts = self._way, frame.format.components
        alpha = alpha_of(frame, self._reformatter, (way.square_w, way.square_h))
        if frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
            frame.colorspace = way.told.matrix if way.told.matrix in _MATRICES - {_UNSPECIFIED} else _BT2020
        full = frame.format.is_rgb or frame.color_range == _FULL or frame.format.name.startswith("yuvj")
        bits = min(16, max(part.bits for part in parts))
        peak = ((1 << bits) - 1) << (16 - bits) if full else 255 << 8
        span, kind = Span(0, peak, 1 << 16), np.dtype("<u2")
        with decoder_errors("converted to RGB"):
            if _PLANES.fullmatch(frame.format.name) and (way.square_w, way.square_h) == (way.stored_w, way.stored_h):
                span, kind = full_span(bits), kind if bits > 8 else np.dtype(np.uint8)  # they are there already
            else:
                frame = self._converted(frame, "gbrp16le")
            size, step = (way.square_h, way.square_w), kind.itemsize
            green, blue, red = (
                np.ndarray(size, kind, buffer=memoryview(plane), strides=(plane.line_size, step))
                for plane in frame.planes
            )
        rgb = to_sdr(red, green, blue, hdr, span, np.empty((*size, 3), np.uint8))
        if alpha is None:
            return rgb
        self.notes.add(_composited(way.background))
        return laid_on(rgb, alpha, way.background)

    def _converted(self, frame: av.video.VideoFrame, form: str) -> av.video.VideoFrame:
        way = self._way
        scaled = (way.square_w, way.square_h) != (way.stored_w, way.stored_h)
        return self._reformatter.reformat(
            frame,
            width=way.square_w,
            height=way.square_h,
            format=form,
            interpolation=Interpolation.BICUBIC if scaled else Interpolation.BILINEAR,
            threads=1,
        )

    def _remark(self, frame: av.video.VideoFrame, hdr: Hdr | None, instead: str) -> None:
        if frame.colorspace not in _MATRICES:
            frame.colorspace = _UNSPECIFIED
            self.notes.add(f"an unknown colour matrix was taken as {instead}")
        if hdr is not None:
            self.notes.add(hdr.note(self._way.hdr))
        if frame.interlaced_frame:
            self.notes.add("interlaced: both fields of a picture together, as stored")


def _composited(background: Colour) -> str:
    return f"transparent parts composited on RGB {background}"
