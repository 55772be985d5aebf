"""What a rank does whose batch has no pixels, so that all ranks run the same collectives; a forward calls it."""

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed import Packed
from tubelet.packed.grid import Grid, Item, positions
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float


def blank(recipe: PixelRecipe) -> Packed:
    """The smallest pack of pixels that an encoder with this recipe takes: one unit of black, one item.

    For a rank whose batch has no pixels: encode it and hand the result to `touch`.

        >>> blank(tubelet.PixelRecipe(patch=14, merge=2, order="block"))
        Packed(T=4, D=588, uint8, cpu, 1 items: [1x2x2])
    """
    grid = Grid(1, recipe.merge, recipe.merge)
    side = float(recipe.merge * recipe.patch)
    rows = torch.zeros(grid.rows, recipe.width, dtype=torch.uint8, device="cpu")
    pos = positions(grid, merge=recipe.merge if recipe.order == "block" else 1)
    return Packed(rows, pos, (Item(grid, (0.0,), 0, (0.0, 0.0, side, side)),), (grid.rows,))


def touch(x: Float[Tensor, "*any"], *packs: Packed) -> Float[Tensor, "*any"]:
    """x unchanged in value, with the rows of the packs in its graph at weight zero.

    Where some ranks have pixels and others do not, every rank must run the same collectives: DDP stops over parameters
    without a gradient, FSDP and ZeRO-3 wait for each other for ever. A rank without pixels encodes `blank` and touches
    its text embeddings with all that came of it, deepstack rows too; the gradients it adds are zero. x is bit-equal,
    also where a pack holds NaN or infinity. Raises ShapeError for a pack of pixels.

        >>> p = tubelet.pack([torch.ones(1, 8, requires_grad=True)], [tubelet.Item.of(1, 1, 1)])
        >>> touch(torch.zeros(2), p)
        tensor([0., 0.], grad_fn=<AddBackward0>)
    """
    for p in packs:
        if not p.dtype.is_floating_point:
            raise ShapeError(f"rows of {p.dtype} have no gradient; touch with what the encoder gives", got=str(p.dtype))
        x = x + torch.nan_to_num(p.x * 0.0).sum().to(device=x.device, dtype=x.dtype)
    return x
