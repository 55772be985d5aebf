"""SHIRG's own validation numbers, as it computed them: for comparing with what it printed, and for nothing else.

Each has a name that promises what it does not measure; each docstring says what is wrong. None has an interval, so all
are plain numbers. Tokens are (1, N, D). What upstream computes only for its first image stays so.
Source: rkawamura0483/LaViDa_mod:shirg/comprehensive_pre_lora_validation.py@c97dde5. Upstream returns 0.5 or 0.6 where
anything raises; here it raises. Its "spatial uniformity" of 0.78 and "edge preservation" of 0.85 are constants in the
code, and are left out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.shapes import Float

PATCH = 14
_SMALL = 1e-8


def token_diversity(tokens: Float[Tensor, "B N D"]) -> float:
    """1 - mean cosine between two tokens. Fault: mixes the images of a batch; noise is the most diverse."""
    unit = F.normalize(tokens.flatten(0, 1), dim=1)
    if len(unit) < 2:
        raise ShapeError(f"diversity is between two tokens or more, got {len(unit)}", limit=2, got=len(unit))
    cosine = unit @ unit.T
    return 1 - float(cosine[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)].mean())


def semantic_consistency(baseline: Float[Tensor, "B N D"], selected: Float[Tensor, "B K D"]) -> float:
    """Mean cosine of token i to the i-th of as many pooled tokens. Fault: pools along the list, not over the picture,
    so it compares tokens of different places."""
    pooled = _pooled(selected, baseline.shape[1])
    return float(F.cosine_similarity(baseline, pooled, dim=2, eps=1e-12).mean())


def information_preservation(image: Float[Tensor, "B 3 H W"], tokens: Float[Tensor, "B N D"]) -> float:
    """0.5 likeness of brightness and token means + 0.3 token variance over spectrum + 0.2 ratio of ranges.

    Fault: a token's mean has nothing to do with brightness, and tokens are matched to patches along the list. The
    "high frequencies" are the border of a spectrum whose middle holds them: it is not shifted.
    """
    image = F.pad(image, (0, -image.shape[3] % PATCH, 0, -image.shape[2] % PATCH))
    brightness = F.avg_pool2d(image.mean(dim=1, keepdim=True), PATCH).flatten(1)
    means = tokens.mean(dim=2)
    few = min(brightness.shape[1], means.shape[1])
    alike = F.cosine_similarity(_along(brightness, few), _along(means, few), dim=1, eps=1e-12).mean()
    spectrum = torch.fft.fft2(image.mean(dim=1)).abs()
    height, width = spectrum.shape[1] // 2, spectrum.shape[2] // 2
    high = torch.ones(spectrum.shape[1:], dtype=torch.bool, device=image.device)
    high[height // 2 : height + height // 2, width // 2 : width + width // 2] = False
    energy = float(spectrum[:, high].mean()) / float(spectrum[:, ~high].mean())
    detail = max(min(float(tokens.var(dim=2).mean()) / (energy + _SMALL), 1.0), 0.0)
    of_image, of_tokens = (float(v.max() - v.min()) for v in (image, tokens))
    spread = min(of_tokens / (of_image + _SMALL), of_image / (of_tokens + _SMALL), 1.0)
    return min(max(0.5 * (float(alike) + 1) / 2 + 0.3 * detail + 0.2 * spread, 0.0), 1.0)


def spatial_coherence(highres: Float[Tensor, "B N D"], selected: Float[Tensor, "B K D"]) -> float:
    """min(1, diversity of the selected / likeness of neighbours among all). Fault: no place of a selected token goes
    into it, and neighbourhoods are taken from the first hundred tokens, whatever the grid is."""
    n, side = highres.shape[1], int(highres.shape[1] ** 0.5)
    if side < 4:
        raise ShapeError(f"neighbourhoods of 16 tokens or more, got {n}", limit=16, got=n)
    found = []
    for i in range(0, min(100, n - side - 1), side // 4):
        near = F.normalize(highres[0, [i, i + 1, i + side, i + side + 1]], dim=1)
        found.append(float((near @ near.T).mean()))
    around = sum(found) / len(found) if found else 0.5
    return min(token_diversity(selected) / (around + _SMALL), 1.0)


def ocr_preservation(baseline: Float[Tensor, "B N D"], selected: Float[Tensor, "B K D"]) -> float:
    """0.6 ratio of `edge_responsiveness` + 0.4 ratio of variances, each at most 1. Fault: no letter is read, and
    dropping tokens makes neighbours in the list differ more, which counts as edges kept."""
    edges = edge_responsiveness(selected) / (edge_responsiveness(baseline) + _SMALL)
    spread = float(selected.var(dim=2).mean()) / (float(baseline.var(dim=2).mean()) + _SMALL)
    return 0.6 * min(edges, 1.0) + 0.4 * min(spread, 1.0)


def edge_responsiveness(tokens: Float[Tensor, "B N D"]) -> float:
    """Mean distance of a token to the next in the list. Fault: the next is often in another row of the picture."""
    if tokens.shape[1] < 2:
        return float(tokens.norm(dim=2).mean())
    return float(tokens.diff(dim=1).norm(dim=2).mean())


def frequency_preservation(baseline: Float[Tensor, "B N D"], selected: Float[Tensor, "B K D"]) -> float:
    """Spectrum along the list: first half of the selected's over second half of the baseline's, at most 1. Fault: the
    halves are different frequencies, so it is 1 for almost anything."""
    ours, theirs = (torch.fft.fft(v, dim=1).abs().mean(dim=(0, 2)) for v in (selected, baseline))
    kept = float(ours[: len(ours) // 2].mean()) / (float(theirs[len(theirs) // 2 :].mean()) + _SMALL)
    return min(kept, 1.0)


def magnitude_consistency(baseline: Float[Tensor, "B N D"], selected: Float[Tensor, "B K D"]) -> float:
    """Likeness of mean and deviation of the tokens' lengths. Fault: choosing long tokens is the point of some scores,
    and counts against them."""
    return _like(baseline.norm(dim=2), selected.norm(dim=2))


def font_size_preservation(baseline: Float[Tensor, "B N D"], selected: Float[Tensor, "B K D"]) -> float:
    """The same of the tokens' variances. Fault: no font is looked at."""
    return _like(baseline.var(dim=2), selected.var(dim=2))


