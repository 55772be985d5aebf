"""What a plan is: its stages, its items and their counts."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, CountedInput, CountedRows, LimitError
from tubelet.inspect.budget.inputs import Input
from tubelet.inspect.budget.memory import ITEM_BYTES, Dtype, Memory, Mode, memory
from tubelet.inspect.budget.networks import LanguageShape
from tubelet.inspect.budget.projector import Projection, with_projector
from tubelet.packed.grid import Grid
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import Views
from tubelet.tables import html_table

MOST_SHOWN = 20  # inputs that a notebook lists

if TYPE_CHECKING:
    from tubelet.geometry.vggt import VGGTConfig


@dataclass(frozen=True)
class Downstream:
    """What follows the encoder. space, time: neighbours merged into channels; select: tokens kept of each input at
    most; llm: whose tokens these become; llm_width: or its width alone; projector: its kind, None: none where the
    encoder's tokens have the language model's width already, else mlp2x_gelu; step: M-RoPE steps of one
    temporal row; width: channels of a row where only a recipe is known; geometry: a network beside it that sees the
    frames, whose heads run where it has any, and whose `level` is joined with the tokens; averaged: the neighbours
    become their mean, so that a row stays as wide."""

    space: int = 1
    time: int = 1
    select: int | None = None
    llm: LanguageShape | None = None
    llm_width: int | None = None
    projector: str | None = None
    step: float = 1.0
    width: int | None = None
    geometry: "VGGTConfig | None" = None
    level: int = -1
    averaged: bool = False

    def __post_init__(self) -> None:
        if min(self.space, self.time) < 1 or (self.select is not None and self.select < 1):
            raise ConfigError("space, time and select start at 1", limit=1, got=(self.space, self.time, self.select))
        if not (math.isfinite(self.step) and self.step >= 0):
            raise ConfigError(f"step is a number of positions, got {self.step}", got=self.step)

    @property
    def language_width(self) -> int | None:
        return self.llm_width if self.llm is None or self.llm_width is not None else self.llm.width

    def with_projector(self, config: EncoderConfig | None) -> "Downstream":
        """With the projector named that follows this encoder."""
        if self.projector is not None:
            return self
        if config is None or config.merger is None or self.space * self.time > 1 or config.out != self.language_width:
            return replace(self, projector="mlp2x_gelu")
        return replace(self, projector="identity")


@dataclass(frozen=True)
class PlannedItem:
    """One input, what it is resized to and what it costs."""

    input: Input  # with the frames that its budget has room for
    height: int  # the size that it, or the first of its views, is resized to
    width: int
    grid: Grid  # of that
    merged: Grid  # and once neighbours are merged
    tokens: int  # of all of it at the end
    extent: int  # positions that they take
    # Name and tokens of each view, none without a view rule; with `select` the tokens before it, for which of them go
    # is not known
    views: tuple[tuple[str, int], ...] = ()
    cuts: tuple[tuple[Grid, Grid], ...] = ()  # grid and merged grid of each view, none without
    notes: tuple[str, ...] = ()  # of its size, as `tubelet.pixels.budget.size_notes` says them

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Of every item that the encoder sees of this input."""
        return tuple(grid for grid, _ in self.cuts) or (self.grid,)

    @property
    def merged_rows(self) -> int:
        """Rows of all of them once neighbours are merged."""
        return sum(merged.rows for _, merged in self.cuts) or self.merged.rows


