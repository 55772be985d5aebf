"""`tubelet eval`: a model's answers to a public benchmark, with all tokens, with fewer chosen ones, and pooled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from tubelet.cli.options import (
    Device,
    FrameOptions,
    OnError,
    OutputOptions,
    ReadingOptions,
    StoredDtype,
    option,
)
from tubelet.cli.output import output_file
from tubelet.cli.progress import progress
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError, file_name, visible
from tubelet.errors import InputError
from tubelet.writing import save_png

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

    from tubelet.language.vlm.model import VLM
    from tubelet.reading.clip import Clip
    from tubelet.train.evaluate.answering import Arms, LeftOut
    from tubelet.train.evaluate.questions import BenchmarkQuestion
    from tubelet.train.evaluate.scores import ArmScores

ARMS = "all,pool,divprune"
SHOWN = 5  # questions left out that are told; --json has all


@dataclass(frozen=True)
class Eval:
    """Ask a vision-language model the questions of a public benchmark and score its answers.

    The files are those that the authors publish: DocVQA's val_v1.0.json, ChartQA's test_human.json and
    test_augmented.json, TextVQA's TextVQA_0.5.1_val.json, ScanQA's ScanQA_v1.0_val.json, SQA3D's two (questions and
    annotations), VSI-Bench's test.jsonl; and questions.jsonl of what `tubelet pages` wrote. Pictures and clips (of
    scenes: SCENE.mp4) lie under --root.

    Each question is asked once by every arm: "all" keeps every token, the others are methods of tubelet select that
    need neither text nor attention, and keep --budget tokens of each picture or clip. Answers are appended to a file as
    they come; the same command goes on behind the last of them. Every score comes with its 95 % interval over
    questions, every arm with its difference from the first one on the same questions. Needs pip install "tubelet[hf]".

    Example: tubelet eval docvqa val_v1.0.json --root spdocvqa_images --model models/Qwen2.5-VL-3B-Instruct --budget 256
    """

    benchmark: Positional[
        Annotated[
            Literal["docvqa", "chartqa", "textvqa", "scanqa", "sqa3d", "vsibench", "pages"],
            option("whose questions", "NAME"),
        ]
    ]
    files: Positional[Annotated[tuple[str, ...], option("the files of questions", "FILE...")]]
    root: Annotated[str, option("where pictures and clips are", "DIR")]
    model: Annotated[str, option("a folder or hub id of a whole model", "MODEL")]
    budget: Annotated[int | None, option("tokens that arms other than all keep of a picture or clip", "N")] = None
    arms: Annotated[str, option(f"the first is what the others are compared with (default: {ARMS})", "A,B,...")] = ARMS
    answers: Annotated[
        str | None, option("the file of answers (default: BENCHMARK.answers.jsonl in the current folder)", "FILE")
    ] = None
    plot: Annotated[str | None, option("a .png of the scores as bars with their intervals", "PNG")] = None
    questions: Annotated[int | None, option("only so many, drawn by --seed (default: all)", "N")] = None
    max_new_tokens: Annotated[int, option("longest answer (default: 32)", "N")] = 32
    seed: Annotated[int, option("of drawn questions, random choices and intervals (default: 0)", "N")] = 0
    follow_links: Annotated[bool, option("links may lead out of --root")] = False
    overwrite: Annotated[bool, option("replace the PNG; answers are never replaced, but gone on with")] = False
    on_error: OnError = "raise"
    frames: FrameOptions = FrameOptions()
    dtype: StoredDtype = "stored"
    device: Device = "auto"
    reading: ReadingOptions = ReadingOptions()
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        names = self._checked()
        from tubelet.train.evaluate.answering import AnswerFile, answer_questions
        from tubelet.train.evaluate.questions import read_questions
        from tubelet.train.evaluate.scores import compare_arms

        every = read_questions(self.benchmark, self.files, self.root, follow_links=self.follow_links)
        chosen = drawn(every, self.questions, self.seed)
        out = (
            None if self.plot is None else output_file(self.plot, self.files, overwrite=self.overwrite, option="--plot")
        )
        answers = f"{self.benchmark}.answers.jsonl" if self.answers is None else self.answers
        how = {"overwrite": True, "suffix": ".jsonl", "option": "--answers"}  # it is gone on with
        place = output_file(answers, self.files, lambda _: True, **how)
        arms = self._arms(names)
        vlm = self._load()
        if vlm.untrained:
            terminal.say(f"{file_name(self.model)} is UNTRAINED: random weights, its scores mean nothing")
        with place.file() as path, AnswerFile(path, self._run()) as kept, progress(terminal, len(chosen)) as tick:
            before = len(kept.answers)
            left = answer_questions(
                vlm,
                chosen,
                arms,
                kept,
                self._look,
                max_new_tokens=self.max_new_tokens,
                on_error=self.on_error,
                progress=lambda done: tick("answering", done),
            )
            new = len(kept.answers) - before
        asked = [q for q in chosen if all((q.id, arm) in kept.answers for arm in names)]
        said = {arm: [kept.answers[q.id, arm] for q in asked] for arm in names}
        texts = {arm: [answer.text for answer in one] for arm, one in said.items()}
        tokens = {arm: [answer.tokens for answer in one] for arm, one in said.items()}
        scores = compare_arms(self.benchmark, asked, texts, tokens, names[0], seed=self.seed)
        if out is not None and asked:
            with out.file() as picture:
                save_png(bar_chart(scores, self.benchmark, len(asked), self.model, vlm.untrained), picture)
        terminal.show(table(scores, names[0]))
        if not (self.output.json or self.output.quiet):
            terminal.line(f"answers {visible(str(path))}: {new:,} new, {before:,} were there")
        for one in left[:SHOWN]:
            terminal.say(f"question {one.id} was left out: {one.error}")
        terminal.document(self._document(scores, asked, left, len(every), file_name(str(path)), vlm.untrained))
        return FAILED if left else OK

    def _checked(self) -> tuple[str, ...]:
        """The arms' names. Raises UsageError."""
        names = tuple(dict.fromkeys(name.strip() for name in self.arms.split(",") if name.strip()))
        if not self.files or not names:
            raise UsageError("name at least one file of questions and one arm")
        if names != ("all",) and (self.budget is None or self.budget < 1):
            raise UsageError(f"{', '.join(n for n in names if n != 'all')}: give --budget N, 1 or more tokens")
        if self.max_new_tokens < 1 or (self.questions is not None and self.questions < 1):
            raise UsageError("--max-new-tokens and --questions start at 1")
        _ = self.frames.sampling  # raises for options that contradict each other, before a model is loaded
        return names

    def _arms(self, names: Sequence[str]) -> "Arms":
        from tubelet.reduce.methods import METHODS
        from tubelet.reduce.settings import Settings
        from tubelet.train.evaluate.answering import Arms

        try:
            return Arms(tuple(names), self.budget or 0, Settings(seed=self.seed))
        except InputError as e:
            able = ", ".join(name for name, method in METHODS.items() if not method.needs)
            raise UsageError(f"{e.message}; --arms takes all, {able}") from e

    def _load(self) -> "VLM":
        """The model, with --max-pixels in its recipes."""
        from tubelet.cli.model import load_vlm

        return load_vlm(self.model, self.dtype, self.device, max_pixels=self.reading.max_pixels)

    def _look(self, path: str) -> "list[Clip]":
        from tubelet.reading.read import read

        how = self.frames.sampling
        options = {"animation": self.reading.animation, "isolate": self.reading.isolate}
        return read([path], fps=how.fps, num_frames=how.num_frames, times_s=how.times_s, **options)

    def _run(self) -> dict[str, Any]:
        """What must be the same for answers to belong together; arms and questions may be added."""
        sampling = self.frames.sampling
        return {
            "benchmark": self.benchmark,
            "model": file_name(self.model),
            "budget": self.budget,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "frames": [sampling.fps, sampling.num_frames, sampling.times_s],
            "max_pixels": self.reading.max_pixels,
            "dtype": self.dtype,
        }

    def _document(
        self,
        scores: "dict[str, ArmScores]",
        asked: "Sequence[BenchmarkQuestion]",
        left: "Sequence[LeftOut]",
        total: int,
        path: str,
        untrained: bool,
    ) -> dict[str, Any]:
        arms = {}
        for name, one in scores.items():
            beside = one.against
            arms[name] = {
                "metrics": {metric: value.as_dict() for metric, value in one.metrics.items()},
                "kinds": {kind: value.as_dict() for kind, value in one.kinds.items()},
                "tokens": one.tokens.as_dict(),
                "against": None if beside is None else {**beside._asdict(), "difference": beside.difference.as_dict()},
            }
        document = {"command": "eval", **self._run(), "untrained": untrained, "questions": total, "asked": len(asked)}
        errors = [{"id": one.id, **one.error.as_dict()} for one in left]
        return document | {"arms": arms, "left_out": errors, "answers": path}


