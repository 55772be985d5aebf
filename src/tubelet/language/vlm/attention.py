"""The `tubelet` attention function for models of transformers: packed segments without flash-attn, on any device.

A model that is set to attn_implementation="tubelet" calls it layer by layer. Where the model hands over cu_seqlens
(`cu_seq_lens_q`, as packed training and flash attention do), each segment attends to itself alone; otherwise the call
means what "sdpa" means.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tubelet.encoder.attention import Segments, varlen_attention
from tubelet.errors import ConfigError, ShapeError

NAME = "tubelet"
PACKED = "tubelet_packed"  # the same for rows that are always packed: transformers builds no mask for it
_CANNOT = ("position_bias", "s_aux", "cache")


def tubelet_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B, S, H, K) from q (B, H, S, K) and k, v with as many heads or a divisor of them, as transformers calls it.

    With cu_seq_lens_q (or cu_seqlens) B is 1 and each segment sees itself; a tensor of them is read on the host, which
    syncs on an accelerator, a list is there. Without, and with a mask instead, it is transformers' own "sdpa".
    With them sliding_window is kept, and tokens of a segment with one number from 0 in block_ids (S,) see each other
    both ways and all others what stands before them, whatever the module says; that costs a mask of the segment's
    length squared, softcap (Gemma 2) its scores. Raises ShapeError or ConfigError for what varlen attention cannot do:
    a mask besides segments, other segments for k.
    """
    cu = kwargs.pop("cu_seq_lens_q", None)
    cu = kwargs.pop("cu_seqlens", None) if cu is None else cu
    cu_k, blocks = kwargs.pop("cu_seq_lens_k", None), kwargs.pop("block_ids", None)
    if cu is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    if attention_mask is not None:
        raise ConfigError("segments and a mask at once: give cu_seq_lens or attention_mask", got="attention_mask")
    asked = [name for name in _CANNOT if kwargs.get(name) is not None]
    if asked:
        raise ConfigError(f"attention over segments has no {asked[0]}", got=asked[0])
    segments = _segments(cu, cu_k, query, key)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = causal or blocks is not None  # PaliGemma's layers say that they are not
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window, cap = kwargs.get("sliding_window"), kwargs.get("softcap")
    if not causal and (window is not None or cap is not None):
        raise ConfigError("windows and softcap are of causal attention", got=(window, cap))
    if causal or dropout:
        own = [None] * len(segments.lengths) if blocks is None else blocks.split(segments.lengths)
        parts = []
        each = (x.split(segments.lengths, dim=2) for x in (query, key, value))
        for q, k, v, numbers in zip(*each, own, strict=True):
            mask = _mask(q, window, numbers) if causal else None
            if cap is not None:
                parts.append(_capped(q, k, v, mask, scale, cap, dropout))
                continue
            how: dict[str, Any] = {"dropout_p": dropout, "is_causal": causal and mask is None, "scale": scale}
            parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **how))
        return torch.cat([query[:, :, :0], *parts], dim=2).transpose(1, 2), None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    q = q * (scale * q.shape[-1] ** 0.5) if scaling is not None else q
    return varlen_attention(q, k, v, segments).unsqueeze(0), None


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float, dropout: float) -> Tensor:
    """Attention whose scores are bent to stay below `cap`; what is seen without a mask is all before.

    Source: huggingface/transformers:src/transformers/models/gemma2/modeling_gemma2.py@v5.23.0 (eager).
    """
    scores = torch.tanh(q @ k.transpose(2, 3) * scale / cap) * cap
    seen = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril() if mask is None else mask
    weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


def _mask(q: Tensor, window: int | None, blocks: Tensor | None) -> Tensor | None:
    """What each token of a segment sees, (S, S); None where that is all before it."""
    length = q.shape[2]
    if blocks is None and (window is None or window >= length):
        return None
    at = torch.arange(length, device=q.device)
    behind = at[:, None] - at
    seen = behind >= 0
    if window is not None:
        seen &= behind < window
    if blocks is not None:
        seen |= (blocks[:, None] == blocks) & (blocks >= 0)
    return seen


def _segments(cu: Tensor | Sequence[int], cu_k: Tensor | Sequence[int] | None, query: Tensor, key: Tensor) -> Segments:
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ShapeError(
            f"packed rows are one batch with as many keys as queries, got {tuple(query.shape)}, {tuple(key.shape)}",
            expected=1,
            got=query.shape[0],
        )
    ends, ends_k = (list(c.tolist() if isinstance(c, Tensor) else c) for c in (cu, cu if cu_k is None else cu_k))
    if ends_k != ends:
        raise ConfigError("queries and keys must have the same segments", expected=ends, got=ends_k)
    segments = Segments(tuple(b - a for a, b in pairwise(ends)))
    if ends[:1] != [0] or segments.total != query.shape[2]:
        raise ShapeError(
            f"cu_seqlens from 0 to {query.shape[2]} expected, got {ends[:1]} .. {ends[-1:]}", expected=query.shape[2]
        )
    return segments


def register() -> None:
    """Make `tubelet` an attention implementation, with the masks of sdpa for models that build some."""
    AttentionInterface.register(NAME, tubelet_attention)
    AttentionInterface.register(PACKED, tubelet_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
