"""Random prompts with random items between their texts: the cases of the laws of positions and places."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from hypothesis import strategies as st

import tubelet
from tubelet.language.placing.place import Placed, place
from tubelet.language.placing.rules import ONE_D, QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule, TokenIds
from tubelet.packed import Grid, Item, Packed

IDS = TokenIds(image=90, video=91, start=92, end=93)
TICK = Fraction(1, 1000)
RULES = {r.time: r for r in (ONE_D, QWEN2_VL, QWEN2_5_VL, QWEN3_VL)}


@st.composite
def items(draw: st.DrawFn, video: bool | None = None) -> Item:
    t = draw(st.integers(1, 5)) if video is not False else 1
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    gaps = draw(st.lists(st.integers(0, 2500), min_size=t, max_size=t))
    times = tuple(float(TICK * sum(gaps[: i + 1])) for i in range(t)) if t > 1 else (0.0,)
    return Item(Grid(t, h, w), times, 0, (0.0, 0.0, float(w), float(h)))


@st.composite
def packs(draw: st.DrawFn, *, thin: bool = False) -> tuple[Packed, list[bool]]:
    """A pack of a few items with recognisable rows, and which of them are shown as videos; thin: some rows dropped."""
    chosen = draw(st.lists(items(), max_size=4))
    videos = [i.grid.t > 1 or draw(st.booleans()) for i in chosen]
    rows, first = [], 1
    for item in chosen:
        rows.append(torch.arange(first, first + item.grid.rows, dtype=torch.float32)[:, None])
        first += item.grid.rows
    p = tubelet.pack(rows, chosen)
    if thin and first > 1:
        keep = draw(st.lists(st.booleans(), min_size=first - 1, max_size=first - 1))
        p = p.keep(torch.tensor(keep))
    return p, videos


def runs(p: Packed, videos: list[bool], rule: PositionRule) -> list[list[int]]:
    """How many placeholders each run of each item has: one run an item, or one for each of a video's frames."""
    out = []
    for pos, video in zip(p.pos.split(p.lengths) if p.lengths else [], videos, strict=True):
        t = pos[:, 0].tolist()
        frames = [t.count(i) for i in sorted(set(t))] if rule.time == "blocks" and video else [len(t)]
        out.append([n for n in frames if n])
    return out


@st.composite
def batches(draw: st.DrawFn, rule: PositionRule, *, thin: bool = False) -> dict[str, Any]:
    """A pack, and a batch of prompts whose placeholders it fills: texts of any length between, padding on any side."""
    p, videos = draw(packs(thin=thin))
    samples = draw(st.integers(1, 3))
    owner = sorted(draw(st.lists(st.integers(0, samples - 1), min_size=len(p), max_size=len(p))))
    tokens: list[list[int]] = [[] for _ in range(samples)]
    for sample, item_runs, video in zip(owner, runs(p, videos, rule), videos, strict=True):
        for run in item_runs:
            between = draw(st.integers(int(rule.time == "blocks"), 3))  # frames are told apart by the text between
            tokens[sample] += [5] * between + [IDS.placeholders[video]] * run
    for sample in tokens:
        sample += [6] * draw(st.integers(0, 3))
    length = max(map(len, tokens))
    left = draw(st.booleans())
    ids, mask = [], []
    for sample in tokens:
        pad = [draw(st.sampled_from([0, IDS.image]))] * (length - len(sample))
        ids.append(pad + sample if left else sample + pad)
        mask.append([0] * len(pad) + [1] * len(sample) if left else [1] * len(sample) + [0] * len(pad))
    return {
        "p": p,
        "videos": videos,
        "owner": owner,
        "ids": torch.tensor(ids, dtype=torch.long).reshape(samples, length),
        "mask": torch.tensor(mask, dtype=torch.long).reshape(samples, length),
        "counts": [owner.count(i) for i in range(samples)],
    }


def placed(batch: dict[str, Any], rule: PositionRule) -> Placed:
    return place(batch["p"], batch["ids"], IDS, rule=rule, attention_mask=batch["mask"], counts=batch["counts"])


def samples(batch: dict[str, Any]) -> Iterator[tuple[int, list[int | None], list[int]]]:
    """(number, tokens as the twin reads them, items) of each sample."""
    for i, (ids, mask) in enumerate(zip(batch["ids"].tolist(), batch["mask"].tolist(), strict=True)):
        kinds = [None if not m else int(t in IDS.placeholders) for t, m in zip(ids, mask, strict=True)]
        yield i, kinds, [n for n, owner in enumerate(batch["owner"]) if owner == i]