def text_spatial_continuity(highres: Float[Tensor, "B N D"]) -> float:
    """Mean cosine of each of the first 50 tokens to the next and to the one below. Fault: the selected tokens, whose
    continuity it should be, do not go into it."""
    n, side = highres.shape[1], int(highres.shape[1] ** 0.5)
    found = [
        float(F.cosine_similarity(highres[0, i][None], highres[0, [i + 1, i + side]], dim=1).mean())
        for i in range(min(50, n - 1))
        if i + side < n
    ]
    return sum(found) / len(found) if found else 0.5


def high_frequency(tokens: Float[Tensor, "B N D"]) -> float:
    """Mean of the second half of the spectrum along the list. Fault: that half mirrors the first."""
    spectrum = torch.fft.fft(tokens, dim=1).abs()
    return float(spectrum[:, spectrum.shape[1] // 2 :].mean())


def contrast(tokens: Float[Tensor, "B N D"]) -> float:
    """Longest less shortest token. Fault: two tokens decide."""
    lengths = tokens.norm(dim=2)
    return float((lengths.amax(dim=1)).mean()) - float(lengths.amin(dim=1).mean())


def _like(a: Tensor, b: Tensor) -> float:
    def same(x: float, y: float) -> float:
        return 1 - abs(x - y) / (x + _SMALL)

    means, deviations = same(float(a.mean()), float(b.mean())), same(float(a.std()), float(b.std()))
    whole = 0.6 * means + 0.4 * deviations
    return max(0.0, min(1.0, whole)) if math.isfinite(whole) else whole


def _pooled(tokens: Tensor, count: int) -> Tensor:
    if tokens.shape[1] == count:
        return tokens
    return F.adaptive_avg_pool1d(tokens.transpose(1, 2), count).transpose(1, 2)


def _along(values: Float[Tensor, "B N"], count: int) -> Float[Tensor, "B M"]:
    return F.adaptive_avg_pool1d(values[:, None], count)[:, 0]
