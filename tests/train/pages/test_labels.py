"""Labels against their definition, letter by letter and place by place."""

import numpy as np

from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.labels import IGNORED, LETTERS, PLACES, labels_of
from tubelet.train.pages.page import LAYOUTS, Page, PageRecipe, print_page


def class_of(letter: str) -> int:
    return LETTERS.index(letter) + 1


def columns_slowly(page: Page, y: int, x: int) -> list[int]:
    """Of the patch in row y and column x: what covers the middles of its two strips, the last printed of several."""
    out = []
    for strip in (0, 1):
        middle, found = 16 * x + 8 * strip + 4, 0
        for letter, box, centre in zip(page.letters, page.boxes, page.middles, strict=True):
            if (
                letter != " "
                and box[0] <= middle < box[2]
                and 16 * y <= centre[1] < 16 * y + 16
                and inside(page, centre)
            ):
                found = class_of(letter)
        out.append(found)
    return out


def inside(page: Page, centre: np.ndarray) -> bool:
    height, width = page.pixels.shape[:2]
    return bool(0 <= centre[0] < width and 0 <= centre[1] < height)


def slots_slowly(page: Page, y: int, x: int) -> list[int]:
    out: list[int] = []
    for half in (0, 1):
        held = [
            (centre[0], letter)
            for letter, centre in zip(page.letters, page.middles, strict=True)
            if 32 * x <= centre[0] < 32 * x + 32 and 32 * y + 16 * half <= centre[1] < 32 * y + 16 * half + 16
        ]
        told = [class_of(letter) for _, letter in sorted(held, key=lambda pair: pair[0])][:PLACES]
        told += [0] * (len(told) < PLACES)
        out += told + [IGNORED] * (PLACES - len(told))
    return out


def test_labels_are_what_the_page_shows(fonts: Fonts):
    recipe = PageRecipe(seed=12, mix=tuple((name, 1.0) for name in LAYOUTS), em=(16, 24))
    filled = 0
    for number in range(14):
        page = print_page(recipe, fonts, number)
        labels = labels_of(page)
        rows, columns = page.pixels.shape[0] // 32, page.pixels.shape[1] // 32
        assert labels.columns.shape == (rows * columns, 4, 2)
        for token in range(rows * columns):
            y, x = divmod(token, columns)
            patches = [columns_slowly(page, 2 * y + dy, 2 * x + dx) for dy in (0, 1) for dx in (0, 1)]
            assert labels.columns[token].tolist() == patches
            assert labels.slots[token].tolist() == slots_slowly(page, y, x)
            filled += sum(slot > 0 for slot in labels.slots[token])
    assert filled > 500


def test_every_letter_of_an_answer_has_its_token_and_that_is_inked(fonts: Fonts):
    for number in range(20):
        page = print_page(PageRecipe(seed=13), fonts, number)
        labels, columns = labels_of(page), page.pixels.shape[1] // 32
        for question in page.questions:
            for n in question.where:
                x, y = page.middles[n]
                assert labels.tokens[n] == int(y // 32) * columns + int(x // 32)
                assert page.letters[n] == " " or labels.inked[labels.tokens[n]]
