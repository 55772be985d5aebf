"""`tubelet ask`: a question about pictures and videos, answered by a vision-language model."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from tubelet.cli.options import (
    DEFAULT_MODEL,
    Device,
    FrameOptions,
    OutputOptions,
    Overwrite,
    ReadingOptions,
    StoredDtype,
    option,
)
from tubelet.cli.output import output_file
from tubelet.cli.sources import Inputs, inputs_of
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name, seconds, visible
from tubelet.writing import save_png

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

    from tubelet.language.vlm.answer_places import LocatedAnswer, Place
    from tubelet.language.vlm.chat import Question
    from tubelet.language.vlm.model import VLM
    from tubelet.packed import Packed
    from tubelet.reading.clip import Clip
    from tubelet.reading.sampling import Sampling

    Told = tuple[dict[str, Any], Callable[[], Image]]  # what is reported, and the picture of what was seen


@dataclass(frozen=True)
class Ask:
    """Ask a vision-language model about pictures and videos. The last argument is the question.

    The answer goes to stdout as it comes, the tokens and times to stderr. The model is a folder or hub id of a whole
    model, of a kind that tubelet models lists at its end, or what tubelet wrote; its tokenizer's chat template is used.
    The default, which comes with tubelet, is a small reader of printed receipts, forms and tables: each page is asked
    by itself, the surest answer is told or that it is not sure, and --show draws where it was read. Needs transformers:
    pip install "tubelet[hf]".

    Example: tubelet ask receipt.png "What is the total?" --show answer.png
    """

    words: Positional[Annotated[tuple[str, ...], option("pictures and videos, then the question", "FILE... QUESTION")]]
    model: Annotated[str, option(f"a folder or hub id of a whole model (default: {DEFAULT_MODEL})", "MODEL")] = (
        DEFAULT_MODEL
    )
    vision_tower: Annotated[
        str | None, option("where the tower of a LLaVA checkpoint is, when it is not inside", "MODEL")
    ] = None
    show: Annotated[str | None, option("also a .png of what the model saw, with its tokens", "FILE")] = None
    max_new_tokens: Annotated[int, option("longest answer (default: 256)", "N")] = 256
    temperature: Annotated[
        float | None, option("draw tokens, the more freely the higher (default: the likeliest token)", "T")
    ] = None
    seed: Annotated[int, option("of what is drawn (default: 0)", "N")] = 0
    frames: FrameOptions = FrameOptions()
    dtype: StoredDtype = "stored"
    device: Device = "auto"
    overwrite: Overwrite = False
    reading: ReadingOptions = ReadingOptions()
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        files, question, sampling = self._checked()
        inputs = inputs_of(files, terminal, urls=self.reading.urls)
        how = {"overwrite": self.overwrite, "option": "--show"}
        out = None if self.show is None else output_file(self.show, inputs.names, **how)
        laps: dict[str, float] = {}
        start = time.perf_counter()
        clips = self._read(inputs, sampling)  # before the model: a wrong file name is told at once
        laps["read"] = time.perf_counter() - start
        from tubelet.cli.room import tell_room

        most = {"max_pixels": self.reading.max_pixels, "max_tokens": self.reading.max_tokens}
        tell_room(terminal, self.model, clips, dtype=self.dtype, device=self.device, **most)
        start = time.perf_counter()
        vlm = self._load()
        if vlm.untrained:
            terminal.say(f"{file_name(self.model)} is UNTRAINED: random weights, the answer means nothing")
        laps["load"] = time.perf_counter() - start
        start = time.perf_counter()
        report = {"command": "ask", "model": file_name(self.model), "untrained": vlm.untrained}
        tell = self._tell_surest if vlm.scheme.pointer is not None else self._tell
        said, drawn = tell(vlm, clips, question, terminal, start, laps)
        if out is not None:
            with out.file() as path:
                save_png(drawn(), path)
        report |= {**said, "seconds": laps} | ({} if out is None else {"show": out.name})
        terminal.aside(_table(report["tokens"], laps, self.model))
        terminal.document(report)
        return OK

    def _checked(self) -> "tuple[tuple[str, ...], str, Sampling]":
        """Files, question and how clips are sampled. Raises UsageError."""
        if len(self.words) < 2:
            raise UsageError("name at least one file, and the question after the files")
        *files, question = self.words
        if not question.strip():
            raise UsageError("the question is empty")
        if os.path.isfile(question):  # noqa: PTH113  that of Path raises where a name is too long
            raise UsageError(f"the last argument is the question, and {visible(question)} is a file")
        if self.max_new_tokens < 1:
            raise UsageError(f"--max-new-tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature is not None and not 0 < self.temperature < 100:
            raise UsageError(f"--temperature must be above 0 and below 100, got {self.temperature}")
        return tuple(files), question, self.frames.sampling

    def _load(self) -> "VLM":
        """The model, with --max-pixels and --max-tokens in its recipes. Raises as `load_vlm`."""
        from tubelet.cli.model import load_vlm

        most = {"max_pixels": self.reading.max_pixels, "max_tokens": self.reading.max_tokens}
        return load_vlm(self.model, self.dtype, self.device, vision_tower=self.vision_tower, **most)

    def _read(self, inputs: Inputs, sampling: "Sampling") -> "list[Clip]":
        from tubelet.reading.read import read

        return read(
            list(inputs.sources),
            fps=sampling.fps,
            num_frames=sampling.num_frames,
            times_s=sampling.times_s,
            animation=self.reading.animation,
            isolate=self.reading.isolate,
        )

    def _tell(
        self, vlm: "VLM", clips: "list[Clip]", question: str, terminal: Terminal, start: float, laps: dict[str, float]
    ) -> "Told":
        """The answer, said to stdout as it comes. `laps` gets the times since `start`."""
        import torch

        from tubelet.language.vlm.chat import ask
        from tubelet.language.vlm.stream import TokenStreamer

        asked = ask(vlm, clips, question)
        laps["encode"] = time.perf_counter() - start
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            terminal.piece(text)

        torch.manual_seed(self.seed)
        streamer = TokenStreamer(vlm.tokenizer, say)
        most, temperature = self.max_new_tokens, self.temperature
        vlm.generate(asked.ready, max_new_tokens=most, temperature=temperature, streamer=streamer)
        end = time.perf_counter()
        terminal.piece("\n")
        first = end if streamer.first is None else streamer.first
        laps |= {"first_token": first - start, "answer": end - start}
        counts = _counts([asked], streamer.tokens)
        report = {"answer": "".join(said), "files": _files(asked.clips, asked.rows.tokens), "tokens": counts}
        return report, lambda: _drawn(asked)

    def _tell_surest(
        self, vlm: "VLM", clips: "list[Clip]", question: str, terminal: Terminal, start: float, laps: dict[str, float]
    ) -> "Told":
        """The surest answer of all pages, said when it is known how sure it is, and where it was read."""
        import torch

        from tubelet.cli.progress import progress
        from tubelet.language.vlm.pages import answer_pages, see_pages, surest

        asked = see_pages(vlm, clips).ask(vlm, question)
        laps["encode"] = time.perf_counter() - start
        torch.manual_seed(self.seed)
        most, temperature = self.max_new_tokens, self.temperature
        with progress(terminal, len(asked.pages), "looks") as tick:
            tick("asking", 0)
            answers = answer_pages(
                vlm, asked, max_new_tokens=most, temperature=temperature, tick=partial(tick, "asking")
            )
        laps["answer"] = time.perf_counter() - start
        best = surest(answers)
        page, told = asked.pages[best.page], told_answer(best.text, best.found)
        seen = asked.clips[page.clip]
        name = visible(file_name(seen.source))
        where = f"{name} at {seen.times_s[page.row]:.2f} s" if seen.is_video else name
        lines = (told,) if len(answers) == 1 or not best.text else (told, f"in {where}")
        terminal.piece("".join(f"{line}\n" for line in lines))
        report = {
            "answer": best.text,
            "sure": best.found.sure,
            "probability": best.found.probability,
            "places": _places(best.found, asked.clips),
            "files": _files(asked.clips, asked.rows.tokens),
            "tokens": _counts([look.question for look in asked.pages], sum(a.tokens for a in answers)),
        }
        here = [place._replace(picture=0, frame=0) for place in best.found.places]
        return report, lambda: _drawn(page.question, here, (question, *lines))


# ---- what is shown


def told_answer(answer: str, found: "LocatedAnswer") -> str:
    """The answer as a person is told it: what is not on the page, and what the model is not sure of, is said to be."""
    if not found.sure:
        return f"not sure: {answer}" if answer else "not sure: it seems not to be there"
    return answer or "it is not there"


def _drawn(asked: "Question", places: "Sequence[Place]" = (), said: Sequence[str] = ()) -> "Image":
    """What the model saw, with boxes where it read the answer."""
    from tubelet.inspect.draw.places import draw_question

    return draw_question(asked, places, said)


def _places(found: "LocatedAnswer", clips: "Sequence[Clip]") -> list[dict[str, Any]]:
    """Where the answer was read, for scripts."""
    return [
        {
            "file": file_name(clips[place.picture].source),
            "frame": place.frame,
            "time_s": clips[place.picture].times_s[place.frame],
            "box": list(place.box),
            "share": place.share,
        }
        for place in found.places
    ]


def _counts(asked: "Sequence[Question]", answer: int) -> dict[str, int]:
    """How many tokens it all took, of every look at every page."""
    patches = sum(len(one.patches.x) for one in asked)
    visual = sum(int(one.ready.visual.sum()) for one in asked)
    prompt = sum(one.ready.input_ids.shape[1] for one in asked)
    return {"patches": patches, "visual": visual, "text": prompt - visual, "prompt": prompt, "answer": answer}


def _files(clips: "Sequence[Clip]", tokens: "Packed") -> list[dict[str, Any]]:
    """What became of each file."""
    items = [[i for i, item in enumerate(tokens.items) if item.picture == n] for n in range(len(clips))]
    return [
        {
            "file": file_name(clip.source),
            "width": clip.width,
            "height": clip.height,
            "frames": len(clip),
            "times_s": list(clip.times_s),
            "grid": list(tokens.items[own[0]].grid),
            "grids": [list(tokens.items[i].grid) for i in own],
            "tokens": sum(tokens.lengths[i] for i in own),
            "complete": clip.complete,
            "notes": list(clip.notes),
        }
        for clip, own in zip(clips, items, strict=True)
    ]


def _table(counts: dict[str, int], laps: dict[str, float], model: str) -> "RenderableType":
    """Tokens and times for a person: a line under the names of what was counted and timed."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    first = laps.get("first_token")  # of an answer that came token by token
    rest = 0.0 if first is None else laps["answer"] - first
    rate = (counts["answer"] - 1) / rest if counts["answer"] > 1 and rest > 0 else None
    cells = {
        "prompt": f"{counts['prompt']:,}",
        "visual": f"{counts['visual']:,}",
        "text": f"{counts['text']:,}",
        "answer": f"{counts['answer']:,}",
        "reading": seconds(laps["read"]),
        "loading": seconds(laps["load"]),
        "encoding": seconds(laps["encode"]),
        "first token": "" if first is None else seconds(first),
        "whole answer": seconds(laps["answer"]),
        "tokens/s": "" if rate is None else f"{rate:.1f}",
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    return Group(table, Text(f"model   {visible(file_name(model))}"))
