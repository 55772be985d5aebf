"""The views that SHIRG was first described with, literally: a compat preset, with what is wrong with it.

    4 x 336 x 336   576 rows each, the same picture four times
    1 x 672 x 672   2,304 rows
                    4,608 together, of which the first 3,645 are kept

What 3,645 rows were meant to be is `LAVIDA` without its pool: 5 views of 729 rows, all of them different.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from tubelet.encoder.model import Encoder
from tubelet.errors import ShapeError
from tubelet.packed import Packed, concat
from tubelet.pixels.patchify import from_pixels
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float

SEED_SIDES = (336, 336, 336, 336, 672)
SEED_ROWS = 3645
SEED_FAULTS = (
    "four of five views are the same picture, squashed to 336 x 336: 1,728 rows repeat the first 576",
    "the cut keeps rows 0 to 27 of 48 of the one view of 672: the bottom 42 % of a page are not there to be chosen",
    "the resize has no antialiasing, so small print becomes noise where a picture shrinks",
    "rows come after the last layer and its norm, but LaViDa's projector was trained on layer 26 without a norm",
    "336 and 672 need another table of positions than 384; none was made (here it is resized, or nothing would run)",
)


def seed_patches(images: Float[torch.Tensor, "B 3 H W"], recipe: PixelRecipe) -> Packed:
    """Rows of the five views of each of a batch of normalised pictures, in float: 4,608 with patches of 14.

    Bilinear without antialiasing, as the seed says. Views of a picture follow each other; boxes are those of the whole
    picture. Raises ShapeError for other inputs.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ShapeError(f"expected normalised floats [B, 3, H, W], got {images.dtype} {tuple(images.shape)}")
    height, width = images.shape[2:]
    whole = (0.0, 0.0, float(width), float(height))
    packs: list[Packed] = []
    for n, image in enumerate(images):
        for side in SEED_SIDES:
            view = F.interpolate(image[None], size=(side, side), mode="bilinear", align_corners=False)
            p = from_pixels(view, recipe)
            [item] = p.items
            named = (replace(item, picture=n, box=whole, content=whole),)
            packs.append(Packed(p.x, p.pos, named, p.lengths))
    return concat(packs, renumber=False)


def seed_tokens(images: Float[torch.Tensor, "B 3 H W"], encoder: Encoder, *, rows: int = SEED_ROWS) -> Packed:
    """What the seed's `extract_multiview_tokens` describes: all layers, all five views, the first `rows` rows of each.

    For comparison only; `SEED_FAULTS` says why. Raises ShapeError.

    Source: the SHIRG integration plan for rkawamura0483/LaViDa_mod, step 1 (extract_multiview_tokens), which was never
    called there.
    """
    tokens = encoder(seed_patches(images, encoder.pixels))
    kept: list[torch.Tensor] = []
    for n in range(len(images)):
        views = [i for i, item in enumerate(tokens.items) if item.picture == n]
        start, stop = tokens.starts[views[0]], tokens.starts[views[-1] + 1]
        kept.append(torch.arange(start, min(stop, start + rows), device=tokens.device))
    return tokens.keep(torch.cat(kept)) if kept else tokens
