"""Small clips made with PyAV, whose frames carry their own number as bright and dark blocks that survive any codec."""

import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

W, H, BLOCK = 64, 48, 16  # 4 x 3 blocks: 12 bits
DARK, BRIGHT = 50, 200

# name: container, codec, options of the encoder, options of the container
KINDS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "h264_p": ("mp4", "libx264", {"g": "20", "bf": "0", "sc_threshold": "0"}, {}),
    "h264_b": ("mp4", "libx264", {"g": "30", "bf": "3", "sc_threshold": "0"}, {}),
    "h264_open": ("mp4", "libx264", {"g": "20", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1"}, {}),
    "h264_refresh": ("mp4", "libx264", {"g": "20", "bf": "0", "x264-params": "intra-refresh=1"}, {}),
    "h264_fast": ("mp4", "libx264", {"g": "20", "bf": "2", "sc_threshold": "0"}, {"movflags": "faststart"}),
    "h264_frag": ("mp4", "libx264", {"g": "20", "bf": "2", "sc_threshold": "0"}, {"movflags": "frag_keyframe"}),
    "h264_mkv": ("matroska", "libx264", {"g": "20", "bf": "3", "sc_threshold": "0"}, {}),
    "h264_avi": ("avi", "libx264", {"g": "20", "bf": "2", "sc_threshold": "0"}, {}),
    "hevc": ("mp4", "libx265", {"x265-params": "keyint=25:min-keyint=25:scenecut=0:bframes=4:log-level=none"}, {}),
    "hevc_closed": ("mp4", "libx265", {"x265-params": "keyint=20:no-open-gop=1:scenecut=0:log-level=none"}, {}),
    "hevc_layers": ("mp4", "libx265", {"x265-params": "keyint=32:temporal-layers=3:scenecut=0:log-level=none"}, {}),
    "hevc_mkv": ("matroska", "libx265", {"x265-params": "keyint=20:scenecut=0:log-level=none"}, {}),
    "mpeg4": ("mp4", "mpeg4", {"g": "15", "bf": "2", "sc_threshold": "1000000000"}, {}),
    "mpeg4_avi": ("avi", "mpeg4", {"g": "15", "bf": "0", "sc_threshold": "1000000000"}, {}),
    "mpeg4_b_avi": ("avi", "mpeg4", {"g": "15", "bf": "2", "sc_threshold": "1000000000"}, {}),
    "mpeg2_mkv": ("matroska", "mpeg2video", {"g": "12", "bf": "2", "sc_threshold": "1000000000"}, {}),
    "vp9": ("webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}, {}),
    "vp9_live": ("webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}, {"live": "1"}),
    "vp8": ("webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "12", "deadline": "good"}, {}),
    "av1": ("mp4", "libsvtav1", {"g": "20", "preset": "12", "svtav1-params": "lp=1"}, {}),
    "mjpeg_avi": ("avi", "mjpeg", {}, {}),
    "ffv1": ("matroska", "ffv1", {"g": "5"}, {}),
}


def numbered(number: int, width: int = W, height: int = H) -> np.ndarray:
    """A grey picture of blocks that spell `number`, bit 0 first."""
    bits = [(number >> k) & 1 for k in range(12)]
    blocks = np.where(np.array(bits).reshape(3, 4), BRIGHT, DARK).astype(np.uint8)
    big = np.repeat(np.repeat(blocks, BLOCK, 0), BLOCK, 1)
    picture = np.full((height, width), 128, np.uint8)
    picture[:H, :W] = big[:height, :width]
    return np.repeat(picture[:, :, None], 3, 2)


def number_of(rgb: np.ndarray) -> int:
    """The number that a decoded picture carries."""
    grey = rgb[:H, :W].astype(float).mean(2).reshape(3, BLOCK, 4, BLOCK)[:, 4:12, :, 4:12].mean((1, 3))
    return sum(1 << k for k, bright in enumerate((grey > 125).ravel()) if bright)


def encoded(
    container: str,
    codec: str,
    pictures: Sequence[np.ndarray],
    *,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    rate: int = 25,
    stamps: Sequence[int] | None = None,
    tick: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    turn: dict[str, Any] | None = None,
    aspect: Fraction | None = None,
    colour: dict[str, int] | None = None,
) -> bytes:
    """A file with one video stream. stamps: presentation times in units of `tick`; evenly spaced without."""
    height, width = pictures[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        with av.open(str(path), "w", format=container, options=muxing or {}) as out:
            stream = out.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.thread_count = 1
            if tick is not None:
                stream.codec_context.time_base = tick
                stream.time_base = tick
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            for name, value in (colour or {}).items():
                setattr(stream.codec_context, name, value)
            if turn is not None:
                stream.set_display_rotation(**turn)
            for n, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                if colour:
                    kept = {k: v for k, v in colour.items() if k in ("colorspace", "color_range")}
                    frame = frame.reformat(
                        format=pix_fmt, dst_colorspace=kept.get("colorspace"), dst_color_range=kept.get("color_range")
                    )
                frame.pts = n if stamps is None else stamps[n]
                frame.time_base = tick or Fraction(1, rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path.read_bytes()


@cache
def clip(kind: str, frames: int = 60, rate: int = 25) -> bytes:
    """A numbered clip of one of KINDS."""
    container, codec, options, muxing = KINDS[kind]
    pix_fmt = {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    pictures = [numbered(n) for n in range(frames)]
    return encoded(container, codec, pictures, options=options, muxing=muxing, rate=rate, pix_fmt=pix_fmt)


@cache
def plain(data: bytes) -> tuple[np.ndarray, ...]:
    """The slow, obvious twin: every frame, by PyAV, from the start, one thread, in the order shown."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        return tuple(frame.to_ndarray(format="rgb24") for frame in container.decode(stream))
