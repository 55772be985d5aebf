"""What an input costs, before a pixel of it is read: sizes, tokens, FLOPs, memory, KV cache.

    plan([Input(640, 480, frames=16)], recipe or encoder configuration, ...)   ->   Plan

    stage       rows x width                                    one line of arithmetic each
    frames      F x 3 x H x W      views, the recipe's size rule  tubelet.pixels.views, tubelet.pixels.resize
    patches     t h w x 3 pt p p   what `patchify` gives
    encoder     t h w x D          what the encoder gives        inspect.budget.flops, inspect.budget.memory
    merged      / (time space^2)   neighbours become channels
    selected    at most so many    of each input
    projected   x LLM width                                      tubelet.inspect.budget.projector
    joined      pooled, unpadded   of a view rule

All counts are those of the code that runs, from the same functions or checked against it; nothing is decoded.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, LimitError, ShapeError, TubeletError
from tubelet.inspect.budget.flops import encoder_flop, projector_flop
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype, Memory, Mode, memory
from tubelet.inspect.budget.networks import Aggregator, LanguageShape
from tubelet.inspect.budget.projector import Projection, with_projector
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import fit
from tubelet.pixels.views import Views, cut_to_units, views_of
from tubelet.pixels.views_plan import ViewRule


@dataclass(frozen=True)
class After:
    """What follows the encoder. space, time: neighbours merged into channels; select: tokens kept of each input at
    most; llm: whose tokens these become; llm_width: or its width alone; projector: its kind; step: M-RoPE steps of one
    temporal row; width: channels of a row where only a recipe is known; aggregator: a geometry network beside it."""

    space: int = 1
    time: int = 1
    select: int | None = None
    llm: LanguageShape | None = None
    llm_width: int | None = None
    projector: str = "mlp2x_gelu"
    step: float = 1.0
    width: int | None = None
    aggregator: Aggregator | None = None

    def __post_init__(self) -> None:
        if min(self.space, self.time) < 1 or (self.select is not None and self.select < 1):
            raise ConfigError("space, time and select start at 1", limit=1, got=(self.space, self.time, self.select))
        if not (math.isfinite(self.step) and self.step >= 0):
            raise ConfigError(f"step is a number of positions, got {self.step}", got=self.step)

    @property
    def language_width(self) -> int | None:
        return self.llm_width if self.llm is None or self.llm_width is not None else self.llm.width


@dataclass(frozen=True)
class PlannedItem:
    """One input: the size it (or the first of its views) is resized to, that grid, its merged grid; tokens of all of it
    at the end, and the positions they take. views: (name, tokens) of each, empty without a view rule; with `select` the
    tokens before it, for which of them go is not known. cuts: grid and merged grid of each view, empty without."""

    input: Input
    height: int
    width: int
    grid: Grid
    merged: Grid
    tokens: int
    extent: int
    views: tuple[tuple[str, int], ...] = ()
    cuts: tuple[tuple[Grid, Grid], ...] = ()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Of every item that the encoder sees of this input."""
        return tuple(grid for grid, _ in self.cuts) or (self.grid,)

    @property
    def merged_rows(self) -> int:
        """Rows of all of them once neighbours are merged."""
        return sum(merged.rows for _, merged in self.cuts) or self.merged.rows


@dataclass(frozen=True)
class Stage:
    """shape: of what is there after this stage, all items together; a None among it is a width nobody has said.
    flop: of getting there; attention_flop: the part of it that grows with the square of the segments."""

    name: str
    shape: tuple[int | None, ...]
    flop: int = 0
    attention_flop: int = 0
    times: int = 1

    @property
    def shape_text(self) -> str:
        """The shape for people; an unknown width is written as so many D.

        >>> Stage("merged", (3128, None), times=8).shape_text
        '3,128 x 8 D'
        """
        unknown = "D" if self.times == 1 else f"{self.times} D"
        return " x ".join(unknown if n is None else f"{n:,}" for n in self.shape)


