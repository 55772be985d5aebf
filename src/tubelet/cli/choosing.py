"""What `select` and `compare` share: their options, the boxes, and a file encoded as they say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tubelet.cli.options import DEFAULT_MODEL, AnyModel, Config, option
from tubelet.cli.terminal import Terminal, UsageError, file_name
from tubelet.cli.values import TokenBudget, parse_budget
from tubelet.cli.work import MOST_FILES, tell_work
from tubelet.errors import InputError, TubeletError

if TYPE_CHECKING:
    from tubelet.cli.model import Model
    from tubelet.cli.sought import SoughtWords
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.pixels.views import Views
    from tubelet.reading.job import ReadJob
    from tubelet.reading.read import Isolate
    from tubelet.reduce.encoded import EncodedFile
    from tubelet.reduce.inputs import Space
    from tubelet.reduce.methods import Need
    from tubelet.reduce.scores import Box
    from tubelet.reduce.settings import Settings

SCAFFOLD = 64  # tokens of the whole view that shirg always keeps beside those of tiles

Budget = Annotated[str, option("tokens to keep of each picture or clip: a number, or a share such as 10%", "N")]


@dataclass(frozen=True)
class ChoosingOptions:
    """What tokens are chosen by, and whose they are."""

    text: Annotated[
        str | None,
        option("what is asked; its words are looked for as they are printed, with SigLIP by what they mean", "TEXT"),
    ] = None
    text_embeddings: Annotated[
        str | None,
        option("or: vectors of words, (words, values) in a safetensors file, for any model", "FILE.safetensors"),
    ] = None
    text_space: Annotated[
        Literal["auto", "head", "rows"],
        option("where text is looked for: in the space of the pooling head, or in that of the tokens (default: auto)"),
    ] = "auto"
    model: AnyModel = DEFAULT_MODEL
    config: Config = None
    coverage: Annotated[
        int | None, option("spread them: for a quarter of the budget the best of each N x N region comes first", "N")
    ] = None
    words: Annotated[
        Literal["max", "logsumexp", "mean"], option("how the scores of several words become one (default: max)")
    ] = "max"
    dilate: Annotated[
        int | None, option("tokens on each side that count with a word's own (default: 3 for shirg)", "N")
    ] = None
    boxes: Annotated[
        str | None,
        option(
            "rectangles that matter, in pixels: left,top,right,bottom;... of one file, or a JSON file of such lists "
            "by file name",
            "B",
        ),
    ] = None
    views: Annotated[
        str | None,
        option("cut pictures into views: lavida, 384:768x384,384x768 or others (see tubelet plan)", "RULE"),
    ] = None
    scaffold: Annotated[
        int | None,
        option("with --views: the whole view, pooled to N tokens, is always kept (default: 64 for shirg, else 0)", "N"),
    ] = None
    layer: Annotated[int, option("the layer whose attention is read (default: -2, the last but one)", "N")] = -2
    seed: Annotated[int, option("of a random choice (default: 0)", "N")] = 0
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], option("where it runs (default: auto, the fastest there is)")
    ] = "auto"

    def request(self, methods: Iterable[str], budget: str) -> "SelectionRequest":
        """What these options ask of those methods. Raises UsageError where they mean nothing together."""
        from tubelet.cli.values import view_rule
        from tubelet.reduce.settings import Settings

        settings = Settings(coverage=self.coverage, words=self.words, radius=self.dilate, seed=self.seed)
        views = view_rule(self.views, None, None)
        asked = (self.text, self.text_embeddings, self.text_space, self.boxes, views, self.scaffold, self.layer)
        return SelectionRequest(tuple(methods), parse_budget(budget), settings, *asked)

    @property
    def has_text(self) -> bool:
        return self.text is not None or self.text_embeddings is not None

    def load(self) -> "Model":
        """The encoder whose tokens are chosen. Raises: as `load_model`."""
        from tubelet.cli.model import load_model

        return load_model(self.model, "float32", self.device, pool=False, config=self.config)


@dataclass(frozen=True)
class SelectionRequest:
    """What the options ask for, before anything is loaded."""

    methods: tuple[str, ...]
    budget: TokenBudget  # of each file
    settings: "Settings"
    text: str | None
    text_file: str | None
    space: "Space"
    boxes: str | None
    views: "Views | None"
    scaffold: int | None
    layer: int

    @property
    def whole_rows(self) -> int | None:
        """Tokens of the whole view that are always kept: as asked, or SHIRG's own where it chooses among views."""
        if self.scaffold is not None:
            return self.scaffold or None
        return SCAFFOLD if self.views is not None and "shirg" in self.methods else None

    @property
    def needs(self) -> "set[Need]":
        from tubelet.reduce.methods import needs_of

        return {need for name in self.methods for need in needs_of(name, self.settings)}


