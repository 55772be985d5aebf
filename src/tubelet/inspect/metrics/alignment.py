"""Whether vectors find their partners: pictures and texts, retrieved from one held-out batch."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import mean_of, share_of
from tubelet.shapes import Float

TEMPERATURE = 0.07


class Alignment(NamedTuple):
    """recall_1, recall_5: share of queries whose partner is the nearest, or among the five nearest; chance is 1 / B and
    5 / B. loss: cross entropy of both directions over ln B, 1 for chance. margin: mean cosine to the partner less mean
    cosine to all others."""

    recall_1: Estimate
    recall_5: Estimate
    loss: Estimate
    margin: Estimate


def alignment(
    queries: Float[Tensor, "B D"], partners: Float[Tensor, "B D"], *, temperature: float = TEMPERATURE, seed: int = 0
) -> Alignment:
    """How well row i of `queries` finds row i of `partners` among the batch; swap them for the other direction.

    Recalls have exact binomial intervals, loss and margin a bootstrap over pairs, all for this batch's other rows as
    they are: another batch has other negatives. Equal cosines count against the query. The loss depends on temperature
    and B even over ln B; give both with it. Raises ShapeError, NotFinite, and InputError for a batch of one, in which
    everything is found.

        >>> found = alignment(torch.eye(8), torch.eye(8))
        >>> found.recall_1, found.margin.value
        (Estimate(1.000 [0.631, 1.000] n=8), 1.0)
    """
    if queries.ndim != 2 or queries.shape != partners.shape:
        raise ShapeError(
            f"pairs are two (B, D), got {tuple(queries.shape)} and {tuple(partners.shape)}",
            expected=tuple(queries.shape),
            got=tuple(partners.shape),
        )
    batch = len(queries)
    if batch < 2 or not temperature > 0:
        raise InputError(f"a batch of 2 or more and a temperature above 0, got {batch}, {temperature}", limit=2)
    a, b = (v.detach().double().cpu() for v in (queries, partners))
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise NotFinite("NaN or infinity in the vectors")
    cosine = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    own = cosine.diagonal()
    others = cosine.masked_fill(torch.eye(batch, dtype=torch.bool, device="cpu"), -torch.inf)
    rank = (others >= own[:, None]).sum(dim=1)  # how many stand before the partner
    logits = cosine / temperature
    loss = (2 * own / temperature - logits.logsumexp(dim=0) - logits.logsumexp(dim=1)) / -2 / math.log(batch)
    margin = own - (cosine.sum(dim=1) - own) / (batch - 1)
    return Alignment(
        share_of(int((rank < 1).sum()), batch),
        share_of(int((rank < 5).sum()), batch),
        mean_of(loss.tolist(), seed=seed),
        mean_of(margin.tolist(), seed=seed),
    )
