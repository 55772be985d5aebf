"""What an input costs, before a pixel of it is read: sizes, tokens, FLOPs, memory, KV cache.

    plan([Input(640, 480, frames=16)], recipe or encoder configuration, ...)   ->   Plan

    stage       rows x width                                    one line of arithmetic each
    frames      F x 3 x H x W      views, the recipe's size rule  tubelet.pixels.views, tubelet.pixels.fit
    patches     t h w x 3 pt p p   what `patchify` gives
    encoder     t h w x D          what the encoder gives        inspect.budget.flops, inspect.budget.memory
    merged      / (time space^2)   neighbours become channels
    selected    at most so many    of each input
    projected   x LLM width                                      tubelet.inspect.budget.projector
    joined      pooled, unpadded   of a view rule
    geometry    of every frame     beside it                      tubelet.inspect.budget.geometry
    prefill     x LLM width        of a language model, of these tokens alone

All counts are those of the code that runs, from the same functions or checked against it; nothing is decoded.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import index
from typing import Any

from tubelet.doors import door
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, InputError, ShapeError, TubeletError
from tubelet.inspect.budget.flops import encoder_flop, projector_flop
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.values import Downstream, Plan, PlannedItem, Stage
from tubelet.packed.grid import Grid
from tubelet.pixels.budget import frames_within, is_clip, size_notes
from tubelet.pixels.fit import fit
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import Views, cut_to_units, views_of
from tubelet.pixels.views_plan import ViewRule


@door
def plan(
    sources: Any,
    what: EncoderConfig | PixelRecipe,
    after: Downstream = Downstream(),
    views: Views | None = None,
) -> Plan:
    """What `sources` cost: Inputs, or (width, height) or (width, height, frames), one or a sequence of them.

    what: an encoder's configuration, or a recipe alone (then nothing is known of FLOPs and memory). views: cuts every
    picture into views, each an item of the encoder (tubelet.pixels.views). For files see
    `tubelet.inspect.budget.inputs.inputs_of`. Nothing is read and nothing allocated.
    Raises: ShapeError and LimitError of the size rule, naming the item; ShapeError where a merge does not divide a
    grid; ConfigError, also for a selection beside a view rule that pools or unpads, or a geometry network beside any.

        >>> from tubelet.families.onevision import VARIANTS
        >>> p = plan([(1920, 1080), (640, 360, 16)], VARIANTS["llava_vit_packing_small"])
        >>> p.patches, p.items[1].grid, p.stages[-1].shape
        (18160, Grid(t=16, h=22, w=40), (18160, 384))
    """
    config = what if isinstance(what, EncoderConfig) else None
    recipe = what if isinstance(what, PixelRecipe) else what.pixels
    _agree(after, views)
    after = after.with_projector(config)
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
    try:
        width, height, *more = (index(n) for n in source)
        (frames,) = more or [1]
    except (TypeError, ValueError) as e:
        raise InputError("an input is (width, height) or (width, height, frames)", got=type(source).__name__) from e
    return Input(width, height, frames)


def _joins(views: Views | None) -> bool:
    """Whether the rule pools or joins what the encoder makes of its views."""
    return isinstance(views, ViewRule) and (views.pool is not None or views.join != "flat")


def _agree(after: Downstream, views: Views | None) -> None:
    """A selection takes the place of pooling; a geometry network sees whole frames."""
    if views is None:
        return
    if after.select is not None and _joins(views):
        raise ConfigError("a selection takes the place of pool and unpad: give the views neither", got=after.select)
    if after.geometry is not None:
        raise ConfigError("a geometry network sees whole frames, no views", expected=None, got="views")


def _item(
    one: Input, recipe: PixelRecipe, config: EncoderConfig | None, after: Downstream, views: Views | None
) -> PlannedItem:
    moves = is_clip(one.frames, one.duration_s is not None)
    recipe = recipe.of(moves)
    notes: tuple[str, ...] = ()
    if views is None:
        notes = size_notes(one.width, one.height, one.frames, recipe, moves=moves)
        one = replace(one, frames=frames_within(one.height, one.width, one.frames, recipe) if moves else 1)
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
    return PlannedItem(one, height, width, grid, merged, tokens, extent, named, cuts, notes)


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
    after: Downstream,
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
        times = 1 if after.averaged else after.time * after.space**2
        width = None if width is None else width * times
        stages.append(Stage("merged", (rows, width), times=times))
    if after.select is not None:
        rows = sum(i.tokens for i in items)
        stages.append(Stage("selected", (rows, width), times=times))
    target = after.language_width
    if target is not None and (after.projector != "identity" or width != target):
        flop = 0 if width is None else projector_flop(str(after.projector), rows, width, target)
        stages.append(Stage("projected", (rows, target), flop))
    tokens = sum(i.tokens for i in items)
    if _joins(views):
        width, times = (width, times) if target is None else (target, 1)
        stages.append(Stage("joined", (tokens, width), times=times))
    if after.geometry is not None:
        from tubelet.inspect.budget.geometry import geometry_stages  # with torch, which counting does without

        stages += geometry_stages(items, recipe, after)
    if (llm := after.llm) is not None:
        stages.append(
            Stage("prefill", (tokens, llm.width), llm.prefill_flop(tokens), llm.prefill_attention_flop(tokens))
        )
    return stages


def _frames(items: Sequence[PlannedItem], recipe: PixelRecipe) -> tuple[int, ...]:
    """(frames, 3, H, W) where all have one size, else values in all."""
    grids = [grid for i in items for grid in i.grids]
    frames = [grid.t * recipe.temporal for grid in grids]
    sides = [(grid.h * recipe.patch, grid.w * recipe.patch) for grid in grids]
    if len(set(sides)) == 1:
        return (sum(frames), 3, *sides[0])
    return (sum(n * 3 * h * w for n, (h, w) in zip(frames, sides, strict=True)),)
