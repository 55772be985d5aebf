"""A sample as a language model is taught it: token ids with a place for every visual row, labels, positions.

    turns     user: 0 "What is it?"   assistant: "A cat."
    text      <|im_start|>user\\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\\n
              <|im_start|>assistant\\nA cat.<|im_end|>\\n
                                     ------------------      labels: what the assistant says and what ends its turn
    ids       ... < # # # # > What is it ...                 as many # as the picture will have rows

How many rows a picture or clip has follows from its size alone, so nothing here needs a pixel.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from tubelet.errors import ConfigError, InputError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.plan import plan
from tubelet.inspect.budget.values import Downstream, PlannedItem
from tubelet.language.placing.place import place
from tubelet.language.placing.prompt import IGNORED, Count, Prompt, expand_placeholders, truncate
from tubelet.language.vlm.chat import apply_chat_template, leading_ids
from tubelet.language.vlm.scheme import IMAGE_TAG, Scheme
from tubelet.language.vlm.template import render_template
from tubelet.packed import Packed
from tubelet.packed.grid import Item, all_positions
from tubelet.pixels.budget import frames_within, is_clip, spread, times_of
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import Views
from tubelet.shapes import Int64
from tubelet.train.data.sample import Sample
from tubelet.train.marks import Header, Span, mark_of, recipe_of, with_times, with_views

Style = Literal["chat", "plain"]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, eq=False)
class Tokenizing:
    """How samples become ids.

    Raises ConfigError for a tokenizer that cannot say which letters a token is, a chat style without a template, and
    combinations whose rows are not known from sizes.
    """

    tokenizer: Any  # of transformers, fast
    scheme: Scheme  # placeholders, positions, recipes, views, words
    after: Downstream = Downstream()  # what becomes of the encoder's rows: its `space` includes their own merger
    style: Style = "chat"  # "plain": picture, caption, end of line, as LLaVA's first stage; of a prefix no question
    max_length: int | None = None  # tokens; longer samples are cut behind their last item, or refused
    truncate: bool = True

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise ConfigError("labels need a tokenizer that knows which letters a token is: a fast one")
        prefix = self.scheme.wording == "prefix"
        if prefix and not self.tokenizer.eos_token:
            raise ConfigError("the tokenizer has nothing that ends an answer: no eos_token")
        if prefix != (self.scheme.bidirectional == "prefix"):
            raise ConfigError("training takes an answer apart from what is seen both ways by its words: prefix, both")
        if self.style == "chat" and not prefix and not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError("the tokenizer has no chat template; style='plain' needs none")
        if self.style not in ("chat", "plain"):
            raise ConfigError("style is chat or plain", expected=("chat", "plain"), got=self.style)
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError("max_length starts at 1", limit=1, got=self.max_length)
        by_block = self.scheme.rule.time == "blocks" or self.scheme.written is not None
        if by_block and self.after.select is not None:
            raise ConfigError(
                "how many rows of each tile or frame a selection keeps is not known before it", got="select"
            )
        if self.scheme.rule.time != "none" and self.scheme.views is not None:
            raise ConfigError("joined views are counted like text: rule.time is none", got=self.scheme.rule.time)

    @classmethod
    def of(
        cls, vlm: Any, *, select: int | None = None, style: Style = "chat", max_length: int | None = None
    ) -> "Tokenizing":
        """That of a `tubelet.language.vlm.model.VLM`. select: rows of each input that its reduction keeps at most."""
        merger = vlm.encoder.config.merger
        space = 1 if merger is None or vlm.scheme.states else merger.merge
        if vlm.projector is not None:
            space *= vlm.projector.config.merge
        return cls(vlm.tokenizer, vlm.scheme, Downstream(space=space, select=select), style, max_length)

    def recipe(self, header: Header) -> PixelRecipe:
        """The recipe that cuts a picture or clip."""
        return recipe_of(header, self.scheme)

    def planned(self, header: Header, stills: int = 1) -> PlannedItem:
        """Grids and rows of a picture or clip; stills: pictures of its sample. Raises what the size rule raises."""
        width, height, scheme = header.width, header.height, self.scheme.for_pictures(stills)
        if scheme.square and not header.clip:
            width = height = max(width, height)
        recipe, frames = self.recipe(header), len(header.times_s)
        return _planned(width, height, frames, recipe, self.after, scheme.views, clip=header.clip)

    def as_cut(self, header: Header) -> Header:
        """The header; that of a clip of a single frame as of the picture that it is, where pictures are cut into
        views."""
        one = self.scheme.views is not None and len(header.times_s) == 1
        return replace(header, kind="image") if one else header

    def fitted(self, header: Header) -> Header:
        """The header with the times of the frames that its budget has room for: those that are cut."""
        frames = len(header.times_s)
        if self.scheme.views is not None or not is_clip(frames, header.clip):
            return header
        kept = frames_within(header.height, header.width, frames, self.recipe(header).of(clip=True))
        return header if kept == frames else replace(header, times_s=times_of(header.times_s, spread(frames, kept)))


@lru_cache(maxsize=65_536)
def _planned(
    width: int, height: int, frames: int, recipe: PixelRecipe, after: Downstream, views: Views | None, *, clip: bool
) -> PlannedItem:
    return plan(Input(width, height, frames, duration_s=0.0 if clip else None), recipe, after, views).items[0]


@dataclass(frozen=True, eq=False)
class Tokens:
    """One sample, tokenized."""

    ids: Int64[np.ndarray, " S"]
    labels: Int64[np.ndarray, " S"]  # -100 but on what the assistant says
    positions: Int64[np.ndarray, "3 S"] | None  # None where a selection decides, or when only counting
    planned: tuple[PlannedItem, ...]  # its pictures and clips

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rows(self) -> int:
        """Placeholders."""
        return sum(one.tokens for one in self.planned)

    @property
    def patches(self) -> int:
        """Rows that the encoder sees."""
        return sum(grid.rows for one in self.planned for grid in one.grids)


def tokenize(sample: Sample, headers: Sequence[Header], how: Tokenizing, *, count_only: bool = False) -> Tokens:
    """The sample's ids, labels and positions. headers: of `sample.media`, in order. count_only: without positions,
    half of the work.

    Raises InputError for text that the style has no place for, a sample that is too long, or one whose labels were cut
    off; AlignmentError where its text holds other placeholders than its pictures; ConfigError for a template that
    fails; what the size rule raises.
    """
    headers = [how.fitted(one) for one in headers]
    stills = stills_of(headers)
    planned = tuple(how.planned(one, stills) for one in headers)
    words = _prefixed if how.scheme.wording == "prefix" else _plain if how.style == "plain" else _chat
    text, spans = words(sample, headers, how)
    counts: list[Count] = [one.tokens for one in planned]
    if how.scheme.rule.time == "blocks":
        text, spans, counts = with_times(text, spans, headers, planned, how.scheme, how.tokenizer)
    elif how.scheme.written is not None:
        text, spans, counts = with_views(text, spans, headers, planned, how.scheme)
    ids, labels = _labelled(text, spans, how)
    _check_order(ids, headers, sample, how)
    prompt = expand_placeholders(ids, counts, how.scheme.token_ids, labels=labels)
    prompt = _shortened(prompt, sample, how)
    if all(label == IGNORED for label in prompt.labels or ()):
        raise InputError("no token of an answer is left to learn", source=sample.where, limit=how.max_length)
    positions = None if count_only else _positions(prompt, headers, planned, how)
    return Tokens(np.array(prompt.ids, np.int64), np.array(prompt.labels, np.int64), positions, planned)


def stills_of(headers: Sequence[Header]) -> int:
    """How many of a sample's inputs are pictures."""
    return sum(not header.clip for header in headers)


