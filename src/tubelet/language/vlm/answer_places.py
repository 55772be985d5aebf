"""Where an answer was read, and how likely it is: asked of a model one of whose heads was trained to point.

prompt, answer  ->  one forward of the language model
  -> probability   of every token of the answer, multiplied
  -> share         of the pointing head's attention that each row has while a token is said
  -> boxes         around the cells that had the largest, neighbours together
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tubelet.errors import ConfigError, ShapeError
from tubelet.language.vlm.batch import PromptBatch
from tubelet.language.vlm.chat import Question
from tubelet.language.vlm.model import VLM
from tubelet.packed import Packed
from tubelet.shapes import Bool, Int64

LEAST = 0.25  # of an answer's tokens, that were read in one place, for the place to be told


class Place(NamedTuple):
    """picture: number of the clip; frame: row of time; box: left, top, right, bottom in that picture's pixels;
    share: of the answer's tokens that were read here."""

    picture: int
    frame: int
    box: tuple[float, float, float, float]
    share: float


class LocatedAnswer(NamedTuple):
    """probability: that the model gave the whole answer; sure: whether that is enough (`Pointer.sure`); places: where
    it was read, most of it first."""

    probability: float
    sure: bool
    places: tuple[Place, ...]


def locate_answer(vlm: VLM, question: Question, said: Int64[Tensor, "B G"]) -> LocatedAnswer:
    """Where `said`, what `vlm.generate(question.ready)` gave, was read, and how likely it is.

    Cost: one forward of prompt and answer, whose attention is held: 4 bytes x heads x tokens^2 a layer. The language
    model's attention is "eager" while it runs. Raises ConfigError for a model none of whose heads points.

        >>> question = ask(vlm, tubelet.read(["receipt.png"]), "What is the total?")  # doctest: +SKIP
        >>> locate_answer(vlm, question, vlm.generate(question.ready)).places[0].box  # doctest: +SKIP
        (192.0, 160.0, 256.0, 192.0)
    """
    if said.shape[0] != 1 or question.ready.input_ids.shape[0] != 1:
        raise ShapeError("one prompt and its answer at a time", expected=1, got=tuple(said.shape))
    return locate_answers(vlm, question.ready, [question.rows.tokens], said)[0]


@torch.no_grad()
def locate_answers(
    vlm: VLM, ready: PromptBatch, rows: Sequence[Packed], said: Int64[Tensor, "B G"]
) -> list[LocatedAnswer]:
    """`locate_answer` of several prompts, filled up on the left, with the rows of each; behind its end nothing counts
    of an answer."""
    pointer = vlm.scheme.pointer
    if pointer is None:
        raise ConfigError("no head of this model was trained to point at what it reads")
    speaker, said = vlm.speaker, said.to(vlm.device)
    prompt, length = ready.input_ids.shape[1], said.shape[1]
    lm: Any = speaker.lm
    before = lm.config._attn_implementation
    lm.set_attn_implementation("eager")
    try:
        out = speaker(
            inputs_embeds=torch.cat([ready.inputs_embeds, speaker.embed(said)], dim=1),
            attention_mask=torch.cat([ready.attention_mask, torch.ones_like(said)], dim=1),
            places=ready.places,
            delta=ready.delta,
            use_cache=False,
            output_attentions=True,
        )
    finally:
        lm.set_attn_implementation(before)
    saying = slice(prompt - 1, prompt - 1 + length)  # the token before each
    likely = out.logits[:, saying].float().log_softmax(-1).gather(2, said[..., None])[..., 0]
    end = ended(vlm, said)
    behind = end.long().cumsum(1) - end.long() > 0
    likely = likely.masked_fill(behind, 0.0).sum(1).exp().tolist()
    shares = out.attentions[pointer.layer][:, pointer.head, saying, :prompt]
    found = []
    for own, probability, share, seen, words in zip(rows, likely, shares, ready.visual, ~(end | behind), strict=True):
        places = places_of(own, share[:, seen][words].argmax(1))
        found.append(LocatedAnswer(probability, probability >= pointer.sure, places))
    return found


def ended(vlm: VLM, said: Int64[Tensor, "B G"]) -> Bool[Tensor, "B G"]:
    """Which ids of answers end one."""
    ends = vlm.speaker.generation_config.eos_token_id
    return torch.isin(said, torch.tensor([] if ends is None else ends, device=said.device).reshape(-1))


def places_of(rows: Packed, read: Int64[Tensor, " n"]) -> tuple[Place, ...]:
    """The places of rows that were read, by how often: cells that touch, corners too, are one place.

    Places that hold less than `LEAST` of what was read are left out.
    """
    left = sorted(set(read.tolist()))
    counts = torch.bincount(read, minlength=rows.x.shape[0]).tolist()
    out: list[Place] = []
    while left:
        group = [left.pop(0)]
        for one in group:
            near = [other for other in left if _touch(rows, one, other)]
            group += near
            left = [other for other in left if other not in near]
        share = sum(counts[one] for one in group) / len(read)
        if share >= LEAST:
            out.append(_place(rows, group, share))
    return tuple(sorted(out, key=lambda place: -place.share))


def _item(rows: Packed, row: int) -> int:
    return bisect_right(rows.starts, row) - 1


def _touch(rows: Packed, one: int, other: int) -> bool:
    (t, h, w), (t2, h2, w2) = rows.pos[one].tolist(), rows.pos[other].tolist()
    return _item(rows, one) == _item(rows, other) and t == t2 and max(abs(h - h2), abs(w - w2)) <= 1


def _place(rows: Packed, group: list[int], share: float) -> Place:
    item = rows.items[_item(rows, group[0])]
    pos = rows.pos[group]
    (_, top, left), (_, bottom, right) = pos.amin(0).tolist(), (pos.amax(0) + 1).tolist()
    wide, tall = item.cell
    x, y = item.box[:2]
    box = (x + left * wide, y + top * tall, x + right * wide, y + bottom * tall)
    return Place(item.picture, int(pos[0, 0]), box, share)
