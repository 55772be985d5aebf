"""The slow twin of an encoder with several spans: all tokens of a pack at once, one dense mask for each span, float64.

It shares no code with tubelet.encoder.layout and .spans: every token has the numbers of the scene, item, frame and
window it belongs to, and two tokens attend to each other where the number that counts is equal.
"""

from dataclasses import dataclass

import torch
from tests.encoder.encoder_reference import _linear, _turn, gelu, norm
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.packed import Packed


@dataclass
class Token:
    """row: of the pack, None for a prefix token. frame and window: None for a prefix token that stands before more."""

    row: int | None
    scene: int
    item: int
    frame: tuple[int, int] | None
    window: tuple[int, ...] | None
    place: int = 0  # of a prefix token among its own
    first: bool = False

    def segment(self, span: str) -> object:
        """Two tokens of one span see each other where this is equal."""
        number = {"scene": self.scene, "item": self.item, "frame": self.frame, "window": self.window}[span]
        return ("prefix", self.item, self.frame) if number is None else number


def tokens_of(encoder: Encoder, p: Packed, scenes: tuple[int, ...]) -> list[Token]:
    c, out, seen = encoder.config, [], set()
    scene_of = [s for s, n in enumerate(scenes) for _ in range(n)]
    units = set()
    for i in range(len(p)):
        for row in range(p.starts[i], p.starts[i + 1]):
            t, h, w = p.pos[row].tolist()
            frame = (i, t // c.span_frames)
            unit = frame if c.prefix_per == "frame" else i
            if c.prefix and unit not in units:
                units.add(unit)
                first = scene_of[i] not in seen
                seen.add(scene_of[i])
                own = frame if c.prefix_per == "frame" else None
                out += [Token(None, scene_of[i], i, own, None, k, first) for k in range(c.prefix)]
            side = c.span_side or 1
            out.append(Token(row, scene_of[i], i, frame, (i, t, h // side, w // side)))
    return out


def states_of(encoder: Encoder, p: Packed, scenes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """(rows of the pack, prefix tokens (S, P, D)) of every hidden state. Differentiable."""
    c, tokens = encoder.config, tokens_of(encoder, p, scenes)
    embedded = _linear(encoder.patch, p.x.double())
    rows = []
    for token in tokens:
        if token.row is not None:
            rows.append(embedded[token.row])
            continue
        own = encoder.prefix_first if token.first and encoder.prefix_first is not None else encoder.prefix
        assert own is not None
        rows.append(own[token.place].double())
    x = torch.stack(rows)
    x = norm(encoder.norm_pre, x) if c.pre_norm else x
    origin = 0 if c.rope is None else c.rope.origin
    places = torch.stack([torch.zeros(3) if t.row is None else p.pos[t.row].double() + origin for t in tokens]).double()
    states = [x]
    for layer, span in zip(encoder.layers, c.layer_spans, strict=True):
        q, k, v = (t.view(len(x), c.heads, -1) for t in _linear(layer.qkv, norm(layer.norm1, x)).chunk(3, dim=1))
        if c.qk_norm is not None:
            q, k = norm(layer.norm_q, q), norm(layer.norm_k, k)
        if c.rope is not None:
            q, k = _turn(q, places, encoder), _turn(k, places, encoder)
        numbers = [token.segment(span) for token in tokens]
        sees = torch.tensor([[a == b for b in numbers] for a in numbers])
        scores = (torch.einsum("qhk,jhk->hqj", q, k) / c.head_dim**0.5).masked_fill(~sees, -torch.inf)
        out = _linear(layer.proj, torch.einsum("hqj,jhk->qhk", scores.softmax(-1), v).flatten(1))
        x = x + out * (1 if layer.scale1 is None else layer.scale1.double())
        y = gelu(_linear(layer.fc1, norm(layer.norm2, x)), c.act)
        x = x + _linear(layer.fc2, y) * (1 if layer.scale2 is None else layer.scale2.double())
        states.append(x)
    order = sorted((t.row, n) for n, t in enumerate(tokens) if t.row is not None)
    back = torch.tensor([n for _, n in order])
    prefix = torch.tensor([n for n, t in enumerate(tokens) if t.row is None], dtype=torch.int64)
    return [(s[back], s[prefix].view(-1, max(1, c.prefix), c.hidden)) for s in states]
