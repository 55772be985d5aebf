"""Pages: the same from the same numbers, every letter where it is said to be, nothing asked that is not clear."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import InputError
from tubelet.train.evaluate.questions import read_questions
from tubelet.train.pages.evaluate import constants
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.page import ABSENT, LAYOUTS, SCOPE_A, Page, PageRecipe, print_page
from tubelet.train.pages.words import FIRST, MEANINGS, Words
from tubelet.train.pages.write import write_pages

EVERY = tuple((name, 1.0) for name in LAYOUTS)
NOTHING = ("picture", "fine")


def printed(fonts: Fonts, recipe: PageRecipe, count: int) -> list[Page]:
    return [print_page(recipe, fonts, number) for number in range(count)]


def test_a_page_is_a_function_of_seed_and_number(fonts: Fonts):
    recipe = PageRecipe(seed=4, mix=EVERY)
    forward = printed(fonts, recipe, 12)
    for page in reversed(forward):
        again = print_page(recipe, fonts, page.number)
        assert np.array_equal(again.pixels, page.pixels)
        assert np.array_equal(again.boxes, page.boxes)
        assert (again.letters, again.questions) == (page.letters, page.questions)
    assert len({page.pixels.tobytes() for page in forward}) == 12
    assert not np.array_equal(print_page(replace(recipe, seed=5), fonts, 0).pixels, forward[0].pixels)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in NOTHING])
def test_answers_are_spelled_by_the_letters_in_their_box(fonts: Fonts, layout: str):
    pages = printed(fonts, PageRecipe(seed=1, mix=((layout, 1.0),), sizes=((192, 256), (320, 320))), 20)
    questions = [(page, q) for page in pages for q in page.questions]
    assert len(questions) >= 20
    for page, q in questions:
        assert "".join(page.letters[n] for n in q.where) == q.answer
        assert q.answer == q.answer.strip()
        assert q.box is not None
        left, top, right, bottom = q.box
        height, width = page.pixels.shape[:2]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        boxes = page.boxes[list(q.where)]
        assert np.allclose((*boxes[:, :2].min(0), *boxes[:, 2:].max(0)), q.box)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_smallest_page_has_room_for_little_and_is_printed(fonts: Fonts, layout: str):
    recipe = PageRecipe(seed=2, mix=((layout, 1.0),), sizes=((96, 96), (96, 320)), em=(20, 40), absent=0.5)
    assert all(page.pixels.shape[0] == 96 for page in printed(fonts, recipe, 40))


@pytest.mark.parametrize("degrees", [0.0, 1.0])
def test_ink_is_in_the_boxes_and_nowhere_else(fonts: Fonts, degrees: float):
    """Lines have no rules: whatever differs from the paper is a letter, tilted or not."""
    recipe = PageRecipe(seed=3, mix=(("lines", 1.0),), noise=0.0)
    for number in range(6):
        page = print_page(recipe, fonts, number)
        paper, boxes = page.pixels[0, 0].astype(int), page.boxes
        pixels = page.pixels
        if degrees:
            from PIL import Image

            from tubelet.train.pages.degrade import tilted

            image, boxes = tilted(Image.fromarray(pixels), boxes, degrees, 0.25)
            pixels = np.asarray(image)
        inked = np.abs(pixels.astype(int) - paper).sum(-1) > 60
        covered = np.zeros_like(inked)
        for letter, (left, top, right, bottom) in zip(page.letters, boxes, strict=True):
            inside = slice(max(0, int(top) - 1), int(bottom) + 2), slice(max(0, int(left) - 1), int(right) + 2)
            covered[inside] = True
            if letter.isalnum() and bottom <= pixels.shape[0] and right <= pixels.shape[1]:
                assert inked[inside].any(), letter
        assert not (inked & ~covered).any()


@given(number=st.integers(0, 3000), layout=st.sampled_from(sorted(LAYOUTS)))
def test_what_stands_twice_is_not_asked(fonts: Fonts, number: int, layout: str):
    page = print_page(PageRecipe(seed=8, mix=((layout, 1.0),)), fonts, number)
    texts = Counter(q.text.lower() for q in page.questions)
    assert not texts or max(texts.values()) == 1
    assert len({q.where for q in page.questions}) == len(page.questions)


def test_no_answer_is_trivial(fonts: Fonts):
    best = constants(q for page in printed(fonts, PageRecipe(seed=2), 150) for q in page.questions)
    assert best[""].share < 0.03
    assert best["money"].share < 0.03
    assert best["date"].share < 0.05


def test_signs_that_a_face_lacks_are_never_printed(fonts: Fonts):
    """Pillow's built-in face has no currency sign but the dollar's."""
    pages = printed(fonts, PageRecipe(seed=6, mix=EVERY), 80)
    assert not {"€", "£"}.intersection("".join(page.letters for page in pages))
    whole = Fonts(tuple(replace(face, lacks=frozenset()) for face in fonts.faces))
    assert {"€", "£"}.intersection("".join(page.letters for page in printed(whole, PageRecipe(seed=6, mix=EVERY), 80)))


def test_held_out_words_and_faces_are_others(fonts: Fonts):
    seen, held = (printed(fonts, PageRecipe(seed=9, held_fonts=h, held_words=h), 60) for h in (False, True))
    assert {page.family for page in seen} == {"Tuffy"}
    assert {page.family for page in held} == {"Lato"}
    words = [{q.answer for page in pages for q in page.questions if q.kind == "first"} for pages in (seen, held)]
    assert words[0]
    assert words[1]
    assert not words[0] & words[1]


def test_tickets_are_held_out_of_the_mix():
    assert "ticket" in LAYOUTS
    assert "ticket" not in dict(SCOPE_A)


def test_answers_and_questions_keep_to_their_limits(fonts: Fonts):
    pages = printed(fonts, PageRecipe(seed=5, longest=9, questions=3), 40)
    assert max(len(page.questions) for page in pages) == 3
    assert max(len(q.answer) for page in pages for q in page.questions) <= 9
    assert not any(page.questions for page in printed(fonts, PageRecipe(questions=0), 5))


def test_what_is_not_there_has_no_answer(fonts: Fonts):
    """Nor does any other name of it stand on the page."""
    recipe = PageRecipe(seed=6, absent=0.5, mix=(("receipt", 0.5), ("form", 0.3), *((name, 0.1) for name in NOTHING)))
    plain = replace(recipe, absent=0.0)
    beside = 0
    for page, before in zip(printed(fonts, recipe, 60), printed(fonts, plain, 60), strict=True):
        assert np.array_equal(page.pixels, before.pixels)
        there = [q for q in page.questions if q.answer]
        absent = [q for q in page.questions if q.kind == ABSENT]
        assert len(there) + len(absent) == len(page.questions) <= recipe.questions
        text = page.letters.lower()
        for q in absent:
            assert (q.answer, q.where, q.box) == ("", (), None)
            for _, labels, names in MEANINGS.values():
                known = sorted((name.lower() for name in (*labels, *names)), key=len)
                if known[-1] in q.text.lower():
                    assert not any(f"{name}:" in text for name in known)
        if page.layout in NOTHING:
            assert 1 <= len(absent) == len(page.questions)
            assert not len(page.boxes)
        else:
            beside += bool(absent and there)
    assert beside >= 10


def test_recipes_that_cannot_be_are_refused(fonts: Fonts):
    wrong: dict[str, Any]
    for wrong in (
        {"sizes": ((200, 256),)},
        {"sizes": ()},
        {"em": (4, 8)},
        {"em": (20, 10)},
        {"mix": (("poem", 1.0),)},
        {"absent": 1.5},
    ):
        with pytest.raises(InputError):
            PageRecipe(**wrong)
    with pytest.raises(InputError, match="from 0"):
        print_page(PageRecipe(), fonts, -1)


def test_pages_are_asked_in_the_words_they_were_printed_with(fonts: Fonts, tmp_path: Path):
    """What `tubelet pages` writes is read back: every question, and "" for what is not there."""
    recipe = PageRecipe(seed=3, absent=1.0)
    pages = list(write_pages(tmp_path / "pages", recipe, fonts, range(3)))
    read = read_questions("pages", [tmp_path / "pages" / "questions.jsonl"], str(tmp_path / "pages"))
    assert [(q.prompt, q.accepted, q.kind) for q in read] == [
        (q.text, (q.answer,), q.kind) for page in pages for q in page.questions
    ]
    assert ("",) in [q.accepted for q in read]
    assert all(Path(q.file).exists() for q in read)


@pytest.mark.parametrize("share", [-0.1, 1.5])
@pytest.mark.parametrize("name", ["absent", "misspelt"])
def test_shares_lie_in_zero_to_one(name: str, share: float):
    with pytest.raises(InputError, match=f"{name} is a share from 0 to 1, got {share}"):
        PageRecipe(**{name: share})  # pyright: ignore[reportArgumentType]


def test_misspelt_words_keep_their_length_and_case():
    """Drawn as without it where none is misspelt; all of them otherwise, in large letters and small ones."""
    plain, same = Words(Random(3)), Words(Random(3), misspelt=0.0)
    assert [plain.pick(FIRST) for _ in range(20)] == [same.pick(FIRST) for _ in range(20)]
    words = [Words(Random(n), misspelt=1.0).pick(FIRST) for n in range(200)]
    assert sum(word not in FIRST for word in words) > 180
    assert all(word[0].isupper() and word[1:].islower() for word in words)
    assert {len(word) for word in words} <= {len(word) for word in FIRST}
