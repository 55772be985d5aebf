"""One vector per item: a learned query over its rows, all items in one call, or its first prefix token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import to_device
from tubelet.encoder.config import Act, EncoderConfig
from tubelet.encoder.layers import activate, norm_layer
from tubelet.packed import Packed
from tubelet.shapes import Float


def segment_sum(x: Float[Tensor, "T C"], lengths: Tensor) -> Float[Tensor, "N C"]:
    """Sum of each run of rows; 0 for an empty one. Runs never touch each other's values. No sync."""
    return torch.segment_reduce(x, "sum", lengths=lengths, axis=0, unsafe=True, initial=0.0)


def attention_pooled(
    p: Packed, query: Float[Tensor, "H K"], wk: Float[Tensor, "D D"], wv: Float[Tensor, "D D"], bv: Tensor | None
) -> Float[Tensor, "N D"]:
    """softmax(query k^T) v over each item's rows, in float32; `query` is scaled already. 0 for an item without rows.

    The query is the same for every item, so attention needs no kernel: scores are one product with a D x H matrix
    (a key bias shifts all scores of a head alike and cancels in the softmax), softmax and weighted sum run over
    segments. Cost: 2 T D^2 FLOPs for the values.
    """
    x, h = p.x.float(), query.shape[0]
    scores = x @ torch.einsum("hk,hkd->dh", query, wk.view(h, -1, x.shape[1]))
    lengths = p.cu_seqlens.diff().long()
    owner = torch.repeat_interleave(torch.arange(len(p), device=x.device), lengths, output_size=x.shape[0])
    top = torch.segment_reduce(scores.detach(), "max", lengths=lengths, axis=0, unsafe=True, initial=-torch.inf)
    weights = (scores - top[owner]).exp()
    weights = weights / segment_sum(weights, lengths)[owner]
    values = F.linear(x, wv, bv).unflatten(1, (h, -1)) * weights.unsqueeze(-1)
    return segment_sum(values.flatten(1), lengths)


class AttentionPool(nn.Module):
    """o = attention(probe, rows, rows); out = o + fc2(act(fc1(norm(o)))): (T, D) -> (N, D).

    Attention in float32 (`attention_pooled`). An item without rows pools to zeros.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_packing_hf.py@28efa3a, which loops and has
    an RMSNorm; huggingface/transformers:src/transformers/models/siglip2/modeling_siglip2.py@v5.23.0, with a LayerNorm.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden
        self.heads = config.heads
        self.act: Act = config.act
        self.probe = nn.Parameter(torch.empty(d))
        self.in_proj = nn.Linear(d, 3 * d)
        self.out_proj = nn.Linear(d, d)
        self.norm = norm_layer(config.head.norm, d, config.eps if config.head_eps is None else config.head_eps)
        self.fc1 = nn.Linear(d, config.mlp)
        self.fc2 = nn.Linear(config.mlp, d)

    def forward(self, p: Packed) -> Float[Tensor, "N D"]:
        d, h = p.x.shape[1], self.heads
        (wq, wk, wv), (bq, _, bv) = self.in_proj.weight.float().split(d), self.in_proj.bias.float().split(d)
        query = F.linear(self.probe.float(), wq, bq).view(h, -1) * (d // h) ** -0.5
        out = self.out_proj(attention_pooled(p, query, wk, wv, bv).to(p.dtype))
        out = out + self.fc2(activate(self.fc1(self.norm(out)), self.act))
        return torch.where((p.cu_seqlens.diff() > 0).unsqueeze(1), out, 0.0)


class QueryPool(nn.Module):
    """out_proj(attention(probe, rows, rows)), the probe taken as the query itself: (T, D) -> (N, D).

    Attention in float32 (`attention_pooled`). An item without rows pools to zeros.
    Source: huggingface/transformers:src/transformers/models/aimv2/modeling_aimv2.py@v5.23.0 Aimv2AttentionPoolingHead.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden
        self.heads = config.heads
        self.probe = nn.Parameter(torch.empty(d))
        self.kv = nn.Linear(d, 2 * d, bias=config.head.bias)
        self.out_proj = nn.Linear(d, d)

    def forward(self, p: Packed) -> Float[Tensor, "N D"]:
        d, h = p.x.shape[1], self.heads
        wk, wv = self.kv.weight.float().split(d)
        bias = None if self.kv.bias is None else self.kv.bias.float()[d:]
        query = self.probe.float().view(h, -1) * (d // h) ** -0.5
        out = self.out_proj(attention_pooled(p, query, wk, wv, bias).to(p.dtype))
        return torch.where((p.cu_seqlens.diff() > 0).unsqueeze(1), out, 0.0)


def first_prefix(prefix: Float[Tensor, "S P D"], segments: tuple[int, ...], device: torch.device) -> Tensor:
    """(N, D): the first prefix token of each item, the mean over its segments where it has several (a clip's frames).

    segments: how many each item has; an item with none gives zeros.
    """
    first = prefix[:, 0]
    if all(n == 1 for n in segments):
        return first
    counts = to_device(torch.tensor(segments, dtype=torch.int64), device)
    total = segment_sum(first.float(), counts)
    return (total / counts.clamp(min=1).unsqueeze(1)).to(first.dtype)


def pool_of(config: EncoderConfig) -> nn.Module | None:
    """The module with weights that pools, None where the first prefix token is taken or nothing is."""
    if not config.pool or config.head.kind == "first":
        return None
    return AttentionPool(config) if config.head.kind == "probe" else QueryPool(config)
