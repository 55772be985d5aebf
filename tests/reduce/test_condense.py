"""VisionZip, PruMerge, ToMe and pooling to a budget, each against a loop that follows the published rule."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs, shuffled, values
from torch import Tensor

from tubelet.errors import InputError, LimitError, NotFinite, ShapeError
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.reduce.condense import pool_to, prumerge, tome, visionzip

LAWS = settings(deadline=None, max_examples=50)
Rows = dict[int, Tensor]


def ranked(scores: Tensor) -> list[int]:
    return sorted(range(len(scores)), key=lambda r: (-float(scores[r]), r))


def nearest(keys: Tensor, one: int, others: list[int]) -> int:
    unit = F.normalize(keys.float(), dim=1)
    return max(range(len(others)), key=lambda n: (float(unit[one] @ unit[others[n]]), -n))


def visionzip_by_loops(x: Tensor, a: Tensor, keys: Tensor, k: int, share: float) -> Rows:
    few = math.floor(share * k)
    best = ranked(a)[: k - few]
    rest = [r for r in range(len(x)) if r not in best]
    if few == 0 or len(rest) <= few:
        return {r: x[r] for r in [*best, *rest[:few]]}
    targets = rest[:: max(1, len(rest) // few)][:few]
    members: dict[int, list[int]] = {t: [] for t in targets}
    for r in rest:
        if r not in targets:
            members[targets[nearest(keys, r, targets)]].append(r)
    mean = {t: x[m].mean(dim=0) if m else torch.zeros(x.shape[1]) for t, m in members.items()}
    return {r: x[r] for r in best} | {t: x[t] + mean[t] for t in targets}


def prumerge_by_loops(x: Tensor, a: Tensor, keys: Tensor, k: int, neighbours: int) -> Rows:
    unit = F.normalize(keys.float(), dim=1)
    out = {}
    for r in ranked(a)[:k]:
        near = sorted((o for o in range(len(x)) if o != r), key=lambda o: (-float(unit[r] @ unit[o]), o))[:neighbours]
        out[r] = x[r] + sum((float(a[o]) * x[o] for o in near), torch.zeros(x.shape[1]))
    return out


def tome_by_loops(x: Tensor, keys: Tensor, k: int) -> Rows:
    rows = [(r, x[r], keys[r], 1.0) for r in range(len(x))]
    while len(rows) > k > 0:
        offered, others = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
        pairs = []
        for i in offered:
            cosines = [float(F.cosine_similarity(rows[i][2], rows[o][2], dim=0)) for o in others]
            top = max(range(len(others)), key=lambda n: (cosines[n], -n))
            pairs.append((cosines[top], i, others[top]))
        pairs.sort(key=lambda pair: (-pair[0], pair[1]))
        gone = pairs[: min(len(rows) - k, len(others))]
        for o in others:
            parts = [rows[o], *(rows[i] for _, i, to in gone if to == o)]
            size = sum(part[3] for part in parts)
            mean = [sum((part[n] * (part[3] / size) for part in parts), torch.zeros_like(parts[0][n])) for n in (1, 2)]
            rows[o] = (rows[o][0], mean[0], mean[1], size)
        rows = [row for i, row in enumerate(rows) if i not in {pair[1] for pair in gone}]
    return {r: value for r, value, _, _ in rows[:k]}


def compare(p: Packed, got: Packed, expected: Callable[[Packed, int], Rows]) -> None:
    """Item by item: the places of the rows that are left, and their values."""
    assert got.items == p.items
    for i, (old, new) in enumerate(zip(p.split([1] * len(p)), got.split([1] * len(p)), strict=True)):
        rows = expected(old, i)
        order = sorted(rows)
        assert torch.equal(new.pos, old.pos[order])
        if order:
            torch.testing.assert_close(new.x, torch.stack([rows[r] for r in order]), rtol=1e-4, atol=1e-5)


@LAWS
@given(packs(min_items=1, width=4), st.integers(0, 99), st.integers(0, 14), st.sampled_from((0.0, 0.16, 0.5, 1.0)))
def test_visionzip_is_the_loop(p: Packed, seed: int, budget: int, share: float):
    p = shuffled(p, seed)
    a, keys = values(len(p.x), 1, seed).flatten().abs(), values(len(p.x), 3, seed + 1)

    def expected(one: Packed, i: int) -> Rows:
        rows = slice(p.starts[i], p.starts[i + 1])
        return visionzip_by_loops(one.x, a[rows], keys[rows], min(budget, len(one.x)), share)

    compare(p, visionzip(p, a, keys, budget=budget, contextual=share), expected)


@LAWS
@given(packs(min_items=1, width=4), st.integers(0, 99), st.integers(0, 14), st.sampled_from((0, 2, 32)))
def test_prumerge_is_the_loop(p: Packed, seed: int, budget: int, neighbours: int):
    p = shuffled(p, seed)
    a, keys = values(len(p.x), 1, seed).flatten().abs(), values(len(p.x), 3, seed + 1)

    def expected(one: Packed, i: int) -> Rows:
        rows = slice(p.starts[i], p.starts[i + 1])
        return prumerge_by_loops(one.x, a[rows], keys[rows], min(budget, len(one.x)), neighbours)

    compare(p, prumerge(p, a, keys, budget=budget, neighbours=neighbours), expected)


@LAWS
@given(packs(min_items=1, width=4), st.integers(0, 99), st.integers(0, 14), st.booleans())
def test_tome_is_the_loop(p: Packed, seed: int, budget: int, own: bool):
    p = shuffled(p, seed)
    keys = None if own else values(len(p.x), 3, seed)

    def expected(one: Packed, i: int) -> Rows:
        rows = slice(p.starts[i], p.starts[i + 1])
        metric = one.x if keys is None else F.normalize(keys[rows], dim=1)
        return tome_by_loops(one.x, metric, min(budget, len(one.x)))

    compare(p, tome(p, budget=budget, keys=keys), expected)


def test_prumerge_takes_outliers_as_numpy_counts_them():
    p = pack([values(200, 4), values(64, 4)], [Item.of(1, 10, 20), Item.of(1, 8, 8)])
    a = values(264, 1, seed=4).flatten().exp()
    got = prumerge(p, a, p.x)
    for rows, kept in zip(a.split(p.lengths), got.lengths, strict=True):
        low, high = np.percentile(rows.numpy(), [25, 75])
        assert kept == int((rows.numpy() > high + 1.5 * (high - low)).sum()) > 0
    flat = prumerge(p, torch.ones(264), p.x)
    assert flat.lengths == (0, 0)


def test_tome_keeps_the_mean_of_what_it_merged():
    """Weights by size: the mean over all rows, weighted by how many each stands for, is that of the start. Two rows
    become one in one round, four in two."""
    p = pack([values(8, 3)], [Item.of(1, 2, 4)])
    torch.testing.assert_close(tome(p, budget=1).x[0], p.x.mean(dim=0))


def test_nothing_to_do_changes_nothing():
    p = pack([values(6, 3), values(4, 3)], [Item.of(1, 2, 3), Item.of(1, 2, 2)])
    a = torch.rand(10)
    assert tome(p, budget=6).equal(p)
    assert visionzip(p, a, p.x, budget=6).equal(p)
    assert prumerge(p, a, p.x, budget=6, neighbours=0).equal(p)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_stay_and_gradients_flow(dtype: torch.dtype):
    p = pack([values(12, 3).to(dtype)], [Item.of(1, 3, 4)])
    a = values(12, 1).flatten().abs()
    for call in (
        lambda q: visionzip(q, a, values(12, 2), budget=6, contextual=0.5),
        lambda q: prumerge(q, a, values(12, 2), budget=6, neighbours=3),
        lambda q: tome(q, budget=6),
        lambda q: pool_to(q, budget=6),
    ):
        x = p.x.clone().requires_grad_()
        got = call(p.with_x(x))
        assert (got.dtype, got.lengths) == (dtype, (6,))
        got.x.sum().backward()
        assert x.grad is not None and bool(x.grad.ne(0).any())


# ---- pooling to a budget


@LAWS
@given(packs(min_items=1, width=2), st.integers(4, 60), st.integers(0, 9))
def test_pooling_to_a_budget_never_exceeds_it_and_is_torchs(p: Packed, budget: int, seed: int):
    got = pool_to(shuffled(p, seed), budget=budget).check()
    for x, old, new, rows in zip(p.unpack(), p.items, got.items, got.unpack(), strict=True):
        assert len(rows) == new.grid.rows <= max(budget, 0)
        assert (new.grid.t, new.box, new.times_s) == (old.grid.t, old.box, old.times_s)
        frames = x.view(*old.grid, -1).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(frames, new.grid[1:]).permute(0, 2, 3, 1).flatten(0, 2)
        torch.testing.assert_close(rows, pooled)
        if budget >= old.grid.rows:
            assert new.grid == old.grid


def test_the_grid_pooled_to():
    for grid, budget, expected in (
        (Grid(1, 27, 27), 196, (1, 14, 14)),
        (Grid(1, 54, 54), 729, (1, 27, 27)),
        (Grid(1, 10, 40), 100, (1, 5, 20)),
        (Grid(1, 1, 9), 4, (1, 1, 4)),
        (Grid(3, 6, 6), 27, (3, 3, 3)),
    ):
        assert pool_to(pack([values(grid.rows, 1)], [Item.of(*grid)]), budget=budget).items[0].grid == expected


def test_views_of_a_picture_share_the_budget_by_their_rows():
    p = pack([values(16, 1), values(64, 1)], [Item.of(1, 4, 4), Item.of(1, 8, 8)])
    assert pool_to(p, budget=20, per="picture").lengths == (4, 16)


def test_a_frame_without_a_row_is_refused():
    p = pack([values(4, 1), values(32, 1)], [Item.of(1, 2, 2), Item.of(8, 2, 2)])
    with pytest.raises(LimitError, match="7 rows for 8 frames") as caught:
        pool_to(p, budget=7)
    assert caught.value.item == 1
    with pytest.raises(ShapeError, match="3 of 4 rows are left"):
        pool_to(p.keep(torch.arange(1, 36)), budget=9)
    assert len(pool_to(concat([]), budget=3)) == 0


@pytest.mark.usefixtures("as_in_production")
def test_arguments_are_checked():
    p: Any = pack([values(6, 3)], [Item.of(1, 2, 3)])
    a = torch.ones(6)
    for call in (
        lambda: visionzip(p, a, p.x, budget=3, contextual=1.5),
        lambda: visionzip(p, a, p.x[:5], budget=3),
        lambda: visionzip(p, a[:5], p.x, budget=3),
        lambda: prumerge(p, a, p.x, budget=3, neighbours=-1),
        lambda: prumerge(p, a, a, budget=3),
        lambda: tome(p, budget=-1),
        lambda: tome(p, budget=3, keys=p.x[:2]),
        lambda: pool_to(p, budget=-1),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(NotFinite):
        visionzip(p, a * math.nan, p.x, budget=3)
