"""The words that a page shows and the rows they stand on, brought into one space: `SpelledText` beside a reader.

    pages -> encoder, frozen -> rows --matrix--> (M, C)
                words, by their letters -------> (S, C)       sigmoid loss over all pairs of a batch

Nothing of questions and answers is seen. A row and a word are a pair where two letters of the word, or the whole of it,
stand on the row; where it is only one letter of several, nothing is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ConfigError
from tubelet.language.vlm.model import VLM
from tubelet.packed import Packed
from tubelet.reduce.spelled_text import SpelledText
from tubelet.shapes import Bool
from tubelet.train.pages.batch import patches_of
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.labels import IGNORED, TOKEN, labels_of
from tubelet.train.pages.page import Page, PageRecipe, print_page

SCALE, SHIFT = 10.0, -6.0  # of cosines, at the beginning
APART = 0.5  # of an em, between the boxes of two letters: another word


@dataclass(frozen=True)
class SpellingConfig:
    """How the words are trained."""

    steps: int = 400
    pages: int = 16  # of a step
    lr: float = 3e-3
    seed: int = 0


def train_spelling(
    vlm: VLM, recipe: PageRecipe, fonts: Fonts, config: SpellingConfig = SpellingConfig()
) -> SpelledText:
    """The words beside the reader's encoder, and the last steps' mean loss. Cost: one forward of every page.

    Raises ConfigError for a model whose rows are not those of its merged tokens.
    """
    if vlm.encoder.config.merger is None:
        raise ConfigError("words are brought to the rows of an encoder that merges")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        side = SpelledText(vlm.encoder.config.out)
    scale, shift = (torch.nn.Parameter(torch.tensor(v)) for v in (SCALE, SHIFT))
    optimizer = torch.optim.AdamW([*side.parameters(), scale, shift], lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, config.steps)
    for step in range(config.steps):
        numbers = range(step * config.pages, (step + 1) * config.pages)
        pages = [print_page(recipe, fonts, number) for number in numbers]
        words, pairs, known = pairs_of(pages)
        rows = side.rows(_rows(vlm, pages)).x
        logits = side.embed(words) @ rows.T * scale + shift
        loss = F.binary_cross_entropy_with_logits(logits[known], pairs[known].float(), reduction="sum") / len(words)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return side.eval()


@torch.no_grad()
def _rows(vlm: VLM, pages: Sequence[Page]) -> Packed:
    return vlm.encoder(patches_of(pages, [np.arange(rows_on(page)) for page in pages]))


def rows_on(page: Page) -> int:
    """How many merged tokens a page has."""
    height, width = page.pixels.shape[:2]
    return height // TOKEN * (width // TOKEN)


def pairs_of(pages: Sequence[Page]) -> tuple[list[str], Bool[Tensor, "S M"], Bool[Tensor, "S M"]]:
    """The words of pages, each once, which rows show them, and of which pairs anything is said."""
    letters: dict[str, list[tuple[int, int]]] = {}  # word -> (row, letters of the word on it)
    size = 0
    for page in pages:
        tokens = labels_of(page).tokens
        for word, first, stop in words_of(page):
            own = tokens[first:stop]
            rows, counts = np.unique(own[own != IGNORED], return_counts=True)
            found = letters.setdefault(word, [])
            found += [(size + int(row), int(n)) for row, n in zip(rows, counts, strict=True)]
        size += rows_on(page)
    pairs = torch.zeros(len(letters), size, dtype=torch.bool)
    known = torch.ones_like(pairs)
    for number, (word, found) in enumerate(letters.items()):
        for row, count in found:
            shown = count >= min(2, len(word))
            pairs[number, row] |= shown
            known[number, row] &= shown
    return list(letters), pairs, known | pairs


def words_of(page: Page) -> list[tuple[str, int, int]]:
    """The words of a page in lower case, without signs at their ends, each with its first and last letter + 1."""
    out: list[tuple[str, int, int]] = []
    start = 0
    for n in range(1, len(page.letters) + 1):
        if n < len(page.letters) and page.letters[n] != " " and page.letters[n - 1] != " ":
            gap = page.boxes[n, 0] - page.boxes[n - 1, 2]
            if abs(gap) < APART * page.em and abs(page.middles[n, 1] - page.middles[n - 1, 1]) < APART * page.em:
                continue
        text = page.letters[start:n]
        bare = text.strip(" .,:;!?#()")
        if bare:
            first = start + text.index(bare)
            out.append((bare.lower(), first, first + len(bare)))
        start = n
    return out
