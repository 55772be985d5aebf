"""Where a chosen row stands, told to a model that reads rows as a list: learned features of place and size.

After choosing, the n-th row may be anywhere. A language model with rotary places of its own (`rope_index`) is
told by position ids; one that counts rows, such as LaViDa's, can be told by an embedding that is added to them.
"""

import math

import torch
from torch import Tensor, nn

from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed
from tubelet.shapes import Float

BANDS = 6  # wavelengths 2, 1, ... 1/16 of a picture: two rows of a 32 x 32 grid are told apart


class Coordinates(nn.Module):
    """Adds to each row a learned projection of its place: p with the same rows plus (T, D).

        sin, cos of pi 2^k v, k = 0 .. bands - 1,   for v = x, y of the row's centre and w, h of its cell

    x, y, w, h are shares of the picture that the pack's views show together, so rows of a tile and of the whole view at
    one place have one (x, y) and differ in (w, h). Zero at the start: a model that never saw it stays as it is. Part of
    the parameters from construction. Cost: 8 bands D FLOPs a row. Raises ConfigError, ShapeError.

    Differs from SHIRG's (rkawamura0483/LaViDa_mod:siglip_shirg.py@2b2eda4), whose angles all stay below 1 radian, and
    whose projection was made outside the optimizer.

        >>> p = tubelet.pack([torch.randn(4, 8)], [tubelet.Item.of(1, 2, 2)])
        >>> Coordinates(8)(p).equal(p)
        True
    """

    def __init__(self, width: int, *, bands: int = BANDS) -> None:
        super().__init__()
        if width < 1 or bands < 1:
            raise ConfigError(f"width and bands start at 1, got {width} and {bands}", limit=1, got=(width, bands))
        self.bands = bands
        self.project = nn.Linear(8 * bands, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, p: Packed) -> Packed:
        if p.x.shape[1] != self.project.out_features:
            raise ShapeError(
                f"rows of {p.x.shape[1]} for coordinates of {self.project.out_features}",
                expected=self.project.out_features,
                got=p.x.shape[1],
            )
        waves = fourier(shares(p), self.bands).to(self.project.weight.dtype)
        return p.with_x(p.x + self.project(waves).to(p.dtype))


def fourier(values: Float[Tensor, "T V"], bands: int) -> Float[Tensor, "T W"]:
    """sin and cos of pi 2^k v, value by value, k ascending: (T, 2 bands V)."""
    angles = values[..., None] * (math.pi * 2.0 ** torch.arange(bands, device=values.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def shares(p: Packed) -> Float[Tensor, "T 4"]:
    """x, y of each row's centre and w, h of its cell, as shares of what the views of its picture show. No sync."""
    frames: dict[int, tuple[float, float, float, float]] = {}
    for item in p.items:
        left, top, right, bottom = item.content or item.box
        old = frames.get(item.picture, (left, top, right, bottom))
        frames[item.picture] = min(old[0], left), min(old[1], top), max(old[2], right), max(old[3], bottom)
    parts = [p.x.new_zeros(0, 4, dtype=torch.float32)]
    for item, pos in zip(p.items, p.pos.split(p.lengths) if len(p) else (), strict=True):
        left, top, right, bottom = frames[item.picture]
        wide, high = item.cell
        place = pos.float()
        x = (item.box[0] + (place[:, 2] + 0.5) * wide - left) / (right - left)
        y = (item.box[1] + (place[:, 1] + 0.5) * high - top) / (bottom - top)
        size = torch.tensor([wide / (right - left), high / (bottom - top)], device="cpu").to(pos.device)
        parts.append(torch.cat([x[:, None], y[:, None], size.expand(len(pos), 2)], dim=1))
    return torch.cat(parts)
