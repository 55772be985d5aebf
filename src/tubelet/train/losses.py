"""Losses over packed rows: next token, masked diffusion, pictures against texts. Sums in float32.

    next_token         row i says token i + 1 of its own sample
    masked_diffusion   row i says the token hidden at i; every answer token is hidden in one of two copies
    info_nce, sigmoid  vector i of one side belongs to vector i of the other, among those of all ranks

A loss over tokens takes hidden states with the head that turns them into logits, so that logits of all rows never
stand at once. Call it inside the model's forward where weights are sharded: the head's weight is whole only there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tubelet.errors import InputError, ShapeError
from tubelet.shapes import Bool, Float, Int
from tubelet.train.draws import draws
from tubelet.train.gather import Everyone, gathered

IGNORE = -100  # a label that is no target, as in torch and transformers
CHUNK = 1024  # rows whose logits stand at once: 0.6 GB in float32 with a vocabulary of 152,000
TEMPERATURE = 0.07
EPS = 1e-3

Weighting = Literal["rate", "lavida_code"]
WEIGHTINGS: tuple[Weighting, ...] = ("rate", "lavida_code")


# ---- tokens


def next_token(
    rows: Float[Tensor, "*batch S E"],
    labels: Int[Tensor, "*batch S"],
    *,
    head: Tensor | None = None,
    bias: Tensor | None = None,
    cu_seqlens: Int[Tensor, " n"] | None = None,
    count: int | Tensor | None = None,
    chunk: int = CHUNK,
    cap: float | None = None,
) -> Float[Tensor, ""]:
    """Mean negative log likelihood of each token after its row; labels of -100 count as nothing.

    rows: logits, or hidden states where `head` (V, E) is given. labels: the token that stands at each place, not yet
    shifted. cu_seqlens: borders of samples packed into one (S,), so that no row is asked for the next sample's first
    token; each row of a batch (B, S) is a sample of its own. count: what the sum is divided by, where that is more than
    this call sees: the targets of a whole step over its micro-batches and ranks (`targets_in` of each, summed).
    Without targets it is 0, with a graph. cap: logits are bent to stay below it, cap * tanh(logits / cap), as Gemma 2's
    are (final_logit_softcapping). Only rows with a target meet the head, `chunk` at a time, and again in the
    backward pass. Syncs once. Cost: 8 T V E FLOPs for T targets, one quarter of it the second forward.
    Raises ShapeError, and InputError for a chunk or count below 1.

        >>> logits = torch.zeros(5, 7)
        >>> round(float(next_token(logits, torch.tensor([-100, -100, 3, 4, 6]))), 4)         # ln 7
        1.9459
    """
    _require_rows(rows, labels, head)
    wanted = targets(labels, cu_seqlens)
    return _nll(rows, wanted, None, head, bias, count, chunk, cap)


def targets(labels: Int[Tensor, "*batch S"], cu_seqlens: Int[Tensor, " n"] | None = None) -> Int[Tensor, "*batch S"]:
    """What each place has to say: the label after it in its own sample, -100 at its end. No sync."""
    if cu_seqlens is not None and labels.ndim != 1:
        raise ShapeError(f"borders are those of one packed row, labels are {tuple(labels.shape)}", got=labels.ndim)
    wanted = torch.full_like(labels, IGNORE)
    wanted[..., :-1] = labels[..., 1:]
    if cu_seqlens is not None and len(wanted):
        wanted.index_fill_(0, (cu_seqlens[1:].to(wanted.device).long() - 1).clamp(min=0), IGNORE)
    return wanted


def targets_in(labels: Int[Tensor, "*batch S"], cu_seqlens: Int[Tensor, " n"] | None = None) -> Int[Tensor, ""]:
    """How many targets `next_token` finds, on the labels' device: to be summed over a step's batches and ranks."""
    return (targets(labels, cu_seqlens) != IGNORE).sum()


def _nll(
    rows: Tensor,
    wanted: Tensor,
    weights: Tensor | None,
    head: Tensor | None,
    bias: Tensor | None,
    count: int | Tensor | None,
    chunk: int,
    cap: float | None = None,
) -> Float[Tensor, ""]:
    """Sum of weight * -log p over the rows with a target, divided by `count`; by their number where it is None."""
    if chunk < 1 or (isinstance(count, int) and count < 1):
        raise InputError(f"chunk and count start at 1, got {chunk} and {count}", limit=1, got=(chunk, count))
    rows, wanted = rows.flatten(0, -2), wanted.flatten()
    where = (wanted != IGNORE).nonzero().squeeze(1)
    if not len(where):  # still in the graph: other ranks wait for these gradients
        parts = [t[:0].sum() for t in (rows, head, bias) if t is not None]
        return torch.stack([part.float() for part in parts]).sum()
    rows, wanted = rows[where], wanted[where].to(rows.device)  # labels may lie on the host
    weights = None if weights is None else weights.flatten()[where]
    sums: list[Tensor] = []
    for i in range(0, len(where), chunk):
        part = slice(i, i + chunk)
        own = None if weights is None else weights[part]
        made = checkpoint(
            _chunk_nll, rows[part], wanted[part], own, head, bias, cap, use_reentrant=False, preserve_rng_state=False
        )
        assert isinstance(made, Tensor)
        sums.append(made)
    return torch.stack(sums).sum() / (len(where) if count is None else count)


def _chunk_nll(
    rows: Tensor, wanted: Tensor, weights: Tensor | None, head: Tensor | None, bias: Tensor | None, cap: float | None
) -> Float[Tensor, ""]:
    logits = rows if head is None else F.linear(rows, head, bias)
    logits = logits if cap is None else torch.tanh(logits / cap) * cap
    if weights is None:
        return F.cross_entropy(logits.float(), wanted, reduction="sum")
    return (F.cross_entropy(logits.float(), wanted, reduction="none") * weights).sum()


def _require_rows(rows: Tensor, labels: Tensor, head: Tensor | None) -> None:
    if rows.shape[:-1] != labels.shape or not labels.ndim:
        raise ShapeError(
            f"one row for each label: rows are {tuple(rows.shape)}, labels {tuple(labels.shape)}",
            expected=tuple(labels.shape),
            got=tuple(rows.shape),
        )
    if head is not None and (head.ndim != 2 or head.shape[1] != rows.shape[-1]):
        raise ShapeError(
            f"a head is (V, {rows.shape[-1]}) for these rows, got {tuple(head.shape)}",
            expected=rows.shape[-1],
            got=tuple(head.shape),
        )


# ---- masked diffusion


@dataclass(frozen=True, eq=False)
class Noise:
    """Which answer tokens are hidden in each copy of a packed row of samples."""

    masked: Bool[Tensor, "C S"]  # True where a copy shows the mask token instead of the answer's
    rate: Float[Tensor, "C S"]  # the chance with which tokens of that sample were hidden in that copy
    answers: Float[Tensor, " S"]  # answer tokens of the sample a place belongs to, at least 1
    samples: int  # samples that have an answer


def draw_noise(
    labels: Int[Tensor, " S"],
    lengths: Sequence[int],
    ids: Sequence[int | str],
    *,
    seed: int,
    step: int,
    complementary: bool = True,
    eps: float = EPS,
) -> Noise:
    """Masks of one packed row of samples of these lengths; only places whose label is not -100 are hidden.

    Each sample has its own rate, p = eps + (1 - 2 eps) u with u uniform, and each token is hidden with chance p in the
    first copy and, where it was not, in the second (rate 1 - p): every answer token is learned once.
    complementary=False gives one copy with p = eps + (1 - eps) u. Draws depend on (seed, step, id) alone.
    Syncs when the labels are on a device. Raises ShapeError, and InputError for an eps outside 0 < eps < 0.5.

    Source: LLaDA (arXiv 2502.09992), GUIDELINES.md forward_process; rkawamura0483/LaViDa_mod:llava/model/
    language_model/llava_llada.py@cff2211 for the second copy. There p reaches 1, so the second copy's rate may be
    0; and at least one place of the row is hidden, which may be one of the prompt and then is not.

        >>> noise = draw_noise(torch.tensor([-100, 5, 6, -100, 7]), (3, 2), ("a", "b"), seed=0, step=1)
        >>> noise.masked.sum(dim=0).tolist()
        [0, 1, 1, 0, 1]
    """
    if not 0 < eps < 0.5:
        raise InputError(f"eps keeps rates away from 0 and 1: 0 < eps < 0.5, got {eps}", limit=0.5, got=eps)
    if len(ids) != len(lengths) or labels.ndim != 1 or sum(lengths) != len(labels):
        raise ShapeError(
            f"{len(ids)} ids and {len(lengths)} lengths over {sum(lengths)} places for labels {tuple(labels.shape)}",
            expected=tuple(labels.shape),
            got=sum(lengths),
        )
    answer = (labels != IGNORE).cpu().numpy()
    span = 1 - 2 * eps if complementary else 1 - eps
    hidden, rates, answers, samples, first = [], [], [], 0, 0
    for name, length in zip(ids, lengths, strict=True):
        u = draws(1 + length, purpose="mask", seed=seed, step=step, sample=name)
        p = eps + span * u[0]
        own = answer[first : first + length]
        hidden.append((u[1:] < p) & own)
        rates.append(np.full(length, p))
        answers.append(np.full(length, max(int(own.sum()), 1)))
        samples += bool(own.any())
        first += length
    mask, rate = (np.concatenate([np.zeros(0), *parts]) for parts in (hidden, rates))
    masks = np.stack([mask > 0, answer & (mask == 0)]) if complementary else mask[None] > 0
    both = np.stack([rate, 1 - rate]) if complementary else rate[None]
    counts = np.concatenate([np.zeros(0), *answers])
    device = labels.device
    return Noise(
        torch.from_numpy(masks).to(device),
        torch.from_numpy(both).float().to(device),
        torch.from_numpy(counts).float().to(device),
        samples,
    )


def masked_diffusion(
    rows: Float[Tensor, "C S E"],
    labels: Int[Tensor, " S"],
    noise: Noise,
    *,
    head: Tensor | None = None,
    bias: Tensor | None = None,
    weighting: Weighting = "rate",
    count: int | Tensor | None = None,
    chunk: int = CHUNK,
) -> Float[Tensor, ""]:
    """Negative log likelihood of the hidden tokens, each said by the row at its own place (nothing is shifted).

    rows: what the model made of each copy, whose embeddings were `torch.where(noise.masked[..., None], mask_embedding,
    embeddings)`. "rate": sum of nll / rate over a sample's answer length, mean over samples and copies: LLaDA's
    bound, also LaViDa's as its paper states it. "lavida_code": plain mean over the hidden tokens of all copies, which
    is what LaViDa's code computes; with two copies each answer token then counts once, whatever the rate. count: what
    replaces `noise.samples` ("rate") or the number of hidden tokens, where a step has more than this call sees.
    Gradients, chunks, syncs and errors as in `next_token`.

    Source: LLaDA (arXiv 2502.09992) equation 5 and GUIDELINES.md; LaViDa (arXiv 2505.16839);
    rkawamura0483/LaViDa_mod:llava/model/language_model/llada/modeling_llada.py@cff2211.

        >>> labels = torch.tensor([-100, 5, 6])
        >>> noise = draw_noise(labels, (3,), ("a",), seed=0, step=1)
        >>> round(float(masked_diffusion(torch.zeros(2, 3, 7), labels, noise, weighting="lavida_code")), 4)   # ln 7
        1.9459
    """
    if weighting not in WEIGHTINGS:
        raise InputError(f"weighting is one of {', '.join(WEIGHTINGS)}", expected=WEIGHTINGS, got=weighting)
    copies = labels.expand(len(noise.masked), -1)
    _require_rows(rows, copies, head)
    if noise.masked.shape != copies.shape:
        raise ShapeError("the noise is that of other labels", expected=tuple(copies.shape), got=noise.masked.shape)
    wanted = copies.masked_fill(~noise.masked, IGNORE)
    if weighting == "lavida_code":
        return _nll(rows, wanted, None, head, bias, count, chunk)
    weights = 1 / (noise.rate * noise.answers * len(copies))
    return _nll(rows, wanted, weights, head, bias, max(noise.samples, 1) if count is None else count, chunk)


# ---- pictures against texts


def info_nce(
    a: Float[Tensor, "B D"],
    b: Float[Tensor, "B D"],
    *,
    temperature: float | Tensor = TEMPERATURE,
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross entropy of cosines: row i of `a` among all rows of `b`, and the reverse. Chance is ln(pairs).

    Vectors of pictures come from `tubelet.train.readout`. temperature: a number, or a scalar tensor that learns
    (`LearnedScale`). group: ranks whose pairs count as each other's negatives, with gradients; every rank gives its own
    share, and the mean over ranks of values, and of gradients as DDP takes it, is the loss over all pairs; ranks may
    have different numbers of pairs, also none. Equals sentence-transformers' MultipleNegativesRankingLoss with both
    directions, partition_mode="per_direction" and scale 1 / temperature. Raises ShapeError, InputError.
    Source: CLIP (arXiv 2103.00020), figure 3.

        >>> round(float(info_nce(torch.eye(4), torch.eye(4), temperature=1.0)), 4)              # ln(e + 3) - 1
        0.7437
    """
    (a, b), (all_a, all_b), own, share = _pairs(a, b, group)
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise InputError(f"a temperature is above 0, got {temperature}", limit=0, got=temperature)
    forth, back = a @ all_b.rows.T / temperature, b @ all_a.rows.T / temperature
    return (F.cross_entropy(forth, own, reduction="sum") + F.cross_entropy(back, own, reduction="sum")) * (share / 2)


