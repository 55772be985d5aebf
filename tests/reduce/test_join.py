"""Views joined: a slow twin over plain lists of pictures, laws of places, and newlines that nothing selects."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reduce.merge_cases import values
from torch import Tensor

import tubelet
from tubelet.errors import ShapeError
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import TokenIds
from tubelet.packed import Grid, Item, Packed, concat, pack
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import LAVIDA, ViewRule, view_items
from tubelet.pixels.views_plan import POOLS, Joining, Pool
from tubelet.reduce.blank import blank_rows
from tubelet.reduce.join import join_views, pooled_views
from tubelet.reduce.select import select

RECIPE = PixelRecipe(4)
SMALL = ViewRule(16, ((16, 32), (32, 16), (32, 32), (48, 16), (16, 48)), join="unpad")
LAWS = settings(deadline=None, max_examples=60)
NEWLINE = torch.tensor([7.0, 8.0, 9.0])
sides = st.integers(1, 130)


def features(height: int, width: int, rule: ViewRule, *, frames: int = 1, seed: int = 0) -> Packed:
    items = [item for _, item in view_items(height, width, tuple(range(frames)), 0, RECIPE, rule)]
    return pack([values(item.grid.rows, 3, seed=seed + i) for i, item in enumerate(items)], items)


def spliced(p: Packed, rule: ViewRule, height: int, width: int) -> Tensor:
    """One picture's rows, joined as pictures: numpy arrays side by side, borders sliced off, a column put behind."""
    views = [x.view(item.grid.h, item.grid.w, -1).numpy() for x, item in zip(p.unpack(), p.items, strict=True)]
    if rule.join == "flat":
        return torch.from_numpy(np.concatenate([v.reshape(-1, v.shape[-1]) for v in views]))
    tiling = rule.tiling(height, width)
    lines = [views[1 + r * tiling.cols : 1 + (r + 1) * tiling.cols] for r in range(tiling.rows)]
    joined = np.concatenate([np.concatenate(line, axis=1) for line in lines], axis=0)
    if rule.join == "unpad":
        rows, cols = joined.shape[:2]
        if width / height > cols / rows:
            length = height * (cols / width)
            drop = (rows - int(length if rule.compat is None else round(length, 7))) // 2
            joined = joined[drop : rows - drop]
        else:
            length = width * (rows / height)
            drop = (cols - int(length if rule.compat is None else round(length, 7))) // 2
            joined = joined[:, drop : cols - drop]
        if rule.most is not None and joined.size:
            times = math.sqrt(joined.shape[0] * joined.shape[1] / (rule.most * views[0].shape[0] ** 2))
            if times > 1.1:
                grid = torch.from_numpy(joined).permute(2, 0, 1)[None]
                smaller = [int(side // times) for side in joined.shape[:2]]
                joined = F.interpolate(grid, smaller, mode="bilinear")[0].permute(1, 2, 0).numpy()
        newline = np.broadcast_to(NEWLINE.numpy(), (len(joined), 1, 3))
        joined = np.concatenate([joined, newline], axis=1)
    base = views[0].reshape(-1, views[0].shape[-1])
    return torch.from_numpy(np.concatenate([base, joined.reshape(-1, joined.shape[-1])]))


@LAWS
@given(
    sides,
    sides,
    st.sampled_from(("flat", "spatial", "unpad")),
    st.sampled_from((None, *POOLS)),
    st.sampled_from((None, "transformers-5")),
    st.sampled_from((None, 1, 2, 3)),
)
def test_joined_views_equal_pictures_put_together(
    height: int, width: int, join: Joining, pool: Pool | None, compat: str | None, most: int | None
):
    rule = replace(SMALL, join=join, pool=pool, compat=compat, most=most if join == "unpad" else None)
    p = pooled_views(features(height, width, rule), rule)
    got = join_views(p, rule, NEWLINE).check()
    assert torch.equal(got.x, spliced(p, rule, height, width))
    assert len(got.x) == sum(rule.tokens(height, width, (4, 4)))  # what a plan says


def test_sampled_rows_say_where_they_are_and_a_picture_without_pinpoints_is_whole():
    rule = replace(SMALL, most=1)
    p = join_views(features(64, 64, rule), rule, NEWLINE).check()
    assert p.items[1].grid == Grid(1, 4, 5)  # 8 x 8 rows as 4 x 4, and the newlines
    assert p.items[1].box == (0.0, 0.0, 80.0, 64.0)
    assert rule.tokens(64, 64, (4, 4)) == (16, 4, 6, 4, 6)
    whole = replace(SMALL, pinpoints=())
    p = features(40, 90, whole)
    assert len(p) == 1
    got = join_views(p, SMALL, NEWLINE)
    assert torch.equal(got.x, torch.cat([p.x, NEWLINE[None]]))
    assert whole.tokens(40, 90, (4, 4)) == (17,)


def test_clips_alone_are_pooled():
    rule = replace(SMALL, pool="bilinear", pooled_are="clips")
    still, clip = features(40, 40, rule), features(40, 40, rule, frames=3)
    both = concat([still, clip])
    got = pooled_views(both, rule)
    assert got.lengths == (*still.lengths, 3 * 4)
    assert torch.equal(got.x, torch.cat([still.x, pooled_views(clip, replace(rule, pooled_are="all")).x]))
    assert rule.clip_tokens(3, (4, 4)) == 13 and rule.tokens(40, 40, (4, 4))[0] == 16


@LAWS
@given(sides, sides, st.integers(0, 9))
def test_a_newline_has_a_place_behind_its_row_and_is_never_chosen(height: int, width: int, seed: int):
    p = join_views(features(height, width, SMALL, seed=seed), SMALL, NEWLINE)
    if len(p) == 1:
        return
    joined, start = p.items[1], p.starts[1]
    newline = (p.x == NEWLINE).all(dim=1)
    assert newline.nonzero().flatten().tolist() == [
        start + n for n, (_, _, w) in enumerate(p.pos[start:].tolist()) if w == joined.grid.w - 1
    ]
    assert bool(blank_rows(p)[newline].all())
    kept = select(p, newline.float(), budget=10_000)
    assert not bool((kept.x == NEWLINE).all(dim=1).any())


@LAWS
@given(sides, sides, st.integers(0, 99))
def test_of_chosen_rows_none_is_cut_and_newlines_end_the_lines_that_have_any(height: int, width: int, seed: int):
    p = features(height, width, SMALL)
    keep = torch.rand(len(p.x), generator=torch.Generator().manual_seed(seed)) < 0.4
    keep[-1] = False  # so that the tiles are not whole
    tiling, few = SMALL.tiling(height, width), p.keep(keep)
    got = join_views(few, SMALL, NEWLINE).check()
    assert got.items[1].grid == Grid(1, tiling.rows * 4, tiling.cols * 4 + 1)
    expected: dict[tuple[int, ...], list[float]] = {}
    for i, (t, h, w) in places(few):
        row, column = divmod(i - 1, tiling.cols)
        at = (0, 0, h, w) if i == 0 else (1, 0, row * 4 + h, column * 4 + w)
        expected[at] = row_at(few, i, (t, h, w))
    expected |= {(1, 0, at[2], tiling.cols * 4): NEWLINE.tolist() for at in list(expected) if at[0] == 1}
    assert [(i, *where) for i, where in places(got)] == sorted(expected)
    assert got.x.tolist() == [expected[at] for at in sorted(expected)]


def places(p: Packed) -> list[tuple[int, tuple[int, ...]]]:
    return [(i, tuple(q)) for i, part in enumerate(p.pos.split(p.lengths)) for q in part.tolist()]


def row_at(p: Packed, item: int, where: tuple[int, ...]) -> list[float]:
    rows = p.pos[p.starts[item] : p.starts[item + 1]].tolist()
    return p.x[p.starts[item] + rows.index(list(where))].tolist()


def test_a_clip_has_one_newline_at_its_end():
    p = features(20, 30, SMALL, frames=3)
    got = join_views(p, SMALL, NEWLINE).check()
    assert torch.equal(got.x, torch.cat([p.x, NEWLINE[None]])) and got.items[0].grid == Grid(3, 4, 5)
    assert got.pos[-1].tolist() == [2, 3, 4] and blank_rows(got).nonzero().flatten().tolist() == [48]
    assert len(got.x) == SMALL.clip_tokens(3, (4, 4))
    assert join_views(p, replace(SMALL, join="spatial"), NEWLINE).equal(p)


def test_pictures_are_joined_one_by_one_and_gradients_reach_the_newline():
    sizes = [(30, 70), (16, 16), (100, 20)]
    packs = [features(h, w, SMALL, seed=n) for n, (h, w) in enumerate(sizes)]
    newline = NEWLINE.clone().requires_grad_()
    together = join_views(concat(packs), SMALL, newline)
    assert together.with_x(together.x.detach()).equal(concat([join_views(p, SMALL, NEWLINE) for p in packs]))
    together.x.sum().backward()
    lines = sum(item.grid.h for item in together.items[1::2])
    assert newline.grad is not None and newline.grad.tolist() == [float(lines)] * 3


def test_place_takes_newlines_as_rows():
    p = join_views(features(30, 70, SMALL), SMALL, NEWLINE)
    n = len(p.x)
    seq = place(p, torch.tensor([5, *[9] * n, 6]), TokenIds(image=9))
    assert torch.equal(seq.inputs_embeds[1:-1], p.x) and seq.position_ids[0].tolist() == list(range(n + 2))


def test_without_a_newline_rows_are_not_ended():
    p = features(30, 70, SMALL)
    assert len(join_views(p, SMALL).x) == len(join_views(p, SMALL, NEWLINE).x) - join_views(p, SMALL).items[1].grid.h


def test_lavida_takes_980_or_1008_rows_of_a_square_page():
    clip = tubelet.Clip(np.zeros((1, 768, 768, 3), np.uint8), (0.0,))
    p = tubelet.patchify([clip], PixelRecipe(14), views=LAVIDA)
    assert len(p.x) == 3645
    p = p.with_x(torch.zeros(3645, 2))
    assert len(join_views(pooled_views(p, LAVIDA), LAVIDA, torch.ones(2)).x) == 1008
    flat = replace(LAVIDA, join="flat")
    assert len(join_views(pooled_views(p, flat), flat).x) == 980


def test_what_is_no_picture_of_the_rule_is_refused():
    p = features(30, 70, SMALL)
    for wrong in (
        lambda: join_views(p.reorder([0, 1]), SMALL, NEWLINE),
        lambda: join_views(pack([values(6, 3)], [Item.of(1, 2, 3)]), SMALL, NEWLINE),
        lambda: join_views(p, SMALL, torch.ones(4)),
        lambda: join_views(p.with_x(p.x), replace(SMALL, pinpoints=((16, 16),)), NEWLINE),
        lambda: pooled_views(p.keep(torch.arange(5)), replace(SMALL, pool="max")),
    ):
        with pytest.raises(ShapeError):
            wrong()
