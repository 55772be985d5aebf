"""`tubelet select`: fewer tokens of pictures and clips, chosen; a file of them and a picture of which they are."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tubelet.cli.choosing import (
    Budget,
    ChoosingOptions,
    SelectionRequest,
    boxes_of,
    checked,
    encoded,
    settings_for,
    shared,
    tell_choosing,
)
from tubelet.cli.options import (
    Files,
    FrameOptions,
    OnError,
    OutputOptions,
    Overwrite,
    ReadingOptions,
    option,
    with_budget,
)
from tubelet.cli.output import Drawings, output_file
from tubelet.cli.progress import progress
from tubelet.cli.select_report import Selected
from tubelet.cli.sought import require_text_side, words_of
from tubelet.cli.sources import inputs_of
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError, file_name
from tubelet.errors import InputError
from tubelet.writing import save_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from tubelet.cli.model import Model
    from tubelet.reduce.encoded import EncodedFile
    from tubelet.reduce.methods import Choice

SMALLEST_SIDE = 500


@dataclass(frozen=True)
class Select:
    """Choose the tokens of pictures and clips that are worth their place, and draw which they are.

    page.jpg becomes page.kept.png in the current folder, unless --show says otherwise: what is kept bright and
    outlined, the rest dimmed; tiles and views at their place, the frames of a clip side by side. --out writes the
    tokens with their places. tubelet compare shows several methods beside each other. Methods: shirg, text, cdpruner
    (near a text); attention, visionzip, prumerge (by a layer's attention); divprune, tome, edges, variance, norm (by
    the tokens alone); codec (where a video changes); uniform, random, pool, downsample (what has to be beaten); boxes
    (an oracle); shirg-v1 and others (historical).

    With --share the budget is one for all files, which are then in memory together: a blank page leaves its part to a
    full one.

    Example: tubelet select receipt.png --budget 64
    """

    files: Files
    budget: Budget
    method: Annotated[
        str | None, option("how they are chosen, see above (default: shirg with a text, divprune without)", "NAME")
    ] = None
    out: Annotated[str | None, option("the .safetensors file of kept tokens to write, - for stdout", "FILE")] = None
    show: Annotated[
        str | None, option("the .png to write, - for stdout, or a folder for those of several files", "FILE")
    ] = None
    share: Annotated[bool, option("one budget for all files together, shared by how much each of them holds")] = False
    heat: Annotated[bool, option("draw the scores over the picture, too, the higher the warmer")] = False
    choosing: ChoosingOptions = ChoosingOptions()
    frames: FrameOptions = FrameOptions()
    max_side: Annotated[int, option("longest side of the PNG, in pixels (default: 1600)", "N")] = 1600
    overwrite: Overwrite = False
    on_error: OnError = "raise"
    reading: ReadingOptions = ReadingOptions()
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.cli.select_report import select_document, select_table
        from tubelet.reading.job import ReadJob

        sampling = self.frames.sampling
        if self.max_side < SMALLEST_SIDE:
            raise UsageError(f"--max-side must be at least {SMALLEST_SIDE}, got {self.max_side}")
        method = self.method or ("shirg" if self.choosing.has_text else "divprune")
        inputs = inputs_of(self.files, terminal, urls=self.reading.urls)
        asked = self.choosing.request((method,), self.budget)
        from tubelet.packed.header import is_pack

        where = {"overwrite": self.overwrite, "suffix": ".safetensors", "terminal": terminal}
        out = None if self.out is None else output_file(self.out, inputs.names, is_pack, **where)
        drawings = Drawings(self.show, inputs.names, terminal, overwrite=self.overwrite, kind="kept", option="--show")
        job = ReadJob(sampling=sampling, animation=self.reading.animation)
        inputs = inputs.outlined(job, self.reading.isolate, skip=self.on_error == "skip")
        wish = checked(asked, inputs.names)  # methods need torch: what is wrong with files is told before
        boxes = boxes_of(wish, inputs.names)
        require_text_side(wish.text, self.choosing.model, self.choosing.config)
        start = time.perf_counter()
        model = self.choosing.load()
        recipe = with_budget(model.encoder.pixels, self.reading.max_pixels, self.reading.max_tokens)
        sought = words_of(wish.text, wish.text_file, wish.space, model, self.choosing.model)
        result = Selected(wish.methods[0], wish.budget, model, time.perf_counter() - start, shared=self.share)
        tell_choosing(terminal, inputs.sources, wish, recipe, model, job, self.reading.isolate)
        with progress(terminal, len(inputs)) as tick:
            waiting: dict[int, EncodedFile] = {}  # of a shared budget: what all hold is known when all are encoded
            for i in range(len(inputs)):
                tick("choosing", i)
                with self._skipping(inputs.names[i], result, terminal):
                    seen = encoded(inputs.sources[i], i, wish, model, recipe, sought, boxes, job, self.reading.isolate)
                    waiting[i] = seen
                    if not self.share:
                        budget = wish.budget.of(len(waiting.pop(i).inputs.tokens.x))
                        self._one(i, inputs.names[i], seen, budget, wish, result, drawings)
            for (i, seen), budget in zip(waiting.items(), shared(list(waiting.values()), wish.budget), strict=True):
                with self._skipping(inputs.names[i], result, terminal):
                    self._one(i, inputs.names[i], seen, budget, wish, result, drawings)
        if out is not None and result.kept:
            with out.file() as path:
                result.save(str(path), inputs.names, wish)
        terminal.show(select_table(result, self.out))
        terminal.document(select_document(result, self.out, wish))
        return FAILED if result.errors else OK

    @contextmanager
    def _skipping(self, file: str, result: "Selected", terminal: Terminal) -> Iterator[None]:
        """With --on-error skip an error of one file is put down, and the rest goes on."""
        try:
            yield
        except InputError as e:
            if self.on_error == "raise":
                raise
            terminal.say(str(e))
            result.errors.append(e.as_dict() | {"file": file_name(file)})

    def _one(
        self,
        index: int,
        file: str,
        seen: "EncodedFile",
        budget: int,
        wish: SelectionRequest,
        result: "Selected",
        drawings: Drawings,
    ) -> None:
        """Choose from one file, draw it, and add it to the result."""
        from tubelet.reduce.methods import choose

        name = wish.methods[0]
        start = time.perf_counter()
        try:
            choice = choose(name, seen.inputs, budget=budget, settings=settings_for(wish, seen, name))
        except InputError as e:
            raise e.placed(item=index, source=seen.clip.source) from None
        seen.seconds["choose"] = time.perf_counter() - start
        start = time.perf_counter()
        place = drawings.place(index, "kept")
        with place.file() as path:
            save_png(self._draw(seen, choice, budget, wish, result.model), path)
        seen.seconds["draw"] = time.perf_counter() - start
        result.add(file_name(file), place.name, seen, budget, choice)

    def _draw(
        self, seen: "EncodedFile", choice: "Choice", budget: int, wish: SelectionRequest, model: "Model"
    ) -> "Image":
        from tubelet.inspect.draw.cells import layers_of
        from tubelet.inspect.draw.kept import draw_kept, warning
        from tubelet.inspect.draw.lettering import TextLine
        from tubelet.reduce.methods import method_of

        name, tokens = wish.methods[0], seen.inputs.tokens
        layers = layers_of(tokens, choice.kept, 0, choice.scores)
        about = [
            f"{name}: {method_of(name).about}",
            f"budget {budget:,}, its share of {wish.budget}" if self.share else f"budget {wish.budget}",
        ]
        if wish.text is not None:
            about.append(f'text "{wish.text}"')
        lines = [TextLine(tuple(about)), TextLine((model.name,))]
        if model.untrained:
            lines[1] = warning(f"{model.name} is UNTRAINED", "random weights: its tokens mean nothing")
        total = len(tokens.x)
        return draw_kept(seen.clip, layers, lines, total=total, heat=self.heat, max_side=self.max_side)