def sigmoid(
    a: Float[Tensor, "B D"],
    b: Float[Tensor, "B D"],
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    group: dist.ProcessGroup | None = None,
) -> Float[Tensor, ""]:
    """SigLIP's loss: each pair of the batch by itself is a match or none, -log sigmoid(+-(scale cos + bias)), summed
    over the other side and averaged over rows.

    scale, bias: numbers, or scalar tensors that learn (`LearnedScale`); the defaults are what SigLIP starts from.
    group: as in `info_nce`. Upstream hands texts from rank to rank; here each rank gathers them, B x pairs logits.
    Raises ShapeError. Source: SigLIP (arXiv 2303.15343), algorithm 1.

        >>> round(float(sigmoid(torch.eye(2), torch.eye(2), scale=0.0, bias=0.0)), 4)           # 2 ln 2
        1.3863
    """
    (a, _), (_, all_b), own, share = _pairs(a, b, group)
    logits = scale * (a @ all_b.rows.T) + bias
    match = torch.zeros_like(logits).scatter(1, own[:, None], 1.0)
    return -F.logsigmoid((2 * match - 1) * logits).sum() * share


def _pairs(
    a: Tensor, b: Tensor, group: dist.ProcessGroup | None
) -> tuple[tuple[Tensor, Tensor], tuple[Everyone, Everyone], Tensor, float]:
    """Unit rows in float32, those of all ranks, the place of each own partner, and what the own sum is multiplied by
    to make the mean over ranks the mean over pairs."""
    if a.ndim != 2 or a.shape != b.shape:
        raise ShapeError(
            f"pairs are two (B, D), got {tuple(a.shape)} and {tuple(b.shape)}",
            expected=tuple(a.shape),
            got=tuple(b.shape),
        )
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    all_a, all_b = gathered(a, group), gathered(b, group)
    own = torch.arange(all_a.first, all_a.first + len(a), device=a.device)
    return (a, b), (all_a, all_b), own, all_a.world / max(len(all_a.rows), 1)


class LearnedScale(nn.Module):
    """exp(s), a factor of cosines that learns and stays at most `most`, with a bias if one is given.

    `info_nce(a, b, temperature=1 / scale())`; `sigmoid(a, b, scale=scale(), bias=scale.bias)`.
    Source: CLIP starts from 1 / 0.07 and stops at 100; SigLIP from 10 with a bias of -10 and stops nowhere.

        >>> round(LearnedScale()().item(), 4)
        14.2857
    """

    def __init__(self, start: float = 1 / TEMPERATURE, *, most: float = 100.0, bias: float | None = None) -> None:
        super().__init__()
        if not 0 < start <= most:
            raise InputError(f"a scale starts above 0 and at most at {most}, got {start}", limit=most, got=start)
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.most = most

    def forward(self) -> Float[Tensor, ""]:
        with torch.no_grad():  # the weight itself: a clamp in the graph would give no gradient on the way back
            self.log_scale.clamp_(max=math.log(self.most))
        return self.log_scale.exp()
