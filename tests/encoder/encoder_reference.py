"""The slow, obvious twin of the encoder: one item at a time, dense attention in float64, no shared code."""

import torch
from torch import Tensor

from tubelet.encoder.model import Encoder


def norm(module: torch.nn.Module, x: Tensor) -> Tensor:
    weight = module.weight.double()  # pyright: ignore
    if isinstance(module, torch.nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * weight + module.bias.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + module.eps).sqrt() * weight  # pyright: ignore


def _linear(module: torch.nn.Module, x: Tensor) -> Tensor:
    return x @ module.weight.double().T + (0 if module.bias is None else module.bias.double())  # pyright: ignore


def _turn(x: Tensor, places: Tensor, encoder: Encoder) -> Tensor:
    rope, k = encoder.config.rope, x.shape[-1]
    unit = k // (2 * sum(rope.split))
    parts = []
    for axis, share in enumerate(rope.split):
        n = share * unit
        f = rope.theta ** (-(torch.arange(n, dtype=torch.float64) + rope.shift[axis]) / n)
        parts.append(places[:, axis : axis + 1] * f)
    return _turn_by(x, torch.cat(parts, dim=1), encoder)


def _turn_by(x: Tensor, a: Tensor, encoder: Encoder) -> Tensor:
    rope, half = encoder.config.rope, x.shape[-1] // 2
    if rope.layout == "halves":
        cos, sin = torch.cat([a, a], dim=1).cos()[:, None], torch.cat([a, a], dim=1).sin()[:, None]
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin
    e = torch.cat([a, a], dim=1) if rope.mode == "onevision" else a.repeat_interleave(2, dim=1)
    cos, sin = e.cos()[:, None], e.sin()[:, None]
    other = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cos + other * sin


def gelu(x: Tensor, act: str) -> Tensor:
    if act == "gelu":
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))
    if act == "silu":
        return x / (1 + torch.exp(-x))
    if act == "quick_gelu":
        return x / (1 + torch.exp(-1.702 * x))
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def hidden(encoder: Encoder, rows: Tensor, places: Tensor, lengths: list[int]) -> list[Tensor]:
    """Hidden states of ONE item whose rows attend inside runs of `lengths`."""
    x, places, c = rows.double(), places.double(), encoder.config
    x = x @ encoder.patch.weight.double().T
    if encoder.patch.bias is not None:
        x = x + encoder.patch.bias.double()
    x = norm(encoder.norm_pre, x)
    states = [x]
    for layer in encoder.layers:
        q, k, v = (t.view(len(x), c.heads, -1) for t in _linear(layer.qkv, norm(layer.norm1, x)).chunk(3, dim=1))
        q, k = _turn(q, places, encoder), _turn(k, places, encoder)
        outs, a = [], 0
        for n in lengths:
            s = slice(a, a + n)
            p = (torch.einsum("qhk,jhk->hqj", q[s], k[s]) / c.head_dim**0.5).softmax(-1)
            outs.append(torch.einsum("hqj,jhk->qhk", p, v[s]).flatten(1))
            a += n
        x = x + _linear(layer.proj, torch.cat(outs))
        x = x + _linear(layer.fc2, gelu(_linear(layer.fc1, norm(layer.norm2, x)), c.act))
        states.append(x)
    return states


def pooled(encoder: Encoder, tokens: Tensor) -> Tensor:
    """The head on ONE item's final tokens: one query, every head by itself."""
    head, c = encoder.pool, encoder.config
    assert head is not None
    q, k, v = (
        y.view(-1, c.heads, c.head_dim)
        for y in (
            (x @ w.T + b)
            for x, w, b in zip(
                (head.probe.double()[None], tokens, tokens),
                head.in_proj.weight.double().chunk(3),
                head.in_proj.bias.double().chunk(3),
                strict=True,
            )
        )
    )
    p = (torch.einsum("qhk,jhk->hqj", q, k) / c.head_dim**0.5).softmax(-1)
    out = _linear(head.out_proj, torch.einsum("hqj,jhk->qhk", p, v).flatten(1))
    return (out + _linear(head.fc2, gelu(_linear(head.fc1, norm(head.norm, out)), c.act)))[0]


