"""`tubelet show`: what the encoder is given, and what tokens hold, as PNG."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tubelet.cli.options import (
    DEFAULT_MODEL,
    Config,
    Files,
    FrameOptions,
    OnError,
    OutputOptions,
    Overwrite,
    ReadingOptions,
    option,
    with_budget,
)
from tubelet.cli.output import Drawings, on_one_page
from tubelet.cli.show_tokens import SUFFIX, draw_file, place_of
from tubelet.cli.sources import inputs_of
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError, file_name, visible
from tubelet.cli.values import view_rule
from tubelet.errors import InputError, TubeletError, UnsafeFile
from tubelet.writing import save_png

if TYPE_CHECKING:
    from PIL.Image import Image

    from tubelet.encoder.config import EncoderConfig
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.pixels.views import Views
    from tubelet.reading.clip import Clip
    from tubelet.reading.job import ReadJob

SMALLEST_SIDE = 500


@dataclass(frozen=True)
class Show:
    """Draw a picture with its patch grid, the sampled frames of a clip with their true times, or what tokens hold.

    A picture page.jpg becomes page.grid.png, a clip walk.mp4 becomes walk.frames.png and a file tokens.safetensors, as
    tubelet encode and tubelet select write it, becomes tokens.maps.png in the current folder, unless --out says
    otherwise. Of tokens: their first principal directions as colours, of each picture and of all together, their norms
    and, with --like, how like the token at a place all others are. --pictures shows the pictures beside them.

    Example: tubelet show walk.mp4 --fps 2 --out walk.png
    """

    files: Files
    out: Annotated[
        str | None, option("the .png to write, - for stdout, or a folder for those of several files", "FILE")
    ] = None
    model: Annotated[
        str, option(f"whose patches: a variant, folder, file or hub id (default: {DEFAULT_MODEL})", "MODEL")
    ] = DEFAULT_MODEL
    config: Config = None
    patch: Annotated[
        int | None, option("instead of a model: patches of N x N pixels, sides rounded down to them", "N")
    ] = None
    views: Annotated[
        str | None, option("cut pictures into views, as tubelet plan does, and draw each: lavida, page:384 ...", "RULE")
    ] = None
    no_grid: Annotated[bool, option("draw the frames of a clip without the patch grid")] = False
    frames: FrameOptions = FrameOptions()
    pictures: Annotated[
        tuple[str, ...], option("beside a file of tokens: the pictures it was made of, found by name", "FILE")
    ] = ()
    like: Annotated[
        str | None,
        option("of a file of tokens: how like all are to the one at X,Y of input N (from 0)", "[N:]X,Y[,SECONDS]"),
    ] = None
    max_side: Annotated[int, option("longest side of the PNG, in pixels (default: 1600)", "N")] = 1600
    overwrite: Overwrite = False
    on_error: OnError = "raise"
    reading: ReadingOptions = ReadingOptions()
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.reading.job import ReadJob

        sampling = self.frames.sampling
        if self.max_side < SMALLEST_SIDE:
            raise UsageError(f"--max-side must be at least {SMALLEST_SIDE}, got {self.max_side}")
        rule, like = view_rule(self.views, None, None), place_of(self.like)
        inputs = inputs_of(self.files, terminal, urls=self.reading.urls)
        held = {i for i, name in enumerate(inputs.names) if name.lower().endswith(SUFFIX)}
        if (self.pictures or like is not None) and not held:
            raise UsageError("--pictures and --like are for a file of tokens, such as tokens.safetensors")
        drawings = Drawings(self.out, inputs.names, terminal, overwrite=self.overwrite)
        job = ReadJob(sampling=sampling, animation=self.reading.animation)
        inputs = inputs.outlined(job, self.reading.isolate, skip=self.on_error == "skip", beside=held)
        cells = self._cells() if len(held) < len(inputs) else None
        drawn: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for i, file in enumerate(inputs.names):
            try:
                if cells is None or i in held:
                    options = {"animation": self.reading.animation, "isolate": self.reading.isolate}
                    picture, about = draw_file(file, self.pictures, like, self.max_side, **options)
                    kind, said = "maps", _token_words(about)
                else:
                    clip = self._read(inputs.sources[i], i, job, cells[0] if rule is None else None)
                    picture, about = self._draw(clip, cells, i, rule)
                    kind, said = "frames" if clip.is_video else "grid", _words(clip, about)
            except (InputError, UnsafeFile) as e:
                if self.on_error == "raise":
                    raise
                terminal.say(str(e))
                errors.append(e.as_dict() | {"file": file_name(file)})
                continue
            place = drawings.place(i, kind)
            with place.file() as path:
                save_png(picture, path)
            drawn.append({"file": file_name(file), "out": place.name, **about})
            if not terminal.json and not terminal.quiet:
                terminal.line(f"{visible(place.name)}  ({said})")
        terminal.document({"command": "show", "files": drawn, "errors": errors})
        return FAILED if errors else OK

    def _read(self, source: Any, index: int, job: "ReadJob", recipe: "PixelRecipe | None") -> "Clip":
        """The clip, with the frames that the recipe has room for."""
        from tubelet.pixels.planned import clip_for
        from tubelet.reading.outlined import OutlinedInput, clip_of_outlined, outline_input

        try:
            seen = source if isinstance(source, OutlinedInput) else outline_input(source, job, self.reading.isolate)
            return clip_of_outlined(seen) if recipe is None else clip_for(seen, recipe)
        except TubeletError as e:
            e.item = index
            raise

    def _cells(self) -> "tuple[PixelRecipe, int]":
        """How pictures are cut, and how many patches along a side the encoder joins into one token."""
        from tubelet.families.catalogue import variants
        from tubelet.pixels.recipe import PixelRecipe

        if self.patch is not None:
            if self.patch < 1:
                raise UsageError(f"--patch must be at least 1, got {self.patch}")
            recipe, merger = PixelRecipe(self.patch), None
        else:
            config = known[self.model][1] if self.model in (known := variants()) else self._described()
            recipe, merger = config.pixels, config.merger
        recipe = with_budget(recipe, self.reading.max_pixels, self.reading.max_tokens)
        return recipe, 1 if merger is None else merger.merge

    def _described(self) -> "EncoderConfig":
        from tubelet.cli.values import require_named
        from tubelet.inspect.budget.outline import outline_model

        if self.config is not None:
            from tubelet.cli.model import load_model

            return load_model(self.model, None, "cpu", pool=False, config=self.config).encoder.config
        require_named(self.model)
        return outline_model(self.model).encoder

    def _draw(
        self, clip: "Clip", cells: "tuple[PixelRecipe, int]", index: int, rule: "Views | None"
    ) -> "tuple[Image, dict[str, Any]]":
        from tubelet.inspect.draw.frames import contact_sheet, draw_grid
        from tubelet.pixels.budget import is_clip
        from tubelet.pixels.fit import item_of
        from tubelet.pixels.views import view_items
        from tubelet.reduce.merge import Block, merged_item

        recipe, side = cells
        if rule is None:  # as it would be encoded
            recipe = recipe.of(is_clip(len(clip), clip.is_video))
        size = clip.height, clip.width, clip.times_s, index, recipe
        try:
            cut = [] if rule is None else view_items(*size, rule)
            cut = [(view, merged_item(one, Block(1, side, side), "error")) for view, one in cut]
            items = [item for _, item in cut] or [merged_item(item_of(*size), Block(1, side, side), "error")]
        except InputError as e:
            raise e.placed(item=index, source=clip.source) from None
        item, patch = items[0], recipe.patch * side
        if len(items) > 1:
            columns = math.ceil(math.sqrt(len(items)))
            longest = max(self.max_side // columns, SMALLEST_SIDE)
            pages = [draw_grid(clip, one, patch, max_side=longest) for one in items]
            picture = on_one_page(pages, columns)
        elif not clip.is_video:
            picture = draw_grid(clip, item, patch, max_side=self.max_side)
        elif self.no_grid:
            picture = contact_sheet(clip, max_side=self.max_side)
        else:
            picture = contact_sheet(clip, item, patch, max_side=self.max_side)
        about = {
            "width": clip.width,
            "height": clip.height,
            "frames": len(clip),
            "times_s": list(clip.times_s),
            "grid": list(item.grid),
            "patch": patch,
            "tokens": sum(one.grid.rows for one in items),
            "views": [{"name": v.name, "grid": list(one.grid), "box": list(one.box)} for v, one in cut],
            "complete": clip.complete,
            "notes": list(clip.notes),
        }
        return picture, about


def _words(clip: "Clip", about: dict[str, Any]) -> str:
    t, h, w = about["grid"]
    frames = f", {len(clip)} frames" if clip.is_video else ""
    state = "" if clip.complete else ", INCOMPLETE"
    views = f"{len(about['views'])} views, " if about["views"] else ""
    return f"{clip.width} x {clip.height}{frames}{state}, {views}grid {t} x {h} x {w}, {about['tokens']:,} tokens"


def _token_words(about: dict[str, Any]) -> str:
    pictures = len({item["picture"] for item in about["items"]})
    untrained = ", UNTRAINED" if about["untrained"] else ""
    count = f"{pictures} inputs" if pictures != 1 else "1 input"
    return f"{about['tokens']:,} tokens of {about['width']:,} values, of {count}{untrained}"
