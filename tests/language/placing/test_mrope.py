"""Positions of random prompts against the slow twin, their properties, and the installed transformers."""

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.placing import conformance
from tests.language.placing.random_prompts import IDS, RULES, batches, items, packs, placed, runs, samples
from tests.language.placing.slow_positions import slow_blocks, slow_positions

import tubelet
from tubelet.errors import AlignmentError, InputError, ShapeError
from tubelet.language.placing.mrope import rope_index
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import ONE_D, QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule, TokenIds
from tubelet.packed import Grid, Item


@pytest.mark.parametrize("extent", ["grid", "rows"])
@pytest.mark.parametrize("time", ["rows", "seconds", "blocks"])
@given(st.data())
def test_positions_are_those_of_the_slow_twin(time: str, extent: str, data: st.DataObject):
    rule = replace(RULES[time], extent=extent)
    batch = data.draw(batches(rule, thin=True))
    at = placed(batch, rule).positions
    blocks = slow_blocks(batch["p"], time, Fraction(2), batch["videos"], extent)
    for i, tokens, mine in samples(batch):
        want, following = slow_positions(tokens, [b for n in mine for b in blocks[n]])
        assert at.position_ids[:, i].T.tolist() == [list(row) for row in want]
        assert at.next_position[i].item() == following
        assert at.rope_deltas[i].item() == following - len(tokens)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(st.data())
def test_what_holds_for_every_prompt(rule: PositionRule, data: st.DataObject):
    batch = data.draw(batches(rule))
    seq = placed(batch, rule)
    assert int(seq.visual.sum()) == batch["p"].x.shape[0]
    for i, tokens, _ in samples(batch):
        ids = seq.position_ids[:, i].T.tolist()
        text = [ids[j] for j, t in enumerate(tokens) if t == 0]
        assert all(a == b == c for a, b, c in text)
        assert all(a[0] < b[0] for a, b in pairwise(text))
        reached = -1
        for j, t in enumerate(tokens):
            if t == 0:  # text stands behind everything before it, and no further than one
                assert ids[j][0] == reached + 1
            if t is not None:
                reached = max(reached, *ids[j])
        assert seq.positions.next_position[i].item() == reached + 1
        assert seq.positions.decode(2, 3)[:, i].tolist() == [[reached + n for n in (3, 4, 5)]] * 3


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(st.data())
def test_keeping_every_row_changes_nothing(rule: PositionRule, data: st.DataObject):
    batch = data.draw(batches(rule))
    kept = batch | {"p": batch["p"].keep(torch.ones(batch["p"].x.shape[0], dtype=torch.bool))}
    one, other = placed(batch, rule), placed(kept, rule)
    assert torch.equal(one.position_ids, other.position_ids)
    assert torch.equal(one.inputs_embeds, other.inputs_embeds)
    assert torch.equal(one.positions.rope_deltas, other.positions.rope_deltas)


@pytest.mark.parametrize("rule", [QWEN2_VL, QWEN2_5_VL], ids=["rows", "seconds"])
@given(st.data())
def test_dropping_rows_moves_no_other_token(rule: PositionRule, data: st.DataObject):
    p, videos = data.draw(packs())
    keep = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=p.x.shape[0], max_size=p.x.shape[0])), dtype=torch.bool
    )
    first = torch.tensor(p.starts[:-1], dtype=torch.long)
    keep[first] = True  # an item without rows has no place in the prompt
    ids, kept = [5], [True]
    for video, rows in zip(videos, keep.split(p.lengths) if p.lengths else [], strict=True):
        ids += [IDS.video if video else IDS.image] * len(rows) + [6]
        kept += [*rows.tolist(), True]
    whole = place(p, torch.tensor(ids), IDS, rule=rule)
    thin = place(p.keep(keep), torch.tensor(ids)[torch.tensor(kept)], IDS, rule=rule)
    assert torch.equal(thin.position_ids, whole.position_ids[:, torch.tensor(kept)])
    assert torch.equal(thin.positions.next_position, whole.positions.next_position)


