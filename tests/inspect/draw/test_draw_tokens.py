"""Tokens as colours: what the numbers are, where they stand on the page, what is said."""

import math

import numpy as np
import pytest
import torch
from tests.inspect.draw.test_draw_kept import TILES, WHOLE, clip, light

from tubelet.errors import InputError, LimitError, ShapeError
from tubelet.inspect import Point, draw_tokens
from tubelet.inspect.draw.shades import UNKNOWN, VIRIDIS
from tubelet.inspect.draw.token_maps import principal_colours, row_at, token_maps
from tubelet.packed import Grid, Item, Packed, pack

EVERY = torch.ones(1, dtype=torch.bool)


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))


def slow_colours(x: torch.Tensor) -> np.ndarray:
    """The same by an exact decomposition in float64, and numpy's quantiles."""
    c = (x.double() - x.double().mean(0)).numpy()
    _, _, basis = np.linalg.svd(c, full_matrices=False)
    along = c @ basis[:3].T
    along *= np.where((along**3).sum(0) < 0, -1.0, 1.0)
    low, high = np.quantile(along, [0.01, 0.99], axis=0)
    return np.rint(np.clip((along - low) / (high - low), 0, 1) * 255)


def test_principal_directions_are_the_exact_ones():
    x = rows(200) * torch.tensor([9.0, 5.0, 3.0, *[0.1] * 9])
    colours, share = principal_colours(x, torch.ones(200, dtype=torch.bool))
    assert np.abs(colours.astype(float) - slow_colours(x)).max() <= 1
    variance = (x - x.mean(0)).square().sum(0)
    assert share == pytest.approx(float(variance[:3].sum() / variance.sum()), abs=2e-3)


