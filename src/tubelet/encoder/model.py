"""One packed vision transformer for every family: Packed of patches in, Packed of features out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tubelet.encoder import cpu
from tubelet.encoder.attention import Backend, Segments, resolve
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.layers import Layer, LayerInputs, MergerMLP, PatchEmbed, SegmentSpan, norm_layer
from tubelet.encoder.layout import Layout, layout_of
from tubelet.encoder.pool import first_prefix, pool_of
from tubelet.encoder.rope import rope_positions, rope_tables
from tubelet.encoder.table import PositionTable
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Grid, Packed
from tubelet.packed.order import check_blocks, check_order
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float

States = dict[int, Tensor]  # hidden states by number; the keys are those wanted


class LayerOutputs(NamedTuple):
    """What the layers gave, in the places inside (tubelet.encoder.layout), before the final norm."""

    x: Tensor
    layout: Layout
    states: States


@dataclass(frozen=True)
class Features:
    """Everything one run gives. tokens: what `encoder(p)` gives; trunk: the same before the merger.

    prefix: (S, P, D), the prefix tokens of each segment after the final norm, None where the encoder has none. pooled:
    (N, D), None where it cannot pool. hidden, hidden_prefix: the hidden states asked for, patches and prefix tokens.
    deepstack: what the mergers of chosen layers gave, as wide as tokens.
    """

    tokens: Packed
    trunk: Packed
    prefix: Tensor | None
    pooled: Tensor | None
    hidden: tuple[Packed, ...]
    hidden_prefix: tuple[Tensor | None, ...]
    deepstack: tuple[Packed, ...]


class Encoder(nn.Module):
    """patch embedding (+ places, prefix tokens) -> norm -> layers -> norm (-> merger), over rows of any mix of items.

    Order of rows is kept; each item sees only itself, so results do not depend on its neighbours in the pack. On a CPU
    without gradients the layers run in place in blocks (tubelet.encoder.cpu); everywhere else the plain modules do.
    uint8 rows are pixels, float rows are normalised pixels. The result has the weights' type.
    Cost per row: 2 x parameters FLOPs, and 4 D n for attention over a segment of n rows in each layer.

    >>> encoder = tubelet.untrained("llava_vit_packing_small")
    >>> tokens = encoder(tubelet.patchify(tubelet.read("photo.jpg"), encoder.pixels))
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        d, local = config.hidden, config.local
        self.patch = PatchEmbed(d, config.pixels, config.patch_bias)
        self.norm_embed = norm_layer(config.norm, d, config.eps) if config.embed_norm else nn.Identity()
        self.table = PositionTable(config.table, d) if config.table else None
        self.prefix = nn.Parameter(torch.empty(config.prefix, d)) if config.prefix else None
        angles = config.prefix if config.prefix_angles else 0
        self.prefix_angles = nn.Parameter(torch.empty(angles, config.head_dim // 2)) if angles else None
        self.norm_pre = norm_layer(config.norm, d, config.eps) if config.pre_norm else nn.Identity()
        self.layers = nn.ModuleList(
            Layer(config, local is not None and i not in local.full) for i in range(config.layers)
        )
        self.norm_post = norm_layer(config.norm, d, config.eps) if config.post_norm else nn.Identity()
        self.pool = pool_of(config)
        self.merger = MergerMLP(config.merger, d) if config.merger else None
        deeper = config.deepstack_merger
        self.deepstack = nn.ModuleList(MergerMLP(deeper, d) for _ in config.deepstack) if deeper else None
        self.gradient_checkpointing = False
        self.backend: Backend = "auto"
        self._compiled = None

    @property
    def pixels(self) -> PixelRecipe:
        """How pictures become the rows this encoder reads."""
        return self.config.pixels

    @property
    def can_pool(self) -> bool:
        """Whether `features` gives one vector per item."""
        return self.pool is not None or (self.config.pool and self.config.head.kind == "first")

    # ---- the calls

    def forward(self, p: Packed, *, positions: Tensor | None = None, segments: Segments | None = None) -> Packed:
        """Features of every row, after the final norm and, where there is one, the merger (then T / merge^2 rows).

        positions: (T, 3) int or float places for the rotary tables instead of p.pos (such as real frame numbers).
        segments: what attends to what, instead of the configuration's. Raises ShapeError naming what does not fit.
        """
        tokens = self.trunk(p, positions=positions, segments=segments)
        return tokens if self.merger is None else tokens_merged(tokens, self.merger, in_place=self._in_place(p.x))

    def trunk(self, p: Packed, *, positions: Tensor | None = None, segments: Segments | None = None) -> Packed:
        """`forward` without the merger: one feature row per patch row."""
        ran = self._run(p, positions, segments, ())
        return p.with_x(ran.layout.outside(self._normed(ran.x)))

    def features(
        self,
        p: Packed,
        *,
        only: Sequence[int] = (),
        pool: bool = True,
        positions: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Features:
        """`forward` with all else one run gives: prefix tokens, pooled vectors, hidden states, deepstack features.

        only: numbers of the hidden states to keep, as in `hidden_states`. pool=False leaves the pooled vectors out.
        Raises ConfigError for a number outside 0..L, ShapeError naming what does not fit.
        """
        ran = self._run(p, positions, segments, (*only, *(i + 1 for i in self.config.deepstack)))
        layout, normed = ran.layout, self._normed(ran.x)
        trunk, prefix = p.with_x(layout.outside(normed)), layout.prefixes(normed)
        in_place = self._in_place(p.x)
        pooled = None
        if pool and self.can_pool:
            pooled = self._first(p, ran) if self.pool is None else self.pool(trunk)
        deep = [p.with_x(layout.outside(ran.states[i + 1])) for i in self.config.deepstack]
        mergers = [m for m in self.deepstack or () if isinstance(m, MergerMLP)]
        return Features(
            trunk if self.merger is None else tokens_merged(trunk, self.merger, in_place=in_place),
            trunk,
            prefix,
            pooled,
            tuple(p.with_x(layout.outside(ran.states[i])) for i in only),
            tuple(layout.prefixes(ran.states[i]) for i in only),
            tuple(tokens_merged(x, merger, in_place=in_place) for x, merger in zip(deep, mergers, strict=True)),
        )

    def hidden_states(
        self,
        p: Packed,
        *,
        only: Sequence[int] | None = None,
        positions: Tensor | None = None,
        segments: Segments | None = None,
    ) -> list[Packed]:
        """L + 1 packs: [0] after norm_pre, [i] after layer i. The last is before norm_post. Memory: (L + 1) T D.

        only: the packs of these numbers, in this order; layers after the deepest of them do not run, and no other
        pack is kept. Prefix tokens are left out. Raises ConfigError for a number outside 0..L.
        """
        wanted = tuple(range(len(self.layers) + 1)) if only is None else tuple(only)
        ran = self._run(p, positions, segments, wanted, until=max(wanted, default=0))
        return [p.with_x(ran.layout.outside(ran.states[i])) for i in wanted]

    def prefixed_states(self, p: Packed, only: Sequence[int]) -> list[tuple[Packed, Tensor | None]]:
        """`hidden_states`, each with the (S, P, D) prefix tokens of its segments, None where the encoder has none."""
        ran = self._run(p, None, None, only, until=max(only, default=0))
        return [(p.with_x(ran.layout.outside(ran.states[i])), ran.layout.prefixes(ran.states[i])) for i in only]

    def pooled(self, tokens: Packed) -> Float[Tensor, "N D"]:
        """One vector per item from `forward`'s tokens, by the pooling head. Raises ConfigError where there is none;
        an encoder that pools its first prefix token gives that in `features` only."""
        if self.pool is None:
            raise ConfigError("this encoder has no pooling head that reads tokens", expected="pool=True", got=False)
        return self.pool(tokens)

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> "Encoder":
        """Compile the layer stack once, for any later mix of items: lengths are data, so new ones do not recompile.

        The first call then takes 10 s or more. `backend` is torch.compile's. Returns self.
        """
        self._compiled = torch.compile(self._stack, dynamic=True, fullgraph=True, backend=backend)
        return self

    # ---- how they run

    def _run(
        self,
        p: Packed,
        positions: Tensor | None,
        segments: Segments | None,
        wanted: Sequence[int],
        until: int | None = None,
    ) -> LayerOutputs:
        where = self._checked(p, positions)
        for i in wanted:
            if not 0 <= i <= len(self.layers):
                raise ConfigError(f"hidden states count 0..{len(self.layers)}, got {i}", limit=len(self.layers), got=i)
        layout = layout_of(p, self.config, segments)
        turn, flip = self._turns(p, where, layout)
        states: States = dict.fromkeys(wanted, p.x)
        until = len(self.layers) if until is None else until
        if self._in_place(p.x):
            return LayerOutputs(self._run_in_place(p, turn, flip, layout, states, until), layout, states)
        backend = resolve(self.backend, p.device, self.patch.weight.dtype)
        plan = LayerInputs(
            turn,
            flip,
            backend,
            _span(layout.segments, backend, p.device),
            None if layout.local is None else _span(layout.local, backend, p.device),
        )
        x = self.norm_embed(self.patch(p.x))
        if self.table is not None:
            values, index = self.table(p)
            x = x + values.to(x.dtype)[index]
        x = self.norm_pre(layout.inside(x, self._prefix()))
        if self._compiled is not None and not states:
            return LayerOutputs(self._compiled(x, _as_data(plan)), layout, states)
        return LayerOutputs(self._stack(x, plan, states, until), layout, states)

    def _checked(self, p: Packed, positions: Tensor | None) -> Tensor:
        """The positions rotary tables are made for, after all shapes have been compared."""
        if p.x.shape[1] != self.pixels.width:
            raise ShapeError(
                f"rows hold {p.x.shape[1]} values, this encoder reads {self.pixels.width}",
                expected=self.pixels.width,
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

    def _turns(self, p: Packed, where: Tensor, layout: Layout) -> tuple[Tensor | None, Tensor | None]:
        """Rotary tables of the rows in their places inside."""
        rope = self.config.rope
        if rope is None:
            return None, None
        turn, flip = rope_tables(rope_positions(p, where, rope), self.config.head_dim, rope)
        if layout.where is None:
            return turn, flip
        still = turn.new_zeros(max(1, self.config.prefix), *turn.shape[1:])
        if self.prefix_angles is None:
            own = still.index_fill(2, torch.zeros(1, dtype=torch.int64, device=turn.device), 1.0)
        else:
            angles = self.prefix_angles.float()
            own = torch.stack([angles.cos(), angles.sin()], dim=-1)
        return layout.inside(turn, own), None if flip is None else layout.inside(flip, still)

    def _prefix(self) -> Tensor | None:
        """The (P, D) prefix tokens, the first with its place added."""
        if self.prefix is None or self.table is None or self.table.prefix is None:
            return self.prefix
        return torch.cat([self.prefix[:1] + self.table.prefix, self.prefix[1:]])

    def _normed(self, x: Tensor) -> Tensor:
        return x if self.config.post_norm == "pooled" else self.norm_post(x)

    def _first(self, p: Packed, ran: LayerOutputs) -> Tensor:
        """The first prefix token of every item, normed."""
        prefix = ran.layout.prefixes(ran.x)
        assert prefix is not None
        return first_prefix(self.norm_post(prefix[:, :1]), ran.layout.segments_of(p), p.device)

    def _stack(self, x: Tensor, plan: LayerInputs, states: States | None = None, until: int | None = None) -> Tensor:
        if states is not None and 0 in states:
            states[0] = x
        for i, layer in enumerate(self.layers[:until], 1):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, plan, use_reentrant=False)
            else:
                x = layer(x, plan)
            if states is not None and i in states:
                states[i] = x
        return x

    def _in_place(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")  # it casts products, but not those that write in place
            and self._compiled is None
            and self.backend in ("auto", "sdpa")
            and x.shape[0] > 0
            and all(cpu.is_unmodified(layer) for layer in self.layers)
        )

    def _run_in_place(
        self, p: Packed, turn: Tensor | None, flip: Tensor | None, layout: Layout, states: States, until: int
    ) -> Tensor:
        dtype = self.patch.weight.dtype
        x = cpu.embed(self.patch, p.x)
        if self.config.embed_norm:
            x = cpu.norm(self.norm_embed, x)
        if self.table is not None:
            cpu.add_table(x, *self.table(p))
        x = layout.inside(x, self._prefix())
        if self.config.pre_norm:
            x = cpu.norm(self.norm_pre, x)
        space = cpu.Workspace(x.shape[0], self.config, dtype)
        if 0 in states:
            states[0] = x.to(dtype, copy=True)
        for i, layer in enumerate(self.layers[:until], 1):
            assert isinstance(layer, Layer)  # `_in_place` has checked it
            local = layout.local if layer.local else None
            cpu.layer_(layer, x, turn, flip, layout.segments if local is None else local, space)
            if i in states:
                states[i] = x.to(dtype, copy=True)
        return x.to(dtype)


def _span(segments: Segments, backend: Backend, device: torch.device) -> SegmentSpan:
    return SegmentSpan(segments.host if backend == "sdpa" else segments.on(device), segments.longest, segments)


def _as_data(plan: LayerInputs) -> LayerInputs:
    """The plan without host sizes: what a compiled graph takes, so that new lengths are new data."""
    local = None if plan.local is None else plan.local._replace(segments=None)
    return plan._replace(full=plan.full._replace(segments=None), local=local)


def tokens_merged(tokens: Packed, merger: MergerMLP, *, in_place: bool = False) -> Packed:
    """Rows in block order through the merger: merge x merge neighbours become one row of a grid that much smaller.

    Blocks may have been dropped, but only whole ones. Raises ShapeError when a row of a block is missing or rows are
    not in block order (on CUDA the order is checked by a device assertion, so that nothing waits).
    """
    merge = round(merger.group**0.5)
    for i, item in enumerate(tokens.items):
        if item.grid.h % merge or item.grid.w % merge:
            raise ShapeError(
                f"a {item.grid.h} x {item.grid.w} grid has no {merge} x {merge} blocks",
                item=i,
                expected=merge,
                got=tuple(item.grid),
            )
    if tokens.whole:
        check_order(tokens, merge)
    else:
        check_blocks(tokens, merge)
    group = merger.group
    pos = tokens.pos[::group].clone()
    pos[:, 1:] //= merge
    items = tuple(replace(i, grid=Grid(i.grid.t, i.grid.h // merge, i.grid.w // merge)) for i in tokens.items)
    x = cpu.merged(merger, tokens.x) if in_place and cpu.is_unmodified(merger) else merger(tokens.x)
    return Packed(x, pos, items, tuple(n // group for n in tokens.lengths))
