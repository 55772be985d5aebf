"""Placeholders expanded, prompts cut between items, and padded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tubelet
from tubelet.errors import AlignmentError, InputError
from tubelet.inspect.budget.values import Downstream
from tubelet.language.placing.place import place
from tubelet.language.placing.prompt import IGNORED, Prompt, Side, expand_placeholders, pad, truncate
from tubelet.language.placing.rules import QWEN2_5_VL, QWEN3_VL, TokenIds
from tubelet.packed import Item

IDS = TokenIds(image=90, video=91, start=92, end=93)


def test_a_prompt_expanded_before_any_pixel_is_read_fits_the_rows_that_come():
    recipe = tubelet.PixelRecipe(patch=14, rule="smart", temporal=2, merge=2, order="block")
    plan = tubelet.plan([(100, 60), (64, 64, 3)], recipe, Downstream(space=2))
    prompt = expand_placeholders([5, 92, 90, 93, 6, 92, 91, 93, 7], [i.tokens for i in plan.items], IDS)
    frames = [torch.zeros(n, h, w, 3, dtype=torch.uint8).numpy() for n, h, w in ((1, 60, 100), (3, 64, 64))]
    clips = [tubelet.Clip(f, tuple(map(float, range(len(f))))) for f in frames]
    rows = tubelet.merge(tubelet.patchify(clips, recipe), space=2)
    seq = place(rows.with_x(rows.x.float()), torch.tensor(prompt.ids), IDS, rule=QWEN2_5_VL)
    assert int(seq.visual.sum()) == plan.tokens == rows.x.shape[0]


def test_spans_hold_the_tokens_around_an_item():
    prompt = expand_placeholders([5, 92, 90, 93, 90, 6], [2, 1], IDS, labels=[1, 2, 3, 4, 5, 6])
    assert prompt.ids == (5, 92, 90, 90, 93, 90, 6)
    assert prompt.labels == (1, 2, IGNORED, IGNORED, 4, IGNORED, 6)
    assert prompt.spans == ((1, 5), (5, 6))


def test_frames_stand_behind_their_timestamps():
    prompt = expand_placeholders(
        torch.tensor([5, 92, 91, 93, 6]),
        [(2, 0, 1)],
        IDS,
        labels=[1, 2, 3, 4, 5],
        before_frame=lambda i, t: (10 + i, t),
    )
    assert prompt.ids == (5, 10, 0, 92, 91, 91, 93, 10, 2, 92, 91, 93, 6)
    assert prompt.labels == (1, *[IGNORED] * 11, 5)
    assert prompt.spans == ((1, 12),)
    p = tubelet.pack([torch.zeros(6, 1)], [Item.of(3, 1, 2)]).keep(torch.tensor([0, 1, 5]))
    seq = place(p, torch.tensor(prompt.ids), IDS, rule=QWEN3_VL)
    assert seq.position_ids[0].tolist() == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 12, 13]


def test_wrong_counts_are_refused():
    with pytest.raises(AlignmentError, match="1 placeholders in the prompt for 2 items") as e:
        expand_placeholders([5, 90], [1, 2], IDS)
    assert (e.value.expected, e.value.got) == (2, 1)
    with pytest.raises(InputError, match="at least one row"):
        expand_placeholders([5, 90], [0], IDS)
    with pytest.raises(InputError, match="before_frame"):
        expand_placeholders([5, 91], [(1, 2)], IDS)
    with pytest.raises(InputError, match="2 labels for 1 tokens"):
        expand_placeholders([5], [], IDS, labels=[1, 2])


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    ids, counts = [], []
    for _ in range(draw(st.integers(0, 4))):
        ids += [5] * draw(st.integers(0, 3))
        ids += [92, 90, 93] if draw(st.booleans()) else [90]
        counts.append(draw(st.integers(1, 4)))
    ids += [6] * draw(st.integers(0, 3))
    return expand_placeholders(ids, counts, IDS, labels=ids)


@given(prompts(), st.integers(0, 40), st.sampled_from(["left", "right"]))
def test_a_cut_prompt_is_a_piece_of_the_whole_with_whole_items(prompt: Prompt, length: int, side: Side):
    cut = truncate(prompt, length, side=side, drop_items=True)
    total = len(prompt)
    assert len(cut) <= length or cut is prompt
    low = 0 if side == "right" else total - len(cut)
    assert cut.ids == prompt.ids[low : low + len(cut)]
    assert prompt.labels is not None
    assert cut.labels == prompt.labels[low : low + len(cut)]
    assert sorted(cut.items + cut.dropped) == list(prompt.items)
    rows = [prompt.ids[a:b].count(90) for a, b in prompt.spans]
    assert [cut.ids[a:b].count(90) for a, b in cut.spans] == [rows[n] for n in cut.items]
    assert cut.ids.count(90) == sum(rows[n] for n in cut.items)
    # nothing more than needed is left out: the cut is where it was asked for, or at an item it would have cut
    edge = len(cut) if side == "right" else low
    borders = {(a if side == "right" else b) for a, b in prompt.spans}
    assert len(cut) == min(length, total) or edge in borders
    if cut.dropped:
        with pytest.raises(AlignmentError, match="drop_items=True") as e:
            truncate(prompt, length, side=side)
        assert e.value.item == (cut.dropped[0] if side == "right" else cut.dropped[-1])
    else:
        assert truncate(prompt, length, side=side) == cut


def test_what_truncation_left_out_is_left_out_of_the_pack():
    prompt = truncate(expand_placeholders([5, 90, 6, 90, 7], [2, 3], IDS), 6, drop_items=True)
    p = tubelet.pack([torch.ones(2, 1), torch.ones(3, 1)], [Item.of(1, 1, 2), Item.of(1, 1, 3)])
    assert prompt.dropped == (1,)
    assert place(p.reorder(prompt.items), torch.tensor(prompt.ids), IDS).visual.tolist() == [False, True, True, False]
    with pytest.raises(AlignmentError, match="item 1"):
        place(p, torch.tensor(prompt.ids), IDS)


@given(st.lists(prompts(), max_size=4), st.sampled_from(["left", "right"]), st.sampled_from([1, 8]))
def test_padding_adds_to_one_side(chosen: list[Prompt], side: Side, multiple: int):
    batch = pad(chosen, 77, side=side, multiple=multiple)
    assert batch.input_ids.shape[1] % multiple == 0
    assert batch.counts == tuple(len(p.items) for p in chosen)
    for i, p in enumerate(chosen):
        real = batch.attention_mask[i].bool()
        assert tuple(batch.input_ids[i][real].tolist()) == p.ids
        assert batch.labels is not None
        assert tuple(batch.labels[i][real].tolist()) == p.labels
        assert set(batch.input_ids[i][~real].tolist()) <= {77}
        assert set(batch.labels[i][~real].tolist()) <= {IGNORED}
        edge = real if side == "right" else real.flip(0)
        assert bool((edge.long().diff() <= 0).all())


@pytest.mark.usefixtures("as_in_production")
def test_sides_and_lengths_that_there_are_not():
    prompt = expand_placeholders([5, 6], [], IDS)
    with pytest.raises(InputError, match="side"):
        truncate(prompt, 1, side="middle")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="max_length"):
        truncate(prompt, -1)
    with pytest.raises(InputError, match="multiple"):
        pad([prompt], 0, side="left", multiple=0)
    with pytest.raises(InputError, match="some prompts have labels"):
        pad([prompt, expand_placeholders([5], [], IDS, labels=[5])], 0, side="left")
    with pytest.raises(InputError, match="one row of integers"):
        expand_placeholders(torch.zeros(2), [], IDS)