@dataclass(frozen=True)
class Plan:
    """What `plan` found. Counts are exact; memory is a bound, hardly ever more than a quarter too high (see tests)."""

    items: tuple[PlannedItem, ...]
    stages: tuple[Stage, ...]
    recipe: PixelRecipe
    config: EncoderConfig | None
    after: After
    views: Views | None = None

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Of every item that the encoder sees: of each input, or of each of its views."""
        return tuple(g for i in self.items for g in i.grids)

    @property
    def patches(self) -> int:
        """Rows that `patchify` gives."""
        return sum(g.rows for g in self.grids)

    @property
    def tokens(self) -> int:
        """Rows that a language model sees."""
        return sum(i.tokens for i in self.items)

    @property
    def extent(self) -> int:
        """Positions that the language model counts for all inputs, one after the other: M-RoPE's, or with a view rule
        one for each token."""
        return sum(i.extent for i in self.items)

    @cached_property
    def flop(self) -> int:
        """Of all stages, attention included."""
        return sum(s.flop for s in self.stages)

    @property
    def projection(self) -> Projection | None:
        """The projector and what it makes of the encoder's tokens; None where its widths are not known."""
        out = self.after.language_width
        if self.config is None or out is None:
            return None
        stages = {s.name: s.shape for s in self.stages}
        rows, wide = next(stages[n] for n in ("selected", "merged", "merger", "encoder layers") if n in stages)
        tokens, width = stages["merger" if self.config.merger is not None else "encoder layers"]
        copied = "selected" in stages or "merged" in stages
        return Projection(self.after.projector, tokens or 0, width or 0, rows or 0, wide or 0, out, copied)

    def memory(self, *, dtype: Dtype = "float32", mode: Mode = "inference", **how: Any) -> Memory:
        """`tubelet.inspect.budget.memory.memory` of these items, and of the projector where there is one; `how` is its
        device, threads and pixels. Raises ConfigError where only a recipe is known."""
        if self.config is None:
            raise ConfigError("memory needs an encoder, and this plan knows a recipe only")
        alone = memory(self.config, self.grids, dtype=dtype, mode=mode, **how)
        if self.projection is None:
            return alone
        return with_projector(alone, self.projection, dtype, mode, device=how.get("device", "cpu"))

    def projector_bytes(self, dtype: Dtype = "float32") -> int:
        """Weights of the projector, which are part of `memory`; 0 where there is none."""
        return 0 if self.projection is None else self.projection.parameters * ITEM_BYTES[dtype]

    def kv_bytes(self, dtype: Dtype = "bfloat16") -> int | None:
        """Keys and values of the visual tokens; None without a language model."""
        return None if self.after.llm is None else self.after.llm.kv_bytes(self.tokens, dtype)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for errors. FLOPs are counts, memory is in bytes."""
        return {
            "items": [
                {**asdict(i.input), "resized": [i.width, i.height], "grid": list(i.grid),
                 "patches": sum(g.rows for g in i.grids), "merged": list(i.merged), "tokens": i.tokens,
                 "mrope_extent": i.extent, "views": [{"name": name, "tokens": n} for name, n in i.views]}
                for i in self.items
            ],
            "stages": [
                {"name": s.name, "shape": list(s.shape), "flop": s.flop, "attention_flop": s.attention_flop}
                for s in self.stages
            ],
            "rule": self.recipe.rule, "views": None if self.views is None else asdict(self.views),
            "patch": self.recipe.patch, "patch_width": self.recipe.width,
            "patches": self.patches, "tokens": self.tokens, "llm_width": self.after.language_width,
            "mrope_extent": self.extent, "flop": self.flop,
        }  # fmt: skip

    def check(self, *, max_tokens: int | None = None, max_memory_bytes: int | None = None, **how: Any) -> "Plan":
        """Self, or LimitError with this plan as its `plan` where it passes a ceiling; `how` is `memory`'s."""
        if max_tokens is not None and self.tokens > max_tokens:
            raise self._over(f"{self.tokens:,} tokens are above max_tokens = {max_tokens:,}", max_tokens, self.tokens)
        if max_memory_bytes is not None:
            need = self.memory(**how).total_bytes
            if need > max_memory_bytes:
                text = f"{need:,} bytes are above max_memory_bytes = {max_memory_bytes:,}"
                raise self._over(text, max_memory_bytes, need)
        return self

    def _over(self, text: str, limit: int, got: int) -> LimitError:
        error = LimitError(text, limit=limit, got=got)
        error.plan = self.as_dict()
        return error