# ---- text, and where the assistant speaks in it


def _chat(sample: Sample, headers: Sequence[Header], how: Tokenizing) -> tuple[str, list[Span]]:
    """The whole conversation in the template's words. A template that marks generations itself is believed; of any
    other, an answer is what the text has more than the prompt before it, up to the end of its turn."""
    messages = [_message(sample, n, headers, how) for n in range(len(sample.turns))]
    text = apply_chat_template(messages, how.tokenizer, how.scheme, add_generation_prompt=False)
    if _GENERATION.search(how.tokenizer.get_chat_template()):
        return text, _marked(messages, how.tokenizer)
    spans: list[Span] = []
    for n, turn in enumerate(sample.turns):
        if turn.role != "assistant":
            continue
        before = apply_chat_template(messages[:n], how.tokenizer, how.scheme)
        behind = apply_chat_template(messages[: n + 1], how.tokenizer, how.scheme, add_generation_prompt=False)
        if not (text.startswith(before) and text.startswith(behind) and len(before) < len(behind)):
            raise ConfigError(
                "the chat template writes a turn otherwise when others follow, so answers cannot be told from it; "
                "a template with {% generation %} says where they are",
                source=sample.where,
                got=n,
            )
        spans.append((len(before), len(behind)))
    return text, spans


def _message(sample: Sample, n: int, headers: Sequence[Header], how: Tokenizing) -> dict[str, Any]:
    turn = sample.turns[n]
    if how.scheme.wording == "image_tag":
        return {"role": turn.role, "content": "".join(IMAGE_TAG if isinstance(p, int) else p for p in turn.parts)}
    if how.scheme.written is None and all(isinstance(p, str) for p in turn.parts):
        return {"role": turn.role, "content": turn.text}
    parts = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "video" if headers[p].clip else "image"}
        for p in turn.parts
    ]
    return {"role": turn.role, "content": parts}


def _marked(messages: list[dict[str, Any]], tokenizer: Any) -> list[Span]:
    """Where a template with {% generation %} says that the assistant speaks; what follows without a gap is one."""
    _, marks = render_template(tokenizer, messages, add_generation_prompt=False, marks=True)
    spans: list[Span] = []
    for start, end in marks:
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        elif start < end:
            spans.append((start, end))
    return spans


