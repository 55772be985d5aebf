"""SHIRG-Fovea, the last versions: a pooled global view, and the best tokens of detail views.

Faults kept. "Attention" is the cosine to token 0, which upstream calls the class token; SigLIP has none, so it is the
upper left patch, and background scores high. The masks of "entropy" and "full" are one number for an image: either
nothing happens, or all scores are 0 and ties decide. The radial weight of "full" suppresses the centre. At the end no
text reached the scores at all. Merging pads with copies of the last token instead of taking more.
Source: rkawamura0483/LaViDa_mod:llava/model/multimodal_encoder/siglip_shirg.py at the commits named below.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError
from tubelet.reduce.history.parts import Chosen, best, image, mm, nz, side_of, sobel, taken
from tubelet.shapes import Float

Pooling = Literal["cropped", "padded", "halved", "quartered"]
Method = Literal["base", "entropy", "edge", "edge_only", "custom", "full"]
METHODS: tuple[Method, ...] = ("base", "entropy", "edge", "edge_only", "custom", "full")
THRESHOLD, RADIAL = 0.12, 0.65


def fovea(
    x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"] | None = None, *, budget: int = 460, scale: str = "length"
) -> Chosen:
    """0.7 of the cosine to token 0, 0.3 of the cosine to the mean word or of the length.

    Both divided by their length over the tokens (05b260e), or scale="range": brought to 0..1 (ff3dcac).
    """
    near, words = _first_token(x), _mean_word(x, text)
    to_scale = nz if scale == "length" else mm
    index = best(0.7 * to_scale(near) + 0.3 * to_scale(words), budget)
    return Chosen(taken(x, index), index)


def fovea2(
    x: Float[Tensor, "B N D"],
    text: Float[Tensor, "B S D"] | None = None,
    *,
    budget: int = 724,
    method: Method = "base",
    attention_weight: float = 0.0,
    similarity_weight: float = 0.2,
    edge_weight: float | None = None,
    threshold: float = THRESHOLD,
    radial_sigma: float = RADIAL,
    merge: float | None = None,
) -> Chosen:
    """The methods of the last commit, fe0f76f. merge: the cosine above which "full" merges the tokens it has taken.

    edge_weight: 0.25 for "edge", 0.8 for "edge_only" and "custom" unless said. Raises InputError.
    """
    if method not in METHODS:
        raise InputError(f"method is one of {', '.join(METHODS)}", expected=METHODS, got=method)
    near, words = mm(_first_token(x)), mm(_mean_word(x, text))
    edge = 0.25 if method == "edge" else 0.8
    edge = edge if edge_weight is None else edge_weight
    # one token has no deviation: upstream's is NaN, which is not below the threshold
    spread = near.std(dim=1, keepdim=True) if near.shape[1] > 1 else torch.full_like(near, torch.inf)
    quiet = (spread <= threshold).float()
    if method in ("base", "entropy"):
        scores = 0.7 * near + 0.3 * words
        scores = scores * quiet if method == "entropy" else scores
    elif method == "edge":
        scores = 0.4 * near + (0.35 - edge) * words + edge * edge_prior(x)
    elif method == "edge_only":
        scores = (1 - edge) * words + edge * edge_prior(x)
    elif method == "custom":
        total = attention_weight + similarity_weight + edge
        a, s, e = (w / total if total > 0 else w for w in (attention_weight, similarity_weight, edge))
        scores = a * near + s * words + e * edge_prior(x)
    else:
        raw = 0.4 * near + 0.25 * words - 0.1 * mean_cosine(x) + 0.25 * edge_prior(x)
        scores = raw * quiet * radial_weight(side_of(x), radial_sigma)
    index = best(scores if bool(((scores > 0).sum(dim=1) >= budget).all()) else scores + 1e-6, budget)
    tokens = taken(x, index)
    return Chosen(tokens if merge is None or method != "full" else merge_similar(tokens, merge), index)


def edge_prior(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """mm of the Sobel gradient of the channel mean, border repeated."""
    return mm(sobel(image(x, side_of(x)).mean(dim=1), replicate=True))


def mean_cosine(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """mm of the mean cosine to the other tokens."""
    unit = F.normalize(x, dim=2)
    alike = unit @ unit.transpose(1, 2)
    return mm((alike.sum(dim=2) - alike.diagonal(dim1=1, dim2=2)) / max(1, x.shape[1] - 1))


def radial_weight(side: int, sigma: float = RADIAL) -> Float[Tensor, " N"]:
    """1 - exp(-(r / sigma)^2), r the distance to the centre in half diagonals, divided by its mean."""
    i = torch.arange(side * side)
    centre = (side - 1) / 2
    r = ((i // side - centre).square() + (i % side - centre).square()).sqrt() / (2 * (side / 2) ** 2) ** 0.5
    weight = 1 - (-(r / sigma).square()).exp()
    return weight / weight.mean()


def merge_similar(x: Float[Tensor, "B K D"], threshold: float = 0.9) -> Float[Tensor, "B K D"]:
    """In order of rank, each token becomes the mean of itself and the later ones of higher cosine, which go; what is
    missing at the end are copies of the last. (Upstream adds noise of 1e-6 to these.)"""
    out = []
    for tokens in x:
        unit, left = F.normalize(tokens, dim=1), torch.ones(len(tokens), dtype=torch.bool)
        near, kept = ((unit @ unit.T).triu(diagonal=1) > threshold), tokens.clone()
        for i in range(len(tokens)):
            same = near[i] & left
            if left[i] and bool(same.any()):
                kept[i] = torch.cat([kept[i : i + 1], kept[same]]).mean(dim=0)
                left = left & ~same
        rows = left.nonzero().flatten()
        out.append(kept[rows[torch.arange(len(tokens)).clamp(max=len(rows) - 1)]])
    return torch.stack(out)


def global_view(x: Float[Tensor, "B N D"], how: Pooling) -> Tensor:
    """The pooled global view, in raster order.

    cropped: 2 x 2 means without the odd row and column, then a row and column of zero tokens (05b260e, 27 to 14).
    padded: 2 x 2 means with a border of zeros that counts (ff3dcac, 8138bb2, 27 to 14). halved: 2 x 2 (6447638 and
    later, 32 to 16). quartered: 4 x 4 (c01dc46, 32 to 8).
    """
    grid = image(x, side_of(x))
    if how == "cropped":
        pooled = F.pad(F.avg_pool2d(grid, 2), (0, 1, 0, 1))
    elif how == "padded":
        pooled = F.avg_pool2d(grid, 2, stride=2, padding=1)
    else:
        pooled = F.avg_pool2d(grid, 2 if how == "halved" else 4)
    return pooled.flatten(2).transpose(1, 2)


def _first_token(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    unit = F.normalize(x, dim=2)
    return (unit * unit[:, :1]).sum(dim=2)


def _mean_word(x: Float[Tensor, "B N D"], text: Tensor | None) -> Float[Tensor, "B N"]:
    """Cosine-like product with the mean of the unit words; the length without text or with text of another width."""
    if text is None or text.shape[2] != x.shape[2]:
        return x.norm(dim=2)
    return (F.normalize(x, dim=2) @ F.normalize(text, dim=2).mean(dim=1)[..., None]).squeeze(2)
