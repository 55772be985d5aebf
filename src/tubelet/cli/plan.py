"""`tubelet plan`: what an input costs before a pixel of it is read, and what would fit."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tubelet.cli.options import (
    DEFAULT_MODEL,
    Files,
    FrameOptions,
    MaxTokens,
    OutputOptions,
    Overwrite,
    Urls,
    option,
    with_budget,
)
from tubelet.cli.output import output_file
from tubelet.cli.sources import inputs_of
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name, visible
from tubelet.cli.values import parse_bytes, parse_sizes, view_rule
from tubelet.errors import near_names
from tubelet.weights.locate import built_in
from tubelet.writing import save_png

if TYPE_CHECKING:
    from tubelet.encoder.config import EncoderConfig
    from tubelet.geometry.vggt import VGGTConfig
    from tubelet.inspect.budget.outline import ModelOutline
    from tubelet.inspect.budget.values import Downstream
    from tubelet.pixels.recipe import PixelRecipe


@dataclass(frozen=True)
class Plan:
    """Tell what pictures and clips cost before reading them: grids, tokens, FLOPs, memory, KV cache; or what fits.

    Sizes are given as WIDTHxHEIGHT, of clips WIDTHxHEIGHTxFRAMES; of files only headers are read. With --fit-tokens or
    --fit-memory it also answers the largest size, the most frames and the highest rate inside that budget.

    --manifest N --gpus G --price P tells hours, storage and money of encoding so many files like these, at the rate of
    an H200 or, with --measure, of this machine; and what of it to store.

    --train CONFIG.yaml plans a training run instead: steps, what learns, FLOPs, memory, time; further options change
    entries of that file.

    Example: tubelet plan --size 644x476x16 --patch 14 --temporal 2 --merge 2 --geometry vggt
    """

    files: Files
    size: Annotated[str | None, option("sizes instead of files, such as 1920x1080,640x360x16", "WxH[xF],...")] = None
    model: Annotated[
        str, option(f"whose encoder: a variant, folder, file or hub id (default: {DEFAULT_MODEL})", "MODEL")
    ] = DEFAULT_MODEL
    patch: Annotated[int | None, option("or: no encoder, patches of so many pixels", "N")] = None
    temporal: Annotated[int, option("with --patch: frames in a tubelet (default: 1)", "N")] = 1
    merge: Annotated[int, option("join so many by so many tokens into one (default: 1)", "N")] = 1
    merge_time: Annotated[int, option("and so many rows of time (default: 1)", "N")] = 1
    keep: Annotated[int | None, option("tokens that stay of each input, as by tubelet select --budget", "N")] = None
    views: Annotated[
        str | None, option("cut pictures into views: lavida, TILE:WxH,..., pyramid:SIDE/TILE,... or page:TILE", "RULE")
    ] = None
    pool: Annotated[
        Literal["none", "bilinear", "average", "max"] | None,
        option("of the tokens of each view, 2 by 2 (default: none)", "{none,bilinear,average,max}"),
    ] = None
    join: Annotated[
        Literal["flat", "spatial", "unpad"] | None,
        option("views one by one, or tiles as one grid (default: flat)", "{flat,spatial,unpad}"),
    ] = None
    llm: Annotated[str | None, option("a language model's shape, for width and KV cache", "NAME")] = None
    llm_width: Annotated[int | None, option("or its width alone", "N")] = None
    projector: Annotated[
        str | None,
        option(
            "identity, linear or mlpNx_gelu (default: none where the encoder gives its width, else mlp2x_gelu)", "KIND"
        ),
    ] = None
    step: Annotated[float, option("M-RoPE positions from one row of time to the next (default: 1)", "F")] = 1.0
    geometry: Annotated[
        Literal["none", "vggt", "vggt-heads"],
        option("VGGT beside the encoder: its features alone, or also cameras, depth and points (default: the model's)"),
    ] = "none"
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], option("for --fit-memory, --plot and --measure")] = (
        "float32"
    )
    device: Annotated[Literal["cpu", "cuda"], option("whose memory (default: cpu)")] = "cpu"
    memory: Annotated[
        bool,
        option("also memory of inference and training; of a model's folder it is told anyway"),
    ] = False
    fit_tokens: Annotated[int | None, option("what fits into so many tokens", "N")] = None
    fit_memory: Annotated[str | None, option("what fits into so much memory for inference, such as 24GiB", "SIZE")] = (
        None
    )
    measure: Annotated[bool, option("measure this machine's matrix products for an estimate of time")] = False
    manifest: Annotated[
        str | None, option("hours, storage and money of so many such files, as 1e9, or of a list of them", "N")
    ] = None
    gpus: Annotated[int, option("with --manifest: that encode (default: 1)", "G")] = 1
    price: Annotated[float | None, option("with --manifest: dollars a GPU hour", "P")] = None
    plot: Annotated[
        str | None, option("a .png of tokens and memory against side length and frames, - for stdout", "PNG")
    ] = None
    train: Annotated[str | None, option("a run of tubelet train, instead of files and sizes", "CONFIG.yaml")] = None
    samples: Annotated[int | None, option("with --train: as if its data were so many", "N")] = None
    processes: Annotated[int, option("with --train: that run it (default: 1)", "N")] = 1
    changes: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()  # with --train: words that change its file
    frames: FrameOptions = FrameOptions()
    max_pixels: Annotated[int | None, option("reduce pictures and frames that have more pixels", "N")] = None
    max_tokens: MaxTokens = None
    animation: Annotated[bool, option("read animated GIF, WebP and PNG as clips; otherwise their first frame")] = False
    urls: Urls = False
    overwrite: Overwrite = False
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        if self.train is not None:
            if self.files or self.size:
                raise UsageError("--train plans a run: no files and no --size beside it")
            from tubelet.cli.plan_run import plan_training

            return plan_training(terminal, self.train, self.changes, self.samples, self.processes, self.measure)
        sampling = self.frames.sampling
        if bool(self.files) == bool(self.size):
            raise UsageError("name files, or sizes with --size")
        sizes = parse_sizes(self.size) if self.size else []
        most_bytes = None if self.fit_memory is None else parse_bytes(self.fit_memory)
        self._checked(most_bytes)
        given = inputs_of(self.files, terminal, urls=self.urls) if self.files else None
        where = {"overwrite": self.overwrite, "option": "--plot", "terminal": terminal}
        out = None if self.plot is None else output_file(self.plot, () if given is None else given.names, **where)
        if given is not None:
            given.look()
        from tubelet.cli.plan_report import extras, plan_table
        from tubelet.inspect.budget.fit import fit_budget
        from tubelet.inspect.budget.inputs import Input, inputs_of_files
        from tubelet.inspect.budget.plan import plan
        from tubelet.pixels.views import ViewRule

        what, after, outline = self._what()
        views = view_rule(self.views, self.pool, self.join)
        own = None if outline is None else outline.views()
        if views is None and own is not None:  # rows that are chosen are joined without more ado
            views = own if self.keep is None else own.unpooled
        tiled = isinstance(views, ViewRule)
        if tiled and self.keep is not None and (views.pool is not None or views.join != "flat"):
            raise UsageError("--keep takes the place of pooling: add --pool none --join flat")
        if views is not None and after.geometry is not None:
            raise UsageError("--geometry sees whole frames, so it does not go with --views")
        sources: Any = () if given is None else given.sources
        inputs = [Input(w, h, f) for w, h, f in sizes] or inputs_of_files(
            sources,
            fps=sampling.fps,
            num_frames=sampling.num_frames,
            times_s=sampling.times_s,
            animation=self.animation,
        )
        found = plan(inputs, what, after, views)
        how: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        fitted = []
        if self.fit_tokens is not None or most_bytes is not None:
            limits = {"max_tokens": self.fit_tokens, "max_memory_bytes": most_bytes}
            fitted = [fit_budget(one, what, after, views, **limits, **how) for one in inputs]
        rate = self._rate(found.config)
        # Memory needs torch: it is told unasked of other models' folders and of geometry
        loads = after.geometry is not None or (outline is not None and built_in(self.model) is None)
        memory = self.memory or loads or most_bytes is not None or out is not None
        more = extras(found, fitted, rate, self.device, outline, memory=memory)
        if out is not None:
            from tubelet.cli.plan_plot import plan_chart

            with out.file() as path:
                save_png(plan_chart(found, how, self.fit_tokens, most_bytes), path)
            more["plot"] = file_name(str(self.plot))
        if self.manifest is not None:
            from tubelet.cli.plan_fleet import fleet

            more["fleet"] = fleet(found, self.manifest, self.gpus, self.price, rate)
        terminal.show(plan_table(found, more))
        if self.plot is not None and not self.output.json and not self.output.quiet:
            terminal.line(f"plot    {visible(self.plot)}")
        terminal.document({"command": "plan", **found.as_dict(), **more})
        return OK

    def _checked(self, most_bytes: int | None) -> None:
        for flag in ("patch", "temporal", "merge", "merge_time", "keep", "llm_width", "fit_tokens"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise UsageError(f"--{flag.replace('_', '-')} must be at least 1, got {value}")
        if self.patch is None and self.temporal != 1:
            raise UsageError("--temporal belongs to --patch; a model has its own")
        if self.patch is not None and (most_bytes is not None or self.measure or self.memory):
            raise UsageError("--memory, --fit-memory and --measure need a --model, not --patch")
        if self.manifest is None and (self.gpus != 1 or self.price is not None):
            raise UsageError("--gpus and --price belong to --manifest")

    def _rate(self, config: "EncoderConfig | None") -> float | None:
        if not self.measure or config is None:
            return None
        from tubelet.encoder.device import device_of
        from tubelet.inspect.speed.rate import gemm_rate

        return gemm_rate(config.hidden, dtype=self.dtype, device=device_of(self.device))

    def _what(self) -> "tuple[EncoderConfig | PixelRecipe, Downstream, ModelOutline | None]":
        """The encoder or recipe, whose sizes --merge divides, what follows it, and what the model's folder says."""
        from tubelet.inspect.budget.networks import LANGUAGE
        from tubelet.inspect.budget.values import Downstream
        from tubelet.pixels.recipe import CLIP_TOKENS, PICTURE_TOKENS, PixelRecipe

        if self.llm is not None and self.llm not in LANGUAGE:
            near = near_names(self.llm, LANGUAGE)
            raise UsageError(f"no --llm {self.llm[:40]}{near}; there are {', '.join(LANGUAGE)}; or give --llm-width")
        after = Downstream(
            space=self.merge,
            time=self.merge_time,
            select=self.keep,
            llm=None if self.llm is None else LANGUAGE[self.llm],
            llm_width=self.llm_width,
            projector=self.projector,
            step=self.step,
            geometry=None if self.geometry == "none" else _network(heads=self.geometry == "vggt-heads"),
        )
        if self.patch is not None:
            order = "block" if self.merge > 1 else "raster"
            recipe = PixelRecipe(self.patch, temporal=self.temporal, merge=self.merge, order=order)
            recipe = replace(recipe, max_tokens=PICTURE_TOKENS, max_clip_tokens=CLIP_TOKENS)
            return self._with_budget(recipe), after, None
        config, outline = self._outline()
        if config.merger is None and self.merge > 1:
            config = replace(config, pixels=_merging(config.pixels, self.merge))
        if outline is not None and outline.whole:
            own = outline.after
            told = self.llm is not None or self.llm_width is not None
            after = replace(
                after,
                llm=after.llm if told else own.llm,
                projector=after.projector or (None if told else own.projector),
                space=max(after.space, own.space),
                averaged=own.averaged,
                geometry=after.geometry or own.geometry,
                level=own.level,
            )
        return replace(config, pixels=self._with_budget(config.pixels)), after, outline

    def _with_budget(self, recipe: "PixelRecipe") -> "PixelRecipe":
        return with_budget(recipe, self.max_pixels, self.max_tokens)

    def _outline(self) -> "tuple[EncoderConfig, ModelOutline | None]":
        """The encoder, and what its folder says; of a variant there is none. Counting that or what comes with the
        package needs no torch."""
        from tubelet.families.catalogue import variants
        from tubelet.inspect.budget.outline import outline_model

        if self.model in (known := variants()):
            return known[self.model][1], None
        if built_in(self.model) is None:
            from tubelet.cli.values import require_named

            require_named(self.model)
        outline = outline_model(self.model)
        return outline.encoder, outline


def _merging(recipe: "PixelRecipe", merge: int) -> "PixelRecipe":
    """The recipe with sides that a merge divides; of its patches there are at most as many as without."""
    per = (merge // recipe.merge) ** 2 or 1
    budgets = {
        name: None if most is None else max(1, most // per)
        for name, most in (("max_tokens", recipe.max_tokens), ("max_clip_tokens", recipe.max_clip_tokens))
    }
    return replace(recipe, merge=merge, order="block", **budgets)


def _network(*, heads: bool) -> "VGGTConfig":
    from tubelet.geometry.vggt import VGGT_1B

    return VGGT_1B if heads else replace(VGGT_1B, camera=None, depth=None, points=None)
