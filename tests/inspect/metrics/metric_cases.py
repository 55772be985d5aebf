"""Packs and choices for the tests of metrics, and a picture told cell by cell."""

import torch
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs

from tubelet.packed import Grid, Item, Packed, pack


@st.composite
def choices(draw: st.DrawFn, least: int = 0) -> tuple[Packed, Packed]:
    """A pack and what is kept of it, some pictures with several items."""
    p = draw(packs(min_items=1))
    keep = draw(st.lists(st.booleans(), min_size=len(p.x), max_size=len(p.x)))
    rows = [i for i, k in enumerate(keep) if k or i < least]
    return p, p.keep(torch.tensor(rows, dtype=torch.long))


def told(p: Packed) -> list[tuple[int, float, float, float, float, float]]:
    """(picture, seconds, left, top, right, bottom) of each row, one after the other."""
    out = []
    for i, item in enumerate(p.items):
        wide = (item.box[2] - item.box[0]) / item.grid.w
        high = (item.box[3] - item.box[1]) / item.grid.h
        for r in range(p.starts[i], p.starts[i + 1]):
            t, h, w = p.pos[r].tolist()
            left, top = item.box[0] + w * wide, item.box[1] + h * high
            out.append((item.picture, item.times_s[t], left, top, left + wide, top + high))
    return out


def picture(h: int, w: int, width: int = 1, seed: int = 0, number: int = 0) -> Packed:
    x = torch.randn(h * w, width, generator=torch.Generator().manual_seed(seed))
    return pack([x], [Item(Grid(1, h, w), (0.0,), number, (0, 0, w, h))])
