"""One budget for several pictures or views, shared by how much each of them holds and never exceeded.

    page of print    412 of 640 patches hold something   ->   457 of 640 tokens
    empty form        96 of 640                          ->   140
    blank sheet        0 of 640                          ->    43

What a picture holds is told by its pixels with a threshold of its own, so it does not depend on what is beside it.
"""

from collections.abc import Sequence
from math import floor

import torch

from tubelet.errors import InputError, ShapeError
from tubelet.packed import Packed
from tubelet.reduce.groups import Per, groups_of
from tubelet.reduce.scores import edges

CONTRAST = 0.03  # of white, root mean square from patch to patch: paper, sky and compression lie below, print above
LEAST = 0.25  # of an even share, for a picture that holds nothing


def held(patches: Packed, *, per: Per = "picture", contrast: float = CONTRAST) -> tuple[int, ...]:
    """How many patches of each picture, or of each item, hold something: differ from those beside them.

    patches: as `tubelet.patchify` gives them, bytes. contrast: root of the mean square of the difference, of white.
    Syncs with the device. Cost: two passes over the rows. Raises InputError for rows that are no bytes.

        >>> p = tubelet.patchify(tubelet.read(["photo.jpg", "photo.jpg"]), tubelet.PixelRecipe(patch=16))
        >>> len(set(held(p)))
        1
    """
    if patches.x.dtype != torch.uint8:
        raise InputError(f"patches are bytes of pixels, got {patches.x.dtype}", got=str(patches.x.dtype))
    groups = groups_of(patches, per)
    distance = edges(patches) / (255 * max(1, patches.x.shape[1]) ** 0.5)
    counts = torch.zeros(len(groups), device=patches.device)
    counts.index_add_(0, groups.of_row, (distance > contrast).float())
    return tuple(int(n) for n in counts.tolist())


def shared_budgets(
    amounts: Sequence[float], rows: Sequence[int], total: int, *, least: float = LEAST
) -> tuple[int, ...]:
    """A budget for each picture, together `total` or all rows there are: in proportion to what it holds.

    amounts: what each holds, 0 or more (`held`). rows: how many tokens each has, which no budget exceeds; what one
    cannot take goes to the others. least: of an even share, for a picture that holds nothing; each has one token at
    least where `total` reaches. Raises ShapeError for other numbers of pictures, InputError for what is no amount.

        >>> shared_budgets([300, 100, 0], [640, 640, 640], 512)
        (340, 137, 35)
    """
    if len(amounts) != len(rows):
        raise ShapeError(f"{len(amounts)} amounts for {len(rows)} pictures", expected=len(rows), got=len(amounts))
    if not all(0 <= a < float("inf") for a in amounts) or total < 0 or not least > 0 or min(rows, default=0) < 0:
        raise InputError("amounts, rows and total are 0 or more, and least is above 0", got=(total, least))
    even = sum(amounts) / len(amounts) if amounts else 0.0
    weights = [least * even + amount if even else 1.0 for amount in amounts]
    first = [min(1, n) for n in rows] if total >= len(rows) else [0] * len(rows)
    left = min(total, sum(rows)) - sum(first)
    return tuple(one + more for one, more in zip(first, _filled(weights, rows, first, left), strict=True))


def _filled(weights: Sequence[float], rows: Sequence[int], first: Sequence[int], left: int) -> list[int]:
    """Whole shares of `left` by weight, none above the rows that are left; the largest fractions are rounded up."""
    room = [n - one for n, one in zip(rows, first, strict=True)]
    share = [0.0] * len(room)
    open_, rest = [i for i, n in enumerate(room) if n], left
    while open_:
        scale = rest / sum(weights[i] for i in open_)
        full = [i for i in open_ if weights[i] * scale >= room[i]]
        if not full:
            for i in open_:
                share[i] = weights[i] * scale
            break
        for i in full:
            share[i] = float(room[i])
        rest -= sum(room[i] for i in full)
        open_ = [i for i in open_ if share[i] < room[i]]
    out = [min(floor(value + 1e-9), n) for value, n in zip(share, room, strict=True)]
    over = left - sum(out)
    for i in sorted((i for i in range(len(out)) if out[i] < room[i]), key=lambda i: (out[i] - share[i], i))[:over]:
        out[i] += 1
    return out