def scenes_of(items: Sequence[PlannedItem]) -> tuple[int, ...]:
    """As `tubelet ask` makes them: a clip by itself, stills of one size that follow each other together."""
    from tubelet.geometry.branch import still_scenes  # with torch, which counting does without

    stills = [i.input.frames == 1 and i.input.duration_s is None for i in items]
    return still_scenes([i.grid for i in items], stills)


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
    after: Downstream
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
        return Projection(str(self.after.projector), tokens or 0, width or 0, rows or 0, wide or 0, out, copied)

    def memory(self, *, dtype: Dtype = "float32", mode: Mode = "inference", **how: Any) -> Memory:
        """`tubelet.inspect.budget.memory.memory` of these items, and of the projector where there is one; `how` is its
        device, threads and pixels. Raises ConfigError where only a recipe is known and no geometry network, and for
        training beside one."""
        if self.after.geometry is not None:
            alone = self._with_geometry(self.after.geometry, dtype, mode, **how)
        elif self.config is not None:
            alone = memory(self.config, self.grids, dtype=dtype, mode=mode, **how)
        else:
            raise ConfigError("memory needs an encoder, and this plan knows a recipe only")
        if self.projection is None:
            return alone
        return with_projector(alone, self.projection, dtype, mode, device=how.get("device", "cpu"))

    def _with_geometry(self, geometry: "VGGTConfig", dtype: Dtype, mode: Mode, **how: Any) -> Memory:
        from tubelet.inspect.budget.geometry_memory import memory_beside, vggt_memory  # they build torch's modules

        if mode != "inference":
            raise ConfigError("training beside a geometry network is not planned", expected="inference", got=mode)
        level, scenes = self.after.level, scenes_of(self.items)
        if self.config is not None:
            return memory_beside(self.config, geometry, self.grids, level=level, scenes=scenes, dtype=dtype, **how)
        asked = {"keep": (level,), "heads": geometry.heads, "scenes": scenes, "dtype": dtype}
        return vggt_memory(geometry, [Grid(g.t * self.recipe.temporal, g.h, g.w) for g in self.grids], **asked, **how)

    def projector_bytes(self, dtype: Dtype = "float32") -> int:
        """Weights of the projector, which are part of `memory`; 0 where there is none."""
        return 0 if self.projection is None else self.projection.parameters * ITEM_BYTES[dtype]

    def kv_bytes(self, dtype: Dtype = "bfloat16") -> int | None:
        """Keys and values of the visual tokens; None without a language model."""
        return None if self.after.llm is None else self.after.llm.kv_bytes(self.tokens, dtype)

    def language_bytes(self, dtype: Dtype = "bfloat16") -> int | None:
        """Weights of the language model; None without one, or where its shape does not say its vocabulary."""
        values = None if self.after.llm is None else self.after.llm.parameters
        return None if values is None else values * ITEM_BYTES[dtype]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for errors. FLOPs are counts, memory is in bytes."""
        return {
            "items": [
                {**asdict(i.input), "resized": [i.width, i.height], "grid": list(i.grid),
                 "patches": sum(g.rows for g in i.grids), "merged": list(i.merged), "tokens": i.tokens,
                 "mrope_extent": i.extent, "notes": list(i.notes),
                 "views": [{"name": name, "tokens": n} for name, n in i.views]}
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

    def _repr_html_(self) -> str:
        rows = [
            [i.input.name or f"input {n}", f"{i.input.width} x {i.input.height}", f"{i.input.frames:,}",
             " x ".join(map(str, i.grid)), f"{sum(g.rows for g in i.grids):,}", f"{i.tokens:,}"]
            for n, i in enumerate(self.items[:MOST_SHOWN])
        ]  # fmt: skip
        if len(self.items) > MOST_SHOWN:
            rows.append([f"... {len(self.items) - MOST_SHOWN:,} more", *[""] * 5])
        work = f"; {self.flop / 1e9:,.1f} GFLOP" if self.flop else ""
        total = [f"{len(self.items)} inputs", "", "", "", f"{self.patches:,}", f"{self.tokens:,}"]
        head = ["input", "size", "frames", "grid t x h x w", "patches", "tokens"]
        return html_table(head, rows, f"Plan: {self.tokens:,} tokens{work}", total)

    def check(self, *, max_tokens: int | None = None, max_memory_bytes: int | None = None, **how: Any) -> "Plan":
        """Self, or LimitError with what was counted as its `plan` where this passes a ceiling; `how` is `memory`'s."""
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
        error.plan = CountedRows(
            tuple(
                CountedInput(
                    i.input.name, i.input.width, i.input.height, i.input.frames, i.grid,
                    sum(g.rows for g in i.grids), i.tokens,
                )
                for i in self.items
            )
        )  # fmt: skip
        return error
