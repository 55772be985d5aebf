"""Pictures of many sizes through a family's recipe and through transformers' processor: grids equal, pixels within a
grey level of each other."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from tubelet import Clip, patchify
from tubelet.packed import Grid
from tubelet.pixels.patchify import unpatchify
from tubelet.pixels.recipe import PixelRecipe

# A (H, W, 3) uint8 picture -> normalised (3, h, w) values and the grid that the processor says, or None if it says none
Processor = Callable[[np.ndarray], tuple[Tensor, tuple[int, int] | None]]


def pictures(count: int, seed: int = 0, low: int = 20, high: int = 700) -> Iterator[np.ndarray]:
    """Random pictures: smooth shades with some noise and hard edges, of any ratio up to about 10."""
    rng = random.Random(seed)
    noise = np.random.default_rng(seed)
    for _ in range(count):
        height = rng.randint(low, high)
        width = min(high, max(low, round(height * 10 ** rng.uniform(-1, 1))))
        y, x = np.mgrid[:height, :width]
        shade = np.stack([(y * a + x * b) % 256 for a, b in ((0.7, 0.2), (0.1, 0.9), (0.5, 0.5))], axis=2)
        shade += noise.normal(0, 12, shade.shape)
        shade[height // 3 : height // 2, width // 4 : width // 2] = noise.integers(0, 256, 3)
        yield shade.clip(0, 255).astype(np.uint8)


def pixel_values(processor: object, **options: object) -> Processor:
    """A processor whose pixel_values are pictures (B, 3, h, w)."""
    call: Callable[..., dict[str, Tensor]] = processor  # type: ignore[assignment]

    def run(picture: np.ndarray) -> tuple[Tensor, None]:
        chw = torch.from_numpy(picture).permute(2, 0, 1)
        return call(images=chw, return_tensors="pt", **options)["pixel_values"][0], None

    return run


def check_pictures(
    processor: Processor, recipe: PixelRecipe, count: int = 40, levels: float = 0.0, **sizes: int
) -> float:
    """The largest difference in grey levels over `count` pictures, after asserting that it is at most `levels` and
    that every grid is the processor's. What the processor keeps beyond whole patches is not compared: its convolution
    does not read it."""
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (recipe.mean, recipe.std))
    worst = 0.0
    for picture in pictures(count, **sizes):
        ours = patchify([Clip(picture[None], (0.0,))], recipe)
        values, said = processor(picture)
        grid = ours.items[0].grid
        theirs = Grid(1, *(said or (values.shape[1] // recipe.patch, values.shape[2] // recipe.patch)))
        assert grid == theirs, (picture.shape, grid, theirs)
        shown = unpatchify(ours, recipe)[0][0].permute(2, 0, 1).double()
        grey = (values.double() * std + mean) * 255
        grey = grey[:, : grid.h * recipe.patch, : grid.w * recipe.patch]
        difference = (shown - grey).abs().max().item()
        assert difference <= levels + 1e-3, (picture.shape, difference)
        worst = max(worst, difference)
    return worst