def test_they_depend_on_nothing_else_and_leave_the_generator_alone():
    x, state = rows(64), torch.get_rng_state()
    first, second = (principal_colours(x, torch.ones(64, dtype=torch.bool))[0] for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("x", [torch.zeros(5, 4), torch.ones(1, 4), torch.randn(2, 1), torch.randn(3, 2)])
def test_few_rows_few_channels_and_equal_rows(x: torch.Tensor):
    colours, share = principal_colours(x, torch.ones(len(x), dtype=torch.bool))
    assert colours.shape == (len(x), 3)
    assert 0.0 <= share <= 1.0 + 1e-6


def test_own_and_shared_bases():
    """Two pictures with the same tokens but for a shift: alike by themselves, apart in one basis."""
    a = rows(24)
    far = a + 50
    items = [Item.of(1, 4, 6, picture=i) for i in (0, 1)]
    own, one, norm = token_maps(pack([a, far], items))
    assert [m.name for m in (own, one, norm)] == ["own basis", "one basis", "norm"]
    assert np.abs(own.colours[:24].astype(int) - own.colours[24:]).max() <= 1  # pyright: ignore
    assert np.abs(one.colours[:24].astype(int) - one.colours[24:]).max() > 150  # pyright: ignore


def test_norms_and_likeness_are_the_numbers():
    x = torch.zeros(100, 12)
    x[:, 0] = torch.arange(100.0) + 1
    x[50:, 1] = x[50:, 0]
    p = pack([x], [Item.of(1, 10, 10)])
    _, norm, like = token_maps(p, Point(0, 0.5, 0.5))
    assert norm.colours is not None and like.colours is not None
    brightness = norm.colours.astype(int).sum(1)
    assert brightness[:50].argmin() == 0 and (np.diff(brightness[2:50]) >= 0).all()
    assert (like.colours[:50] == VIRIDIS[-1]).all()  # the same direction: cosine 1
    assert (like.colours[50:] == VIRIDIS[0]).all()  # cosine 0.707, the least there is


def test_numbers_that_are_alike_are_said_and_not_drawn():
    x = torch.nn.functional.normalize(rows(24), dim=1) * 7
    _, norm = token_maps(pack([x], [Item.of(1, 4, 6)]))
    assert norm.colours is None
    assert norm.about == "norm: the length of each token: 7 for all"


def test_rows_that_are_no_numbers_have_a_colour_of_their_own():
    x = rows(24)
    clean = token_maps(pack([x], [Item.of(1, 4, 6)]))[0].colours
    assert clean is not None
    bad = torch.cat([x, torch.full((1, 12), math.nan)])
    for found in token_maps(pack([bad], [Item.of(1, 5, 5)])):
        assert found.colours is not None
        assert tuple(found.colours[24]) == UNKNOWN
        assert not (found.colours[:24] == np.array(UNKNOWN)).all(axis=1).any()
    assert np.array_equal(token_maps(pack([bad], [Item.of(1, 5, 5)]))[0].colours[:24], clean)  # pyright: ignore


# ---- places


def test_a_place_is_a_row_of_the_finest_view_at_the_nearest_time():
    clips = Item(Grid(3, 2, 2), (0.0, 1.0, 2.0), 0, (0, 0, 64, 64))
    p = pack([rows(12)], [clips])
    assert row_at(p, Point(0, 40, 10, 1.2)) == 4 + 1
    views = pack([rows(16)] * 5, [WHOLE, *TILES])
    assert row_at(views, Point(0, 63, 63)) == 79
    for wrong in (Point(0, 64, 0), Point(0, -1, 0), Point(1, 3, 3)):
        with pytest.raises(InputError, match="no token at"):
            row_at(views, wrong)
    with pytest.raises(InputError, match="no token at"):
        row_at(p.keep(torch.tensor([0])), Point(0, 40, 10))


# ---- the page


def page(p: Packed, *args: object, **kwargs: object) -> np.ndarray:
    return np.asarray(draw_tokens(p, *args, **kwargs))  # pyright: ignore


def test_colours_stand_at_the_places_of_their_rows():
    """Rows in any order: a pack whose rows are turned around has the same page."""
    item = Item(Grid(1, 3, 4), (0.0,), 0, (0, 0, 80, 60))
    p = pack([rows(12)], [item])
    turned = Packed(p.x.flip(0), p.pos.flip(0), p.items, p.lengths)
    assert np.array_equal(page(p), page(turned))
    maps = token_maps(p)
    assert maps[0].colours is not None
    drawn = page(p)
    for colour in maps[0].colours:
        assert (drawn == colour).all(axis=2).sum() > 100


def test_where_there_is_no_token_there_is_the_picture_or_nothing():
    item = Item(Grid(1, 4, 4), (0.0,), 0, (0, 0, 64, 64))
    few = pack([rows(16)], [item]).keep(torch.tensor([0, 5, 9]))
    empty, seen = page(few), page(few, [clip(level=100)])
    assert ((empty == (226, 224, 218)).all(axis=2)).sum() > 5000
    assert (seen == (226, 224, 218)).all(axis=2).sum() < 100
    assert (np.abs(light(seen) - 62) < 1).sum() > 5000  # 100 under the veil
    assert (seen == 100).all(axis=2).sum() > 5000  # and the picture itself beside


def test_pages_hold_clips_views_and_many_pictures():
    frames = clip(32, 48, frames=20)
    item = Item(Grid(20, 2, 3), frames.times_s, 0, (0, 0, 48, 32))
    moving = pack([rows(120)], [item])
    assert max(page(moving, [frames], ["walk.mp4"], like=Point(0, 3, 3, 2.0)).shape) <= 1600
    views = pack([rows(16)] * 5, [WHOLE, *TILES])
    assert max(page(views, [clip()]).shape) <= 1600
    many = pack([rows(6)] * 40, [Item.of(1, 2, 3, picture=i) for i in range(40)])
    small = page(many, max_side=700)
    assert max(small.shape) <= 700


def test_what_a_file_may_say():
    """Grids that no memory holds are refused by their counts; boxes like needles are drawn."""
    item = Item(Grid(1, 40_000, 40_000), (0.0,), 0, (0, 0, 1, 1))
    vast = Packed(torch.zeros(1, 4), torch.zeros(1, 3, dtype=torch.int32), (item,), (1,))
    with pytest.raises(LimitError, match="cells are too many"):
        draw_tokens(vast)
    with pytest.raises(LimitError, match="cells are too many"):
        vast.show()
    needle = Item(Grid(1, 1, 2), (0.0,), 0, (0.0, 0.0, 1e-300, 1e300))
    assert max(page(pack([rows(2)], [needle])).shape) <= 1600


def test_of_very_many_pictures_the_first_are_looked_at():
    many = pack([rows(1)] * 3000, [Item.of(1, 1, 1, picture=i) for i in range(3000)])
    assert max(page(many).shape) <= 1600
    assert max(np.asarray(many.show()).shape) <= 2000


def test_what_cannot_be_drawn():
    p = pack([rows(6)], [Item.of(1, 2, 3)])
    with pytest.raises(ShapeError, match="no token"):
        draw_tokens(p.keep(torch.tensor([], dtype=torch.long)))
    with pytest.raises(ShapeError, match="at least"):
        draw_tokens(p, max_side=100)
