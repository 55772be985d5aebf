"""Features of place: against numbers written out, and what they must tell apart."""

import math

import pytest
import torch
from hypothesis import given, settings
from tests.reduce.merge_cases import packs, shuffled, values

from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.reduce.coordinates import BANDS, Coordinates, fourier, shares
from tubelet.reduce.select import select

LAWS = settings(deadline=None)


@LAWS
@given(packs(min_items=1))
def test_shares_are_the_loop(p: Packed):
    p = shuffled(p, 1)
    got = shares(p)
    for i, item in enumerate(p.items):
        boxes = [o.box for o in p.items if o.picture == item.picture]
        left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
        right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
        for r in range(p.starts[i], p.starts[i + 1]):
            _, h, w = p.pos[r].tolist()
            wide, high = (item.box[2] - item.box[0]) / item.grid.w, (item.box[3] - item.box[1]) / item.grid.h
            wanted = [
                (item.box[0] + (w + 0.5) * wide - left) / (right - left),
                (item.box[1] + (h + 0.5) * high - top) / (bottom - top),
                wide / (right - left),
                high / (bottom - top),
            ]
            assert got[r].tolist() == pytest.approx(wanted, abs=1e-5)


def test_waves_go_from_two_pictures_to_two_cells():
    one = fourier(torch.tensor([[0.25]]), 3)
    assert one.tolist()[0] == pytest.approx(
        [math.sin(math.pi * f * 0.25) for f in (1, 2, 4)] + [math.cos(math.pi * f * 0.25) for f in (1, 2, 4)], abs=1e-6
    )


def test_no_two_rows_of_a_large_grid_look_alike():
    """Upstream's angles stay below 1 radian, so that neighbours are nearly the same; here they are not."""
    p = pack([torch.zeros(32 * 32, 1)], [Item.of(1, 32, 32)])
    waves = torch.nn.functional.normalize(fourier(shares(p), BANDS), dim=1)
    cosine = (waves @ waves.T).fill_diagonal_(-1)
    assert float(cosine.max()) < 0.99


def test_tiles_and_the_whole_view_share_places_and_differ_in_size():
    whole = Item(Grid(1, 2, 2), (0.0,), 0, (0, 0, 8, 8))
    tile = Item(Grid(1, 1, 1), (0.0,), 0, (0, 0, 4, 4))
    both = shares(pack([torch.zeros(4, 1), torch.zeros(1, 1)], [whole, tile]))
    assert torch.equal(both[0], both[4])  # the same cell, shown twice
    fine = Item(Grid(1, 2, 2), (0.0,), 0, (0, 0, 4, 4))
    mixed = shares(pack([torch.zeros(4, 1), torch.zeros(4, 1)], [whole, fine]))
    assert mixed[0, 2] == 2 * mixed[4, 2]


def test_it_starts_as_nothing_and_learns():
    p = pack([values(12, 8)], [Item.of(1, 3, 4)])
    module = Coordinates(8, bands=2)
    assert module(p).equal(p)
    assert {n for n, _ in module.named_parameters()} == {"project.weight", "project.bias"}
    module(p).x.square().sum().backward()
    assert module.project.weight.grad is not None
    assert bool((module.project.weight.grad != 0).any())
    with torch.no_grad():
        module.project.weight.normal_()
    half = p.to(dtype=torch.bfloat16)
    assert module(half).dtype == torch.bfloat16


def test_a_row_is_told_the_same_whatever_else_is_kept():
    p = concat([pack([values(12, 8)], [Item.of(1, 3, 4)]), pack([values(20, 8, seed=1)], [Item.of(2, 2, 5)])])
    module = Coordinates(8)
    with torch.no_grad():
        module.project.weight.normal_()
        whole, kept = module(p), module(select(p, p.x[:, 0], budget=4))
    rows = {tuple(r.tolist()) for r in whole.x}
    assert all(tuple(r.tolist()) in rows for r in kept.x)
    assert kept.lengths == (4, 4)


def test_bad_sizes_are_refused():
    for width, bands in ((0, 2), (4, 0)):
        with pytest.raises(ConfigError):
            Coordinates(width, bands=bands)
    with pytest.raises(ShapeError, match="rows of 8"):
        Coordinates(4)(pack([values(4, 8)], [Item.of(1, 2, 2)]))
