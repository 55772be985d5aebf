"""What is shipped of a trained reader: one folder with weights in half precision, the confidence from which on an
answer is to be trusted, and a card that says what it can read and what not.

    python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]

Pages to measure on are printed in the held-out fonts and words: some to choose the confidence, others to report.
"""

import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tubelet.errors import ConfigError
from tubelet.language.vlm.answer_places import locate_answer
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.reading.clip import Clip
from tubelet.train.config import read_config
from tubelet.train.pages.evaluate import Share, constants
from tubelet.train.pages.fonts import Fonts, find_fonts
from tubelet.train.pages.page import SCOPE_A, Page, PageRecipe, Question, print_page
from tubelet.train.pages.run import StageConfig, trained_reader
from tubelet.weights.save import checkpoint_place

MOST_WRONG = 0.05  # share of wrong answers among those it is sure of
LONGEST = 40  # bytes of an answer
CHOOSING, REPORTED = 1_000_000, 2_000_000  # numbers of the first pages to choose the confidence on, and to report
OTHERS = (("ticket", 0.25), ("fine", 0.25), ("picture", 0.5))  # what it cannot read
RECIPES = {
    "receipts, forms, tables": PageRecipe(seed=91, sizes=((256, 320), (320, 256), (320, 320)), absent=0.25),
    "invoices, charts": PageRecipe(seed=92, sizes=((320, 320),), mix=(("invoice", 0.5), ("chart", 0.5)), absent=0.25),
    "smaller print": PageRecipe(seed=93, sizes=((320, 320),), em=(14, 19), absent=0.25),
    "other pages and pictures": PageRecipe(seed=94, sizes=((320, 320),), mix=OTHERS, absent=0.5),
}
SHARES = {
    "receipts, forms, tables": 1.0,
    "invoices, charts": 0.2,
    "smaller print": 0.2,
    "other pages and pictures": 0.3,
}


class Said(NamedTuple):
    """What a reader said to one question. inside: whether the place it read first touches the answer's box."""

    page: Page
    question: Question
    answer: str
    probability: float
    inside: bool

    @property
    def right(self) -> bool:
        """Letter by letter; nothing for what is not there."""
        return self.answer == self.question.answer


@dataclass(frozen=True)
class Measured:
    """One kind of pages: what was said, and at which probability it counts as sure."""

    said: tuple[Said, ...]
    sure: float

    def exact(self, which: Callable[[Said], bool] = lambda _: True) -> Share:
        """Right answers of those questions whose answer is there."""
        return _share(s.right for s in self.said if s.question.answer and which(s))

    def absent(self) -> Share:
        """Nothing said, of questions about what is not there."""
        return _share(s.right for s in self.said if not s.question.answer)

    def confident(self) -> Share:
        """Questions it is sure about."""
        return _share(s.probability >= self.sure for s in self.said)

    def wrong(self) -> Share:
        """Questions that get a wrong answer it is sure of."""
        return _share(s.probability >= self.sure and not s.right for s in self.said)

    def placed(self) -> Share:
        """Right answers whose first place touches the box they stand in."""
        return _share(s.inside for s in self.said if s.right and s.question.answer)


def _share(right: Iterable[bool]) -> Share:
    values = list(right)
    return Share(sum(values), len(values))


def read_pages(vlm: VLM, recipe: PageRecipe, fonts: Fonts, numbers: Sequence[int]) -> list[Said]:
    """Every question of these pages asked one by one, as `tubelet ask` does. Cost: about 0.1 s a question on a core."""
    out: list[Said] = []
    for number in numbers:
        page = print_page(recipe, fonts, number)
        for question in page.questions:
            asked = ask(vlm, [Clip(page.pixels[None], (0.0,))], question.text)
            ids = vlm.generate(asked.ready, max_new_tokens=LONGEST)
            where = locate_answer(vlm, asked, ids)
            inside = bool(where.places) and question.box is not None and _touch(where.places[0].box, question.box)
            answer = vlm.tokenizer.decode(ids[0], skip_special_tokens=True)
            out.append(Said(page, question, answer, where.probability, inside))
    return out


