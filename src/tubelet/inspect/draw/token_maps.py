"""Tokens as colours: what is alike has a like colour. Each map is one colour for each row, and what it means.

    own basis     the first three principal directions of a picture's tokens as red, green and blue
    one basis     of all tokens together: colours can be compared between pictures
    norm          the length of each token
    likeness      the cosine of each token with a chosen one

Computed on the host in float32, in memory and time that grow with rows x width.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.inspect.draw.cells import SAME
from tubelet.inspect.draw.shades import UNKNOWN, ends, legend, shaded
from tubelet.inspect.metrics.pictures import rows_by_picture
from tubelet.packed import Packed
from tubelet.shapes import Bool, Float, UInt8

STEPS, BESIDE = 8, 5  # turns of the search for directions, and how many are looked for beside the three
SPREAD = (0.01, 0.99)  # of the values along a direction, what is darkest and what is lightest


class Point(NamedTuple):
    """A place in one of the pictures, in its upright pixels; of a clip, at a time."""

    picture: int
    x: float
    y: float
    time_s: float = 0.0


@dataclass(frozen=True)
class TokenMap:
    """One colour for each row of a pack."""

    name: str
    colours: UInt8[np.ndarray, "T 3"] | None  # None: one number is the same for all rows, and `about` says it
    about: str  # what the colours mean
    scale: Image.Image | None = None  # a bar that says it in numbers


def token_maps(p: Packed, like: Point | None = None, *, drawn: Collection[int] | None = None) -> list[TokenMap]:
    """Maps of a pack's rows: own basis, one basis for all (of several pictures), norm, and likeness with the row at
    `like`. Rows with NaN or infinity have a colour of their own. drawn: the pictures whose own basis is looked for, all
    if None. Syncs. Raises ShapeError for no rows, InputError for a
    place without a row.

        >>> p = tubelet.pack([torch.randn(24, 8)], [tubelet.Item.of(1, 4, 6)])
        >>> [m.name for m in token_maps(p, Point(0, x=2.5, y=0.5))]
        ['principal directions', 'norm', 'like the chosen one']
    """
    if not len(p.x):
        raise ShapeError("there is no token to draw", limit=1, got=0)
    x = p.x.detach().float().cpu()
    finite = x.isfinite().all(dim=1)
    pictures = rows_by_picture(p)
    own = np.zeros((len(x), 3), np.uint8)
    shares = []
    for picture, rows in pictures.items():
        if len(rows) and (drawn is None or picture in drawn):
            own[rows.numpy()], share = principal_colours(x[rows], finite[rows])
            shares.append(share)
    low, high = min(shares, default=0.0), max(shares, default=0.0)
    held = f"{low:.0%}" if round(low, 2) == round(high, 2) else f"{low:.0%} to {high:.0%}"
    what = "the first three principal directions as red, green, blue"
    one = len(pictures) == 1
    maps = [
        TokenMap(
            "principal directions" if one else "own basis",
            own,
            f"{what}: {held} of the variance"
            if one
            else f"own basis: {what}, of each picture ({held} of its variance)",
        )
    ]
    if not one:
        colours, share = principal_colours(x, finite)
        about = f"one basis: of all pictures together ({share:.0%}), so that colours can be compared"
        maps.append(TokenMap("one basis", colours, about))
    maps.append(_scaled("norm", x.norm(dim=1), finite, "norm: the length of each token"))
    if like is not None:
        row = row_at(p, like)
        cosine = F.cosine_similarity(x, x[row][None], dim=1)
        maps.append(_scaled("like the chosen one", cosine, finite, "likeness: cosine with the outlined token"))
    return maps


def principal_colours(x: Float[Tensor, "n D"], finite: Bool[Tensor, " n"]) -> tuple[UInt8[np.ndarray, "n 3"], float]:
    """Red, green and blue of each row along the first three principal directions, and the share of the variance that
    these hold. The same rows give the same colours; which end of a direction is light is told by its skew.

    Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53, 2011, algorithm 4.4, with
    a start of its own seed.
    """
    some = x[finite]
    if not len(some):
        return np.full((len(x), 3), UNKNOWN, np.uint8), 0.0
    middle = some.mean(dim=0)
    centred = some - middle
    total = float(centred.square().sum())
    start = torch.randn(x.shape[1], min(3 + BESIDE, *some.shape), generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(start).Q
    for _ in range(STEPS):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, lengths, turn = torch.linalg.svd(centred @ basis, full_matrices=False)
    along = (x - middle) @ (basis @ turn.T)[:, :3]
    along = along * torch.where(along[finite].pow(3).sum(dim=0) < 0, -1.0, 1.0)
    at = torch.full((len(x), 3), 0.5)
    low, high = torch.quantile(_some(along[finite]), torch.tensor(SPREAD), dim=0)
    spread = torch.where(high - low > 1e-6 * max(total, 1e-30) ** 0.5, high - low, torch.inf)
    at[:, : along.shape[1]] = torch.where(spread.isinf(), 0.5, (along - low) / spread)
    colours = (at.nan_to_num(0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    colours[~finite.numpy()] = UNKNOWN
    return colours, float(lengths[:3].square().sum()) / total if total > 0 else 0.0


def row_at(p: Packed, place: Point) -> int:
    """The row at a place: of the view with the finest cells there, at the nearest time. Raises InputError for none."""
    fine = sorted(range(len(p.items)), key=lambda i: p.items[i].cell[0] * p.items[i].cell[1])
    for i in (i for i in fine if p.items[i].picture == place.picture):
        item = p.items[i]
        left, top, right, bottom = item.box
        if not (left <= place.x < right and top <= place.y < bottom):
            continue
        wide, high = item.cell
        t = min(range(item.grid.t), key=lambda j: abs(item.times_s[j] - place.time_s))
        wanted = torch.tensor([t, int((place.y - top) / high), int((place.x - left) / wide)])
        rows = (p.pos[p.starts[i] : p.starts[i + 1]].cpu().long() == wanted).all(dim=1).nonzero()
        if len(rows):
            return p.starts[i] + int(rows[0])
    raise InputError(
        f"there is no token at {place.x:g}, {place.y:g} of picture {place.picture}", item=place.picture, got=place[1:]
    )


def _scaled(name: str, values: Float[Tensor, " T"], finite: Bool[Tensor, " T"], about: str) -> TokenMap:
    """A map of numbers, from the least to the greatest but for a hundredth at each end."""
    known = values[finite]
    low, high = torch.quantile(_some(known[:, None])[:, 0], torch.tensor(SPREAD)).tolist() if len(known) else (0.0, 1.0)
    if high - low <= SAME * max(abs(low), abs(high)):  # what differs by rounding, as behind a norm
        return TokenMap(name, None, f"{about}: {low:.4g} for all")
    shown = torch.where(finite, values, torch.nan).numpy()[None]
    return TokenMap(name, shaded(shown, low, high)[0], about, legend(name, *ends(low, high)))


def _some(values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """At most as many rows as torch's quantile takes, at equal steps."""
    most = (1 << 24) // max(1, values.numel() // max(1, len(values)))
    return values[:: max(1, -(-len(values) // most))]
