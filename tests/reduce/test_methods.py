"""The table of methods: one body over all of them for budgets, order, neighbours and wrong input."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.reduce.merge_cases import values
from torch import Tensor

from tubelet.errors import InputError, LimitError, NotFinite, ShapeError, TubeletError
from tubelet.packed import Item, Packed, concat, pack
from tubelet.packed.order import rows_in
from tubelet.reduce.cells import dilate
from tubelet.reduce.condense import pool_to, tome, visionzip
from tubelet.reduce.diverse import cdpruner
from tubelet.reduce.groups import by_range
from tubelet.reduce.history.versions import VERSIONS, historical
from tubelet.reduce.methods import METHODS, Inputs, Sparse, choose, method_of, needs_of
from tubelet.reduce.relevance import relevance
from tubelet.reduce.scores import covered, random, variance
from tubelet.reduce.select import select
from tubelet.reduce.settings import Settings, Weights
from tubelet.reduce.shirg import shirg

TODAY = [name for name in METHODS if name not in VERSIONS]
PAST = [name for name in VERSIONS if name != "shirg-v2-views"]  # that one needs 4608 rows: tests of the history
EXACT = [name for name in TODAY if METHODS[name].kind != "resizes"]
WIDTH = 64


def square(side: int = 16, *, picture: int = 0, seed: int = 0) -> Packed:
    return pack([values(side * side, WIDTH, seed=seed)], [Item.of(1, side, side, picture=picture)])


def grid(t: int, h: int, w: int, seed: int = 0) -> Packed:
    return pack([values(t * h * w, WIDTH, seed=seed)], [Item.of(t, h, w)])


def inputs(p: Packed, **changed: Any) -> Inputs:
    """Everything a method can ask for; what would need an encoder is made of the rows themselves."""
    keys = p.x[:, :8].contiguous()
    given = Inputs(
        p,
        text=values(3, WIDTH, seed=9),
        attention=p.x[:, 0].sigmoid(),
        keys=keys,
        boxes={i.picture: [(0.0, 0.0, i.box[2] / 2, i.box[3])] for i in p.items},
        smaller=lambda budget: pool_to(p, budget=budget),
        sparse=lambda budget: sparse(p.reorder([0]) if len(p) else p, budget),
    )
    return replace(given, **changed)


def sparse(p: Packed, budget: int) -> Sparse:
    scores = p.x[:, 1]
    kept = select(p.with_x(torch.cat([p.x, scores[:, None]], dim=1)), scores, budget=budget)
    return Sparse(kept.with_x(kept.x[:, :-1]), kept.x[:, -1])


# ---- every method


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("budget", [0, 1, 5, 13, 30, 47])
@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 3, 5), (1, 1, 30)])
def test_the_budget_is_exact_and_rows_are_real_places_in_order(name: str, budget: int, shape: tuple[int, int, int]):
    p = grid(*shape)
    kept = choose(name, inputs(p), budget=budget).kept.check(finite=True)
    assert kept.lengths == (min(budget, 30),)
    assert kept.items == p.items
    place = kept.pos.long()
    number = (place[:, 0] * shape[1] + place[:, 1]) * shape[2] + place[:, 2]
    assert bool((number.diff() > 0).all())
    if METHODS[name].kind == "chooses":
        assert torch.equal(kept.x, p.x[number])


@pytest.mark.parametrize("name", PAST)
@pytest.mark.parametrize("budget", [40, 300])
def test_historical_versions_keep_no_more(name: str, budget: int):
    p = square()
    kept = choose(name, inputs(p), budget=budget).kept.check()
    assert kept.lengths[0] <= min(budget, 256)
    assert kept.equal(historical(p, name, values(3, WIDTH, seed=9), budget=budget))


@pytest.mark.parametrize("name", [*TODAY, *PAST])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (1, 1, 7), (1, 13, 1), (3, 1, 1), (1, 4, 4)])
@pytest.mark.parametrize("budget", [0, 1, 6, 1000])
def test_odd_grids_and_odd_budgets_give_a_choice_or_a_typed_error(name: str, shape: tuple[int, int, int], budget: int):
    p = grid(*shape)
    try:
        kept = choose(name, inputs(p), budget=budget).kept.check(finite=True)
    except TubeletError as e:
        assert e.message
        assert name in VERSIONS or (METHODS[name].kind == "resizes" and budget < shape[0])
        return
    assert len(kept.x) <= budget


@pytest.mark.parametrize("name", [*TODAY, *PAST])
@pytest.mark.parametrize("budget", [-1, 1.5, "6", None])
@pytest.mark.usefixtures("as_in_production")
def test_a_budget_is_a_whole_number_of_rows(name: str, budget: Any):
    with pytest.raises(InputError):
        choose(name, inputs(square()), budget=budget)


@pytest.mark.parametrize("name", EXACT)
def test_equal_rows_and_equal_scores_are_decided_by_order(name: str):
    p = grid(1, 4, 6)
    p = p.with_x(torch.ones_like(p.x))
    settings = Settings(coverage=0, radius=0) if METHODS[name].covers else None
    kept = choose(name, inputs(p, boxes={0: [(0.0, 0.0, 6.0, 4.0)]}), budget=6, settings=settings).kept
    again = choose(name, inputs(p, boxes={0: [(0.0, 0.0, 6.0, 4.0)]}), budget=6, settings=settings).kept
    assert kept.lengths == (6,)
    assert kept.equal(again)
    if name not in ("uniform", "random", "visionzip", "tome"):
        assert (kept.pos[:, 1] * 6 + kept.pos[:, 2]).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", [*TODAY, *PAST])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_no_numbers_name_their_item(name: str, bad: float):
    p = concat([square(), square(seed=1)])
    x = p.x.clone()
    x[300, 3] = bad
    with pytest.raises(NotFinite) as caught:
        choose(name, inputs(p.with_x(x), attention=torch.zeros(512), keys=torch.zeros(512, 8)), budget=20)
    assert caught.value.item == 1


@pytest.mark.parametrize("name", [n for n in TODAY if "attention" in METHODS[n].needs])
@pytest.mark.usefixtures("as_in_production")
def test_scores_that_are_no_numbers_name_their_item(name: str):
    p = concat([square(4), square(4, seed=1)])
    attention = torch.zeros(32)
    attention[20] = math.nan
    with pytest.raises(NotFinite) as caught:
        choose(name, inputs(p, attention=attention), budget=5)
    assert caught.value.item == 1
    with pytest.raises(ShapeError):
        choose(name, inputs(p, attention=torch.zeros(31)), budget=5)


TEXTUAL = [n for n in TODAY if "text" in METHODS[n].needs]


@pytest.mark.parametrize("name", TEXTUAL)
def test_texts_that_say_nothing_or_are_of_another_space(name: str):
    p = square(4)
    with pytest.raises(InputError, match="without words"):
        choose(name, inputs(p, text=torch.zeros(0, WIDTH)), budget=5)
    with pytest.raises(ShapeError, match="like the rows"):
        choose(name, inputs(p, text=torch.zeros(2, WIDTH + 1)), budget=5)
    with pytest.raises(NotFinite):
        choose(name, inputs(p, text=torch.full((2, WIDTH), math.nan)), budget=5)
    with pytest.raises(ShapeError, match="texts"):
        choose(name, inputs(p, text=[values(2, WIDTH)] * 3), budget=5)
    narrow = p.with_x(p.x[:, :6].contiguous())
    found = choose(name, inputs(p, text=values(2, 6), features=narrow), budget=5)
    assert found.kept.x.shape == (5, WIDTH)


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].needs])
def test_what_is_missing_is_named_with_what_to_give(name: str):
    with pytest.raises(InputError, match=r"needs .*: give ") as caught:
        choose(name, Inputs(square(4)), budget=5)
    assert caught.value.expected == METHODS[name].needs[0]


@pytest.mark.parametrize("name", [n for n in EXACT if n != "codec"])
def test_pictures_do_not_depend_on_each_other(name: str):
    one, two = square(5), square(6, seed=3)
    both = choose(name, inputs(concat([one, two])), budget=7).kept
    alone = concat([choose(name, inputs(p), budget=7).kept for p in (one, two)])
    assert both.items == alone.items
    assert both.lengths == alone.lengths == (7, 7)
    assert torch.equal(both.pos, alone.pos)
    torch.testing.assert_close(both.x, alone.x)


@pytest.mark.parametrize("name", [n for n in EXACT if n not in ("codec", "uniform")])
def test_views_share_a_budget(name: str):
    views = concat([square(4), square(3, seed=1)], renumber=False)
    assert sum(choose(name, inputs(views), budget=6).kept.lengths) == 6


# ---- that each is what it says


def test_each_is_the_function_it_is_named_for():
    p = square(8)
    i = inputs(p)
    text, attention, keys = i.text, i.attention, i.keys
    assert isinstance(text, Tensor)
    assert attention is not None
    assert keys is not None
    assert i.boxes is not None
    near = relevance(p, text)
    wanted: dict[str, tuple[Callable[[], Packed], Settings]] = {
        "text": (lambda: select(p, near, budget=9), Settings()),
        "shirg": (lambda: shirg(p, text, budget=9), Settings()),
        "attention": (lambda: select(p, attention, budget=9, coverage=2), Settings(coverage=2)),
        "variance": (lambda: select(p, variance(p), budget=9), Settings()),
        "boxes": (lambda: select(p, covered(p, i.boxes or {}), budget=9), Settings()),
        "random": (lambda: select(p, random(p, seed=4), budget=9), Settings(seed=4)),
        "cdpruner": (
            lambda: select(p, cdpruner(p, -relevance(p, text, words="mean"), budget=9), budget=9),
            Settings(),
        ),
        "visionzip": (lambda: visionzip(p, attention, keys, budget=9), Settings()),
        "tome": (lambda: tome(p, budget=9, keys=keys), Settings()),
        "pool": (lambda: pool_to(p, budget=9), Settings()),
    }
    for name, (run, settings) in wanted.items():
        assert choose(name, i, budget=9, settings=settings).kept.equal(run()), name
    soft = Settings(words="logsumexp", radius=2, falloff=0.2)
    score = dilate(p, by_range(p, relevance(p, text, words="logsumexp")), radius=2, falloff=0.2)
    assert choose("text", i, budget=9, settings=soft).kept.equal(select(p, score, budget=9))
    assert choose("shirg", i, budget=9, settings=Settings(radius=0, coverage=0)).kept.equal(
        choose("text", i, budget=9).kept
    )


def test_scores_are_given_with_the_choice():
    p = square(6)
    for name in EXACT:
        found = choose(name, inputs(p), budget=9)
        if METHODS[name].covers or name in ("divprune", "cdpruner", "visionzip", "prumerge", "codec"):
            assert found.scores is not None
            assert found.scores.shape == (36,)


def test_rows_that_a_codec_chose_have_its_scores_and_the_others_none():
    p = square(5)
    found = choose("codec", inputs(p), budget=7)
    assert found.scores is not None
    kept = found.kept.pos[:, 1].long() * 5 + found.kept.pos[:, 2].long()
    torch.testing.assert_close(found.scores[kept], p.x[kept, 1])
    assert int((found.scores == -torch.inf).sum()) == 18


def test_coverage_and_scaffold_are_followed_or_refused():
    views = concat([square(4), square(8, seed=1)], renumber=False)
    for name, method in METHODS.items():
        if name in VERSIONS or method.covers:
            continue
        for settings in (Settings(coverage=2), Settings(scaffold=(0,))):
            with pytest.raises(InputError, match="coverage or a scaffold"):
                choose(name, inputs(views), budget=30, settings=settings)
    for name in (n for n, m in METHODS.items() if m.covers):
        kept = choose(name, inputs(views), budget=30, settings=Settings(scaffold=(0,))).kept
        assert kept.lengths == (16, 14)
        with pytest.raises(LimitError, match="always kept"):
            choose(name, inputs(views), budget=10, settings=Settings(scaffold=(0,)))


def test_weights_decide_what_shirg_needs():
    assert needs_of("shirg", Settings()) == ("text",)
    weights = Weights(text=0.0, variance=1.0, attention=0.5)
    assert needs_of("shirg", Settings(weights=weights)) == ("attention",)
    p = square(4)
    found = choose("shirg", Inputs(p, attention=torch.rand(16)), budget=4, settings=Settings(weights=weights))
    assert found.kept.lengths == (4,)
    with pytest.raises(InputError, match="no term has weight"):
        choose("shirg", Inputs(p), budget=4, settings=Settings(weights=Weights(0.0)))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(InputError, match="no method best; there are shirg, text") as caught:
        method_of("best")
    assert caught.value.expected == tuple(METHODS)
    with pytest.raises(InputError):
        choose("best", Inputs(square(4)), budget=3)


def test_a_budget_for_each_picture():
    both = concat([square(4), square(4, seed=1)])
    assert choose("divprune", inputs(both), budget=[3, 5]).kept.lengths == (3, 5)
    for name in ("downsample", "codec", "shirg-v3"):
        with pytest.raises(InputError, match="one budget"):
            choose(name, inputs(both), budget=[3, 5])


def test_a_pack_of_nothing():
    empty = pack([], [])
    for name in ("divprune", "random", "edges", "pool", "tome", "uniform"):
        assert len(choose(name, Inputs(empty), budget=5).kept) == 0


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.ranks])
def test_a_method_that_ranks_keeps_the_best_at_every_budget(name: str):
    """Its scores are of no budget: the first of them in descending order, equal ones by their place, are kept."""
    p = pack([torch.randn(30, 8, generator=torch.Generator().manual_seed(3)).round()], [Item.of(1, 5, 6)])
    inputs = Inputs(p, torch.randn(2, 8), attention=torch.randint(0, 4, (30,)).float(), boxes={0: [(0, 0, 3, 2)]})
    scores = choose(name, inputs, budget=1).scores
    assert scores is not None
    order = torch.sort(scores, descending=True, stable=True).indices
    for budget in (1, 2, 9, 29, 30):
        choice = choose(name, inputs, budget=budget)
        assert choice.scores is not None
        assert torch.equal(choice.scores, scores)
        assert rows_in(p, choice.kept).tolist() == sorted(order[:budget].tolist())
