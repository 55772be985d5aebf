"""What an input costs, before a pixel of it is read: sizes, tokens, FLOPs, memory, KV cache.

    plan([Input(640, 480, frames=16)], recipe or encoder configuration, ...)   ->   Plan

    stage       rows x width                                    one line of arithmetic each
    frames      F x 3 x H x W      the recipe's size rule        tubelet.pixels.resize.fit
    patches     t h w x 3 pt p p   what `patchify` gives
    encoder     t h w x D          what the encoder gives        tubelet.budget_flops, tubelet.budget_memory
    merged      / (time space^2)   neighbours become channels
    selected    at most so many    of each item
    projected   x LLM width

All counts are those of the code that runs, from the same functions or checked against it; nothing is decoded.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tubelet.budget_flops import encoder_flop, projector_flop, projector_parameters
from tubelet.budget_memory import ITEM_BYTES, Dtype, Memory, memory
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, LimitError, ShapeError, TubeletError
from tubelet.grid import Grid
from tubelet.limits import Limits
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import fit
from tubelet.read.sampling import Sampling


@dataclass(frozen=True)
class Input:
    """One picture or clip by its upright size in pixels and the frames taken out of it.

    duration_s: of a clip, where known: then frames stand for frames a second.
    """

    width: int
    height: int
    frames: int = 1
    name: str = ""
    duration_s: float | None = None


@dataclass(frozen=True)
class LanguageShape:
    """What a KV cache depends on, and the width its tokens need."""

    name: str
    width: int
    layers: int
    kv_heads: int
    head_dim: int

    def kv_bytes(self, tokens: int, dtype: Dtype = "bfloat16") -> int:
        """Keys and values of `tokens` tokens in all layers.

        >>> LANGUAGE["qwen2.5-7b"].kv_bytes(1000)
        57344000
        """
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * ITEM_BYTES[dtype]


LANGUAGE: dict[str, LanguageShape] = {
    s.name: s
    for s in (
        LanguageShape("qwen2.5-3b", 2048, 36, 2, 128),
        LanguageShape("qwen2.5-7b", 3584, 28, 4, 128),
        LanguageShape("qwen3-4b", 2560, 36, 8, 128),
        LanguageShape("qwen3-8b", 4096, 36, 8, 128),
        LanguageShape("llama-3-8b", 4096, 32, 8, 128),
    )
}


@dataclass(frozen=True)
class Aggregator:
    """A per-frame geometry network whose features are joined with the merged tokens, by its shapes: VGGT.

    special: camera and register tokens before the patches of a frame. width: of its features, where frame and global
    attention stand side by side. Source: diankun-wu/Spatial-MLLM@9fc47382, whose run on 16 frames of 644 x 476 gives
    (16, 1569, 2048) and a connector input of 16384 values.
    """

    patch: int = 14
    special: int = 5
    width: int = 2048

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, tokens of a frame, channels) of its last layer.

        >>> Aggregator().shape(16, 476, 644)
        (16, 1569, 2048)
        """
        if height % self.patch or width % self.patch:
            raise ShapeError(f"{width} x {height} is not cut into patches of {self.patch}", got=(height, width))
        return frames, self.special + (height // self.patch) * (width // self.patch), self.width

    def connector_width(self, time: int, space: int) -> int:
        """Channels after merging `time` frames and space x space patches.

        >>> Aggregator().connector_width(2, 2)
        16384
        """
        return self.width * time * space**2


VGGT = Aggregator()


@dataclass(frozen=True)
class After:
    """What follows the encoder. space, time: neighbours merged into channels; select: tokens kept of each item at most;
    llm: whose tokens these become; llm_width: or its width alone; projector: its kind; step: M-RoPE steps of one
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
    """One input: the size it is resized to, its grid, its merged grid, its tokens at the end, its M-RoPE extent."""

    input: Input
    height: int
    width: int
    grid: Grid
    merged: Grid
    tokens: int
    extent: int


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

    @property
    def grids(self) -> tuple[Grid, ...]:
        return tuple(i.grid for i in self.items)

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
        """Positions that M-RoPE counts for all items, one after the other."""
        return sum(i.extent for i in self.items)

    @cached_property
    def flop(self) -> int:
        """Of all stages, attention included."""
        return sum(s.flop for s in self.stages)

    def memory(self, **how: Any) -> Memory:
        """`tubelet.budget_memory.memory` of these items. Raises ConfigError where only a recipe is known."""
        if self.config is None:
            raise ConfigError("memory needs an encoder, and this plan knows a recipe only")
        return memory(self.config, self.grids, **how)

    def kv_bytes(self, dtype: Dtype = "bfloat16") -> int | None:
        """Keys and values of the visual tokens; None without a language model."""
        return None if self.after.llm is None else self.after.llm.kv_bytes(self.tokens, dtype)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for errors. FLOPs are counts, memory is in bytes."""
        return {
            "items": [
                {**asdict(i.input), "resized": [i.width, i.height], "grid": list(i.grid), "patches": i.grid.rows,
                 "merged": list(i.merged), "tokens": i.tokens, "mrope_extent": i.extent}
                for i in self.items
            ],
            "stages": [
                {"name": s.name, "shape": list(s.shape), "flop": s.flop, "attention_flop": s.attention_flop}
                for s in self.stages
            ],
            "rule": self.recipe.rule, "patch": self.recipe.patch, "patch_width": self.recipe.width,
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


def plan(sources: Any, what: EncoderConfig | PixelRecipe, after: After = After()) -> Plan:
    """What `sources` cost: Inputs, or (width, height) or (width, height, frames), one or a sequence of them.

    what: an encoder's configuration, or a recipe alone (then nothing is known of FLOPs and memory). For files see
    `inputs_of`. Nothing is read and nothing allocated.
    Raises: ShapeError and LimitError of the size rule, naming the item; ShapeError where a merge does not divide a
    grid; ConfigError.

        >>> from tubelet.families.onevision import VARIANTS
        >>> p = plan([(1920, 1080), (640, 360, 16)], VARIANTS["llava_vit_packing_small"])
        >>> p.patches, p.items[1].grid, p.stages[-1].shape
        (22120, Grid(t=16, h=22, w=40), (22120, 384))
    """
    config = what if isinstance(what, EncoderConfig) else None
    recipe = what if isinstance(what, PixelRecipe) else what.pixels
    inputs = [_input(s) for s in _listed(sources)]
    items: list[PlannedItem] = []
    for i, one in enumerate(inputs):
        try:
            items.append(_item(one, recipe, config, after))
        except TubeletError as e:
            raise e.placed(item=i, source=one.name or None) from None
    return Plan(tuple(items), tuple(_stages(items, recipe, config, after)), recipe, config, after)


def _listed(sources: Any) -> Sequence[Any]:
    if isinstance(sources, Input) or (len(sources) > 0 and isinstance(sources[0], int)):
        return [sources]
    return sources


def _input(source: Any) -> Input:
    if isinstance(source, Input):
        return source
    width, height, *frames = source
    return Input(width, height, *frames)


def _item(one: Input, recipe: PixelRecipe, config: EncoderConfig | None, after: After) -> PlannedItem:
    size = fit(one.height, one.width, recipe, one.frames)
    grid = Grid(-(-one.frames // recipe.temporal), size.height // recipe.patch, size.width // recipe.patch)
    space = after.space * (config.merger.merge if config is not None and config.merger else 1)
    if grid.t % after.time or grid.h % space or grid.w % space:
        raise ShapeError(
            f"a grid of {grid.t} x {grid.h} x {grid.w} has no blocks of {after.time} x {space} x {space}",
            expected=(after.time, space, space),
            got=tuple(grid),
        )
    merged = Grid(grid.t // after.time, grid.h // space, grid.w // space)
    tokens = merged.rows if after.select is None else min(merged.rows, after.select)
    extent = max(math.floor((merged.t - 1) * after.step) + 1, merged.h, merged.w)
    return PlannedItem(one, size.height, size.width, grid, merged, tokens, extent)


def _stages(
    items: Sequence[PlannedItem], recipe: PixelRecipe, config: EncoderConfig | None, after: After
) -> list[Stage]:
    grids = [i.grid for i in items]
    rows = sum(g.rows for g in grids)
    sizes = {(i.grid.t * recipe.temporal, 3, i.height, i.width) for i in items}
    pixels = sum(i.grid.t * recipe.temporal * 3 * i.height * i.width for i in items)
    stages = [Stage("frames", sizes.pop() if len(items) == 1 else (pixels,)), Stage("patches", (rows, recipe.width))]
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
        rows = sum(i.merged.rows for i in items)
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
    return stages + ([] if after.aggregator is None else _geometry(items, recipe, after.aggregator))


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


def projector_bytes(p: Plan, dtype: Dtype = "float32") -> int:
    """Weights of the plan's projector; 0 where its widths are not known."""
    target = p.after.language_width
    before = [s for s in p.stages if s.name not in ("projected", "aggregator", "connector input")][-1].shape[-1]
    if target is None or before is None or p.config is None:
        return 0
    return projector_parameters(p.after.projector, before, target) * ITEM_BYTES[dtype]


def inputs_of(
    files: Sequence[str | os.PathLike[str]],
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Sequence[float] | None = None,
    animation: bool = False,
    limits: Limits = Limits(),  # noqa: B008
) -> list[Input]:
    """Inputs of files, from headers and the list of a video's packets: the frames `read` would take, none decoded.

    animation: animated pictures count as clips; how many frames of one are taken depends on their times, which stand
    in its frames, so all of them are counted. Raises what `read` raises for a header, naming the item.

        >>> inputs_of(["walk.mp4"], num_frames=8)
        [Input(width=480, height=270, frames=8, name='walk.mp4', duration_s=4.5)]
    """
    from tubelet.read.image import probe_image
    from tubelet.read.source import PICTURES, open_source
    from tubelet.read.video import plan_video

    sampling = Sampling(fps, num_frames, None if times_s is None else tuple(times_s))
    found: list[Input] = []
    for i, file in enumerate(files):
        name = os.fsdecode(file)
        try:
            with open_source(file, limits) as src:
                if src.format in PICTURES:
                    info = probe_image(src, limits)
                    found.append(Input(info.width, info.height, info.frames if animation else 1, name))
                else:
                    clip = plan_video(src, limits, sampling)
                    found.append(Input(clip.width, clip.height, len(clip.times_s), name, clip.duration_s))
        except TubeletError as e:
            raise e.placed(item=i, source=name) from None
    return found
