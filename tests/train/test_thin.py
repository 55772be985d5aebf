"""Thinning: counts known before, exact; a choice that depends on sample and step alone; places that stay true."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tubelet
from tubelet.errors import InputError
from tubelet.packed import Item, Packed
from tubelet.train.draws import draws
from tubelet.train.thin import thin, thinned_lengths


def page(grids: list[tuple[int, int, int]], *, pictures: list[int] | None = None, width: int = 2) -> Packed:
    """Rows that say their own item and number."""
    rows, items = [], []
    for i, grid in enumerate(grids):
        n = grid[0] * grid[1] * grid[2]
        rows.append(torch.stack([torch.full((n,), float(i)), torch.arange(float(n))], dim=1)[:, :width])
        picture = i if pictures is None else pictures[i]
        items.append(Item(tubelet.Grid(*grid), tuple(map(float, range(grid[0]))), picture, (0.0, 0.0, 8.0, 8.0)))
    return tubelet.pack(rows, items)


def places(p: Packed, i: int) -> set[tuple[int, ...]]:
    return set(map(tuple, p.pos[p.starts[i] : p.starts[i + 1]].tolist()))


GRIDS = [(1, 5, 7), (2, 3, 3), (1, 1, 1), (1, 4, 4)]
IDS = ["a", "b", "b", 17]


def test_the_choice_by_hand():
    """The rows with the smallest numbers of their places, as drawn for the whole grid."""
    p = page(GRIDS)
    got = thin(p, IDS, seed=3, step=9, rate=0.5).check()
    for i, (purpose, name) in enumerate((("thin 0", "a"), ("thin 0", "b"), ("thin 1", "b"), ("thin 0", "17"))):
        n = p.lengths[i]
        numbers = draws(n, purpose=purpose, seed=3, step=9, sample=name)
        smallest = sorted(sorted(range(n), key=lambda k: numbers[k])[: n - int(n * 0.5)])
        assert got.unpack()[i][:, 1].tolist() == smallest


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.floats(0, 0.99), st.permutations(range(4)), st.data())
def test_a_sample_is_thinned_alike_in_every_batch_and_order(
    seed: int, step: int, rate: float, order: list[int], data: st.DataObject
):
    p = page(GRIDS)
    whole = thin(p, IDS, seed=seed, step=step, rate=rate)
    order = [i for i in order if i != 2]  # the second item of "b" counts its own sample's items
    other = thin(p.reorder(order), [IDS[i] for i in order], seed=seed, step=step, rate=rate)
    for at, i in enumerate(order):
        assert torch.equal(other.unpack()[at], whole.unpack()[i])
    shuffled = data.draw(st.permutations(range(35)))
    mixed = p.keep(torch.tensor([*shuffled, *range(35, len(p.x))]))
    assert places(thin(mixed, IDS, seed=seed, step=step, rate=rate), 0) == places(whole, 0)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(1, 200), st.integers(0, 5))
def test_budgets_are_exact_and_no_view_is_lost(lengths: list[int], budget: int, scaffold: int):
    items = [Item.of(1, 1, 60)] * len(lengths)
    whole = (scaffold,) if scaffold < len(lengths) and scaffold else ()
    views = [i for i, n in enumerate(lengths) if n]
    least = sum(lengths[i] if i in whole else 1 for i in views)
    if budget < least:
        with pytest.raises(InputError):
            thinned_lengths(items, lengths, budget=budget, whole=whole)
        return
    got = thinned_lengths(items, lengths, budget=budget, whole=whole)
    assert sum(got) == min(budget, sum(lengths))
    assert all((k >= 1) == (n >= 1) and k <= n for k, n in zip(got, lengths, strict=True))
    assert all(got[i] == lengths[i] for i in whole)
    free = [i for i in views if i not in whole]
    for i in free:  # no share is further than a row from its proportion above the first row
        room, have = sum(got[k] for k in free), sum(lengths[k] for k in free)
        if have > len(free):
            assert abs(got[i] - 1 - (room - len(free)) * (lengths[i] - 1) / (have - len(free))) < 1


def test_pictures_have_their_own_budget_and_views_share_it():
    p = page([(1, 4, 4), (1, 8, 8), (1, 3, 3)], pictures=[0, 0, 1])
    got = thin(p, ["s", "s", "t"], seed=0, step=0, budget=20, whole=[0])
    assert got.lengths == (16, 4, 9)
    assert thinned_lengths(p.items, p.lengths, budget=20) == (4, 16, 9)  # a quarter of each


@pytest.mark.parametrize(
    ("rows", "rate", "left"),
    [
        (10, 0.1, 9),
        (100, 0.9, 10),
        (10, 0.3, 7),
        (1, 0.99, 1),
        (3, 0.999, 1),
        (980, 0.1, 882),
        (0, 0.5, 0),
        (7, 0.0, 7),
    ],
)
def test_rates_are_the_decimals_as_written(rows: int, rate: float, left: int):
    """10 rows at 0.1 are 9 by hand, where 10 * (1 - 0.1) and the like fall to either side in floats."""
    assert thinned_lengths([Item.of(1, 40, 40)], (rows,), rate=rate) == (left,)


def test_a_selection_is_thinned_by_the_places_it_left():
    p = page([(1, 10, 10)])
    few = p.keep(torch.arange(0, 100, 3))
    got = thin(few, ["x"], seed=0, step=1, budget=10)
    assert got.lengths == (10,) and places(got, 0) <= places(few, 0)
    numbers = draws(100, purpose="thin 0", seed=0, step=1, sample="x")
    assert set(got.x[:, 1].tolist()) == set(sorted(range(0, 100, 3), key=lambda k: numbers[k])[:10])


def test_every_row_leaves_about_as_often():
    p = page([(1, 6, 6)])
    times = torch.zeros(36)
    for step in range(2000):
        times[thin(p, ["x"], seed=0, step=step, rate=0.5).x[:, 1].long()] += 1
    assert float((times - 1000).abs().max()) < 5 * 22.4  # standard deviation of 2,000 fair draws


def test_gradients_reach_the_rows_that_stay():
    p = page([(1, 4, 4)])
    x = p.x.clone().requires_grad_()
    got = thin(p.with_x(x), ["x"], seed=0, step=0, budget=5)
    got.x.sum().backward()
    assert x.grad is not None and float(x.grad.sum()) == 5 * 2


def test_draws_are_the_published_stream():
    """Philox4x64-10 with key and counter zero: the first numbers of Random123's known answers (kat_vectors)."""
    from numpy.random import Philox

    raw = Philox(key=0, counter=[2**64 - 1] * 4).random_raw(4)  # numpy counts before it draws: the block at zero
    assert [hex(int(n)) for n in raw] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"rate": 0.5, "budget": 3}, {"rate": 1.0}, {"rate": -0.1}, {"budget": 0}, {"budget": 3, "whole": [4]}],
)
def test_what_does_not_fit_is_refused(options: dict):
    p = page(GRIDS)
    with pytest.raises(InputError):
        thin(p, IDS, seed=0, step=0, **options)
    with pytest.raises(InputError):
        thin(p, IDS[:-1], seed=0, step=0, rate=0.5)