@given(st.lists(items(), max_size=4), st.sampled_from(["rows", "seconds", "blocks"]), st.integers(1, 3))
def test_grids_alone_give_the_positions_of_their_rows(chosen: list[Item], time: str, merge: int):
    """Evenly sampled items, as grids and seconds and as rows with times."""
    rule, step = RULES[time], Fraction(7, 10)
    even = [replace(i, times_s=tuple(float(n * step) for n in range(i.grid.t))) for i in chosen]
    p = tubelet.pack([torch.zeros(i.grid.rows, 1) for i in even], even)
    videos = [i.grid.t > 1 for i in even]
    ids = [5]
    for item_runs, video in zip(runs(p, videos, rule), videos, strict=True):
        for run in item_runs:
            ids += [*([IDS.video if video else IDS.image] * run), 6]
    grids = [[[g.t, g.h * merge, g.w * merge] for g in (i.grid for i in even) if (g.t > 1) == v] for v in (False, True)]
    at = rope_index(
        torch.tensor([ids]),
        IDS,
        rule,
        image_grid_thw=torch.tensor(grids[0], dtype=torch.long).reshape(-1, 3),
        video_grid_thw=torch.tensor(grids[1], dtype=torch.long).reshape(-1, 3),
        second_per_grid_ts=[step] * len(grids[1]),
        merge=merge,
    )
    assert torch.equal(at.position_ids[:, 0], place(p, torch.tensor(ids), IDS, rule=rule).position_ids)


def test_merged_rows_start_where_their_first_frame_does():
    item = Item(Grid(4, 4, 4), (0.0, 1.0, 5.0, 9.0), 0, (0.0, 0.0, 4.0, 4.0))
    p = tubelet.merge(tubelet.pack([torch.zeros(64, 1)], [item]), space=2, time=2)
    seq = place(p, torch.tensor([5, *[IDS.video] * 8, 6]), IDS, rule=QWEN2_5_VL)
    assert seq.position_ids[0].tolist() == [0, 1, 1, 1, 1, 11, 11, 11, 11, 12]
    assert seq.position_ids[1].tolist() == [0, 1, 1, 2, 2, 1, 1, 2, 2, 12]


def test_rows_in_another_order_keep_their_positions():
    p = tubelet.pack([torch.arange(8.0)[:, None]], [Item.of(2, 2, 2)])
    order = torch.tensor([3, 0, 7, 5, 1])
    ids = torch.tensor([5, *[IDS.image] * 5, 6])
    seq = place(p.keep(order), ids, IDS, rule=QWEN2_VL)
    assert seq.position_ids[:, 1:6].T.tolist() == [[1 + t, 1 + h, 1 + w] for t, h, w in p.pos[order].tolist()]


def test_a_still_picture_of_several_rows_of_time_does_not_count_seconds():
    p = tubelet.pack([torch.zeros(3, 1)], [Item(Grid(3, 1, 1), (0.0, 1.0, 2.0), 0, (0.0, 0.0, 1.0, 1.0))])
    for token, want in ((IDS.image, [0, 1, 1, 1, 2]), (IDS.video, [0, 1, 3, 5, 6])):
        seq = place(p, torch.tensor([5, *[token] * 3, 6]), IDS, rule=QWEN2_5_VL)
        assert seq.position_ids[0].tolist() == want


def test_with_one_placeholder_for_both_a_clip_is_known_by_its_grid():
    p = tubelet.pack([torch.zeros(2, 1)], [Item(Grid(2, 1, 1), (0.0, 1.5), 0, (0.0, 0.0, 1.0, 1.0))])
    seq = place(p, torch.tensor([90, 90]), TokenIds(image=90), rule=QWEN2_5_VL)
    assert seq.position_ids[0].tolist() == [0, 3]


def test_an_empty_batch_and_a_sample_of_padding():
    p = tubelet.pack([], [])
    assert place(p, torch.zeros(2, 0, dtype=torch.long), IDS, rule=QWEN2_VL).position_ids.shape == (3, 2, 0)
    at = place(p, torch.zeros(1, 3, dtype=torch.long), IDS, rule=QWEN2_VL, attention_mask=torch.zeros(1, 3)).positions
    assert at.next_position.tolist() == [[0]]
    assert at.position_ids[0].tolist() == [[1, 1, 1]]


