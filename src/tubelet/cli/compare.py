"""`tubelet compare`: several ways to choose tokens beside each other, with pooling, down-sampling and chance."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tubelet.cli.choosing import (
    Budget,
    ChoosingOptions,
    SelectionRequest,
    boxes_of,
    checked,
    encoded,
    settings_for,
    tell_choosing,
)
from tubelet.cli.compared import Compared
from tubelet.cli.options import Files, FrameOptions, OutputOptions, Overwrite, ReadingOptions, option, with_budget
from tubelet.cli.output import Drawings
from tubelet.cli.progress import progress
from tubelet.cli.sought import require_text_side, words_of
from tubelet.cli.sources import inputs_of
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name
from tubelet.errors import TubeletError
from tubelet.writing import save_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from tubelet.reduce.encoded import EncodedFile
    from tubelet.reduce.methods import Choice

REFERENCES = ("random", "pool", "downsample")
WITH_TEXT, WITHOUT_TEXT = ("shirg", "text", "divprune"), ("divprune", "attention", "edges")
SMALLEST_SIDE = 500


@dataclass(frozen=True)
class Compare:
    """Compare ways to choose tokens at the same budget: one page with a picture for each, and a table of numbers.

    page.jpg becomes page.compared.png in the current folder, unless --show says otherwise. A random choice, pooling
    and down-sampling are always there: what does not beat them is not worth its time. Over several pictures every
    number has its 95 % interval; one picture gives none, and chance is then a mean of several draws. Arrows say which
    way is better, the best is bold. --runs 6 adds the time of the encoder and the method over the encoder alone.
    Methods are those of tubelet select.

    Example: tubelet compare receipt.png --methods divprune,edges --budget 64 --boxes 340,565,525,605
    """

    files: Files
    budget: Budget
    methods: Annotated[
        str | None,
        option("which (default: shirg,text,divprune with a text, else divprune,attention,edges)", "A,B,..."),
    ] = None
    show: Annotated[
        str | None, option("the .png to write, - for stdout, or a folder for those of several files", "FILE")
    ] = None
    runs: Annotated[int, option("how often the encoder and each method are timed (default: 0, never)", "N")] = 0
    choosing: ChoosingOptions = ChoosingOptions()
    frames: FrameOptions = FrameOptions()
    max_side: Annotated[int, option("longest side of the PNG, in pixels (default: 1600)", "N")] = 1600
    overwrite: Overwrite = False
    reading: ReadingOptions = ReadingOptions()
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.cli.compare_report import compare_document, compare_table
        from tubelet.reading.job import ReadJob

        sampling = self.frames.sampling
        if self.max_side < SMALLEST_SIDE or self.runs < 0:
            raise UsageError(f"--max-side is {SMALLEST_SIDE} or more and --runs 0 or more")
        inputs = inputs_of(self.files, terminal, urls=self.reading.urls)
        asked = self._wish()
        where = {"overwrite": self.overwrite, "kind": "compared", "option": "--show"}
        drawings = Drawings(self.show, inputs.names, terminal, **where)
        job = ReadJob(sampling=sampling, animation=self.reading.animation)
        inputs = inputs.outlined(job, self.reading.isolate)
        wish = checked(asked, inputs.names)  # methods need torch: what is wrong with files is told before
        boxes = boxes_of(wish, inputs.names)
        require_text_side(wish.text, self.choosing.model, self.choosing.config)
        model = self.choosing.load()
        recipe = with_budget(model.encoder.pixels, self.reading.max_pixels, self.reading.max_tokens)
        sought = words_of(wish.text, wish.text_file, wish.space, model, self.choosing.model)
        result = Compared(wish, model, self.runs)
        tell_choosing(terminal, inputs.sources, wish, recipe, model, job, self.reading.isolate, times=1 + self.runs)
        with progress(terminal, len(inputs)) as tick:
            for i, file in enumerate(inputs.names):
                tick("comparing", i)
                seen = encoded(inputs.sources[i], i, wish, model, recipe, sought, boxes, job, self.reading.isolate)
                choices = self._choices(i, seen, wish)
                result.add(seen, choices)
                place = drawings.place(i, "compared")
                with place.file() as path:
                    save_png(self._page(seen, choices, result, len(result.files)), path)
                result.files.append(self._about(file, place.name, seen))
        terminal.show(compare_table(result, terminal.columns, arrows=terminal.arrows))
        terminal.document(compare_document(result))
        return OK

    def _wish(self) -> SelectionRequest:
        usual = WITH_TEXT if self.choosing.has_text else WITHOUT_TEXT
        named = usual if self.methods is None else tuple(n.strip() for n in self.methods.split(","))
        return self.choosing.request(dict.fromkeys((*named, *REFERENCES)), self.budget)

    def _choices(self, index: int, seen: "EncodedFile", wish: SelectionRequest) -> "dict[str, Choice]":
        from tubelet.reduce.methods import choose

        out = {}
        budget = wish.budget.of(len(seen.inputs.tokens.x))
        for name in wish.methods:
            try:
                out[name] = choose(name, seen.inputs, budget=budget, settings=settings_for(wish, seen, name))
            except TubeletError as e:
                e.message = f"{name}: {e.message}"
                raise e.placed(item=index, source=seen.clip.source) from None
        return out

    def _page(self, seen: "EncodedFile", choices: "dict[str, Choice]", result: "Compared", index: int) -> "Image":
        from tubelet.inspect.draw.cells import layers_of
        from tubelet.inspect.draw.compare import Entry, draw_comparison
        from tubelet.inspect.draw.frames import name_of
        from tubelet.inspect.draw.kept import warning
        from tubelet.inspect.draw.lettering import INK, TextLine
        from tubelet.reduce.methods import method_of

        tokens, model, wish = seen.inputs.tokens, result.model, result.wish
        entries = []
        for name, choice in choices.items():
            cell = None
            if method_of(name).kind == "resizes":
                cell = model.encoder.pixels.unit if name == "downsample" else 1
            note = f"{len(choice.kept.x):,} tokens", method_of(name).about
            entries.append(Entry(name, note, tuple(layers_of(tokens, choice.kept, 0)), cell))
        about = [f"budget {wish.budget} of {len(tokens.x):,} tokens"]
        about += [f'text "{wish.text}"'] if wish.text is not None else []
        lines = [TextLine((name_of(seen.clip),), 19, INK), TextLine(tuple(about)), TextLine((model.name,))]
        if model.untrained:
            lines[2] = warning(f"{model.name} is UNTRAINED", "random weights: its tokens mean nothing")
        return draw_comparison(seen.clip, entries, result.numbers(index), lines, max_side=self.max_side)

    def _about(self, file: str, path: str, seen: "EncodedFile") -> dict[str, Any]:
        return {
            "file": file_name(file),
            "picture": path,
            "width": seen.clip.width,
            "height": seen.clip.height,
            "frames": len(seen.clip),
            "tokens": len(seen.inputs.tokens.x),
            "views": [{"grid": list(i.grid), "box": list(i.box)} for i in seen.inputs.tokens.items],
            "complete": seen.clip.complete,
            "notes": list(seen.clip.notes),
        }
