"""What paper, light and scanners do to a page: tilt, blur, uneven light, grain, JPEG. Boxes move with the paper."""

import io
import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Boxes = NDArray[np.float32]


def degraded(
    image: Image.Image, boxes: Boxes, rng: Random, seed: int, strength: float
) -> tuple[NDArray[np.uint8], Boxes]:
    """The page as it was found, (H, W, 3), and the boxes (n, 4) of its letters there.

    strength: 0 leaves it as printed; 1 tilts up to 1.5 degrees, puts a tenth of the pages on a desk, blurs up to one
    pixel, adds grain of up to sigma 12.
    """
    if strength > 0 and rng.random() < 0.5:
        zoom, desk = 1.0, None
        if rng.random() < 0.2:  # the paper lies on something darker, which shows around it
            zoom, level = rng.uniform(0.86, 0.98), rng.randint(30, 170)
            desk = (level, round(level * rng.uniform(0.6, 1.0)), round(level * rng.uniform(0.4, 1.0)))
        turn = rng.uniform(-1.5, 1.5) * strength
        image, boxes = tilted(image, boxes, turn, rng.uniform(-0.5, 0.5), zoom=zoom, around=desk)
    if strength > 0 and rng.random() < 0.25:
        image = image.filter(_blur(rng.uniform(0.05, 0.3) * strength))
    pixels = np.asarray(image, np.float32)
    noise = np.random.Generator(np.random.PCG64(seed))
    if strength > 0 and rng.random() < 0.4:
        pixels = pixels * _light(pixels.shape[0], pixels.shape[1], rng, strength)
    sigma = rng.uniform(0.0, 12.0) * strength * rng.random()
    if sigma > 0.5:
        grey = noise.standard_normal(pixels.shape[:2], np.float32)
        pixels = pixels + sigma * grey[..., None]
    out = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if strength > 0 and rng.random() < 0.25:
        out = _jpeg(out, rng.randint(45, 92))
    return out, boxes


def tilted(
    image: Image.Image,
    boxes: Boxes,
    degrees: float,
    shift: float,
    *,
    zoom: float = 1.0,
    around: tuple[int, int, int] | None = None,
) -> tuple[Image.Image, Boxes]:
    """The page turned about its middle, `zoom` times as large, and moved by a part of a pixel; each box becomes the one
    around its corners. around: the colour beyond the paper, None for the paper's own."""
    w, h = image.size
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = w / 2, h / 2
    # Pillow asks where each pixel of the result comes from: the inverse turn
    c, s = cos / zoom, sin / zoom
    to_x, to_y = cx + shift, cy + shift
    inverse = (c, s, cx - c * to_x - s * to_y, -s, c, cy + s * to_x - c * to_y)
    corner = image.getpixel((1, 1)) if around is None else around
    turned = image.transform((w, h), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=corner)
    x, y = (boxes[:, [0, 2, 2, 0]] - cx) * zoom, (boxes[:, [1, 1, 3, 3]] - cy) * zoom
    xs, ys = cos * x - sin * y + to_x, sin * x + cos * y + to_y
    return turned, np.stack([xs.min(1), ys.min(1), xs.max(1), ys.max(1)], axis=1).astype(np.float32)


def _blur(side: float) -> ImageFilter.Kernel:
    """Each pixel gives `side` of a middle weight of 1 to its neighbours, and the square of it across corners."""
    line = (side, 1.0, side)
    return ImageFilter.Kernel((3, 3), [a * b for a in line for b in line])


def _light(height: int, width: int, rng: Random, strength: float) -> NDArray[np.float32]:
    """A slow fall of light across the page, (H, W, 1), at most 25 %."""
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.25) * strength
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * math.cos(angle)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * math.sin(angle)
    return (1.0 - depth * (0.5 + y[:, None] + x[None]))[..., None].astype(np.float32)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.uint8)