def plan(
    sources: Any,
    what: EncoderConfig | PixelRecipe,
    after: After = After(),
    views: Views | None = None,
) -> Plan:
    """What `sources` cost: Inputs, or (width, height) or (width, height, frames), one or a sequence of them.

    what: an encoder's configuration, or a recipe alone (then nothing is known of FLOPs and memory). views: cuts every
    picture into views, each an item of the encoder (tubelet.pixels.views). For files see
    `tubelet.inspect.budget.inputs.inputs_of`. Nothing is read and nothing allocated.
    Raises: ShapeError and LimitError of the size rule, naming the item; ShapeError where a merge does not divide a
    grid; ConfigError, also for a selection beside a view rule that pools or unpads, and for an aggregator of views.

        >>> from tubelet.families.onevision import VARIANTS
        >>> p = plan([(1920, 1080), (640, 360, 16)], VARIANTS["llava_vit_packing_small"])
        >>> p.patches, p.items[1].grid, p.stages[-1].shape
        (22120, Grid(t=16, h=22, w=40), (22120, 384))
    """
    config = what if isinstance(what, EncoderConfig) else None
    recipe = what if isinstance(what, PixelRecipe) else what.pixels
    _agree(after, views)
    inputs = [_input(s) for s in _listed(sources)]
    items: list[PlannedItem] = []
    for i, one in enumerate(inputs):
        try:
            items.append(_item(one, recipe, config, after, views))
        except TubeletError as e:
            raise e.placed(item=i, source=one.name or None) from None
    return Plan(tuple(items), tuple(_stages(items, recipe, config, after, views)), recipe, config, after, views)


def _listed(sources: Any) -> Sequence[Any]:
    if isinstance(sources, Input) or (len(sources) > 0 and isinstance(sources[0], int)):
        return [sources]
    return sources


def _input(source: Any) -> Input:
    if isinstance(source, Input):
        return source
    width, height, *frames = source
    return Input(width, height, *frames)


def _joins(views: Views | None) -> bool:
    """Whether the rule pools or joins what the encoder makes of its views."""
    return isinstance(views, ViewRule) and (views.pool is not None or views.join != "flat")


def _agree(after: After, views: Views | None) -> None:
    """A selection takes the place of pooling; an aggregator sees whole frames."""
    if views is None:
        return
    if after.select is not None and _joins(views):
        raise ConfigError("a selection takes the place of pool and unpad: give the views neither", got=after.select)
    if after.aggregator is not None:
        raise ConfigError("an aggregator sees whole frames, no views", got=after.aggregator)


