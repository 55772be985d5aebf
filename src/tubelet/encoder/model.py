"""One packed vision transformer for every family: Packed of patches in, Packed of features out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tubelet.encoder import cpu
from tubelet.encoder.attention import Backend, Segments, frame_segments, item_segments, resolve
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.layers import Layer, MergerMLP, PatchEmbed, Plan, norm_layer
from tubelet.encoder.pool import AttentionPool
from tubelet.encoder.rope import rope_tables
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Grid, Packed, all_positions
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float

States = dict[int, Tensor]  # hidden states by number; the keys are those wanted


class Encoder(nn.Module):
    """patch embedding -> norm -> layers -> norm (-> merger), over rows of any mix of items.

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
        self.patch = PatchEmbed(config.hidden, config.pixels, config.patch_bias)
        self.norm_pre = norm_layer(config.norm, config.hidden, config.eps) if config.pre_norm else nn.Identity()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm_post = norm_layer(config.norm, config.hidden, config.eps) if config.post_norm else nn.Identity()
        self.pool = AttentionPool(config) if config.pool else None
        self.merger = MergerMLP(config.merger, config.hidden) if config.merger else None
        self.gradient_checkpointing = False
        self.backend: Backend = "auto"
        self._compiled = None

    @property
    def pixels(self) -> PixelRecipe:
        """How pictures become the rows this encoder reads."""
        return self.config.pixels

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
        x = self._run(p, positions, segments, None)
        return p.with_x(self.norm_post(x))

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
        pack is kept. Raises ConfigError for a number outside 0..L.
        """
        wanted = range(len(self.layers) + 1) if only is None else tuple(only)
        for i in wanted:
            if not 0 <= i <= len(self.layers):
                raise ConfigError(f"hidden states count 0..{len(self.layers)}, got {i}", limit=len(self.layers), got=i)
        states: States = dict.fromkeys(wanted, p.x)
        self._run(p, positions, segments, states)
        return [p.with_x(states[i]) for i in wanted]

    def pooled(self, tokens: Packed) -> Float[Tensor, "N D"]:
        """One vector per item from `forward`'s tokens, by the pooling head. Raises ConfigError where there is none."""
        if self.pool is None:
            raise ConfigError("this encoder has no pooling head", expected="pool=True", got=False)
        return self.pool(tokens)

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> "Encoder":
        """Compile the layer stack once, for any later mix of items: lengths are data, so new ones do not recompile.

        The first call then takes 10 s or more. `backend` is torch.compile's. Returns self.
        """
        self._compiled = torch.compile(self._stack, dynamic=True, fullgraph=True, backend=backend)
        return self

    # ---- how they run

    def _run(self, p: Packed, positions: Tensor | None, segments: Segments | None, states: States | None) -> Tensor:
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
        if segments is None:
            window = self.config.window
            segments = item_segments(p) if window is None else frame_segments(p, window)
        if segments.total != p.x.shape[0]:
            raise ShapeError(
                f"segments sum to {segments.total}, the pack has {p.x.shape[0]} rows",
                expected=p.x.shape[0],
                got=segments.total,
            )
        turn, flip = rope_tables(where.to(p.device), self.config.head_dim, self.config.rope)
        if self._in_place(p.x):
            return self._run_in_place(p.x, turn, flip, segments, states)
        backend = resolve(self.backend, p.device, self.patch.weight.dtype)
        cu = segments.host if backend == "sdpa" else segments.on(p.device)
        plan = Plan(turn, flip, cu, segments.longest, backend, segments)
        x = self.norm_pre(self.patch(p.x))
        if self._compiled is not None and states is None:
            return self._compiled(x, plan._replace(segments=None))
        return self._stack(x, plan, states)

    def _stack(self, x: Tensor, plan: Plan, states: States | None = None) -> Tensor:
        if states is not None and 0 in states:
            states[0] = x
        for i, layer in enumerate(self.layers, 1):
            if states is not None and i > max(states, default=0):
                break
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
            and self._compiled is None
            and self.backend in ("auto", "sdpa")
            and x.shape[0] > 0
            and all(cpu.plain(layer) for layer in self.layers)
        )

    def _run_in_place(
        self, rows: Tensor, turn: Tensor, flip: Tensor | None, segments: Segments, states: States | None
    ) -> Tensor:
        dtype = self.patch.weight.dtype
        x = cpu.embed(self.patch, rows)
        if not isinstance(self.norm_pre, nn.Identity):
            x = cpu.norm(self.norm_pre, x)
        space = cpu.Workspace(x.shape[0], x.shape[1], self.config.mlp, self.config.heads, x.dtype)
        if states is not None and 0 in states:
            states[0] = x.to(dtype, copy=True)
        for i, layer in enumerate(self.layers, 1):
            if states is not None and i > max(states, default=0):
                break
            assert isinstance(layer, Layer)  # `_in_place` has checked it
            cpu.layer_(layer, x, turn, flip, segments, space)
            if states is not None and i in states:
                states[i] = x.to(dtype, copy=True)
        return x.to(dtype)


def tokens_merged(tokens: Packed, merger: MergerMLP, *, in_place: bool = False) -> Packed:
    """Rows in block order through the merger: merge x merge neighbours become one row of a grid that much smaller.

    Raises ShapeError when a row is missing or rows are not in block order (on CUDA the order is checked by a device
    assertion, so that nothing waits).
    """
    merge = round(merger.group**0.5)
    if not tokens.whole:
        raise ShapeError("a merger needs every row of its blocks: merge before rows are dropped")
    for i, item in enumerate(tokens.items):
        if item.grid.h % merge or item.grid.w % merge:
            raise ShapeError(
                f"a {item.grid.h} x {item.grid.w} grid has no {merge} x {merge} blocks",
                item=i,
                expected=merge,
                got=tuple(item.grid),
            )
    expected = all_positions(tokens.items, merge=merge).to(tokens.device)
    in_order = (tokens.pos == expected).all()
    if tokens.device.type == "cuda":
        torch._assert_async(in_order)
    elif tokens.device.type != "meta" and not bool(in_order):
        raise ShapeError(f"rows are not in block order of {merge}: patchify with order='block'", expected="block")
    group = merger.group
    pos = tokens.pos[::group].clone()
    pos[:, 1:] //= merge
    items = tuple(replace(i, grid=Grid(i.grid.t, i.grid.h // merge, i.grid.w // merge)) for i in tokens.items)
    x = cpu.merged(merger, tokens.x) if in_place and cpu.plain(merger) else merger(tokens.x)
    return Packed(x, pos, items, tuple(n // group for n in tokens.lengths))
