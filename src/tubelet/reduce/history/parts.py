"""What the historical versions of SHIRG share: scores of tokens (B, N, D) on a square grid, in upstream's terms.

Kept as they were, in float32, with their borders, constants and batch couplings, so that each version equals its golden
cases. For work of one's own use tubelet.reduce.scores; `tubelet.reduce.shirg` says what is wrong with each version.
Source: rkawamura0483/LaViDa_mod, at the commits that `shirg.VERSIONS` lists.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.shapes import Float, Int64, Shaped

SUMMARY = -1  # index of a token that is none of the input's rows

_LAPLACE = ((0.0, -1.0, 0.0), (-1.0, 4.0, -1.0), (0.0, -1.0, 0.0))
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


@dataclass(frozen=True)
class Chosen:
    """tokens (B, K, D) in upstream's order; index (B, K): the row each came from, -1 for one that is none (a summary,
    a merged block, a smoothed token); coords (B, K, 4) as (x, y, h, w) in 0..1 where the version returns them; place
    (B, K): the row each stands for, where tokens are changed and keep their places."""

    tokens: Float[Tensor, "B K D"]
    index: Int64[Tensor, "B K"]
    coords: Float[Tensor, "B K 4"] | None = None
    place: Int64[Tensor, "B K"] | None = None


def side_of(x: Tensor) -> int:
    """The side of the square grid of (B, N, ...). Raises ShapeError where N is no square."""
    side = math.isqrt(x.shape[1])
    if side * side != x.shape[1]:
        raise ShapeError(f"this version needs a square grid, {x.shape[1]} tokens are none", got=x.shape[1])
    return side


def taken(x: Shaped[Tensor, "B N D"], index: Int64[Tensor, "B K"]) -> Shaped[Tensor, "B K D"]:
    """Rows `index` of each image."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def best(scores: Float[Tensor, "B N"], k: int) -> Int64[Tensor, "B K"]:
    """The k highest of each image, highest first. Equal ones in the order torch.topk leaves them in, as upstream, which
    differs between devices: `select` has an order of its own."""
    return scores.topk(min(k, scores.shape[1]), dim=1).indices


def mm(s: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """(s - min) / (max - min + 1e-8) of each image."""
    low, high = s.amin(dim=1, keepdim=True), s.amax(dim=1, keepdim=True)
    return (s - low) / (high - low + 1e-8)


def nz(s: Float[Tensor, "*B N"]) -> Float[Tensor, "*B N"]:
    """Divided by its length over the N tokens."""
    return F.normalize(s, dim=-1)


def cosines(x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"]) -> Float[Tensor, "B N S"]:
    return F.normalize(x, dim=-1) @ F.normalize(text, dim=-1).transpose(1, 2)


def cosmax(x: Tensor, text: Tensor) -> Float[Tensor, "B N"]:
    return cosines(x, text).amax(dim=2)


def meancos(x: Tensor, text: Tensor) -> Float[Tensor, "B N"]:
    return cosines(x, text).mean(dim=2)


def dotmax(x: Tensor, text: Tensor) -> Float[Tensor, "B N"]:
    """The largest raw dot product with a text token."""
    return (x @ text.transpose(1, 2)).amax(dim=2)


def dot_or_norm(x: Tensor, text: Tensor | None) -> Float[Tensor, "B N"]:
    return x.norm(dim=2) if text is None else dotmax(x, text)


def image(x: Float[Tensor, "B N D"], side: int) -> Float[Tensor, "B D h w"]:
    return x.transpose(1, 2).unflatten(2, (side, side))


def box(x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """Mean of the 3 x 3 window; beyond the border stand zeros, which count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1)


def laplacian(x: Float[Tensor, "B N D"], side: int) -> Float[Tensor, "B N"]:
    """Mean over channels of the absolute Laplacian, zeros beyond the border (which so becomes an edge)."""
    kernel = x.new_tensor(_LAPLACE).expand(x.shape[2], 1, 3, 3)
    return F.conv2d(image(x, side), kernel, padding=1, groups=x.shape[2]).abs().mean(dim=1).flatten(1)


def sobel(channel: Float[Tensor, "B h w"], *, replicate: bool, floor: float = 0.0) -> Float[Tensor, "B N"]:
    """Length of the Sobel gradient, sqrt(gx^2 + gy^2 + floor), with the border repeated or zeros beyond it."""
    kernel = torch.stack([channel.new_tensor(_SOBEL), channel.new_tensor(_SOBEL).T])[:, None]
    padded = F.pad(channel[:, None], (1, 1, 1, 1), mode="replicate" if replicate else "constant")
    return (F.conv2d(padded, kernel).square().sum(dim=1) + floor).sqrt().flatten(1)


def coordinates(side: int) -> Float[Tensor, "N 4"]:
    """(x, y, h, w) of each cell: its centre and size, in 0..1."""
    i = torch.arange(side * side)
    x, y = (i % side + 0.5) / side, (i // side + 0.5) / side
    return torch.stack([x, y, torch.full_like(x, 1 / side), torch.full_like(x, 1 / side)], dim=1)


def centre_distance(side: int) -> Float[Tensor, " N"]:
    """Distance of each cell's centre to the middle of the image, in image sides."""
    return (coordinates(side)[:, :2] - 0.5).norm(dim=1)


def best_of_regions(scores: Float[Tensor, "B N"], side: int, region: int) -> Int64[Tensor, "B R"]:
    """The best token of each region x region block in raster order; what a block does not fill is in none."""
    n = side // region
    blocks = scores.unflatten(1, (side, side))[:, : n * region, : n * region]
    blocks = blocks.unflatten(1, (n, region)).unflatten(3, (n, region)).transpose(2, 3).flatten(3).flatten(1, 2)
    inside = blocks.argmax(dim=2)
    r = torch.arange(n * n)
    return ((r // n) * region + inside // region) * side + (r % n) * region + inside % region


def first_then_best(scores: Float[Tensor, "B N"], first: Int64[Tensor, "B R"], k: int) -> Int64[Tensor, "B K"]:
    """`first` as they stand, then the best of the others, k in all."""
    rest = best(scores.scatter(1, first, -torch.inf), k - first.shape[1])
    return torch.cat([first, rest], dim=1)


def dropped(index: Int64[Tensor, "B K"], n: int) -> Shaped[Tensor, "B N"]:
    """True where a token was not taken."""
    return torch.ones(len(index), n, dtype=torch.bool).scatter(1, index, False)


def with_summary(x: Tensor, index: Int64[Tensor, "B K"], summary: Float[Tensor, "B D"]) -> Chosen:
    """The tokens of `index` and one more."""
    tokens = torch.cat([taken(x, index), summary[:, None]], dim=1)
    return Chosen(tokens, F.pad(index, (0, 1), value=SUMMARY))
