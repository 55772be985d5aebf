"""Pages and their questions as one batch: several questions share a page, and none sees another.

    page 0   [rows of the page][Q question A answer END][Q ...][Q ...]
    page 1   [rows of the page     ][Q ...][Q ...]                     padded on the right

Each question's first token has the position after the last row, as if it stood there alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from tubelet.packed import Grid, Item, Packed
from tubelet.shapes import Bool, Int64
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.labels import IGNORED, PATCH, TOKEN, Labels, labels_of
from tubelet.train.pages.page import Page, PageRecipe, Question, print_page
from tubelet.train.pages.reader import ANSWER, ASK, END, PAD


@dataclass(frozen=True, eq=False)
class PageBatch:
    """B pages. S: tokens of the longest, rows included; T patches and M = T / 4 rows of all pages."""

    patches: Packed  # uint8, in block order
    columns: Int64[Tensor, "T 2"]
    slots: Int64[Tensor, "M 12"]
    rows: tuple[int, ...]  # of each page, merged
    ids: Int64[Tensor, "B S"]  # PAD where rows stand and behind the last question
    places: Int64[Tensor, "B S"]
    owner: Int64[Tensor, "B S"]  # which question a token belongs to, from 1; 0 a row; -1 padding
    labels: Int64[Tensor, "B S"]  # the token that follows where it is part of an answer, IGNORED elsewhere
    pointers: Int64[Tensor, "B S"]  # at these places, the row that shows the letter to come, IGNORED elsewhere
    questions: tuple[tuple[Question, ...], ...]  # those that found room, page by page

    def to(self, device: torch.device) -> "PageBatch":
        """The same on another device."""
        names = ("columns", "slots", "ids", "places", "owner", "labels", "pointers")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, patches=self.patches.to(device), **moved)

    @property
    def sees(self) -> Bool[Tensor, "B S S"]:
        """Whether a token (middle axis) attends to another: earlier ones of its page that are rows or its question's.
        Padding sees itself."""
        mine = (self.owner[:, :, None] == self.owner[:, None, :]) | (self.owner[:, None, :] == 0)
        size = self.ids.shape[1]
        before = torch.ones(size, size, dtype=torch.bool, device=self.ids.device).tril()
        alone = torch.eye(size, dtype=torch.bool, device=self.ids.device)
        return (mine & before & (self.owner[:, None, :] >= 0)) | alone


def make_batch(
    recipe: PageRecipe, fonts: Fonts, numbers: Sequence[int], *, room: int = 160, thinned: float = 0.0
) -> PageBatch:
    """The pages of these numbers as a batch; of each as many of its questions as fit in `room` tokens.

    thinned: share of the pages whose blocks without a letter are left out, which saves a third of the work.
    """
    pages = [print_page(recipe, fonts, number) for number in numbers]
    thin = [Random(f"{recipe.seed}/thin/{number}").random() < thinned for number in numbers]
    return batch_of(pages, room=room, thin=thin)


def batch_of(pages: Sequence[Page], *, room: int = 160, thin: Sequence[bool] | None = None) -> PageBatch:
    """Pages as a batch; `thin` says of each whether its blocks without a letter are left out."""
    whole = [labels_of(page) for page in pages]
    kept = [
        np.flatnonzero(one.inked if thin is not None and thin[i] and one.inked.any() else np.ones_like(one.inked))
        for i, one in enumerate(whole)
    ]
    labels = [_kept(one, blocks) for one, blocks in zip(whole, kept, strict=True)]
    rows = tuple(len(blocks) for blocks in kept)
    chosen = [_fitting(page.questions, room) for page in pages]
    length = max(n + sum(_length(q) for q in questions) for n, questions in zip(rows, chosen, strict=True))
    filled = np.full((5, len(pages), length), IGNORED, np.int64)
    filled[0], filled[1], filled[2] = PAD, 0, -1
    for i, (page, one, questions) in enumerate(zip(pages, labels, chosen, strict=True)):
        _fill(filled[:, i], page, one, questions, rows[i])
    ids, places, owner, targets, pointers = torch.from_numpy(filled).unbind()
    return PageBatch(
        patches_of(pages, kept),
        torch.from_numpy(np.concatenate([one.columns for one in labels])).flatten(0, 1),
        torch.from_numpy(np.concatenate([one.slots for one in labels])),
        rows,
        ids,
        places,
        owner,
        targets,
        pointers,
        tuple(chosen),
    )


def patches_of(pages: Sequence[Page], kept: Sequence[np.ndarray]) -> Packed:
    """The pixels of the `kept` blocks of pages as rows in block order, one item a page; nothing is resized."""
    out: list[np.ndarray] = []
    places: list[np.ndarray] = []
    items: list[Item] = []
    for i, (page, blocks) in enumerate(zip(pages, kept, strict=True)):
        height, width = page.pixels.shape[:2]
        h, w = height // TOKEN, width // TOKEN
        cut = page.pixels.reshape(h, 2, PATCH, w, 2, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5).reshape(h * w, 4, -1)
        out.append(cut[blocks].reshape(len(blocks) * 4, -1))
        y, x = blocks // w * 2, blocks % w * 2
        inside = np.array(((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)), np.int32)
        places.append((np.stack([0 * y, y, x], axis=1)[:, None] + inside).reshape(-1, 3).astype(np.int32))
        items.append(Item(Grid(1, 2 * h, 2 * w), (0.0,), i, (0.0, 0.0, float(width), float(height))))
    rows, where = torch.from_numpy(np.concatenate(out)), torch.from_numpy(np.concatenate(places))
    return Packed(rows, where, tuple(items), tuple(len(blocks) * 4 for blocks in kept))


def _kept(labels: Labels, blocks: np.ndarray) -> Labels:
    """The labels of the blocks that are left, letters counted to their new numbers."""
    number = np.full(len(labels.slots) + 1, IGNORED, np.int64)  # the last for letters that left the page
    number[blocks] = np.arange(len(blocks))
    tokens = number[np.where(labels.tokens == IGNORED, len(labels.slots), labels.tokens)]
    return Labels(labels.columns[blocks], labels.slots[blocks], tokens, labels.inked[blocks])


# ---- the steps


def _length(question: Question) -> int:
    return len(question.text.encode()) + len(question.answer.encode()) + 3


def _fitting(questions: Sequence[Question], room: int) -> tuple[Question, ...]:
    chosen: list[Question] = []
    for question in questions:
        if _length(question) <= room:
            chosen.append(question)
            room -= _length(question)
    return tuple(chosen)


def _fill(filled: np.ndarray, page: Page, labels: Labels, questions: Sequence[Question], rows: int) -> None:
    """Write one page's row of (ids, places, owner, labels, pointers)."""
    ids, places, owner, targets, pointers = filled
    places[:rows] = np.arange(rows)
    owner[:rows] = 0
    start = rows
    for number, question in enumerate(questions, 1):
        said, answer = list(question.text.encode()), list(question.answer.encode())
        tokens = [ASK, *said, ANSWER, *answer, END]
        stop = start + len(tokens)
        ids[start:stop] = tokens
        places[start:stop] = np.arange(rows, rows + len(tokens))
        owner[start:stop] = number
        first = start + 1 + len(said)  # the ANSWER token, which the answer's first byte follows
        targets[first : stop - 1] = [*answer, END]
        shown = [labels.tokens[n] for n, letter in zip(question.where, question.answer, strict=True)
                 for _ in letter.encode()]  # fmt: skip
        pointers[first : first + len(answer)] = shown
        start = stop