def checked(wish: SelectionRequest, files: Sequence[str]) -> SelectionRequest:
    """The wish, if the command line can mean it. Raises UsageError."""
    from tubelet.reduce.methods import METHODS, method_of

    for name in wish.methods:
        try:
            method_of(name)
        except InputError as e:
            raise UsageError(e.message) from e
    if wish.text is not None and wish.text_file is not None:
        raise UsageError("--text and --text-embeddings are two ways to give one text")
    given = wish.text is not None or wish.text_file is not None
    readers = [n for n in wish.methods if "text" in method_of(n).needs]
    if "text" in wish.needs and not given:
        raise UsageError(f"{readers[0]} needs --text or --text-embeddings")
    if given and not readers and not any(n.startswith("shirg-") for n in wish.methods):
        raise UsageError(f"none of {', '.join(wish.methods)} reads a text")
    if "boxes" in wish.needs and wish.boxes is None:
        raise UsageError("boxes needs --boxes")
    if wish.boxes is not None and len(files) > 1 and not wish.boxes.endswith(".json"):
        raise UsageError("--boxes for several files is a JSON file of lists by file name")
    if len(wish.methods) == 1 and not method_of(wish.methods[0]).covers and (wish.settings.coverage or wish.scaffold):
        able = ", ".join(name for name, method in METHODS.items() if method.covers)
        raise UsageError(f"{wish.methods[0]} cannot follow --coverage or --scaffold; these can: {able}")
    if wish.scaffold is not None and (wish.views is None or wish.scaffold < 0):
        raise UsageError("--scaffold takes 0 tokens or more and belongs to --views")
    return wish


def boxes_of(wish: SelectionRequest, files: Sequence[str]) -> "dict[int, list[Box]]":
    """Boxes by the number of the file. Raises UsageError, InputError."""
    if wish.boxes is None:
        return {}
    if not wish.boxes.endswith(".json"):
        return {0: [_box(part.split(",")) for part in wish.boxes.split(";")]}
    from tubelet.packed.header import read_small, strict_json

    stored = strict_json(read_small(Path(wish.boxes), InputError), InputError, file_name(wish.boxes))
    if not isinstance(stored, dict) or not all(isinstance(v, list) for v in stored.values()):
        raise InputError("boxes are lists of four numbers by file name", source=file_name(wish.boxes))
    wanted = {i: stored.get(f, stored.get(Path(f).name)) for i, f in enumerate(files)}
    return {i: [_box(b) for b in boxes] for i, boxes in wanted.items() if boxes}


def _box(values: Any) -> "Box":
    try:
        left, top, right, bottom = (float(v) for v in values)
    except (TypeError, ValueError) as e:
        raise UsageError(f"a box is left,top,right,bottom, got {values}") from e
    return left, top, right, bottom


def tell_choosing(
    terminal: Terminal,
    files: Sequence[Any],
    wish: SelectionRequest,
    recipe: "PixelRecipe",
    model: "Model",
    job: "ReadJob",
    isolate: "Isolate",
    times: int = 1,
) -> None:
    """Say how long encoding the files takes, where that is long and known: views are not counted here, and what cannot
    be read is told when it is its turn."""
    from tubelet.pixels.stream import plan_inputs
    from tubelet.reading.outlined import OutlinedInput

    if terminal.quiet or wish.views is not None or len(files) > MOST_FILES:
        return
    if not all(isinstance(file, OutlinedInput) for file in files):  # an address is asked for when it is its turn
        return
    plans = plan_inputs(list(files), recipe, job, isolate=isolate, on_error="skip")
    grids = [plan.item.grid for plan in plans if plan.item is not None]
    tell_work(terminal, model.encoder.config, grids, dtype=model.dtype, device=model.device, times=times)


def encoded(
    file: Any,
    index: int,
    wish: SelectionRequest,
    model: "Model",
    recipe: "PixelRecipe",
    sought: "SoughtWords",
    boxes: "dict[int, list[Box]]",
    job: "ReadJob",
    isolate: "Isolate",
) -> "EncodedFile":
    """`encode_file` as the options ask. Raises what it raises, with the number of the file."""
    from tubelet.reduce.encoded import encode_file

    try:
        return encode_file(
            file,
            model.encoder,
            wish.needs,
            recipe=recipe,
            views=wish.views,
            text=sought.words,
            space=sought.space,
            layer=wish.layer,
            boxes=boxes.get(index),
            scaffold_rows=wish.whole_rows,
            sampling=job.sampling,
            animation=job.animation,
            isolate=isolate,
            # what a codec chooses alone is encoded only then
            encode=wish.methods != ("codec",) or model.encoder.config.merger is not None,
        )
    except TubeletError as e:
        e.item = index
        raise


def shared(seen: "Sequence[EncodedFile]", budget: TokenBudget) -> tuple[int, ...]:
    """The budget of each file where they have one together: by how many of its patches hold something."""
    from tubelet.reduce.share import held, shared_budgets

    rows = [len(one.inputs.tokens.x) for one in seen]
    return shared_budgets([sum(held(one.patches)) for one in seen], rows, budget.of(sum(rows)))


def settings_for(wish: SelectionRequest, seen: "EncodedFile", name: str) -> "Settings":
    """The settings of one method for one file: only what it can follow."""
    from tubelet.reduce.methods import method_of

    if not method_of(name).covers:
        return replace(wish.settings, coverage=None, scaffold=())
    return replace(wish.settings, scaffold=seen.scaffold)
