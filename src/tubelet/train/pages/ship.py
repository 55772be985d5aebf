"""What is shipped of a trained reader: one folder with weights in half precision, the words that tokens are chosen by,
the confidence from which on an answer is to be trusted, and a card that says what it can read and what not.

    python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]

Pages to measure on are printed in the held-out fonts and words: some to choose the confidence, others to report.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tubelet.errors import ConfigError
from tubelet.language.vlm.cache import FeatureCache
from tubelet.language.vlm.chat import Question as Asked
from tubelet.language.vlm.model import VLM
from tubelet.language.vlm.pages import PageQuestions, answer_each, likeliest, see_pages
from tubelet.reading.clip import Clip
from tubelet.train.config import read_config
from tubelet.train.pages.card import card, told
from tubelet.train.pages.fonts import Fonts, find_fonts
from tubelet.train.pages.measured import MOST_WRONG, Measured, Said
from tubelet.train.pages.page import Page, PageRecipe, Question, print_page
from tubelet.train.pages.run import StageConfig, trained_reader
from tubelet.train.pages.spelling import SpellingConfig, train_spelling
from tubelet.weights.save import checkpoint_place

Tick = Callable[[int], object]

LONGEST = 40  # bytes of an answer
CHOOSING, REPORTED = 1_000_000, 2_000_000  # numbers of the first pages to choose the confidence on, and to report
LOOKS = (1.0, 1.15, 1.3)  # how many times as large a page is looked at
TO_CHOOSE = 400  # pages of the first kind to choose the confidence on, at most
BLIND = 100  # pages to ask about with another page's picture, at most
OTHERS = (("ticket", 0.25), ("fine", 0.25), ("picture", 0.5))  # what it cannot read
RECIPES = {
    "receipts, forms, tables": PageRecipe(seed=91, sizes=((256, 320), (320, 256), (320, 320)), absent=0.25),
    "invoices, charts": PageRecipe(seed=92, sizes=((320, 320),), mix=(("invoice", 0.5), ("chart", 0.5)), absent=0.25),
    "smaller print": PageRecipe(seed=93, sizes=((320, 320),), em=(14, 19), absent=0.25),
    "other pages and pictures": PageRecipe(seed=94, sizes=((320, 320),), mix=OTHERS, absent=0.5),
}
WORDS = PageRecipe(seed=97, sizes=((256, 320), (320, 256)))
SHARES = {
    "receipts, forms, tables": 1.0,
    "invoices, charts": 0.2,
    "smaller print": 0.2,
    "other pages and pictures": 0.3,
}


def read_pages(
    vlm: VLM,
    recipe: PageRecipe,
    fonts: Fonts,
    numbers: Sequence[int],
    *,
    blind: bool = False,
    tick: Tick = lambda pages: None,
) -> list[Said]:
    """Every question of these pages asked by itself, as `tubelet ask` does. blind: with the picture of the page before.
    tick: told how many pages were asked about.

    Cost: about 0.02 s a question on two cores.
    """
    asked: list[tuple[Page, Question, PageQuestions]] = []

    def questions() -> Iterator[Asked]:
        before = print_page(recipe, fonts, numbers[0] - 1) if blind else None
        for n, number in enumerate(numbers):
            page = print_page(recipe, fonts, number)
            clip = Clip((page if before is None else before).pixels[None], (0.0,))
            before = page if blind else None
            seen = see_pages(vlm, [clip])
            for question in page.questions:
                asked.append((page, question, seen.ask(vlm, question.text)))
                yield from (look.question for look in asked[-1][2].pages)
            tick(n + 1)

    out: list[Said] = []
    answers = answer_each(vlm, questions(), max_new_tokens=LONGEST)
    for first in answers:
        page, question, looks = asked.pop(0)
        found = likeliest([first, *islice(answers, len(looks.pages) - 1)])
        places = found.found.places
        inside = bool(places) and question.box is not None and _touch(places[0].box, question.box)
        out.append(Said(page, question, found.text, found.found.probability, inside))
    return out


def _touch(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class Rarely:
    """Says how far it is, at its beginning and then every 30 seconds. line: with a place for the number."""

    def __init__(self, say: Callable[[str], object], line: str) -> None:
        self.say, self.line, self.last = say, line, float("-inf")

    def __call__(self, count: int) -> None:
        """So many are done."""
        if time.monotonic() - self.last >= 30:
            self.last = time.monotonic()
            self.say(self.line.format(count))


def surest(said: Sequence[Said], wrong: float = MOST_WRONG) -> float:
    """The lowest probability from which on at most the share `wrong` of answers is wrong; 1 where there is none."""
    ranked = sorted(said, key=lambda s: -s.probability)
    best, errors = 1.0, 0
    for n, one in enumerate(ranked, 1):
        errors += not one.right
        last = n == len(ranked) or ranked[n].probability < one.probability
        if last and errors <= wrong * n:
            best = one.probability
    return best


def ship(
    stage: StageConfig,
    folder: Path,
    fonts: Fonts,
    pages: int = 400,
    words: SpellingConfig | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Measured]:
    """Write the stage's reader into a new folder with its card; how it did, by kind of pages.

    pages: of the first kind, other kinds have their share; of each at most `TO_CHOOSE` others to choose the confidence.
    words: how those that tokens are chosen by are trained, beside the finished encoder. say: is told how far it is.
    Raises ConfigError without a checkpoint and for fonts without held-out families, and what `VLM.save_pretrained`
    raises.
    """
    if not fonts.families(True):
        raise ConfigError("no held-out family of fonts is there to measure on")
    checkpoint_place(folder, False)  # before the minutes of measuring
    vlm = trained_reader(stage)
    vlm = vlm.half().float()  # as it will be read
    vlm.cache = FeatureCache(0)  # every page is seen once
    pointer = vlm.scheme.pointer
    assert pointer is not None  # of build_reader
    vlm.scheme = replace(vlm.scheme, pointer=replace(pointer, looks=LOOKS))
    unseen = {name: replace(recipe, held_fonts=True, held_words=True) for name, recipe in RECIPES.items()}

    def read(why: str, name: str, first: int, most: int, blind: bool = False) -> list[Said]:
        count = max(1, round(most * SHARES[name]))
        numbers = range(first, first + count)
        tell = Rarely(say, f"{why}: {{}} of {count} pages, {name}")
        tell(0)
        return read_pages(vlm, unseen[name], fonts, numbers, blind=blind, tick=tell)

    chosen = [one for name in unseen for one in read("to choose the confidence", name, CHOOSING, min(pages, TO_CHOOSE))]
    sure = surest(chosen)
    measured = {name: Measured(tuple(read("to report", name, REPORTED, pages)), sure) for name in unseen}
    first = next(iter(unseen))
    blind = Measured(tuple(read("with another page's picture", first, REPORTED, min(pages, BLIND), blind=True)), sure)
    say("the words that tokens are chosen by")
    side = train_spelling(vlm, WORDS, fonts, words or SpellingConfig())
    pointer = replace(pointer, sure=sure, looks=LOOKS)
    vlm.scheme = replace(vlm.scheme, pointer=pointer)
    vlm.half().save_pretrained(folder)
    side.save(folder)
    (folder / "README.md").write_text(card(stage, fonts, measured, blind, pointer, pages), encoding="utf-8")
    return measured


def main(args: Sequence[str]) -> int:
    """`python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]`; the exit code."""
    if len(args) not in (2, 3) or not all(n.isascii() and n.isdigit() and int(n) for n in args[2:]):
        print("usage: python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]", file=sys.stderr)
        return 2
    stage: Any = read_config(StageConfig, args[0], [])
    say = partial(print, file=sys.stderr, flush=True)
    pages = int(args[2]) if len(args) == 3 else 400
    for name, one in ship(stage, Path(args[1]), find_fonts(), pages, say=say).items():
        print(f"{name}: exact {told(one.exact())}, sure and wrong {told(one.wrong())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
