"""Who stands next to whom, and dilation, against loops over places."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, places, thinned, values
from torch import Tensor

from tubelet.errors import InputError
from tubelet.packed import Item, Packed, pack
from tubelet.reduce.cells import cells_of, dilate

LAWS = settings(deadline=None)


@LAWS
@given(packs(), st.integers(0, 99), st.integers(-2, 2), st.integers(-2, 2))
def test_a_neighbour_is_found_by_its_place(p: Packed, seed: int, dh: int, dw: int):
    p = thinned(p, seed)
    row_at = {place: r for r, place in enumerate(places(p))}
    expected = [row_at.get((i, t, h + dh, w + dw), -1) for i, t, h, w in places(p)]
    assert cells_of(p).neighbour(dh, dw).tolist() == expected


def by_loops(p: Packed, scores: Tensor, radius: int, falloff: float) -> list[float]:
    out = []
    for i, t, h, w in places(p):
        near = [
            float(scores[r]) - falloff * max(abs(b - h), abs(c - w))
            for r, (j, a, b, c) in enumerate(places(p))
            if (i, t) == (j, a) and max(abs(b - h), abs(c - w)) <= radius
        ]
        out.append(max(near))
    return out


@LAWS
@given(packs(min_items=1), st.integers(0, 99), st.integers(0, 3), st.sampled_from((0.0, 0.25, 1.0)))
def test_dilation_is_the_loop(p: Packed, seed: int, radius: int, falloff: float):
    p = thinned(p, seed)
    scores = values(len(p.x), 1, seed).flatten()
    got = dilate(p, scores, radius=radius, falloff=falloff)
    torch.testing.assert_close(got, torch.tensor(by_loops(p, scores, radius, falloff)), rtol=0, atol=1e-5)


def test_dilation_stays_in_its_frame():
    p = pack([values(8, 1), values(4, 1)], [Item.of(2, 2, 2), Item.of(1, 2, 2)])
    scores = torch.zeros(12)
    scores[5], scores[9] = 3.0, math.nan
    got = dilate(p, scores, radius=4)
    assert got[:8].tolist() == [0, 0, 0, 0, 3, 3, 3, 3]
    assert bool(got[8:].isnan().all())


def test_never_stays_never_where_nothing_else_is_near():
    p = pack([values(3, 1)], [Item.of(1, 1, 3)])
    assert dilate(p, torch.full((3,), -torch.inf)).tolist() == [-torch.inf] * 3


def test_negative_arguments_are_refused():
    p = pack([values(3, 1)], [Item.of(1, 1, 3)])
    for radius, falloff in ((-1, 0.0), (1, -0.5)):
        with pytest.raises(InputError):
            dilate(p, torch.zeros(3), radius=radius, falloff=falloff)
