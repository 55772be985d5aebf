"""Clips of which every motion is known: a textured square that glides over a textured ground, scenes, stills."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from tests.reading.video.video_clips import encoded

W, H, SIDE = 160, 96, 48

# name: container, codec, options. One reference picture, so that the distance of a vector is known.
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264_p": ("mp4", "libx264", {"g": "60", "bf": "0", "refs": "1", "sc_threshold": "0", "crf": "12"}),
    "h264_b": (
        "mp4",
        "libx264",
        {"crf": "12", "x264-params": "keyint=60:bframes=3:b-adapt=0:b-pyramid=none:ref=1:scenecut=0:weightp=0"},
    ),
    "h264_pyramid": (
        "mp4",
        "libx264",
        {"crf": "12", "x264-params": "keyint=60:bframes=3:b-adapt=0:b-pyramid=normal:ref=1:scenecut=0:weightp=0"},
    ),
    "mpeg4": ("mp4", "mpeg4", {"g": "60", "bf": "0", "q:v": "2", "sc_threshold": "1000000000"}),
    "mpeg4_b": ("mp4", "mpeg4", {"g": "60", "bf": "2", "sc_threshold": "1000000000"}),
    "mpeg2": ("matroska", "mpeg2video", {"g": "60", "bf": "2", "sc_threshold": "1000000000"}),
    "vp9": ("webm", "libvpx-vp9", {"g": "60", "deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"}),
    "hevc": ("mp4", "libx265", {"crf": "16", "x265-params": "keyint=60:bframes=2:scenecut=0:log-level=none"}),
    "av1": ("mp4", "libsvtav1", {"g": "60", "preset": "12", "crf": "20", "svtav1-params": "lp=1"}),
}


@cache
def texture(width: int, height: int, seed: int) -> np.ndarray:
    """(height, width, 3) of soft spots, levels 40 to 215."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(40, 216, (height // 6 + 2, width // 6 + 2), dtype=np.uint8))
    grey = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return np.repeat(grey[:, :, None], 3, axis=2)


def gliding(frames: int, right: float, down: float = 0.0, *, seed: int = 1, at: tuple[int, int] = (16, 16)) -> list:
    """Pictures in which a square at x, y = `at` moves by (right, down) pixels a frame, to a quarter pixel."""
    ground, fine = texture(W, H, seed), texture(SIDE + 4, SIDE + 4, seed + 100)
    fine = np.asarray(Image.fromarray(fine).resize((SIDE * 4 + 16, SIDE * 4 + 16), Image.Resampling.BICUBIC))
    pictures = []
    for n in range(frames):
        x, y = at[0] + right * n, at[1] + down * n
        left, top = int(np.floor(x)), int(np.floor(y))
        back_x, back_y = round((x - left) * 4), round((y - top) * 4)  # quarter pixels by which the texture lags
        box = fine[4 - back_y : 4 - back_y + SIDE * 4, 4 - back_x : 4 - back_x + SIDE * 4]
        square = box.reshape(SIDE, 4, SIDE, 4, 3).mean((1, 3)).round().astype(np.uint8)
        picture = ground.copy()
        picture[top : top + SIDE, left : left + SIDE] = square
        pictures.append(picture)
    return pictures


def scenes(lengths: Sequence[int], *, right: float = 1.0) -> list:
    """Scenes of so many frames after each other, each of another ground and square."""
    return [p for k, n in enumerate(lengths) for p in gliding(n, right, seed=10 + 7 * k)]


def made(kind: str, pictures: list, **more: Any) -> bytes:
    container, codec, options = CODECS[kind]
    return encoded(container, codec, pictures, options=options, **more)


@cache
def glide(kind: str, right: float = 2.0, down: float = 0.0, frames: int = 16) -> bytes:
    return made(kind, gliding(frames, right, down))


@cache
def three_scenes(kind: str = "h264_b") -> bytes:
    """Cuts at frames 13 and 29, on no key frame."""
    return made(kind, scenes((13, 16, 11)))


@cache
def still(kind: str = "h264_b", frames: int = 24) -> bytes:
    return made(kind, [texture(W, H, 3)] * frames)
