"""`tubelet ask`: a question about pictures and videos, answered by a vision-language model."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    from torch import Tensor

    from tubelet.language.vlm.answer_places import LocatedAnswer
    from tubelet.language.vlm.chat import Question
    from tubelet.language.vlm.model import VLM
    from tubelet.reading.clip import Clip
    from tubelet.reading.sampling import Sampling


@dataclass(frozen=True)
class Ask:
    """Ask a vision-language model about pictures and videos. The last argument is the question.

    The answer goes to stdout as it comes, the tokens and times to stderr. The model is a folder or hub id of a whole
    model, of a kind that tubelet models lists at its end, or what tubelet wrote; its tokenizer's chat template is used.
    The default, which comes with tubelet, is a small reader of printed receipts, forms and tables: it says what it is
    not sure of, and --show draws where it read. Needs transformers: pip install "tubelet[hf]".

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
        from tubelet.language.vlm.chat import ask

        asked = ask(vlm, clips, question)
        laps["encode"] = time.perf_counter() - start
        pointing = vlm.scheme.pointer is not None  # then the answer is told when it is known how sure it is
        if out is not None and not pointing:
            with out.file() as path:
                save_png(_drawn(asked), path)
        answer, said, counts = self._answer(vlm, asked, terminal, start, laps)
        report = {"command": "ask", "answer": answer, "model": file_name(self.model), "untrained": vlm.untrained}
        if pointing:
            from tubelet.language.vlm.answer_places import locate_answer

            where = locate_answer(vlm, asked, said)
            told = told_answer(answer, where)
            terminal.piece(f"{told}\n")
            report |= {"sure": where.sure, "probability": where.probability, "places": _places(where, asked)}
            if out is not None:
                with out.file() as path:
                    save_png(_drawn(asked, where, (question, told)), path)
        report |= {"files": _files(asked), "tokens": counts, "seconds": laps}
        report |= {} if out is None else {"show": out.name}
        terminal.aside(_table(counts, laps, self.model))
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

    def _answer(
        self, vlm: "VLM", asked: "Question", terminal: Terminal, start: float, laps: dict[str, float]
    ) -> "tuple[str, Tensor, dict[str, int]]":
        """The answer, said to stdout as it comes unless the model can tell how sure it is, its ids, and how many tokens
        it all took. `laps` gets the times since `start`."""
        import torch

        from tubelet.language.vlm.stream import TokenStreamer

        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if vlm.scheme.pointer is None:
                terminal.piece(text)

        torch.manual_seed(self.seed)
        streamer = TokenStreamer(vlm.tokenizer, say)
        most, temperature = self.max_new_tokens, self.temperature
        ids = vlm.generate(asked.ready, max_new_tokens=most, temperature=temperature, streamer=streamer)
        end = time.perf_counter()
        say("\n")
        first = end if streamer.first is None else streamer.first
        laps |= {"first_token": first - start, "answer": end - start}
        visual = int(asked.ready.visual.sum())
        prompt = asked.ready.input_ids.shape[1]
        counts = {"patches": len(asked.patches.x), "visual": visual, "text": prompt - visual}
        return "".join(said[:-1]), ids, counts | {"prompt": prompt, "answer": streamer.tokens}


# ---- what is shown


def told_answer(answer: str, found: "LocatedAnswer") -> str:
    """The answer as a person is told it: what is not on the page, and what the model is not sure of, is said to be."""
    if not found.sure:
        return f"not sure: {answer}" if answer else "not sure: it seems not to be there"
    return answer or "it is not there"


def _drawn(asked: "Question", found: "LocatedAnswer | None" = None, said: Sequence[str] = ()) -> "Image":
    """What the model saw, with boxes where it read the answer."""
    from tubelet.inspect.draw.places import draw_question

    return draw_question(asked, () if found is None else found.places, said)


def _places(found: "LocatedAnswer", asked: "Question") -> list[dict[str, Any]]:
    """Where the answer was read, for scripts."""
    return [
        {"file": file_name(asked.clips[place.picture].source), "frame": place.frame, "box": list(place.box),
         "share": place.share}
        for place in found.places
    ]  # fmt: skip


def _files(asked: "Question") -> list[dict[str, Any]]:
    """What became of each file."""
    tokens = asked.rows.tokens
    items = [[i for i, item in enumerate(tokens.items) if item.picture == n] for n in range(len(asked.clips))]
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
        for clip, own in zip(asked.clips, items, strict=True)
    ]


def _table(counts: dict[str, int], laps: dict[str, float], model: str) -> "RenderableType":
    """Tokens and times for a person: a line under the names of what was counted and timed."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rest = laps["answer"] - laps["first_token"]
    rate = (counts["answer"] - 1) / rest if counts["answer"] > 1 and rest > 0 else None
    cells = {
        "prompt": f"{counts['prompt']:,}",
        "visual": f"{counts['visual']:,}",
        "text": f"{counts['text']:,}",
        "answer": f"{counts['answer']:,}",
        "reading": seconds(laps["read"]),
        "loading": seconds(laps["load"]),
        "encoding": seconds(laps["encode"]),
        "first token": seconds(laps["first_token"]),
        "whole answer": seconds(laps["answer"]),
        "tokens/s": "" if rate is None else f"{rate:.1f}",
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    return Group(table, Text(f"model   {visible(file_name(model))}"))