def _item(
    one: Input, recipe: PixelRecipe, config: EncoderConfig | None, after: After, views: Views | None
) -> PlannedItem:
    times = -(-one.frames // recipe.temporal)
    space = after.space * (config.merger.merge if config is not None and config.merger else 1)
    if views is None:
        size = fit(one.height, one.width, recipe, one.frames)
        sides, seen = [(size.height, size.width)], []
    else:
        seen = cut_to_units(views_of(one.height, one.width, one.frames, views), recipe)
        sides = [(view.height, view.width) for view in seen]
    grids = [Grid(times, h // recipe.patch, w // recipe.patch) for h, w in sides]
    cuts = tuple((grid, _merged(grid, after.time, space)) for grid in grids)
    (height, width), (grid, merged) = sides[0], cuts[0]
    named = tuple(zip([v.name for v in seen], _view_tokens(one, cuts, views), strict=True)) if views is not None else ()
    rows = merged.rows if views is None else sum(n for _, n in named)
    tokens = rows if after.select is None else min(rows, after.select)
    mrope = max(math.floor((merged.t - 1) * after.step) + 1, merged.h, merged.w)
    extent, cuts = (mrope, ()) if views is None else (tokens, cuts)
    return PlannedItem(one, height, width, grid, merged, tokens, extent, named, cuts)


def _merged(grid: Grid, time: int, space: int) -> Grid:
    if grid.t % time or grid.h % space or grid.w % space:
        raise ShapeError(
            f"a grid of {grid.t} x {grid.h} x {grid.w} has no blocks of {time} x {space} x {space}",
            expected=(time, space, space),
            got=tuple(grid),
        )
    return Grid(grid.t // time, grid.h // space, grid.w // space)


def _view_tokens(one: Input, cuts: Sequence[tuple[Grid, Grid]], views: Views) -> tuple[int, ...]:
    """Tokens that each view leaves at the end: those of its grid, or what pool and join make of them."""
    merged = cuts[0][1]
    if not isinstance(views, ViewRule):
        return tuple(grid.rows for _, grid in cuts)
    if one.frames > 1:
        return (views.clip_tokens(merged.t, (merged.h, merged.w)),)
    return views.tokens(one.height, one.width, (merged.h, merged.w))


def _stages(
    items: Sequence[PlannedItem],
    recipe: PixelRecipe,
    config: EncoderConfig | None,
    after: After,
    views: Views | None,
) -> list[Stage]:
    grids = [g for i in items for g in i.grids]
    rows = sum(g.rows for g in grids)
    stages = [Stage("frames", _frames(items, recipe)), Stage("patches", (rows, recipe.width))]
    width, times = after.width, 1
    if config is not None:
        flop = encoder_flop(config, grids)
        layers = flop["linear"] + flop["attention"]
        stages.append(Stage("patch embedding", (rows, config.hidden), flop["patch"]))
        stages.append(Stage("encoder layers", (rows, config.hidden), layers, flop["attention"]))
        width = config.hidden
        if config.merger is not None:
            rows, width = rows // config.merger.merge**2, config.merger.out
            stages.append(Stage("merger", (rows, width), flop["merger"]))
    if after.space * after.time > 1:
        rows = sum(i.merged_rows for i in items)
        times = after.time * after.space**2
        width = None if width is None else width * times
        stages.append(Stage("merged", (rows, width), times=times))
    if after.select is not None:
        rows = sum(i.tokens for i in items)
        stages.append(Stage("selected", (rows, width), times=times))
    target = after.language_width
    if target is not None:
        flop = 0 if width is None else projector_flop(after.projector, rows, width, target)
        stages.append(Stage("projected", (rows, target), flop))
    if _joins(views):
        width, times = (width, times) if target is None else (target, 1)
        stages.append(Stage("joined", (sum(i.tokens for i in items), width), times=times))
    return stages + ([] if after.aggregator is None else _geometry(items, recipe, after.aggregator))


def _frames(items: Sequence[PlannedItem], recipe: PixelRecipe) -> tuple[int, ...]:
    """(frames, 3, H, W) where all have one size, else values in all."""
    grids = [grid for i in items for grid in i.grids]
    frames = [grid.t * recipe.temporal for grid in grids]
    sides = [(grid.h * recipe.patch, grid.w * recipe.patch) for grid in grids]
    if len(set(sides)) == 1:
        return (sum(frames), 3, *sides[0])
    return (sum(n * 3 * h * w for n, (h, w) in zip(frames, sides, strict=True)),)


def _geometry(items: Sequence[PlannedItem], recipe: PixelRecipe, aggregator: Aggregator) -> list[Stage]:
    """The aggregator's features of every frame, and what its connector reads: as many rows as merged tokens."""
    found: list[Stage] = []
    for i in items:
        frames = i.grid.t * recipe.temporal
        shape = aggregator.shape(frames, i.height, i.width)
        time, space = frames // i.merged.t, i.height // aggregator.patch // i.merged.h
        found.append(Stage("aggregator", shape))
        found.append(Stage("connector input", (i.merged.rows, aggregator.connector_width(time, space))))
    return found