def segment(encoder: Encoder, rows: Tensor, places: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Hidden states of ONE segment (one frame) with every option of the configuration, prefix tokens first.

    places: (n, 3) of the rows in a frame of `grid`. Windows are a dense mask.
    """
    c, x = encoder.config, rows.double()
    x = x @ encoder.patch.weight.double().T + (0 if encoder.patch.bias is None else encoder.patch.bias.double())
    if c.embed_norm:
        x = norm(encoder.norm_embed, x)
    prefix = torch.zeros(0, c.hidden, dtype=torch.float64) if encoder.prefix is None else encoder.prefix.double()
    if encoder.table is not None:
        table = encoder.table.resized(*grid, rows.device).double().view(*grid, -1)
        x = x + torch.stack([table[int(h), int(w)] for _, h, w in places])
        if encoder.table.prefix is not None:
            prefix = prefix.clone()
            prefix[0] += encoder.table.prefix[0].double()
    x = torch.cat([prefix, x])
    x = norm(encoder.norm_pre, x) if c.pre_norm else x
    turned = places.double()
    if c.rope is not None and c.rope.places == "centred":
        sides = torch.tensor([1, *grid], dtype=torch.float64)
        turned = ((places.double() + 0.5) / sides * 2 - 1) * 2 * torch.pi
    sees = torch.ones(len(x), len(x), dtype=torch.bool)
    if c.span_side is not None:
        cell = places[:, 1:] // c.span_side
        sees = (cell[:, None] == cell[None]).all(-1)
    states = [x]
    for number, layer in enumerate(encoder.layers):
        y = _linear(layer.qkv, norm(layer.norm1, x))
        if layer.qkv.bias is not None and not c.key_bias:
            y[:, c.hidden : 2 * c.hidden] -= layer.qkv.bias.double()[c.hidden : 2 * c.hidden]
        q, k, v = (t.view(len(x), c.heads, -1) for t in y.chunk(3, dim=1))
        if c.rope is not None:
            q, k = (
                torch.cat([_prefix_turned(t[: c.prefix], encoder), _turn(t[c.prefix :], turned, encoder)])
                for t in (q, k)
            )
        scores = torch.einsum("qhk,jhk->hqj", q, k) / c.head_dim**0.5
        if c.layer_spans[number] == "window":
            scores = scores.masked_fill(~sees, -torch.inf)
        out = _linear(layer.proj, torch.einsum("hqj,jhk->qhk", scores.softmax(-1), v).flatten(1))
        x = x + out * (1 if layer.scale1 is None else layer.scale1.double())
        y = _linear(layer.fc1, norm(layer.norm2, x))
        y = gelu(y[:, : c.mlp], c.act) * y[:, c.mlp :] if c.gated else gelu(y, c.act)
        x = x + _linear(layer.fc2, y) * (1 if layer.scale2 is None else layer.scale2.double())
        states.append(x)
    return states


def _prefix_turned(x: Tensor, encoder: Encoder) -> Tensor:
    return x if encoder.prefix_angles is None else _turn_by(x, encoder.prefix_angles.double(), encoder)


def merged(merger: torch.nn.Module, rows: Tensor) -> Tensor:
    """Blocks of rows through a merger, one at a time; rows of a block follow each other."""
    out = []
    for block in rows.double().split(merger.group):  # pyright: ignore
        x = norm(merger.norm, block.flatten()[None]) if merger.joined else norm(merger.norm, block).flatten()[None]
        out.append(_linear(merger.fc2, gelu(_linear(merger.fc1, x), "gelu")))
    return torch.cat(out)
