"""What Pillow and PyAV make of a file, used as carefully as their own documentation asks.

Pillow: first frame, turned by its EXIF, 16 bits scaled to 8, through its profile to sRGB, laid on white.
PyAV: every frame of the first video stream in the order shown, pixels made square, turned by the display matrix.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.codec
import av.container
import av.error
import av.video
import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation
from PIL import Image, ImageCms, ImageOps

MOST_FRAMES = 20_000  # decoded of one clip
SAME_S = 1e-9  # of rounding; clocks of a microsecond exist


class NoFrame(Exception):
    """No video stream, or one that gives no picture, which PyAV does not call an error."""


@dataclass
class PeerClip:
    """What PyAV decoded."""

    times_s: list[float]  # of every frame as it came, from the start of the first
    kept: dict[float, np.ndarray] = field(default_factory=dict)  # wanted time -> RGB on the screen then
    damaged: bool = False  # a frame was flagged as corrupt, or decoding ended in an error


def picture(path: Path, *, profile: bool = True, turn: bool = True) -> np.ndarray:
    """(H, W, 3) uint8 as Pillow has it. Raises whatever Pillow raises, as it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened) if turn else opened
            icc = opened.info.get("icc_profile") if profile else None
            return np.asarray(_on_white(image, icc))


def _on_white(image: Image.Image, icc: bytes | None) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        key = image.info.get("transparency")
        grey = ((values + 128) // 257).astype(np.uint8)
        shown = np.where(values == key, 255, grey).astype(np.uint8) if isinstance(key, int) else grey
        image = Image.fromarray(shown)
    if image.mode in ("P", "PA", "La", "RGBa", "1") or "transparency" in image.info:
        clear = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
        image = image.convert("RGBA" if clear or (image.palette and "A" in image.palette.mode) else "RGB")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image.convert("L" if image.mode == "LA" else "RGB") if alpha is not None else image
    if icc:
        colours = _managed(colours, icc)
    colours = colours.convert("RGB")
    if alpha is None:
        return colours
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, (0, 0), alpha)
    return white


def _managed(colours: Image.Image, icc: bytes) -> Image.Image:
    """Through the profile, where LittleCMS takes it for these colours; else as it is, as browsers do."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if getattr(given.profile, "xcolor_space", "").strip() == "GRAY" and colours.mode == "RGB":
            red, green, blue = (band.tobytes() for band in colours.split())
            colours = colours.getchannel(0) if red == green == blue else colours  # Pillow gives deep grey as RGBA
        done = ImageCms.profileToProfile(colours, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return colours
    return colours if done is None else done


def clip(path: Path, wanted_s: Sequence[float]) -> PeerClip:
    """All frames' times, and the frames on the screen at `wanted_s`. Raises NoFrame and whatever PyAV raises."""
    with path.open("rb") as file, av.open(file, mode="r") as container:
        streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
        if not streams:
            raise NoFrame("no video stream")
        found = PeerClip([])
        shown: dict[float, tuple[float, av.VideoFrame | None]] = dict.fromkeys(wanted_s, (-1.0, None))
        for time_s, frame in _frames(container, streams[0], found):
            for wanted, (until_now, _) in shown.items():
                if until_now < time_s <= wanted + SAME_S:  # frames need not come in the order of their times
                    shown[wanted] = (time_s, frame)
        if not found.times_s:
            raise NoFrame("PyAV decodes no frame and says nothing")
        found.kept = {t: _upright(frame, streams[0]) for t, (_, frame) in shown.items() if frame is not None}
        return found


def _frames(
    container: av.container.InputContainer, stream: av.video.VideoStream, found: PeerClip
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames as they come, with their times from the first; what is said of damage goes into `found`.

    VP8 is decoded by libvpx, as browsers do: FFmpeg's own decoder reads past the end of damaged data.
    """
    first: Fraction | None = None
    own = "libvpx" if stream.codec_context.codec.name == "vp8" and "libvpx" in av.codec.codecs_available else None
    decoder = cast(VideoCodecContext, CodecContext.create(own, "r")) if own else stream.codec_context
    try:
        for frame in (f for packet in container.demux(stream) for f in decoder.decode(packet)):
            if frame.pts is None or frame.time_base is None:
                found.damaged = True
                continue
            at = frame.pts * frame.time_base
            first = at if first is None else first
            found.damaged |= frame.is_corrupt
            found.times_s.append(float(at - first))
            yield found.times_s[-1], frame
            if len(found.times_s) >= MOST_FRAMES:
                return
    except (av.error.FFmpegError, IndexError, UnicodeDecodeError):
        found.damaged = True
        if not found.times_s:
            raise


def _upright(frame: av.VideoFrame, stream: av.video.VideoStream) -> np.ndarray:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width = round(frame.width * aspect) if aspect > 1 else frame.width
    height = round(frame.height / aspect) if aspect < 1 else frame.height
    scaled = (width, height) != (frame.width, frame.height)
    how = Interpolation.BICUBIC if scaled else Interpolation.BILINEAR
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation=how).to_ndarray()
    return np.rot90(rgb, frame.rotation // 90 % 4)
