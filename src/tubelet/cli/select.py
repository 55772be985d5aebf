"""`tubelet select`: fewer tokens of pictures and clips, chosen; a file of them and a picture of which they are."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tubelet.cli.choosing import (
    BoxesOf,
    Budget,
    Coverage,
    Device,
    Dilate,
    LayerOf,
    ModelOf,
    ScaffoldOf,
    Seed,
    SelectionRequest,
    SpaceOf,
    TextFile,
    TextOf,
    ViewsOf,
    WordsOf,
    boxes_of,
    checked,
    encoded,
    settings_for,
    words_of,
)
from tubelet.cli.options import (
    DEFAULT_MODEL,
    Animation,
    Config,
    Debug,
    Files,
    Fps,
    Isolate,
    Json,
    MaxPixels,
    NumFrames,
    OnError,
    Quiet,
    Times,
    option,
    require_files,
    sampling_of,
    with_budget,
)
from tubelet.cli.output import Drawings, output_file, save_png
from tubelet.cli.progress import progress
from tubelet.cli.select_report import Selected
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError, file_name
from tubelet.errors import InputError

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

    Example: tubelet select receipt.png --budget 64
    """

    files: Files
    budget: Budget
    method: Annotated[str | None, option("(default: shirg with a text, divprune without)", "NAME")] = None
    text: TextOf = None
    text_embeddings: TextFile = None
    text_space: SpaceOf = "auto"
    model: ModelOf = DEFAULT_MODEL
    config: Config = None
    out: Annotated[str | None, option("the safetensors file of kept tokens to write", "FILE")] = None
    show: Annotated[str | None, option("the PNG to write, or a folder for those of several files", "FILE")] = None
    heat: Annotated[bool, option("draw the scores as heat, too")] = False
    coverage: Coverage = None
    words: WordsOf = "max"
    dilate: Dilate = None
    boxes: BoxesOf = None
    views: ViewsOf = None
    scaffold: ScaffoldOf = None
    layer: LayerOf = -2
    seed: Seed = 0
    fps: Fps = None
    num_frames: NumFrames = None
    times: Times = None
    max_pixels: MaxPixels = None
    max_side: Annotated[int, option("longest side of the PNG (default: 1600)", "N")] = 1600
    device: Device = "auto"
    on_error: OnError = "raise"
    animation: Animation = False
    isolate: Isolate = "auto"
    json: Json = False
    quiet: Quiet = False
    debug: Debug = False

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.cli.model import load_model
        from tubelet.cli.select_report import select_document, select_table

        require_files(self.files)
        sampling = sampling_of(self.fps, self.num_frames, self.times)
        if self.max_side < SMALLEST_SIDE:
            raise UsageError(f"--max-side must be at least {SMALLEST_SIDE}, got {self.max_side}")
        wish = checked(self._wish(), self.files)
        boxes = boxes_of(wish, self.files)
        out = None if self.out is None else output_file(self.out, self.files)
        drawings = Drawings(self.show, self.files, option="--show")
        start = time.perf_counter()
        model = load_model(self.model, "float32", self.device, pool=False, config=self.config)
        recipe = with_budget(model.encoder.pixels, self.max_pixels)
        text = words_of(wish, model)
        result = Selected(wish.methods[0], self.budget, model, time.perf_counter() - start)
        with progress(terminal, len(self.files)) as tick:
            for i, file in enumerate(self.files):
                tick("choosing", i)
                try:
                    options = {"animation": self.animation, "isolate": self.isolate}
                    seen = encoded(file, i, wish, model, recipe, text, boxes, sampling, **options)
                    self._one(i, seen, wish, result, drawings)
                except InputError as e:
                    if self.on_error == "raise":
                        raise
                    terminal.say(str(e))
                    result.errors.append(e.as_dict() | {"file": file_name(file)})
        if out is not None and result.kept:
            result.save(str(out), self.files, wish)
        terminal.show(select_table(result, self.out))
        terminal.document(select_document(result, self.out, wish))
        return FAILED if result.errors else OK

    def _wish(self) -> SelectionRequest:
        from tubelet.cli.values import view_rule
        from tubelet.reduce.settings import Settings

        given = self.text is not None or self.text_embeddings is not None
        name = self.method or ("shirg" if given else "divprune")
        settings = Settings(coverage=self.coverage, words=self.words, radius=self.dilate, seed=self.seed)
        views = view_rule(self.views, None, None)
        asked = (self.text, self.text_embeddings, self.text_space, self.boxes, views, self.scaffold, self.layer)
        return SelectionRequest((name,), self.budget, settings, *asked)

    def _one(
        self, index: int, seen: "EncodedFile", wish: SelectionRequest, result: "Selected", drawings: Drawings
    ) -> None:
        """Choose from one file, draw it, and add it to the result."""
        from tubelet.reduce.methods import choose

        name = wish.methods[0]
        start = time.perf_counter()
        try:
            choice = choose(name, seen.inputs, budget=wish.budget, settings=settings_for(wish, seen, name))
        except InputError as e:
            raise e.placed(item=index, source=seen.clip.source) from None
        seen.seconds["choose"] = time.perf_counter() - start
        start = time.perf_counter()
        path = drawings.path(index, "kept")
        save_png(self._draw(seen, choice, wish, result.model), path)
        seen.seconds["draw"] = time.perf_counter() - start
        result.add(file_name(self.files[index]), file_name(str(path)), seen, choice)

    def _draw(self, seen: "EncodedFile", choice: "Choice", wish: SelectionRequest, model: "Model") -> "Image":
        from tubelet.inspect.draw.cells import layers_of
        from tubelet.inspect.draw.kept import draw_kept, warning
        from tubelet.inspect.draw.lettering import TextLine
        from tubelet.reduce.methods import method_of

        name, tokens = wish.methods[0], seen.inputs.tokens
        layers = layers_of(tokens, choice.kept, 0, choice.scores)
        about = [f"{name}: {method_of(name).about}", f"budget {wish.budget:,}"]
        if wish.text is not None:
            about.append(f'text "{wish.text}"')
        lines = [TextLine(tuple(about)), TextLine((model.name,))]
        if model.untrained:
            lines[1] = warning(f"{model.name} is UNTRAINED", "random weights: its tokens mean nothing")
        total = len(tokens.x)
        return draw_kept(seen.clip, layers, lines, total=total, heat=self.heat, max_side=self.max_side)
