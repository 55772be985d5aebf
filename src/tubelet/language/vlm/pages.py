"""A question about many pages, put to a model that was trained to read one: each page is asked by itself, and the
surest answer is told.

pictures, frames of clips  ->  one encoding  ->  rows of each page  ->  its prompt, answer, probability, places
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from tubelet.language.placing.prompt import pad
from tubelet.language.vlm.answer_places import LocatedAnswer, ended, locate_answers
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
from tubelet.language.vlm.scheme import Scheme
from tubelet.packed import Packed
from tubelet.pixels.fit import grid_of
from tubelet.reading.clip import Clip

TOGETHER = 16  # questions of one generation


class PageQuestion(NamedTuple):
    """The question to one look at a page. clip, row: number of its clip and its row of time in it."""

    clip: int
    row: int
    question: Question


class Page(NamedTuple):
    """One look at a page. clip, row: number of its clip and its row of time in it; still: as a picture; side, patches,
    rows: of the look, whose items have the places of the still."""

    clip: int
    row: int
    still: Clip
    side: int
    patches: Packed
    rows: VisualRows


@dataclass(frozen=True, eq=False)
class Pages:
    """Every look at each page of all clips, in order. clips, rows: as of a `Question` about them together, the first
    look."""

    clips: tuple[Clip, ...]
    rows: VisualRows
    pages: tuple[Page, ...]

    @torch.no_grad()
    def ask(self, vlm: VLM, question: str) -> "PageQuestions":
        """The question to each page by itself. Raises what `chat.ask` raises of words."""
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = apply_chat_template([message], vlm.tokenizer, vlm.scheme)
        asked = []
        for page in self.pages:
            batch = pad([tokens_of(text, [page.still], page.rows.tokens, vlm.tokenizer, vlm.scheme)], 0, side="left")
            ready = vlm.ready(page.rows, batch.input_ids, attention_mask=batch.attention_mask)
            about = Question((page.still,), (page.side,), page.patches, page.rows, text, ready)
            asked.append(PageQuestion(page.clip, page.row, about))
        return PageQuestions(self.clips, self.rows, tuple(asked))


@dataclass(frozen=True, eq=False)
class PageQuestions:
    """The question to each look at every page. clips, rows: as of `Pages`."""

    clips: tuple[Clip, ...]
    rows: VisualRows
    pages: tuple[PageQuestion, ...]


class Answer(NamedTuple):
    """What a model says to a question. tokens: of the answer, its end among them."""

    text: str
    tokens: int
    found: LocatedAnswer


class PageAnswer(NamedTuple):
    """What one page says, by its likeliest look. page: the number of that look; tokens: of the answers of
    all looks, their ends among them; found: its places are those of the clips that were asked about."""

    page: int
    text: str
    tokens: int
    found: LocatedAnswer


Said = TypeVar("Said", Answer, PageAnswer)


@torch.no_grad()
def see_pages(vlm: VLM, clips: Sequence[Clip]) -> Pages:
    """Every picture and every frame of every clip as a page; all are encoded together, once for all questions, and once
    more for each further look (`Pointer.looks`) at those that are not as large as the model takes anyway.

    Raises what `chat.ask` raises of pixels.
    """
    whole = [as_cut(c, vlm.scheme) for c in clips]
    cut = vlm.scheme.for_pictures(sum(not c.is_video for c in whole))
    seen = tuple(seen_by(c, cut) for c in whole)
    patches = patchify_clips(seen, cut)
    rows = vlm.encode(patches)
    sides = sides_of(seen, patches, rows.tokens, vlm.scheme)
    cells, alone = frames_apart(VisualRows(patches)).tokens, frames_apart(rows)
    pages = []
    for n, item in enumerate(rows.tokens.items):
        clip = seen[item.picture]
        for row in range(item.grid.t):
            here = slice(row * recipe_of(clip, vlm.scheme).temporal, row * recipe_of(clip, vlm.scheme).temporal + 1)
            still = replace(clip, frames=clip.frames[here], times_s=clip.times_s[here], is_video=False)
            number = len(pages)
            own = VisualRows(_one(alone.tokens, number), tuple(_one(deep, number) for deep in alone.deepstack))
            pages.append(Page(item.picture, row, still, sides[n], _one(cells, number), own))
    more = [
        look
        for times in (() if vlm.scheme.pointer is None else vlm.scheme.pointer.looks[1:])
        for look in _looks(vlm, pages, times, cut)
    ]
    return Pages(seen, rows, tuple(sorted([*pages, *more], key=lambda page: (page.clip, page.row))))


def _looks(vlm: VLM, pages: Sequence[Page], times: float, cut: Scheme) -> Iterator[Page]:
    """A look at each page so many times as large, where that is another grid; its items have the places of the page."""
    recipe = cut.pixels.of(False)
    wanted: list[tuple[Page, Clip]] = []
    for page in pages:
        still = page.still
        wide, high = round(still.width * times), round(still.height * times)
        if grid_of(high, wide, 1, recipe) != grid_of(still.height, still.width, 1, recipe):
            frame = Image.fromarray(still.frames[0]).resize((wide, high), Image.Resampling.BICUBIC)
            wanted.append((page, replace(still, frames=np.ascontiguousarray(np.asarray(frame)[None]))))
    if not wanted:
        return
    stills = [still for _, still in wanted]
    large = patchify_clips(stills, cut)
    items = []
    for item, (page, still) in zip(large.items, wanted, strict=True):
        across, down = page.still.width / still.width, page.still.height / still.height
        left, top, right, bottom = item.box
        items.append(replace(item, box=(left * across, top * down, right * across, bottom * down)))
    patches = Packed(large.x, large.pos, tuple(items), large.lengths)
    rows = vlm.encode(patches)
    sides = sides_of(stills, patches, rows.tokens, vlm.scheme)
    for n, (page, _) in enumerate(wanted):
        own = VisualRows(_one(rows.tokens, n), tuple(_one(deep, n) for deep in rows.deepstack))
        yield page._replace(side=sides[n], patches=_one(patches, n), rows=own)


def answer_pages(
    vlm: VLM,
    asked: PageQuestions,
    *,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    tick: Callable[[int], None] = lambda pages: None,
) -> tuple[PageAnswer, ...]:
    """The answer of every page, in order. tick: told now and then how many looks are answered.

    Cost: that of `answer_each`, whose errors it raises.
    """
    looks: list[PageAnswer] = []
    for one in answer_each(
        vlm, [page.question for page in asked.pages], max_new_tokens=max_new_tokens, temperature=temperature
    ):
        page = asked.pages[len(looks)]
        places = tuple(place._replace(picture=page.clip, frame=page.row) for place in one.found.places)
        looks.append(PageAnswer(len(looks), one.text, one.tokens, one.found._replace(places=places)))
        tick(len(looks))
    pages = groupby(looks, key=lambda look: asked.pages[look.page][:2])
    return tuple(likeliest(list(own)) for _, own in pages)


def likeliest(looks: Sequence[Said]) -> Said:
    """What a page says: the likeliest of its looks' answers, at the tokens of all."""
    best = max(looks, key=lambda look: look.found.probability)
    return best._replace(tokens=sum(look.tokens for look in looks))


def answer_each(
    vlm: VLM, questions: Iterable[Question], *, max_new_tokens: int = 256, temperature: float | None = None
) -> Iterator[Answer]:
    """What the model says to each question and where it read it, `TOGETHER` at a time, in order.

    Cost: one generation and one more forward for so many. Raises ConfigError for a model none of whose heads points.
    """
    for some in _batched(questions, TOGETHER):
        ready = beside([one.ready for one in some])
        said = vlm.generate(ready, max_new_tokens=max_new_tokens, temperature=temperature)
        found = locate_answers(vlm, ready, [one.rows.tokens for one in some], said)
        lengths = (ended(vlm, said).long().cumsum(1) == 0).sum(1) + 1  # with the end
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
