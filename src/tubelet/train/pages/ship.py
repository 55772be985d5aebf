"""What is shipped of a trained reader: one folder with weights in half precision, the words that tokens are chosen by,
the confidence from which on an answer is to be trusted, and a card that says what it can read and what not.

    python -m tubelet.train.pages.ship STAGE.yaml FOLDER [PAGES]

Pages to measure on are printed in the held-out fonts and words: some to choose the confidence, others to report.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tubelet.errors import ConfigError
from tubelet.language.vlm.answer_places import locate_answer
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.reading.clip import Clip
from tubelet.train.config import read_config
from tubelet.train.pages.card import card, told
from tubelet.train.pages.fonts import Fonts, find_fonts
from tubelet.train.pages.measured import MOST_WRONG, Measured, Said
from tubelet.train.pages.page import PageRecipe, print_page
from tubelet.train.pages.run import StageConfig, trained_reader
from tubelet.train.pages.spelling import SpellingConfig, train_spelling
from tubelet.weights.save import checkpoint_place

LONGEST = 40  # bytes of an answer
CHOOSING, REPORTED = 1_000_000, 2_000_000  # numbers of the first pages to choose the confidence on, and to report
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


def ship(
    stage: StageConfig,
    folder: Path,
    fonts: Fonts,
    pages: int = 400,
    words: SpellingConfig | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Measured]:
    """Write the stage's reader into a new folder with its card; how it did, by kind of pages.

    pages: of the first kind, other kinds have their share; as many again to choose the confidence. words: how those
    that tokens are chosen by are trained, beside the finished encoder. say: is told what begins. Raises ConfigError
    without a checkpoint and for fonts without held-out families, and what `VLM.save_pretrained` raises.
    """
    if not fonts.families(True):
        raise ConfigError("no held-out family of fonts is there to measure on")
    checkpoint_place(folder, False)  # before the minutes of measuring
    vlm = trained_reader(stage)
    vlm = vlm.half().float()  # as it will be read
    count = {name: max(1, round(pages * share)) for name, share in SHARES.items()}
    unseen = {name: replace(recipe, held_fonts=True, held_words=True) for name, recipe in RECIPES.items()}

    def read(why: str, first: int) -> dict[str, list[Said]]:
        out = {}
        for name, recipe in unseen.items():
            say(f"{why}: {count[name]} pages, {name}")
            out[name] = read_pages(vlm, recipe, fonts, range(first, first + count[name]))
        return out

    sure = surest([one for said in read("to choose the confidence", CHOOSING).values() for one in said])
    measured = {name: Measured(tuple(said), sure) for name, said in read("to report", REPORTED).items()}
    pointer = vlm.scheme.pointer
    assert pointer is not None  # of build_reader
    say("the words that tokens are chosen by")
    side = train_spelling(vlm, WORDS, fonts, words or SpellingConfig())
    vlm.scheme = replace(vlm.scheme, pointer=replace(pointer, sure=sure))
    vlm.half().save_pretrained(folder)
    side.save(folder)
    (folder / "README.md").write_text(card(stage, fonts, measured, sure), encoding="utf-8")
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
