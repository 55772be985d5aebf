"""Pictures and clips that the tests of the commands make for themselves."""

from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """A smooth picture with a little noise, in the format its name says."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256], axis=-1)
    noisy = np.clip(pixels + rng.integers(-8, 8, pixels.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path)
    return path


def write_clip(path: Path, width: int = 64, height: int = 48, frames: int = 20, noise: int = 0) -> Path:
    """A clip of 10 frames a second whose frame number is its brightness; with noise, every frame needs many bytes."""
    rng = np.random.default_rng(7)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            pixels = np.full((height, width, 3), 8 * i, dtype=np.uint8)
            pixels += rng.integers(0, noise + 1, pixels.shape, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
