"""What SHIRG trained with: coordinate embeddings, token dropout and the alignment loss, as upstream had them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.shapes import Bool, Float

TEMPERATURE = 0.07
_GLOBAL_SHARE = 0.95  # of the tokens of the global view that structured dropout keeps


def coordinate_embedding(
    coords: Float[Tensor, "B K 4"], weight: Float[Tensor, "E 4"], bias: Float[Tensor, " E"]
) -> Float[Tensor, "B K E"]:
    """A linear map of (x, y, h, w) plus 0.1 [sin(x f) cos(x f) sin(y f) cos(y f)], f_k = 10000^(-2k / (E / 2)).

    Upstream calls it rotary; it is added. x and y lie in 0..1, so all angles are below one radian and the second part
    is nearly constant. Source: rkawamura0483/LaViDa_mod:llava/model/multimodal_encoder/siglip_shirg.py@2b2eda4.
    """
    wide = len(weight)
    if wide % 4:
        raise ShapeError(f"the width of the embedding must divide by 4, got {wide}", expected=4, got=wide)
    powers = torch.arange(0, wide // 2, 2, dtype=torch.float32, device=coords.device) / (wide // 2)
    angles = coords[..., :2, None] * 10000.0**-powers
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)
    return F.linear(coords, weight, bias) + 0.1 * waves


def dropout_keeps(n: int, *, rate: float = 0.1, least: int = 256) -> int:
    """How many of n tokens token dropout keeps. Raises InputError for a rate outside 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise InputError(f"a share of tokens to drop is 0 or more and below 1, got {rate}", limit=1, got=rate)
    return min(max(int(n * (1 - rate)), least), n)


def structured_keeps(in_global_view: Bool[Tensor, " N"], *, rate: float = 0.1, least: int = 256) -> tuple[int, int]:
    """How many tokens of the global view, and how many others, structured dropout keeps: 95 % of the first."""
    n, of_global = len(in_global_view), int(in_global_view.sum())
    first = int(of_global * _GLOBAL_SHARE)
    return first, min(max(dropout_keeps(n, rate=rate, least=least) - first, 0), n - of_global)


def token_dropout(x: Float[Tensor, "B N D"], keep: Bool[Tensor, "B N"], *, rate: float = 0.1) -> Float[Tensor, "B N D"]:
    """Tokens that were not drawn become 0, the others are divided by 1 - rate. `keep` is the draw.

    Fault kept: the factor is that of the rate, not of how many were kept.
    Source: rkawamura0483/LaViDa_mod:shirg/shirg_token_dropout.py@501c7ba.
    """
    return x * keep[..., None].float() * (1.0 / (1.0 - rate))


def info_nce(
    vision: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"], *, temperature: float = TEMPERATURE
) -> Float[Tensor, ""]:
    """Symmetric cross entropy between images and texts, each the unit mean of its tokens. Chance is ln B.

    Fault: it aligns means, and says nothing about which token should be kept.
    Source: rkawamura0483/LaViDa_mod:shirg/shirg_lora_training.py@ab7c3c4 (compute_alignment_loss).
    """
    a, b = (F.normalize(v.mean(dim=1), dim=1) for v in (vision, text))
    logits, own = a @ b.T / temperature, torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
