"""The words of a page and the rows that show them; training brings the two together and reads nothing of answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.errors import ConfigError
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.labels import IGNORED, labels_of
from tubelet.train.pages.page import Page, PageRecipe, print_page
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.train.pages.spelling import SpellingConfig, pairs_of, train_spelling, words_of

RECIPE = PageRecipe(seed=5, sizes=((96, 128),), noise=0.0)
SMALL = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)


def page_of(text: str, lefts: list[float], y: float = 16.0) -> Page:
    boxes = np.array([(x, y - 8, x + 8, y + 8) for x in lefts], np.float32)
    middles = np.array([(x + 4, y) for x in lefts], np.float32)
    return Page(0, "lines", np.zeros((96, 128, 3), np.uint8), text, boxes, middles, (), 16, "Tuffy")


def test_words_end_at_spaces_gaps_and_lines():
    page = page_of("a bcde", [0, 8, 16, 24, 60, 68])
    assert [word for word, _, _ in words_of(page)] == ["a", "bc", "de"]
    page = page_of("No.:", [0, 8, 16, 24])
    assert words_of(page) == [("no", 0, 2)]


def test_a_row_shows_a_word_by_two_of_its_letters_or_all():
    page = page_of("tea", [8, 16, 24])  # middles 12, 20, 28: all on the first row
    words, pairs, known = pairs_of([page])
    assert words == ["tea"]
    assert pairs.shape == known.shape == (1, 12)
    assert pairs[0].nonzero().flatten().tolist() == [0]
    assert bool(known.all())
    page = page_of("tea", [12, 20, 28])  # the last letter's middle is 32
    _, pairs, known = pairs_of([page])
    assert pairs[0].nonzero().flatten().tolist() == [0]
    assert (~known[0]).nonzero().flatten().tolist() == [1]  # one letter of three says nothing


def test_rows_are_counted_on_from_page_to_page(fonts: Fonts):
    pages = [print_page(RECIPE, fonts, n) for n in range(3)]
    words, pairs, _ = pairs_of(pages)
    assert pairs.shape[1] == 3 * 12
    last = words_of(pages[2])
    word, first, stop = max(last, key=lambda w: w[2] - w[1])
    rows = labels_of(pages[2]).tokens[first:stop]
    shown, counts = np.unique(rows[rows != IGNORED], return_counts=True)
    for row, count in zip(shown, counts, strict=True):
        assert bool(pairs[words.index(word), 24 + row]) or count < 2


def test_training_brings_words_to_their_rows(fonts: Fonts):
    vlm = build_reader(SMALL)
    before = {name: p.clone() for name, p in vlm.named_parameters()}
    short = train_spelling(vlm, RECIPE, fonts, SpellingConfig(steps=1, pages=4))
    long = train_spelling(vlm, RECIPE, fonts, SpellingConfig(steps=30, pages=4))
    assert all(torch.equal(p, before[name]) for name, p in vlm.named_parameters())

    def apart(side: object) -> float:
        """By how much shown rows lie nearer than others, on pages of the training."""
        from tubelet.train.pages.spelling import _rows

        pages = [print_page(RECIPE, fonts, n) for n in range(8)]
        words, pairs, known = pairs_of(pages)
        near = (side.embed(words) @ side.rows(_rows(vlm, pages)).x.T).detach()  # pyright: ignore
        return float(near[pairs].mean() - near[known & ~pairs].mean())

    assert apart(long) > apart(short) + 0.06  # 0.02 and 0.11 after 30 steps
    alone = build_reader(SMALL)
    alone.encoder.config = replace(alone.encoder.config, merger=None)
    with pytest.raises(ConfigError, match="merges"):
        train_spelling(alone, RECIPE, fonts)
