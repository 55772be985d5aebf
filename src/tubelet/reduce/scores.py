"""How much each row is worth, by the rows alone, their places, chance or boxes: one number for each row.

Higher is better. Each depends on the rows of its own item (or picture) only. `select` chooses by them; `by_range` and
`by_rank` bring several to one scale; tubelet.reduce.relevance asks a text, tubelet.reduce.diverse looks for variety,
tubelet.encoder.attention_scores tells the attention a row gets.
"""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tubelet.errors import InputError
from tubelet.packed import Item, Packed
from tubelet.reduce.blank import blank_rows, has_blank
from tubelet.reduce.cells import cells_of
from tubelet.reduce.groups import Per, groups_of, item_values
from tubelet.reduce.select import budgets_of
from tubelet.shapes import Bool, Float, Int64

Box = tuple[float, float, float, float]


def variance(p: Packed) -> Float[Tensor, " T"]:
    """Unbiased variance over the channels of each row.

    >>> variance(tubelet.pack([torch.tensor([[1.0, 3.0], [2.0, 2.0]])], [tubelet.Item.of(1, 1, 2)])).tolist()
    [2.0, 0.0]
    """
    if p.x.shape[1] < 2 or not len(p.x):
        return p.x.new_zeros(len(p.x), dtype=torch.float32)
    return p.x.float().var(dim=1, correction=1)


def norm(p: Packed) -> Float[Tensor, " T"]:
    """Euclidean length of each row.

    >>> norm(tubelet.pack([torch.tensor([[3.0, 4.0]])], [tubelet.Item.of(1, 1, 1)])).tolist()
    [5.0]
    """
    return torch.linalg.vector_norm(p.x, dim=1, dtype=torch.float32)


def edges(p: Packed) -> Float[Tensor, " T"]:
    """Mean distance of each row to the rows left, right, above and below it in its frame; 0 for one without any.

    Only rows that are there and show something count, so a border is no edge. Cost: two passes over the rows.

        >>> p = tubelet.pack([torch.tensor([[0.0], [0.0], [6.0]])], [tubelet.Item.of(1, 1, 3)])
        >>> edges(p).tolist()
        [0.0, 3.0, 6.0]
    """
    x, cells = p.x.float(), cells_of(p)
    total, count = x.new_zeros(len(x)), x.new_zeros(len(x))
    blank = blank_rows(p)
    for dh, dw in ((0, 1), (1, 0)):
        after, before = (_seen(cells.neighbour(*step), blank) for step in ((dh, dw), (-dh, -dw)))
        step = torch.linalg.vector_norm(x[after.clamp(min=0)] - x, dim=1).masked_fill(after < 0, 0.0)
        total = total + step + step[before.clamp(min=0)].masked_fill(before < 0, 0.0)
        count = count + (after >= 0) + (before >= 0)
    return total / count.clamp(min=1)


def _seen(neighbour: Int64[Tensor, " T"], blank: Bool[Tensor, " T"]) -> Int64[Tensor, " T"]:
    """-1 where the neighbour, or the row itself, is blank."""
    return neighbour.masked_fill(blank | ((neighbour >= 0) & blank[neighbour.clamp(min=0)]), -1)


def uniform(p: Packed, *, budget: int | Sequence[int], per: Per = "picture") -> Float[Tensor, " T"]:
    """1 for `budget` rows of each picture at equal distances in the order of rows, 0 for the others and blank ones.

    Row r of n is one of K where floor((r + 1) K / n) > floor(r K / n).

        >>> p = tubelet.pack([torch.zeros(6, 1)], [tubelet.Item.of(1, 2, 3)])
        >>> uniform(p, budget=3).tolist()
        [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """
    if has_blank(p) and bool((blank := blank_rows(p)).any()):
        seen = uniform(p.keep(~blank), budget=budget, per=per)
        return torch.zeros(len(blank), device=p.device).masked_scatter(~blank, seen)
    groups = groups_of(p, per)
    k = torch.tensor(budgets_of(groups, budget), dtype=torch.long, device="cpu").to(p.device)[groups.of_row]
    sizes = torch.tensor(groups.sizes, dtype=torch.long, device="cpu").to(p.device)
    order = groups.of_row.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=p.device) - (sizes.cumsum(0) - sizes)[groups.of_row[order]]
    n = sizes[groups.of_row]
    return ((rank + 1) * k // n > rank * k // n).float()


def random(p: Packed, *, seed: int = 0) -> Float[Tensor, " T"]:
    """Uniform numbers in [0, 1), float64, from `seed`, the item's grid, times and box, and the row's place: a hash.

    The same on every device, and in any pack: a picture gets the same numbers whatever stands beside it. Two pictures
    of one grid and box get the same numbers too; give them other seeds where that matters.
    Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 16.

        >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)])
        >>> bool((random(p, seed=1) == random(p.reorder([0]), seed=1)).all())
        True
    """
    state = item_values(p, tuple(_signature(item, seed) for item in p.items))
    for axis in range(3):
        state = _mixed(state + (p.pos[:, axis].long() + 1) * _signed(0x9E3779B97F4A7C15))
    return (_shifted(state, 11)).double() * 2.0**-53


def covered(p: Packed, boxes: Mapping[int, Sequence[Box]], *, grow: float = 0.0) -> Float[Tensor, " T"]:
    """How much of each row's part of its picture lies in a box, 0..1; the most over the boxes of that picture.

    boxes: left, top, right, bottom in upright pixels, by `item.picture`; grow: pixels added on each side. As scores
    these are the oracle that selection is measured against. Raises InputError for a box without area.

        >>> p = tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)])  # a picture of 2 x 2 units
        >>> covered(p, {0: [(0.5, 0.0, 2.0, 1.0)]}).tolist()
        [0.5, 1.0, 0.0, 0.0]
    """
    parts = [p.x.new_zeros(0, dtype=torch.float32)]
    for item, pos in zip(p.items, p.pos.split(p.lengths) if len(p) else (), strict=True):
        wanted = [tuple(float(v) for v in box) for box in boxes.get(item.picture, ())]
        best = torch.zeros(len(pos), device=p.device)
        (left, top, _, _), (wide, high) = item.box, item.cell
        x, y = left + pos[:, 2] * wide, top + pos[:, 1] * high
        for a, b, c, d in wanted:
            if not (math.isfinite(a + b + c + d) and a < c and b < d):
                raise InputError(f"a box is left, top, right, bottom with some area, got {(a, b, c, d)}")
            over_x = (x + wide).clamp(max=c + grow) - x.clamp(min=a - grow)
            over_y = (y + high).clamp(max=d + grow) - y.clamp(min=b - grow)
            best = torch.maximum(best, (over_x.clamp(min=0) * over_y.clamp(min=0) / (wide * high)).float())
        parts.append(best)
    return torch.cat(parts)


# ---- the numbers behind `random`


def _signature(item: Item, seed: int) -> int:
    """64 bits, as a signed integer, of all that tells one item from another but its place in a list."""
    content = struct.pack(f"<4q{4 + len(item.times_s)}d", seed, *item.grid, *item.box, *item.times_s)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right of 64-bit integers, whose own shift repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)
