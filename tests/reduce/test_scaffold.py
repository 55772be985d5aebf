"""The whole view pooled and always kept, beside chosen rows of tiles."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.reduce.merge_cases import values

from tubelet.errors import InputError, LimitError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import LAVIDA
from tubelet.reading.clip import Clip
from tubelet.reduce.condense import pool_to
from tubelet.reduce.methods import Inputs, choose
from tubelet.reduce.scaffold import whole_views, with_scaffold
from tubelet.reduce.settings import Settings
from tubelet.reduce.shirg import finest


def views(picture: int = 0, seed: int = 0) -> Packed:
    """A whole view of 6 x 6 and two tiles, of which the second is letterboxed."""
    items = [
        Item(Grid(1, 6, 6), (0.0,), picture, (0, 0, 60, 40)),
        Item(Grid(1, 6, 6), (0.0,), picture, (0, 0, 30, 40), content=(0, 0, 60, 40)),
        Item(Grid(1, 6, 6), (0.0,), picture, (30, 0, 70, 40), content=(0, 0, 60, 40)),
    ]
    return pack([values(36, 4, seed=seed + i) for i in range(3)], items)


def test_the_whole_view_is_pooled_and_the_tiles_are_as_they_were():
    p = views()
    found = with_scaffold(Inputs(p, attention=p.x[:, 0], keys=p.x[:, :2].contiguous()), rows=9)
    assert found.items == (0,)
    assert found.inputs.tokens.lengths == (9, 36, 36)
    assert torch.equal(found.inputs.tokens.x[:9], pool_to(p.reorder([0]), budget=9).x)
    assert torch.equal(found.inputs.tokens.x[9:], p.x[36:])
    assert found.inputs.attention is not None
    assert found.inputs.keys is not None
    torch.testing.assert_close(found.inputs.attention, found.inputs.tokens.x[:, 0])
    torch.testing.assert_close(found.inputs.keys, found.inputs.tokens.x[:, :2])


def test_the_sum_is_fixed_and_the_scaffold_whole():
    p = concat([views(), views(seed=9)])
    found = with_scaffold(Inputs(p, text=values(2, 4, seed=5), features=p.with_x(p.x * 2)), rows=9)
    assert found.items == (0, 3)
    assert found.inputs.features is not None
    assert found.inputs.features.items == found.inputs.tokens.items
    for budget in (9, 20, 40):
        kept = choose("shirg", found.inputs, budget=budget, settings=Settings(scaffold=found.items)).kept
        assert sum(kept.lengths[:3]) == sum(kept.lengths[3:]) == budget
        assert (kept.lengths[0], kept.lengths[3]) == (9, 9)
    with pytest.raises(LimitError):
        choose("shirg", found.inputs, budget=8, settings=Settings(scaffold=found.items))


def test_places_that_tiles_show_are_not_chosen_twice():
    """Without a scaffold, rows of the whole view lose to the tiles that show their place more finely."""
    p = views()
    assert not bool(finest(p)[:36].any())
    kept = choose("shirg", Inputs(p, text=values(2, 4, seed=5)), budget=30).kept
    assert kept.lengths[0] == 0


def test_a_scaffold_needs_views():
    one = pack([values(16, 4)], [Item.of(1, 4, 4)])
    assert whole_views(one) == ()
    with pytest.raises(InputError, match="several"):
        with_scaffold(Inputs(one), rows=4)
    tiles = views().reorder([1, 2])
    assert whole_views(tiles) == ()
    assert whole_views(concat([one, views()])) == (1,)


def test_nothing_else_changes():
    p = views()
    given = Inputs(p, boxes={0: [(0.0, 0.0, 9.0, 9.0)]})
    found = with_scaffold(given, rows=1000).inputs
    assert found.tokens.equal(p)
    assert replace(found, tokens=p) == given


def test_lavidas_whole_view_counts_though_a_strip_of_it_is_not_seen():
    """27 patches of 14 are 378 of its 384 pixels."""
    page = np.zeros((1, 600, 1000, 3), np.uint8)
    p = patchify([Clip(page, (0.0,))], PixelRecipe(14), views=LAVIDA)
    assert p.lengths == (729,) * 5
    assert whole_views(p) == (0,)
