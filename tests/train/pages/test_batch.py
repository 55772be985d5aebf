"""Batches: every question is there as if it stood alone, and thin pages lose nothing that is read."""

import numpy as np
import torch

from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.train.pages.batch import PageBatch, batch_of, make_batch
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.labels import IGNORED, LETTERS
from tubelet.train.pages.page import PageRecipe, print_page
from tubelet.train.pages.reader import ANSWER, ASK, END

RECIPE = PageRecipe(seed=21, sizes=((192, 256), (256, 192), (128, 160)))


def test_patches_are_those_of_patchify(fonts: Fonts):
    pages = [print_page(RECIPE, fonts, n) for n in range(6)]
    clips = [Clip(page.pixels[None], (0.0,)) for page in pages]
    assert batch_of(pages).patches.equal(patchify(clips, PixelRecipe(16, merge=2, order="block")))


def tokens_of(batch: PageBatch, page: int, question: int) -> torch.Tensor:
    return (batch.owner[page] == question + 1).nonzero()[:, 0]


def test_each_question_follows_the_rows_and_its_answer_is_asked_for(fonts: Fonts):
    batch = make_batch(RECIPE, fonts, range(12), thinned=0.5)
    asked = 0
    for page, questions in enumerate(batch.questions):
        rows = batch.rows[page]
        assert (batch.owner[page, :rows] == 0).all()
        for number, question in enumerate(questions):
            at = tokens_of(batch, page, number)
            said, answer = list(question.text.encode()), list(question.answer.encode())
            assert batch.ids[page, at].tolist() == [ASK, *said, ANSWER, *answer, END]
            assert batch.places[page, at].tolist() == list(range(rows, rows + len(at)))
            wanted = [IGNORED] * (1 + len(said)) + [*answer, END, IGNORED]
            assert batch.labels[page, at].tolist() == wanted
            asked += len(answer) + 1
    assert int((batch.labels != IGNORED).sum()) == asked


def test_nothing_sees_another_question_or_what_comes(fonts: Fonts):
    batch = make_batch(RECIPE, fonts, range(5))
    owner, sees = batch.owner, batch.sees
    pages, size = owner.shape
    for page in range(pages):
        for i in range(size):
            for j in range(size):
                mine = owner[page, j] >= 0 and (owner[page, j] == 0 or owner[page, j] == owner[page, i])
                assert bool(sees[page, i, j]) == (i == j or (j < i and bool(mine)))


def test_pointers_lead_to_the_row_that_shows_the_letter(fonts: Fonts):
    for thinned in (0.0, 1.0):
        batch = make_batch(RECIPE, fonts, range(12), thinned=thinned)
        starts = np.cumsum((0, *batch.rows))
        letters = 0
        for page, questions in enumerate(batch.questions):
            for number, question in enumerate(questions):
                at = tokens_of(batch, page, number)
                pointed = [int(p) for p in batch.pointers[page, at] if p != IGNORED]
                assert len(pointed) == len(question.answer.encode())
                for letter, row in zip(question.answer, pointed, strict=True):
                    held = batch.slots[int(starts[page]) + row]
                    assert LETTERS.index(letter) + 1 in held
                    letters += 1
        assert letters > 100


def test_thin_pages_keep_every_letter(fonts: Fonts):
    whole, thin = (make_batch(RECIPE, fonts, range(20), thinned=share) for share in (0.0, 1.0))
    assert len(thin.patches.x) < 0.95 * len(whole.patches.x)
    assert int((whole.slots > 0).sum()) == int((thin.slots > 0).sum())
    assert whole.questions == thin.questions
    assert thin.patches.check() is thin.patches


def test_questions_that_find_no_room_are_left_out_whole(fonts: Fonts):
    batch = make_batch(RECIPE, fonts, range(10), room=60)
    assert int((batch.owner > 0).sum(1).max()) <= 60
    assert 0 < sum(map(len, batch.questions)) < sum(len(print_page(RECIPE, fonts, n).questions) for n in range(10))