def _plain(sample: Sample, headers: Sequence[Header], how: Tokenizing) -> tuple[str, list[Span]]:
    """Placeholders, the caption and an end of line; what the user says is left out.

    Source: haotian-liu/LLaVA:llava/train/train.py@0034661 (preprocess_plain).
    """
    if [turn.role for turn in sample.turns] != ["user", "assistant"]:
        raise InputError("the plain style has one picture and one caption", source=sample.where, expected=2)
    marks = "".join(mark_of(one, how.scheme, how.tokenizer) for one in headers)
    text = f"{marks}{sample.turns[1].text}\n"
    return text, [(len(marks), len(text))]


def _prefixed(sample: Sample, headers: Sequence[Header], how: Tokenizing) -> tuple[str, list[Span]]:
    """One question as `apply_chat_template` writes it, its answer and the id that ends texts.

    Source: huggingface/transformers:src/transformers/models/paligemma/processing_paligemma.py@v5.23.0 (suffix).
    """
    if [turn.role for turn in sample.turns] != ["user", "assistant"]:
        raise InputError("this model is asked one question and knows no turns", source=sample.where, expected=2)
    asked = "" if how.style == "plain" else sample.turns[0].text.strip("\n")
    parts = [{"type": "video" if one.clip else "image"} for one in headers]
    message = {"role": "user", "content": [*parts, {"type": "text", "text": asked}]}
    text = apply_chat_template([message], how.tokenizer, how.scheme)
    whole = f"{text}{sample.turns[1].text}{how.tokenizer.eos_token}"
    return whole, [(len(text), len(whole))]


# ---- ids


def _labelled(text: str, spans: Sequence[Span], how: Tokenizing) -> tuple[list[int], list[int]]:
    """Ids and labels; a token is learnt if a letter of it is the assistant's, as in transformers' own mask. The text
    is tokenized as a whole: a word after "ASSISTANT: " is then the token that a model generates there. What is seen
    both ways ends where the answer begins, so there a token begins, too."""
    said = np.zeros(len(text) + 1, np.int64)
    for start, end in spans:
        said[start + 1 : end + 1] = 1
    said = np.cumsum(said)  # letters of the assistant's before each place
    prefix = how.scheme.wording == "prefix"
    ids = [] if prefix else leading_ids(text, how.tokenizer)
    labels = [IGNORED] * len(ids)
    start = 0
    pieces = [text] if how.scheme.wording == "parts" else text.split(IMAGE_TAG)
    for n, piece in enumerate(pieces):
        if n:
            ids.append(how.scheme.token_ids.image)
            labels.append(IGNORED)
        apart = max(spans[0][0] - start, 0) if prefix else 0
        for at, part in ((start, piece[:apart]), (start + apart, piece[apart:])):
            if not part:
                continue
            made = how.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            for token, (a, b) in zip(made["input_ids"], made["offset_mapping"], strict=True):
                ids.append(token)
                labels.append(token if said[at + b] > said[at + a] else IGNORED)
        start += len(piece) + len(IMAGE_TAG)
    return ids, labels


def _check_order(ids: Sequence[int], headers: Sequence[Header], sample: Sample, how: Tokenizing) -> None:
    """Raises ConfigError where the template puts pictures and clips in another order than the sample has them."""
    image, video = how.scheme.token_ids.image, how.scheme.token_ids.video
    if video in (None, image) or how.scheme.rule.time == "blocks":
        return
    shown, wanted = [i == video for i in ids if i in (image, video)], [header.clip for header in headers]
    if shown != wanted and sorted(shown) == sorted(wanted):
        raise ConfigError("the chat template puts pictures and clips in another order", source=sample.where, got=shown)


def _shortened(prompt: Prompt, sample: Sample, how: Tokenizing) -> Prompt:
    if how.max_length is None or len(prompt) <= how.max_length:
        return prompt
    if not how.truncate:
        text = f"{len(prompt):,} tokens are above max_length = {how.max_length:,}"
        raise InputError(text, source=sample.where, limit=how.max_length, got=len(prompt))
    return truncate(prompt, how.max_length)


def _positions(
    prompt: Prompt, headers: Sequence[Header], planned: Sequence[PlannedItem], how: Tokenizing
) -> Int64[np.ndarray, "3 S"] | None:
    """Positions by the scheme's rule, from whole merged grids."""
    if how.scheme.rule.time == "none":
        return np.tile(np.arange(len(prompt)), (3, 1))
    if how.after.select is not None and headers:
        return None
    items: list[Item] = []
    for n, (header, one) in enumerate(zip(headers, planned, strict=True)):
        times = header.times_s[:: how.recipe(header).temporal][:: how.after.time]
        items.append(Item(one.merged, times, n, (0.0, 0.0, float(header.width), float(header.height))))
    rows = sum(item.grid.rows for item in items)
    # an encoder that merges nothing keeps the order its patches came in; merged rows are in raster order
    recipe = how.scheme.pixels
    block = recipe.merge if recipe.order == "block" and how.after.space == 1 else 1
    p = Packed(torch.zeros(rows, 1), all_positions(items, merge=block), tuple(items), tuple(i.grid.rows for i in items))
    ids = torch.tensor(prompt.ids, dtype=torch.int64)
    return place(p, ids, how.scheme.token_ids, rule=how.scheme.rule).position_ids.numpy()
