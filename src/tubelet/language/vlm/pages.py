"""A question about many pages, put to a model that was trained to read one: each page is asked by itself, and the
surest answer is told.

pictures, frames of clips  ->  one encoding  ->  rows of each page  ->  its prompt, answer, probability, places
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import torch

from tubelet.language.placing.prompt import pad
from tubelet.language.vlm.answer_places import LocatedAnswer, locate_answers
from tubelet.language.vlm.batch import beside
from tubelet.language.vlm.chat import (
    Question,
    apply_chat_template,
    as_cut,
    patchify_clips,
    recipe_of,
    seen_by,
    sides_of,
    tokens_of,
)
from tubelet.language.vlm.features import VisualRows, frames_apart
from tubelet.language.vlm.model import VLM
from tubelet.packed import Packed
from tubelet.reading.clip import Clip

TOGETHER = 16  # questions of one generation


class PageQuestion(NamedTuple):
    """The question to one page. clip, row: number of its clip and its row of time in it."""

    clip: int
    row: int
    question: Question


@dataclass(frozen=True, eq=False)
class PageQuestions:
    """The question to each page of all clips. clips, patches, rows: as of a `Question` about them together."""

    clips: tuple[Clip, ...]
    patches: Packed
    rows: VisualRows
    pages: tuple[PageQuestion, ...]


class Answer(NamedTuple):
    """What a model says to a question. tokens: of the answer, its end among them."""

    text: str
    tokens: int
    found: LocatedAnswer


class PageAnswer(NamedTuple):
    """What one page says. page: its number among the questions'; tokens: of the answer, its end among them; found:
    its places are those of the clips that were asked about."""

    page: int
    text: str
    tokens: int
    found: LocatedAnswer


@torch.no_grad()
def ask_pages(vlm: VLM, clips: Sequence[Clip], question: str) -> PageQuestions:
    """The question to every picture and every frame of every clip by itself; all are encoded together.

    Raises what `ask` raises.
    """
    whole = [as_cut(c, vlm.scheme) for c in clips]
    cut = vlm.scheme.for_pictures(sum(not c.is_video for c in whole))
    seen = tuple(seen_by(c, cut) for c in whole)
    patches = patchify_clips(seen, cut)
    rows = vlm.encode(patches)
    sides = sides_of(seen, patches, rows.tokens, vlm.scheme)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    text = apply_chat_template([message], vlm.tokenizer, vlm.scheme)
    cells, alone = frames_apart(VisualRows(patches)).tokens, frames_apart(rows)
    where = [(n, row) for n, item in enumerate(rows.tokens.items) for row in range(item.grid.t)]
    pages = []
    for page, (n, row) in enumerate(where):
        number = rows.tokens.items[n].picture
        clip, first = seen[number], row * recipe_of(seen[number], vlm.scheme).temporal
        still = replace(
            clip, frames=clip.frames[first : first + 1], times_s=clip.times_s[first : first + 1], is_video=False
        )
        own = VisualRows(_one(alone.tokens, page), tuple(_one(deep, page) for deep in alone.deepstack))
        prompt = tokens_of(text, [still], own.tokens, vlm.tokenizer, vlm.scheme)
        batch = pad([prompt], 0, side="left")
        ready = vlm.ready(own, batch.input_ids, attention_mask=batch.attention_mask)
        about = Question((still,), (sides[n],), _one(cells, page), own, text, ready)
        pages.append(PageQuestion(number, row, about))
    return PageQuestions(seen, patches, rows, tuple(pages))


def answer_pages(
    vlm: VLM,
    asked: PageQuestions,
    *,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    tick: Callable[[int], None] = lambda pages: None,
) -> tuple[PageAnswer, ...]:
    """The answer of every page, in order. tick: told now and then how many are answered.

    Cost: that of `answer_each`, whose errors it raises.
    """
    questions = [page.question for page in asked.pages]
    answers = []
    for one in answer_each(vlm, questions, max_new_tokens=max_new_tokens, temperature=temperature):
        page = asked.pages[len(answers)]
        places = tuple(place._replace(picture=page.clip, frame=page.row) for place in one.found.places)
        answers.append(PageAnswer(len(answers), one.text, one.tokens, one.found._replace(places=places)))
        tick(len(answers))
    return tuple(answers)


def answer_each(
    vlm: VLM, questions: Iterable[Question], *, max_new_tokens: int = 256, temperature: float | None = None
) -> Iterator[Answer]:
    """What the model says to each question and where it read it, `TOGETHER` at a time, in order.

    Cost: one generation and one more forward for so many. Raises ConfigError for a model none of whose heads points.
    """
    ids = vlm.speaker.generation_config.eos_token_id
    ends = torch.tensor([] if ids is None else ids, device=vlm.device).reshape(-1)
    for some in _batched(questions, TOGETHER):
        ready = beside([one.ready for one in some])
        said = vlm.generate(ready, max_new_tokens=max_new_tokens, temperature=temperature)
        found = locate_answers(vlm, ready, [one.rows.tokens for one in some], said)
        lengths = (torch.isin(said, ends).long().cumsum(1) == 0).sum(1) + 1  # with the end
        texts = vlm.tokenizer.batch_decode(said, skip_special_tokens=True)
        for text, length, one in zip(texts, lengths.clamp(max=said.shape[1]).tolist(), found, strict=True):
            yield Answer(text, length, one)


def surest(answers: Sequence[PageAnswer]) -> PageAnswer:
    """The likeliest answer that says something. Where every page says that nothing is there, the one that says it with
    the least probability: no page is surer than that one of all of them."""
    told = [answer for answer in answers if answer.text]
    if told:
        return max(told, key=lambda answer: answer.found.probability)
    return min(answers, key=lambda answer: answer.found.probability)


def _batched(questions: Iterable[Question], count: int) -> Iterator[list[Question]]:
    """So many at a time, taken as they are needed."""
    left = iter(questions)
    while some := list(islice(left, count)):
        yield some


def _one(p: Packed, item: int) -> Packed:
    """An item as the only one, of picture 0."""
    own = p[item]
    return Packed(own.x, own.pos, (replace(own.items[0], picture=0),), own.lengths)
