"""One packed vision transformer for every family: Packed of patches in, Packed of features out."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tubelet.doors import door
from tubelet.encoder import cpu
from tubelet.encoder.attention import Segments, resolve
from tubelet.encoder.compiled import CompiledLayers
from tubelet.encoder.config import EncoderConfig, Span
from tubelet.encoder.layers import Layer, LayerInputs, MergerMLP, PatchEmbed, SegmentSpan, norm_layer, span_of
from tubelet.encoder.layout import Layout, layout_of
from tubelet.encoder.merging import tokens_merged
from tubelet.encoder.options import RunOptions
from tubelet.encoder.outputs import Features, LayerOutputs, States, Which, numbers_of
from tubelet.encoder.pool import first_prefix, pool_of
from tubelet.encoder.report import LoadReport
from tubelet.encoder.rope import rope_positions, rope_tables
from tubelet.encoder.table import PositionTable
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float


class Encoder(nn.Module):
    """patch embedding (+ places, prefix tokens) -> norm -> layers -> norm (-> merger), over rows of any mix of items.

    Order of rows is kept; each item sees only itself (with `scenes`, its scene), so results do not depend on its
    neighbours in the pack. On a CPU without gradients the layers run in place in blocks (tubelet.encoder.cpu);
    everywhere else the plain modules do. uint8 rows are pixels, float rows are normalised pixels. The result has the
    weights' type. Cost per row: 2 x parameters FLOPs, and 4 D n for attention over a segment of n rows in each layer.

    >>> encoder = tubelet.untrained("llava_vit_packing_small")
    >>> tokens = encoder(tubelet.patchify(tubelet.read("photo.jpg"), encoder.pixels))
    """

    def __init__(self, config: EncoderConfig, options: RunOptions | None = None) -> None:
        super().__init__()
        self.config = config
        self.untrained = False  # whether the weights are random, as `tubelet.untrained` makes them
        self.report: LoadReport | None = None  # where the weights came from; None for an encoder built by hand
        d = config.hidden
        if config.embed:
            self.patch = PatchEmbed(d, config.pixels, config.patch_bias)
        self.norm_embed = norm_layer(config.norm, d, config.eps) if config.embed_norm else nn.Identity()
        self.table = PositionTable(config.table, d) if config.table else None
        self.prefix = nn.Parameter(torch.empty(config.prefix, d)) if config.prefix else None
        self.prefix_first = nn.Parameter(torch.empty(config.prefix, d)) if config.prefix_first else None
        angles = config.prefix if config.prefix_angles else 0
        self.prefix_angles = nn.Parameter(torch.empty(angles, config.head_dim // 2)) if angles else None
        self.norm_pre = norm_layer(config.norm, d, config.eps) if config.pre_norm else nn.Identity()
        self.layers = nn.ModuleList(Layer(config, span) for span in config.layer_spans)
        self.norm_post = norm_layer(config.norm, d, config.eps) if config.post_norm else nn.Identity()
        self.pool = pool_of(config)
        self.merger = MergerMLP(config.merger, d) if config.merger else None
        deeper = config.deepstack_merger
        self.deepstack = nn.ModuleList(MergerMLP(deeper, d) for _ in config.deepstack) if deeper else None
        options = RunOptions() if options is None else options
        self._compiled = CompiledLayers(options, config)
        self.set_run_options(options)

    def set_run_options(self, options: RunOptions) -> "Encoder":
        """This encoder, running so from now on; `options` has them. `dataclasses.replace` changes one of several.

        Layers that are compiled (tubelet.encoder.compiled) are so once, for any later mix of items: lengths are data.
        The first call then takes some seconds more, fewer where torch finds on disk what it made before. They stay
        while `compile` does.
        """
        self.options = options
        self._compiled = self._compiled.under(options)
        return self

    @property
    def pixels(self) -> PixelRecipe:
        """How pictures become the rows this encoder reads."""
        return self.config.pixels

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next((self.patch if self.config.embed else self.layers).parameters()).dtype

    @property
    def can_pool(self) -> bool:
        """Whether `features` gives one vector per item."""
        return self.pool is not None or (self.config.pool and self.config.head.kind == "first")

    # ---- the calls

    @door
    def forward(
        self,
        p: Packed,
        *,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        scenes: Sequence[int] | None = None,
    ) -> Packed:
        """Features of every row, after the final norm and, where there is one, the merger (then T / merge^2 rows).

        positions: (T, 3) int or float places for the rotary tables instead of p.pos (such as real frame numbers).
        segments: what attends to what, instead of the configuration's. scenes: how many consecutive items make each
        scene, for an encoder with a "scene" span; None: an item each. Raises ShapeError naming what does not fit.
        """
        tokens = self.trunk(p, positions=positions, segments=segments, scenes=scenes)
        return tokens if self.merger is None else tokens_merged(tokens, self.merger, in_place=self._in_place(p))

    @door
    def trunk(
        self,
        p: Packed,
        *,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        scenes: Sequence[int] | None = None,
    ) -> Packed:
        """`forward` without the merger: one feature row per patch row."""
        ran = self.run(p, positions=positions, segments=segments, scenes=scenes)
        return p.with_x(ran.layout.from_layout(self.final_norm(ran.x)))

    @door
    def features(
        self,
        p: Packed,
        *,
        only: Sequence[Which] = (),
        pool: bool = True,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        scenes: Sequence[int] | None = None,
    ) -> Features:
        """`forward` with all else one run gives: prefix tokens, pooled vectors, hidden states, deepstack features.

        only: the hidden states to keep, as in `hidden_states`. pool=False leaves the pooled vectors out.
        Raises ConfigError for a number outside 0..L, ShapeError naming what does not fit.
        """
        wanted = (*only, *(i + 1 for i in self.config.deepstack))
        ran = self.run(p, only=wanted, positions=positions, segments=segments, scenes=scenes)
        normed, in_place = self.final_norm(ran.x), self._in_place(p)
        trunk = p.with_x(ran.layout.from_layout(normed))
        pooled = None
        if pool and self.can_pool:
            pooled = self._first(p, ran) if self.pool is None else self.pool(trunk)
        deep = [ran.rows(p, i + 1) for i in self.config.deepstack]
        mergers = [m for m in self.deepstack or () if isinstance(m, MergerMLP)]
        return Features(
            trunk if self.merger is None else tokens_merged(trunk, self.merger, in_place=in_place),
            trunk,
            ran.layout.prefixes(normed),
            pooled,
            tuple(ran.rows(p, which) for which in only),
            tuple(ran.prefixes(which) for which in only),
            tuple(tokens_merged(x, merger, in_place=in_place) for x, merger in zip(deep, mergers, strict=True)),
        )

    @door
    def hidden_states(
        self,
        p: Packed,
        *,
        only: Sequence[Which] | None = None,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        scenes: Sequence[int] | None = None,
    ) -> list[Packed]:
        """L + 1 packs: [0] after norm_pre, [i] after layer i. The last is before norm_post. Memory: (L + 1) T D.

        only: the packs of these numbers, in this order; (9, 10) is one pack of those two joined on channels, as VGGT
        joins what a frame and a scene layer gave. Layers after the deepest do not run, and no other state is kept.
        Prefix tokens are left out. Raises ConfigError for a number outside 0..L.
        """
        wanted = tuple(range(len(self.layers) + 1)) if only is None else tuple(only)
        deepest = max(numbers_of(wanted, len(self.layers)), default=0)
        ran = self.run(p, only=wanted, until=deepest, positions=positions, segments=segments, scenes=scenes)
        return [ran.rows(p, which) for which in wanted]

    @door
    def pooled(self, tokens: Packed) -> Float[Tensor, "N D"]:
        """One vector per item from `forward`'s tokens, by the pooling head. Raises ConfigError where there is none;
        an encoder that pools its first prefix token gives that in `features` only."""
        if self.pool is None:
            raise ConfigError("this encoder has no pooling head that reads tokens", expected="pool=True", got=False)
        if tokens.x.shape[1] != self.config.hidden:
            raise ShapeError(
                f"tokens are {self.config.hidden} wide here, got {tokens.x.shape[1]}", got=tokens.x.shape[1]
            )
        return self.pool(tokens)

    def run(
        self,
        p: Packed,
        *,
        only: Sequence[Which] = (),
        until: int | None = None,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        scenes: Sequence[int] | None = None,
    ) -> LayerOutputs:
        """One run of the layers, with everything in its place inside: what the calls above are made of.

        only: the hidden states to keep, numbers or tuples of them, as in `hidden_states`. until: how many layers run,
        None for all. `final_norm` is left to the caller. Raises ConfigError, ShapeError.

        >>> encoder = tubelet.untrained("llava_vit_packing_small")
        >>> p = tubelet.patchify(tubelet.read("photo.jpg"), encoder.pixels)
        >>> encoder.run(p, only=[(1, 2)]).rows(p, (1, 2)).x.shape  # two states side by side
        torch.Size([24, 768])
        """
        where = self._checked(p, positions)
        states: States = dict.fromkeys(numbers_of(only, len(self.layers)), p.x)  # p.x holds the place of what comes
        layout = layout_of(p, self.config, segments=segments, scenes=scenes)
        backend = resolve(self.options.backend, p.device, self.dtype)
        spans: dict[Span, SegmentSpan] = {name: span_of(each, backend, p.device) for name, each in layout.spans.items()}
        inputs = LayerInputs(*self.rotary_tables(p, layout, where), backend, spans)
        if self._in_place(p):
            patch = self.patch if self.config.embed else None
            x = layout.to_layout(cpu.stem(p, patch, self.norm_embed, self.table, self.dtype), *self._prefixes())
            x = cpu.norm(self.norm_pre, x)
            layers = self.layers if until is None else self.layers[:until]
            x = cpu.run_layers(x, layers, inputs, states, self.config, self.dtype, self.options.products)
            return LayerOutputs(x, layout, states)
        x = self.norm_embed(self.patch(p.x) if self.config.embed else p.x.to(self.dtype))
        if self.table is not None:
            values, index = self.table(p)
            x = x + values.to(x.dtype)[index]
        x = self.norm_pre(layout.to_layout(x, *self._prefixes()))
        return LayerOutputs(self._stack(x, inputs, states, until), layout, states)

    def final_norm(self, x: Tensor) -> Tensor:
        """The final norm of what `run` gave; nothing where only pooled vectors have it."""
        return x if self.config.post_norm == "pooled" else self.norm_post(x)

    def rotary_tables(
        self, p: Packed, layout: Layout, positions: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """What turns q and k of every row, in the places inside, as `apply_rope` takes it: (None, None) without rope.

        positions: (T, 3) instead of p.pos. Cost: 2 K floats a row, 4 K in the "onevision" mode.
        """
        rope = self.config.rope
        if rope is None:
            return None, None
        turn, flip = rope_tables(
            rope_positions(p, p.pos if positions is None else positions, rope), self.config.head_dim, rope
        )
        if layout.where is None:
            return turn, flip
        still = turn.new_zeros(max(1, self.config.prefix), *turn.shape[1:])
        if self.prefix_angles is None:  # cos 0 = 1, sin 0 = 0: prefix tokens are not turned
            own = still.index_fill(2, torch.zeros(1, dtype=torch.int64, device=turn.device), 1.0)
        else:
            angles = self.prefix_angles.float()
            own = torch.stack([angles.cos(), angles.sin()], dim=-1)
        return layout.to_layout(turn, own), None if flip is None else layout.to_layout(flip, still)

    # ---- how they run

    def _checked(self, p: Packed, positions: Tensor | None) -> Tensor:
        """The positions rotary tables are made for, after all shapes have been compared."""
        if p.x.shape[1] != self.config.row_width:
            raise ShapeError(
                f"rows hold {p.x.shape[1]} values, this encoder reads {self.config.row_width}",
                expected=self.config.row_width,
                got=p.x.shape[1],
            )
        where = p.pos if positions is None else positions
        if where.shape != p.pos.shape:
            raise ShapeError(
                f"positions must be {tuple(p.pos.shape)}, got {tuple(where.shape)}",
                expected=tuple(p.pos.shape),
                got=tuple(where.shape),
            )
        return where.to(p.device)

    def _prefixes(self) -> tuple[Tensor | None, Tensor | None]:
        """The (P, D) prefix tokens of most units and of those that begin a scene, the first with its place added."""
        place = None if self.table is None else self.table.prefix
        if self.prefix is None or place is None:
            return self.prefix, self.prefix_first
        first = self.prefix_first
        placed = torch.cat([self.prefix[:1] + place, self.prefix[1:]])
        return placed, None if first is None else torch.cat([first[:1] + place, first[1:]])

    def _first(self, p: Packed, ran: LayerOutputs) -> Tensor:
        """The first prefix token of every item, normed."""
        prefix = ran.layout.prefixes(ran.x)
        assert prefix is not None
        return first_prefix(self.norm_post(prefix[:, :1]), ran.layout.units_of(p), p.device)

    def _stack(self, x: Tensor, inputs: LayerInputs, states: States, until: int | None) -> Tensor:
        recompute = self.options.gradient_checkpointing and torch.is_grad_enabled()
        compiled = self._compiled.wanted(x, self.layers)
        if 0 in states:
            states[0] = x
        for i, layer in enumerate(self.layers[:until], 1):
            run = partial(self._compiled, layer) if compiled else layer
            x = checkpoint(run, x, inputs, use_reentrant=False) if recompute else run(x, inputs)
            if i in states:
                states[i] = x
        return x

    def _in_place(self, p: Packed) -> bool:
        stem = (self.patch,) if self.config.embed else ()
        return cpu.can_run(p.x, (*stem, self.norm_embed, self.norm_pre, *self.layers), self.options)