def drawn(questions: "Sequence[BenchmarkQuestion]", number: int | None, seed: int) -> "list[BenchmarkQuestion]":
    """So many questions, drawn by a seed, in their order; a larger draw holds the smaller one."""
    import numpy as np

    if number is None or number >= len(questions):
        return list(questions)
    order = np.argsort(np.random.Philox(key=[seed, 0]).random_raw(len(questions)), kind="stable")
    return [questions[i] for i in sorted(order[:number].tolist())]


def table(scores: "dict[str, ArmScores]", reference: str) -> "Table":
    """A row for each arm: tokens, scores, and the first score beside the reference's."""
    from rich import box
    from rich.table import Table

    metrics = list(next(iter(scores.values())).metrics)
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("arm")
    for name in ("tokens", *metrics):
        out.add_column(name, no_wrap=True)
    out.add_column(f"beside {reference}", no_wrap=True)
    for arm, one in scores.items():
        beside = one.against
        told = "" if beside is None else f"{beside.difference:+.3f}, better {beside.wins}, worse {beside.losses}"
        told += "" if beside is None else f", p={beside.p:.2g}"
        out.add_row(arm, f"{one.tokens.value:,.0f}", *(f"{value:.3f}" for value in one.metrics.values()), told)
    return out


def bar_chart(scores: "dict[str, ArmScores]", benchmark: str, questions: int, model: str, untrained: bool) -> "Image":
    """The first score of each arm as a bar with its interval."""
    from tubelet.inspect.draw.bars import bars
    from tubelet.inspect.draw.kept import warning
    from tubelet.inspect.draw.lettering import INK, TextLine

    metric = next(iter(next(iter(scores.values())).metrics))
    name = Path(file_name(model)).name
    lines = [TextLine((f"{benchmark}: {metric}",), 19, INK), TextLine((f"{questions:,} questions", name))]
    if untrained:
        lines[1] = warning(f"{name} is UNTRAINED", "random weights: its scores mean nothing")
    values = [(f"{arm} ({one.tokens.value:,.0f})", next(iter(one.metrics.values()))) for arm, one in scores.items()]
    return bars(values, lines)
