"""The file of answers, and arms that a model cannot have."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.full_disk import full_disk

from tubelet.errors import InputError, RunError
from tubelet.language.vlm.pages import answer_pages, see_pages, surest
from tubelet.language.vlm.scheme import Pointer
from tubelet.reading.clip import Clip
from tubelet.train.evaluate.answering import Answer, AnswerFile, Arms, answer_questions
from tubelet.train.evaluate.questions import BenchmarkQuestion
from tubelet.train.pages.reader import ReaderConfig, build_reader

RUN = {"benchmark": "docvqa", "budget": 4, "frames": (None, 8)}


def test_answers_are_kept_and_found_again(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, RUN) as kept:
        kept.add("1", "all", Answer("zwölf\nChairs\u2028", 40, 0.5))
        assert path.read_text().count("\n") == 2  # with the system at once
        kept.add("1", "pool", Answer("", 4, 0.25))
    with AnswerFile(path, RUN) as again:
        assert again.answers == {("1", "all"): ("zwölf\nChairs\u2028", 40, 0.5), ("1", "pool"): ("", 4, 0.25)}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_was_cut_short_is_asked_again_and_spoils_nothing(tmp_path: Path, cut: int):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, RUN) as kept:
        kept.add("1", "all", Answer("a", 1, 0.0))
        kept.add("2", "all", Answer("ä" * 20, 1, 0.0))
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    for _ in range(2):
        with AnswerFile(path, RUN) as kept:
            assert kept.answers.keys() == {("1", "all")}
    with AnswerFile(path, RUN) as kept:
        kept.add("2", "all", Answer("ä" * 20, 1, 0.0))
    assert path.read_bytes() == content


@pytest.mark.parametrize("text", ["{}\n", "[]\n", "no\n", '{"run": 5}\n', "x", "\n", '{"run":' + "[" * 9000 + "\n"])
def test_a_file_that_is_none_of_ours_stays_as_it_is(tmp_path: Path, text: str):
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="no file of answers"), AnswerFile(path, RUN):
        pass
    assert path.read_text() == text


def test_a_damaged_line_and_another_run(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, RUN) as kept:
        kept.add("1", "all", Answer("a", 1, 0.0))
    other = RUN | {"budget": 9}
    with pytest.raises(RunError, match="of another run: budget 4 -> 9"), AnswerFile(path, other):
        pass
    path.write_text(path.read_text() + "{}\n" + json.dumps({"id": "2"}) + "\n")
    with pytest.raises(InputError, match="a line is no answer"), AnswerFile(path, RUN):
        pass


def test_a_reader_is_asked_look_by_look_as_ask_does(tmp_path: Path):
    """Every arm: two looks at a page, the likeliest answer, the tokens of both."""
    sizes = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)
    vlm = build_reader(sizes).eval()
    vlm.scheme = replace(vlm.scheme, pointer=Pointer(0, looks=(1.0, 1.5)))
    page = Clip(np.random.default_rng(1).integers(0, 256, (1, 96, 128, 3), np.uint8), (0.0,))
    question = BenchmarkQuestion("1", "Total?", ("page.png",), ("7",), "")
    with AnswerFile(tmp_path / "answers.jsonl", RUN) as kept:
        answer_questions(vlm, [question], Arms(("all", "pool"), 4), kept, lambda _: [page], max_new_tokens=5)
        answers = dict(kept.answers)
    asked = see_pages(vlm, [page]).ask(vlm, "Total?")
    assert answers["1", "all"].text == surest(answer_pages(vlm, asked, max_new_tokens=5)).text.strip()
    assert [answers["1", arm].tokens for arm in ("all", "pool")] == [12 + 24, 2 * 4]


def test_arms_that_need_what_is_not_there():
    for name, told in (("shirg", "needs text"), ("attention", "needs attention"), ("nothing", "no method nothing")):
        with pytest.raises(InputError, match=told):
            Arms((name,), 4)


def test_places_that_are_none_and_a_full_disk(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for name in ("pipe", "loop", "file/x", "x" * 5000, "a\0b", "\ud800", "/dev/full"):
        with pytest.raises((InputError, RunError)), AnswerFile(tmp_path / name, RUN):
            pass
    with full_disk(100), pytest.raises(RunError, match="File too large"), AnswerFile(tmp_path / "a", RUN) as kept:
        kept.add("1", "all", Answer("a" * 200, 1, 0.0))
    with AnswerFile(tmp_path / "a", RUN) as kept:  # what was written in part is taken away
        assert not kept.answers
