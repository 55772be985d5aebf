"""Packs for the tests of merging: generated grids, and the orders rows can stand in."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tubelet.packed import Grid, Item, Packed, pack


def values(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@st.composite
def items_of(draw: st.DrawFn, t: int = 1, side: int = 1, most: int = 4) -> Item:
    """An item whose grid is a multiple of (t, side, side), with times and a box of its own."""
    steps = [draw(st.integers(1, most)) for _ in range(3)]
    grid = Grid(steps[0] * t, steps[1] * side, steps[2] * side)
    start = draw(st.floats(0, 100))
    left, top = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    box = (float(left), float(top), left + 14.0 * grid.w, top + 14.0 * grid.h)
    return Item(grid, tuple(start + 0.5 * i for i in range(grid.t)), draw(st.integers(0, 3)), box)


@st.composite
def packs(draw: st.DrawFn, t: int = 1, side: int = 1, min_items: int = 0, width: int = 3) -> Packed:
    """Whole items in raster order."""
    items = draw(st.lists(items_of(t, side), min_size=min_items, max_size=4))
    return pack([values(item.grid.rows, width, seed=i) for i, item in enumerate(items)], items)


def in_block_order(p: Packed, side: int) -> Packed:
    """The same rows of a raster pack, with the side x side blocks next to each other."""
    order = pack(
        [torch.arange(i.grid.rows)[:, None] + n for i, n in zip(p.items, p.starts, strict=False)], p.items
    ).x.flatten()
    parts = []
    for item, rows in zip(p.items, order.split(p.lengths) if len(p) else (), strict=True):
        t, h, w = item.grid
        parts.append(rows.view(t, h // side, side, w // side, side).transpose(2, 3).flatten())
    return p.keep(torch.cat(parts)) if parts else p


def shuffled(p: Packed, seed: int) -> Packed:
    """The same rows, those of each item in some order."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randperm(n, generator=generator) + start for n, start in zip(p.lengths, p.starts, strict=False)]
    return p.keep(torch.cat(parts)) if parts else p


def thinned(p: Packed, seed: int) -> Packed:
    """In any order, about two thirds of the rows."""
    p = shuffled(p, seed)
    return p.keep(torch.rand(len(p.x), generator=torch.Generator().manual_seed(seed)) < 0.67)


def places(p: Packed) -> list[tuple[int, int, int, int]]:
    owner = [i for i, n in enumerate(p.lengths) for _ in range(n)]
    return [(i, t, h, w) for i, (t, h, w) in zip(owner, p.pos.tolist(), strict=True)]
