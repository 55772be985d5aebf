"""Answers of one model to a benchmark under several ways to reduce its tokens, kept as they come.

    {"run": {"benchmark": "docvqa", "model": "...", "budget": 64, ...}}             what must be the same to go on
    {"id": "49153", "arm": "all", "answer": "0.28", "tokens": 1024, "seconds": 1.2}
    {"id": "49153", "arm": "pool", "answer": "0.26", "tokens": 64, "seconds": 0.8}

A line an answer, written and flushed before the next question. A run that was ended goes on behind its last line.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor

from tubelet.errors import ConfigError, InputError, RunError, TubeletError
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM, Reduce
from tubelet.language.vlm.pages import answer_pages, see_pages, surest
from tubelet.packed import Packed
from tubelet.reading.clip import Clip
from tubelet.reduce.methods import Inputs, choose, needs_of
from tubelet.reduce.relevance import in_joint_space
from tubelet.reduce.settings import Settings
from tubelet.train.evaluate.questions import BenchmarkQuestion
from tubelet.writing import file_place, write_errors

ALL = "all"  # the arm that keeps every token
GIVEN = ("text",)  # what an arm's method may need besides tokens


class Answer(NamedTuple):
    """What one arm said."""

    text: str
    tokens: int  # visual ones that the language model saw
    seconds: float  # of encoding, choosing and generating


class AnswerFile:
    """Answers by question and arm in a file that only grows. `run`: what was asked of whom.

    Raises InputError for a file that is none of these or a place for none, RunError for one of another run, naming what
    differs, and where it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], run: Mapping[str, Any]) -> None:
        self.path, self.run = Path(path), dict(run)
        self.answers: dict[tuple[str, str], Answer] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> "AnswerFile":
        self.path = file_place(self.path, lambda _: True)  # what is in it is looked at next
        there = self.path.exists() and self.path.stat().st_size > 0
        if there:
            self._read()
        with self._errors():
            self._file = self.path.open("a", encoding="utf-8")
        if not there:
            self._write({"run": self.run})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with self._errors():
                self._file.close()

    def add(self, question: str, arm: str, answer: Answer) -> None:
        """Keep one answer; it is with the system when this returns."""
        self.answers[question, arm] = answer
        told = {"answer": answer.text, "tokens": answer.tokens, "seconds": round(answer.seconds, 4)}
        self._write({"id": question, "arm": arm, **told})

    def _read(self) -> None:
        """Take in the file's answers; a last line that was cut short is taken away and will be asked again."""
        try:
            content = self.path.read_bytes()
            head, *lines = content.decode("utf-8", "replace").split("\n")
            before = json.loads(head)["run"]
            before.items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError("this is no file of answers", source=self.path.name) from e
        now = json.loads(json.dumps(self.run))
        if differ := [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]:
            told = "; ".join(f"{k} {before.get(k)!r} -> {now.get(k)!r}" for k in differ)
            raise RunError(f"its answers are of another run: {told}", source=self.path.name, got=differ)
        for n, line in enumerate(lines[:-1], 1):
            try:
                entry = json.loads(line)
                answer = Answer(entry["answer"], entry["tokens"], entry["seconds"])
                self.answers[entry["id"], entry["arm"]] = answer
            except (ValueError, KeyError, TypeError, RecursionError) as e:
                raise InputError("a line is no answer", item=n, source=self.path.name) from e
        if lines and lines[-1]:
            os.truncate(self.path, content.rindex(b"\n") + 1)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        with self._errors():
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def _errors(self) -> AbstractContextManager[None]:
        return write_errors(f"{self.path.name}: the file of answers")


@dataclass(frozen=True)
class Arms:
    """Ways to reduce a model's tokens, and what they are given."""

    names: tuple[str, ...]  # "all", or methods of tubelet.reduce.methods
    budget: int  # tokens kept of each picture or clip
    settings: Settings = Settings()
    words: Callable[[str], Tensor] | None = None  # a question's words as vectors (S, E); None: methods have no text

    def __post_init__(self) -> None:
        for name in self.names:
            if name == ALL:
                continue
            lacking = [n for n in needs_of(name, self.settings) if n not in GIVEN or self.words is None]
            if lacking:
                raise InputError(f"the arm {name} needs {', '.join(lacking)}, which is not there", got=name)

    def reduce(self, name: str, vlm: VLM, question: str) -> Reduce | None:
        """The arm as the model's `reduce`, for one question."""
        if name == ALL:
            return None
        reads = "text" in needs_of(name, self.settings)
        if reads and vlm.scheme.states:
            raise ConfigError(f"{name} looks for words in the last layer's tokens; this model takes others", got=name)
        text = self.words(question) if reads and self.words is not None else None

        def kept(tokens: Packed) -> Packed:
            seen = None if text is None else in_joint_space(vlm.encoder, tokens)
            return choose(name, Inputs(tokens, text, seen), budget=self.budget, settings=self.settings).kept

        return kept


class LeftOut(NamedTuple):
    """A question that could not be asked."""

    id: str
    error: TubeletError


def answer_questions(
    vlm: VLM,
    questions: Sequence[BenchmarkQuestion],
    arms: Arms,
    answers: AnswerFile,
    look: Callable[[str], list[Clip]],  # reads a picture or clip
    *,
    max_new_tokens: int = 32,
    on_error: str = "raise",  # or "skip": a question whose file cannot be read is left out of every arm
    progress: Callable[[int], None] | None = None,  # told how many questions are done
) -> list[LeftOut]:
    """Ask what is not answered yet, question by question, each by every arm, the likeliest token at each place.

    A file is read once for questions that follow each other, and its features come from the model's cache.
    """
    left: list[LeftOut] = []
    last: tuple[str, list[Clip]] | None = None
    before = vlm.reduce
    try:
        for n, question in enumerate(questions):
            wanted = [arm for arm in arms.names if (question.id, arm) not in answers.answers]
            try:
                if wanted and (last is None or last[0] != question.file):
                    last = (question.file, look(question.file))
                for arm in wanted:
                    assert last is not None
                    vlm.reduce = arms.reduce(arm, vlm, question.prompt)
                    answers.add(question.id, arm, _answer(vlm, last[1], question.prompt, max_new_tokens))
            except TubeletError as e:
                if on_error != "skip":
                    raise e.placed(item=n, source=question.file) from e.__cause__
                left.append(LeftOut(question.id, e))
            if progress is not None:
                progress(n + 1)
    finally:
        vlm.reduce = before
    return left


@torch.no_grad()
def _answer(vlm: VLM, clips: list[Clip], prompt: str, max_new_tokens: int) -> Answer:
    start = time.perf_counter()
    if vlm.scheme.pointer is not None:  # as `tubelet ask` does: page by page, look by look
        pages = see_pages(vlm, clips).ask(vlm, prompt)
        best = surest(answer_pages(vlm, pages, max_new_tokens=max_new_tokens))
        visual = sum(int(page.question.ready.visual.sum()) for page in pages.pages)
        return Answer(best.text.strip(), visual, time.perf_counter() - start)
    asked = ask(vlm, clips, prompt)
    ids = vlm.generate(asked.ready, max_new_tokens=max_new_tokens)
    text = vlm.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    return Answer(text, int(asked.ready.visual.sum()), time.perf_counter() - start)
