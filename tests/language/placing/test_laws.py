"""Laws of prompts with pixels, on random ones: batches, truncation, labels, rows dropped frame by frame."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.language.placing.random_prompts import IDS, RULES, batches, packs, placed
from torch import nn

from tubelet.language.placing.place import place
from tubelet.language.placing.prompt import IGNORED, Side, expand_placeholders, truncate
from tubelet.language.placing.rules import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule

BY_RULE = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@BY_RULE
@given(st.data())
def test_a_batch_is_its_samples_one_by_one(rule: PositionRule, data: st.DataObject):
    """Embeddings, positions, labels and where text goes on, whatever side the padding is on."""
    batch = data.draw(batches(rule, thin=True))
    p, ids, mask = batch["p"], batch["ids"], batch["mask"]
    torch.manual_seed(0)
    embed = nn.Embedding(100, 1)
    labels = torch.arange(ids.numel()).view(ids.shape)
    seq = place(p, ids, IDS, rule=rule, embed=embed, attention_mask=mask, labels=labels, counts=batch["counts"])
    assert seq.labels is not None
    assert torch.equal(seq.labels, labels.masked_fill(seq.visual | (mask == 0), IGNORED))
    for i in range(len(ids)):
        mine = [n for n, owner in enumerate(batch["owner"]) if owner == i]
        real = mask[i] == 1
        one = place(p.reorder(mine), ids[i][real], IDS, rule=rule, embed=embed, labels=labels[i][real])
        assert torch.equal(one.inputs_embeds, seq.inputs_embeds[i][real])
        assert torch.equal(one.position_ids, seq.position_ids[:, i][:, real])
        assert torch.equal(one.visual, seq.visual[i][real])
        assert one.labels is not None
        assert torch.equal(one.labels, seq.labels[i][real])
        assert one.positions.next_position.item() == seq.positions.next_position[i].item()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rule", [QWEN2_VL, QWEN2_5_VL, replace(QWEN2_5_VL, extent="rows")], ids=["rows", "s", "own"])
@given(st.data())
def test_a_truncated_prompt_keeps_the_positions_of_what_is_left(rule: PositionRule, side: Side, data: st.DataObject):
    """Cut on the right they are the same ones; cut on the left they count from what comes first now."""
    p, videos = data.draw(packs())
    ids: list[int] = []
    for video in videos:
        ids += [5] * data.draw(st.integers(0, 2)) + ([92] if data.draw(st.booleans()) else [])
        ids.append(IDS.placeholders[video])
    prompt = expand_placeholders([*ids, 6, 7], p.lengths, IDS)
    cut = truncate(prompt, data.draw(st.integers(0, len(prompt) + 2)), side=side, drop_items=True)
    whole = place(p, torch.tensor(prompt.ids), IDS, rule=rule).position_ids
    seq = place(p.reorder(cut.items), torch.tensor(cut.ids, dtype=torch.long), IDS, rule=rule)
    assert int(seq.visual.sum()) == sum(p.lengths[i] for i in cut.items)
    assert sorted((*cut.items, *cut.dropped)) == list(range(len(p)))
    if side == "right":
        assert torch.equal(seq.position_ids, whole[:, : len(cut)])
    elif len(cut):
        kept = whole[:, len(prompt) - len(cut) :]
        assert torch.equal(seq.position_ids, kept - kept[0, 0])


@given(st.data())
def test_dropping_rows_of_frames_moves_no_other_token(data: st.DataObject):
    """Frames that are blocks behind timestamps, each with at least one row left."""
    p, videos = data.draw(packs())
    keep, ids, kept = [], [5], [True]
    for pos, video in zip(p.pos.split(p.lengths) if p.lengths else [], videos, strict=True):
        for _, frame in itertools.groupby(pos.tolist(), key=lambda row: row[0] if video else 0):
            rows = [True, *(data.draw(st.booleans()) for _ in list(frame)[1:])]
            keep += rows
            ids += [IDS.placeholders[video]] * len(rows) + [6]
            kept += [*rows, True]
    whole = place(p, torch.tensor(ids), IDS, rule=QWEN3_VL)
    some = p.keep(torch.tensor(keep, dtype=torch.bool))
    thin = place(some, torch.tensor(ids)[torch.tensor(kept)], IDS, rule=QWEN3_VL)
    assert torch.equal(thin.position_ids, whole.position_ids[:, torch.tensor(kept)])
    assert torch.equal(thin.inputs_embeds, whole.inputs_embeds[torch.tensor(kept)])
    assert torch.equal(thin.positions.next_position, whole.positions.next_position)


@BY_RULE
@given(st.data())
def test_rows_of_an_item_never_stand_before_text_that_is_before_it(rule: PositionRule, data: st.DataObject):
    """Every axis of a row lies behind all text before it and before all text behind it."""
    batch: dict[str, Any] = data.draw(batches(rule, thin=True))
    seq = placed(batch, rule)
    for i in range(len(batch["ids"])):
        ids, visual = seq.position_ids[:, i], seq.visual[i]
        text = [j for j in range(ids.shape[1]) if batch["mask"][i, j] and not visual[j]]
        for j in visual.nonzero()[:, 0].tolist():
            before, behind = [t for t in text if t < j], [t for t in text if t > j]
            assert not before or ids[0, before[-1]] < ids[:, j].min()
            assert not behind or ids[:, j].max() < ids[0, behind[0]]