def _touch(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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


def ship(stage: StageConfig, folder: Path, fonts: Fonts, pages: int = 400) -> dict[str, Measured]:
    """Write the stage's reader into a new folder with its card; how it did, by kind of pages.

    pages: of the first kind, other kinds have their share; as many again to choose the confidence. Raises ConfigError
    without a checkpoint and for fonts without held-out families, and what `VLM.save_pretrained` raises.
    """
    if not fonts.families(True):
        raise ConfigError("no held-out family of fonts is there to measure on")
    checkpoint_place(folder, False)  # before the minutes of measuring
    vlm = trained_reader(stage)
    vlm = vlm.half().float()  # as it will be read
    count = {name: max(1, round(pages * share)) for name, share in SHARES.items()}
    unseen = {name: replace(recipe, held_fonts=True, held_words=True) for name, recipe in RECIPES.items()}
    chosen = [
        one
        for name, recipe in unseen.items()
        for one in read_pages(vlm, recipe, fonts, range(CHOOSING, CHOOSING + count[name]))
    ]
    sure = surest(chosen)
    measured = {
        name: Measured(tuple(read_pages(vlm, recipe, fonts, range(REPORTED, REPORTED + count[name]))), sure)
        for name, recipe in unseen.items()
    }
    pointer = vlm.scheme.pointer
    assert pointer is not None  # of build_reader
    vlm.scheme = replace(vlm.scheme, pointer=replace(pointer, sure=sure))
    vlm.half().save_pretrained(folder)
    (folder / "README.md").write_text(card(stage, fonts, measured), encoding="utf-8")
    return measured


# ---- the card


def card(stage: StageConfig, fonts: Fonts, measured: dict[str, Measured]) -> str:
    """What a model card says: what it is, what it was trained on, what it reads and what not."""
    first = measured["receipts, forms, tables"]
    constant = constants(s.question for s in first.said if s.question.answer).get("")
    rows = "\n".join(
        f"| {name} | {_told(one.exact())} | {_told(one.absent())} | {_told(one.confident())} | {_told(one.wrong())} |"
        for name, one in measured.items()
    )
    kinds = sorted({s.question.kind for s in first.said if s.question.answer})
    by_kind = "\n".join(f"| {kind} | {_told(first.exact(lambda s, k=kind: s.question.kind == k))} |" for kind in kinds)
    return CARD.format(
        rows=rows,
        kinds=by_kind,
        placed=_told(first.placed()),
        sure=first.sure,
        wrong=MOST_WRONG,
        constant="none" if constant is None else f'"{constant.answer}", {100 * constant.share:.1f} %',
        fonts=fonts.sha256,
        families=len({face.family for face in fonts.faces}),
        seed=stage.train.seed,
        scope=", ".join(name for name, _ in SCOPE_A),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def _told(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {share.asked:,}"


CARD = """---
license: apache-2.0
---
# A reader of small pages

It answers questions about receipts, forms and tables of up to 320 x 480 pixels with letters of 20 pixels to the em or
more: an encoder of 16 x 16 patches with 3-D rotation, a 2 x 2 merge, a projector, and a language model over bytes, all
of this library's own parts. It was made to show and to test the library, not to read the world's paper.

## Data
Pages that this library prints (`tubelet pages`) in {families} families of fonts found on the system (SHA-256 of the
choice: {fonts}); no page of anyone's, no weights of others. Training read no page, font family or word of those below.

## How it is made again
    python -m tubelet.train.pages examples/reader/1-letters.yaml
    python -m tubelet.train.pages examples/reader/2-questions.yaml
    python -m tubelet.train.pages examples/reader/3-sizes.yaml
    python -m tubelet.train.pages.ship examples/reader/3-sizes.yaml FOLDER
Seed {seed}; measured with torch {torch} and Python {python}.

## What it reads
Unseen pages, held-out families of fonts, held-out words. Exact: every letter right, of questions whose answer is there.
Absent: it says nothing to what is not there. Sure: probability of the whole answer at least {sure:.3f}, chosen on other
pages so that at most {wrong:.0%} of such answers are wrong. Intervals: 95 %, Wilson's.

| pages | exact | absent | sure | sure and wrong |
|---|---|---|---|---|
{rows}

The most frequent answer: {constant}. Of right answers the place it points at first touches the answer: {placed}.

| kind of answer ({scope}) | exact |
|---|---|
{kinds}

## What it does not read
Photographs, handwriting, scans of old paper, pages of books, letters below 14 pixels, languages with letters beyond
ASCII, EUR and GBP signs. What it is not sure of it says so; an answer of which it is sure may still be wrong.
"""


def main(args: Sequence[str]) -> int:
    """`python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]`; the exit code."""
    if len(args) not in (2, 3) or not all(n.isascii() and n.isdigit() and int(n) for n in args[2:]):
        print("usage: python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]", file=sys.stderr)
        return 2
    stage: Any = read_config(StageConfig, args[0], [])
    for name, one in ship(stage, Path(args[1]), find_fonts(), *(int(n) for n in args[2:])).items():
        print(f"{name}: exact {_told(one.exact())}, sure and wrong {_told(one.wrong())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
