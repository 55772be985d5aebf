"""The attention pooling head: one learned query per item over that item's rows, all items in one call."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.config import Act, EncoderConfig
from tubelet.encoder.layers import gelu
from tubelet.packed import Packed
from tubelet.shapes import Float


def segment_sum(x: Float[Tensor, "T C"], lengths: Tensor) -> Float[Tensor, "N C"]:
    """Sum of each run of rows; 0 for an empty one. Runs never touch each other's values. No sync."""
    return torch.segment_reduce(x, "sum", lengths=lengths, axis=0, unsafe=True, initial=0.0)


class AttentionPool(nn.Module):
    """o = attention(probe, rows, rows); out = o + fc2(gelu(fc1(RMSNorm(o)))): (T, D) -> (N, D).

    The query is the same for every item, so attention needs no kernel: scores are one product with a D x H matrix
    (the key bias shifts all scores of a head alike and cancels in the softmax), softmax and weighted sum run over
    segments. float32 throughout. An item without rows pools to zeros. Cost: 2 T D^2 for the values.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_packing_hf.py@28efa3a; it loops.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden
        self.heads = config.heads
        self.act: Act = config.act
        self.probe = nn.Parameter(torch.empty(d))
        self.in_proj = nn.Linear(d, 3 * d)
        self.out_proj = nn.Linear(d, d)
        self.norm = nn.RMSNorm(d, eps=config.eps if config.head_eps is None else config.head_eps)
        self.fc1 = nn.Linear(d, config.mlp)
        self.fc2 = nn.Linear(config.mlp, d)

    def forward(self, p: Packed) -> Float[Tensor, "N D"]:
        x = p.x.float()
        d, h = x.shape[1], self.heads
        (wq, wk, wv), (bq, _, bv) = self.in_proj.weight.float().split(d), self.in_proj.bias.float().split(d)
        query = F.linear(self.probe.float(), wq, bq).view(h, -1) * (d // h) ** -0.5
        scores = x @ torch.einsum("hk,hkd->dh", query, wk.view(h, -1, d))
        lengths = p.cu_seqlens.diff().long()
        owner = torch.repeat_interleave(torch.arange(len(p), device=x.device), lengths, output_size=x.shape[0])
        top = torch.segment_reduce(scores.detach(), "max", lengths=lengths, axis=0, unsafe=True, initial=-torch.inf)
        weights = (scores - top[owner]).exp()
        weights = weights / segment_sum(weights, lengths)[owner]
        values = F.linear(x, wv, bv).unflatten(1, (h, -1)) * weights.unsqueeze(-1)
        pooled = segment_sum(values.flatten(1), lengths).to(p.dtype)
        out = self.out_proj(pooled)
        out = out + self.fc2(gelu(self.fc1(self.norm(out)), self.act))
        return torch.where((lengths > 0).unsqueeze(1), out, 0.0)
