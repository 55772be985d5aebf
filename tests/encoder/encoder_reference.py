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
        parts.append(places[:, axis : axis + 1] * rope.theta ** (-torch.arange(n, dtype=torch.float64) / n))
    a = torch.cat(parts, dim=1)
    e = torch.cat([a, a], dim=1) if rope.mode == "onevision" else a.repeat_interleave(2, dim=1)
    cos, sin = e.cos()[:, None], e.sin()[:, None]
    other = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cos + other * sin


def gelu(x: Tensor, act: str) -> Tensor:
    if act == "gelu":
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))
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
