"""What attention says of each row: how much it gets in one layer, from all rows or the class token, and its key."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tubelet.encoder.attention import Segments
from tubelet.encoder.layers import Layer
from tubelet.encoder.merging import tokens_merged
from tubelet.encoder.model import Encoder
from tubelet.encoder.rope import apply_rope
from tubelet.errors import ConfigError
from tubelet.packed import Packed
from tubelet.shapes import Float, Shaped

Queries = Literal["all", "first"]
_CHUNK = 512  # queries at a time, which bounds memory to H x 512 x n


class Attended(NamedTuple):
    """tokens: what `encoder(p)` gives. received: (T,) attention each of them gets, of a merged one the sum over its
    patches. keys: (T, D) keys of that layer, heads side by side, before rotary positions (after `qk_norm`); of a merged
    token the mean."""

    tokens: Packed
    received: Float[Tensor, " T"]
    keys: Shaped[Tensor, "T D"]


@torch.no_grad()
def attention_scores(encoder: Encoder, p: Packed, *, layer: int = -2, queries: Queries = "all") -> Attended:
    """The encoder's tokens, and what one layer's attention says of their rows, in one run.

    layer: -L .. L - 1. queries: "all" is the mean over all queries of a segment, prefix tokens among them; "first" is
    the attention of the first prefix token (the class token). Both are the mean over heads. Attention given to prefix
    tokens is left out, so numbers sum to 1 over a segment only where there are none.

    Cost: the encoder, then that layer's projections once more and 2 D sum(n^2) FLOPs. Without gradients.
    Raises: ConfigError for a layer there is none of, for windowed layers, and for "first" without prefix tokens.
    """
    config = encoder.config
    if not -config.layers <= layer < config.layers:
        raise ConfigError(f"layers count {-config.layers}..{config.layers - 1}, got {layer}", limit=config.layers)
    number = layer % config.layers
    block = encoder.layers[number]
    assert isinstance(block, Layer)
    if block.span == "window":
        raise ConfigError("attention received is defined for layers that see whole frames or more, not for windows")
    if queries == "first" and not config.prefix:
        raise ConfigError("this encoder has no class token to ask; queries='all'", expected="all", got=queries)
    if queries == "first" and block.span != config.prefix_per:
        raise ConfigError(
            f"a layer that sees each {block.span} has not one class token for it, but one for each {config.prefix_per}",
            expected=config.prefix_per,
            got=block.span,
        )
    ran = encoder.run(p, only=[number])
    q, k, _ = block.heads_of(ran.state(number))
    keys = ran.layout.from_layout(k.flatten(1))
    turn, flip = encoder.rotary_tables(p, ran.layout)
    if turn is not None:
        q, k = (apply_rope(each, turn, flip, block.halves) for each in (q, k))
    got = received(q, k, ran.layout.spans[block.span], first=queries == "first")
    tokens = p.with_x(ran.layout.from_layout(encoder.final_norm(ran.x)))
    got = ran.layout.from_layout(got[:, None]).squeeze(1)
    if encoder.merger is not None:
        tokens, group = tokens_merged(tokens, encoder.merger), encoder.merger.group
        got, keys = got.view(-1, group).sum(1), keys.view(-1, group, keys.shape[1]).mean(1)
    return Attended(tokens, got, keys)


def received(
    q: Shaped[Tensor, "T H K"], k: Shaped[Tensor, "T H K"], segments: Segments, *, first: bool = False
) -> Float[Tensor, " T"]:
    """softmax(q k^T / sqrt(K)) inside each segment, mean over heads and over its queries, or that of its first query.

    Sums to 1 over a segment. Softmax in float32. Cost: 2 H K sum(n^2) FLOPs, no values are read; memory O(n).
    """
    out = torch.zeros(len(q), dtype=torch.float32, device=q.device)
    scale, start = q.shape[2] ** -0.5, 0
    for length in segments.lengths:
        end = start + length
        keys, last = k[start:end].permute(1, 2, 0).float(), start + 1 if first else end
        for a in range(start, last, _CHUNK):
            asked = q[a : min(a + _CHUNK, last)].transpose(0, 1).float() * scale
            out[start:end] += (asked @ keys).softmax(dim=-1).sum(dim=(0, 1))
        out[start:end] /= (last - start) * q.shape[1]
        start = end
    return out