def test_grids_that_do_not_fit_are_refused():
    ids = torch.tensor([[5, 90, 90, 6]])
    with pytest.raises(AlignmentError, match="item 0: sample 0: 4 rows and 2 places left in the run of 2") as e:
        rope_index(ids, IDS, QWEN2_VL, image_grid_thw=torch.tensor([[1, 4, 4]]))
    assert (e.value.sample, e.value.expected, e.value.got) == (0, 4, 2)
    with pytest.raises(ShapeError, match="no 2 x 2 blocks"):
        rope_index(ids, IDS, QWEN2_VL, image_grid_thw=torch.tensor([[1, 3, 4]]))
    with pytest.raises(ShapeError, match="2 second_per_grid_ts for 0 videos"):
        rope_index(ids, IDS, QWEN2_VL, second_per_grid_ts=[1.0, 2.0])
    with pytest.raises(InputError, match="placeholder of their own"):
        rope_index(ids, TokenIds(image=90), QWEN2_VL, video_grid_thw=torch.tensor([[1, 2, 4]]))


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    ("field", "value"),
    [("time", "frames"), ("arithmetic", "half"), ("extent", "all"), ("compat", "vllm"), ("tokens_per_second", -1)],
)
def test_rules_that_there_are_not(field: str, value: Any):
    with pytest.raises(InputError, match=field):
        replace(QWEN2_5_VL, **{field: value})
    with pytest.raises(InputError, match="numbers of tokens"):
        rope_index(torch.tensor([5]), IDS, ONE_D).decode(-1)


# ---- against transformers


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(conformance.RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", conformance.CASES)
def test_compat_is_what_transformers_5_gives(name: str, recorded: dict[str, dict[str, Any]]):
    theirs = recorded["5.23.0"][name]
    if theirs == "RuntimeError":  # two images whose runs touch
        assert "I I" in conformance.CASES[name][1]
        return
    assert conformance.ours(name, compat=True) == theirs
    assert conformance._theirs(name) == theirs  # also what is installed, which is 5.23 or later where the tests run


def test_the_table_in_the_documents_is_that_of_the_records():
    assert f"{conformance.BEGIN}\n{conformance.table()}{conformance.END}" in conformance.DOC.read_text(encoding="utf-8")


@given(st.data())
def test_random_prompts_as_transformers_5_counts_them(data: st.DataObject):
    which = data.draw(st.sampled_from(["2", "2.5", "3"]))
    rule = {"2": QWEN2_VL, "2.5": replace(QWEN2_5_VL, arithmetic="float32"), "3": QWEN3_VL}[which]
    size = st.integers(1, 4).map(lambda n: 2 * n)
    grids: dict[str, list[list[int]]] = {"image": [], "video": []}
    ids: list[int] = []
    for kind in data.draw(st.lists(st.sampled_from(["image", "video"]), min_size=1, max_size=4)):
        t, h, w = data.draw(st.integers(1, 8)) if kind == "video" else 1, data.draw(size), data.draw(size)
        grids[kind].append([t, h, w])
        token = conformance.IMAGE if kind == "image" else conformance.VIDEO
        for _ in range(t if which == "3" else 1):
            ids += [3] * data.draw(st.integers(1, 3)) + [token] * (h * w // 4 * (1 if which == "3" else t))
    pad = data.draw(st.integers(0, 3))
    batch = torch.tensor([[0] * pad + ids + [4], ids + [4] + [0] * pad])
    mask = torch.tensor([[0] * pad + [1] * (len(ids) + 1), [1] * (len(ids) + 1) + [0] * pad])
    kinds = (batch == conformance.IMAGE).int() + 2 * (batch == conformance.VIDEO).int()
    twice: dict[str, Any] = {f"{k}_grid_thw": torch.tensor(g * 2) for k, g in grids.items() if g}
    if which == "2.5" and grids["video"]:
        count = len(grids["video"])
        each = data.draw(st.lists(st.floats(2**-6, 8, width=32), min_size=count, max_size=count))
        twice["second_per_grid_ts"] = torch.tensor(each * 2)
    theirs = conformance._model(which).get_rope_index(batch, mm_token_type_ids=kinds, attention_mask=mask, **twice)
    qwen = TokenIds(conformance.IMAGE, conformance.VIDEO)
    got = rope_index(batch, qwen, replace(rule, compat="transformers-5"), attention_mask=mask, **twice)
    assert torch.equal(got.position_ids, theirs[0])
    assert torch.equal(got.rope_deltas, theirs[1])
