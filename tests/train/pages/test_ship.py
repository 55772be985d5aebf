"""What is shipped of a reader: the confidence is the lowest that keeps its promise, the folder is any model's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tubelet
from tubelet.language.vlm.chat import ask
from tubelet.reading.clip import Clip
from tubelet.reduce.spelled_text import SpelledText
from tubelet.train.config import OptimizerConfig, TrainConfig
from tubelet.train.pages import ship
from tubelet.train.pages.card import curve
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.measured import Measured, Said
from tubelet.train.pages.page import Page, PageRecipe, Question, print_page
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.train.pages.run import StageConfig, train_reader
from tubelet.train.pages.ship import surest
from tubelet.train.pages.spelling import SpellingConfig

SMALL = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)


def said(right: bool, probability: float, there: bool = True) -> Said:
    page: Any = None
    box = (0.0, 0.0, 1.0, 1.0) if there else None
    answer = "7" if there else ""
    question = Question("n?", answer, "code" if there else "absent", "key", (0,) if there else (), box)
    return Said(page, question, answer if right else "8", probability, inside=right)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from((0.1, 0.4, 0.7, 0.9))), max_size=30))
def test_the_confidence_is_the_lowest_that_keeps_the_promise(values: list[tuple[bool, float]]):
    answers = [said(*value) for value in values]
    found = surest(answers, wrong=0.2)

    def keeps(least: float) -> bool:
        trusted = [s for s in answers if s.probability >= least]
        return bool(trusted) and sum(not s.right for s in trusted) <= 0.2 * len(trusted)

    good = [p for p in {s.probability for s in answers} if keeps(p)]
    assert found == min(good, default=1.0)


def test_shares_are_of_what_was_asked():
    one = Measured(
        (said(True, 0.9), said(False, 0.8), said(False, 0.2), said(True, 0.9, there=False), said(False, 0.6, False)),
        0.5,
    )
    assert one.exact() == (1, 3)
    assert one.absent() == (1, 2)
    assert one.confident() == (4, 5)
    assert one.wrong() == (2, 5)
    assert one.placed() == (1, 1)


def test_a_stage_becomes_a_folder_with_its_card(fonts: Fonts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train = TrainConfig(budget=2, steps=1, folder=tmp_path / "run", device="cpu", optimizer=OptimizerConfig("muon"))
    stage = StageConfig(train, (PageRecipe(seed=1, sizes=((96, 128),)),), model=SMALL)
    train_reader(stage, fonts)
    small = {name: replace(recipe, sizes=((96, 128),)) for name, recipe in ship.RECIPES.items()}
    monkeypatch.setattr(ship, "RECIPES", small)
    monkeypatch.setattr(ship, "LONGEST", 4)
    monkeypatch.setattr(ship, "WORDS", PageRecipe(seed=3, sizes=((96, 128),)))
    told: list[str] = []
    words = SpellingConfig(steps=2, pages=2)
    measured = ship.ship(stage, tmp_path / "reader", fonts, pages=2, words=words, say=told.append)
    assert told[0] == "to choose the confidence: 0 of 2 pages, receipts, forms, tables"
    assert "with another page's picture: 0 of 2 pages, receipts, forms, tables" in told
    assert list(measured) == list(small)
    vlm = tubelet.VLM.from_pretrained(tmp_path / "reader")
    assert vlm.scheme.pointer is not None
    assert vlm.scheme.pointer.looks == ship.LOOKS
    assert vlm.scheme.pointer.sure == next(iter(measured.values())).sure
    assert next(vlm.parameters()).element_size() == 2
    assert SpelledText.load(tmp_path / "reader").words("What is the total?").shape == (1, 96)
    card = (tmp_path / "reader" / "README.md").read_text()
    assert "looked at 1, 1.15, 1.3 times as large" in card
    assert "run: 1 steps, 2 pages" in card
    assert fonts.sha256 in card
    for name, one in measured.items():
        exact = one.exact()
        assert f"| {name} | {100 * exact.share:.1f} %" in card
    assert "    python -m tubelet.train.pages examples/reader/run.yaml\n" in card
    assert "ship examples/reader/run.yaml FOLDER 2\n" in card
    first = next(iter(measured.values()))
    for page in {s.page.em: s.page for s in first.said if s.question.answer}.values():
        assert f"| {page.em} px | " in card
    shown: list[Page] = [s.page for one in measured.values() for s in one.said]
    assert min(page.number for page in shown) == ship.REPORTED


def test_pages_are_asked_together_and_alone_alike(fonts: Fonts):
    vlm = build_reader(SMALL, seed=2).eval()
    recipe = PageRecipe(seed=1, sizes=((96, 128), (128, 160)))
    ticks: list[int] = []
    together = ship.read_pages(vlm, recipe, fonts, range(5, 9), tick=ticks.append)
    assert ticks == [1, 2, 3, 4]
    alone = [one for number in range(5, 9) for one in ship.read_pages(vlm, recipe, fonts, [number])]
    assert [(s.page.number, s.question, s.answer) for s in together] == [
        (s.page.number, s.question, s.answer) for s in alone
    ]
    for one, other in zip(together, alone, strict=True):
        assert one.probability == pytest.approx(other.probability, rel=1e-3)
    blind = ship.read_pages(vlm, recipe, fonts, [6], blind=True)
    asked = ask(vlm, [Clip(print_page(recipe, fonts, 5).pixels[None], (0.0,))], blind[0].question.text)
    assert blind[0].question in print_page(recipe, fonts, 6).questions
    said = vlm.generate(asked.ready, max_new_tokens=ship.LONGEST)
    assert blind[0].answer == vlm.tokenizer.decode(said[0], skip_special_tokens=True)


def test_nearness_and_the_best_constant():
    answers = (replace_answer(said(True, 0.5), "ab", "ab"), replace_answer(said(True, 0.5), "abcd", "abcx"))
    one = Measured((*answers, replace_answer(said(True, 0.5), "zzz", "ab"), said(True, 0.5, there=False)), 0.5)
    assert one.near() == pytest.approx((1 + 0.75 + 0) / 3)
    assert one.constant() == (2, 3)


def replace_answer(one: Said, answer: str, right: str) -> Said:
    return one._replace(answer=answer, question=replace(one.question, answer=right))


def test_how_far_it_is_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch):
    clock = iter((0.0, 0.0, 10.0, 31.0, 31.0))
    monkeypatch.setattr(ship.time, "monotonic", lambda: next(clock))
    told: list[str] = []
    tell = ship.Rarely(told.append, "{} of 9")
    for n in (0, 3, 7):
        tell(n)
    assert told == ["0 of 9", "7 of 9"]


def test_a_curve_is_means_over_the_steps(tmp_path: Path):
    log = tmp_path / "2-letters" / "log.jsonl"
    log.parent.mkdir()
    steps = [{"kind": "step", "step": n, "seconds": 36.0, "tokens": 4, "slots": n / 100} for n in range(80)]
    lines = [{"kind": "start"}, *steps[:50], *steps[40:]]  # ten steps were done again
    log.write_text("\n".join(json.dumps(line) for line in lines))
    told = curve(log).splitlines()
    assert told[0] == "2-letters: 80 steps, 320 pages, 0.8 hours"
    assert told[2] == "| steps | slots |"
    assert told[4] == "| to 10 | 4.5 % |"
    assert told[-1] == "| to 80 | 74.5 % |"
    assert len(told) == 12
