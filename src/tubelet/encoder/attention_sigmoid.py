"""Attention of bfloat16 rows on a CPU as two of oneDNN's products, a sigmoid in the first for softmax's exponential.

    s_ij = q_i k_j / sqrt(K)      p_ij = sigmoid(s_ij - c)      out_i = sum_j p_ij v_j / sum_j p_ij

For x <= -8 sigmoid(x) is exp(x) but for 1 part in 3,000, a tenth of bfloat16's last place, and c falls out of the
quotient: it is 8 above the longest q times the longest k, so no s_ij passes it. Scores and p are float32 inside the
product, and p is rounded once; sums are float32; out is rounded before the quotient and after it, once more than by
sdpa. Its kernel multiplies small blocks at the rate of float32; these are large ones, which pays in long segments.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.encoder.attention import Segments, sdpa_into
from tubelet.shapes import Shaped

BLOCK = 2**19  # probabilities made at once: 1 MiB, which stays in the cache
BLOCK_ROWS = (128, 512)  # queries of a block, at least and at most
CACHED = 256  # rows that are widened at a time
APART = 8.0  # what the sigmoid's argument stays below 0
FARTHEST = 80.0  # c at most: a float32 holds exp(-87)
LEAST = 2.0**-96  # of a row's sum: terms too small for a float32 are then too small for the sum


def sigmoid_into(
    out: Shaped[Tensor, "T H K"],
    q: Shaped[Tensor, "T H K"],
    k: Shaped[Tensor, "T H K"],
    v: Shaped[Tensor, "T H K"],
    segments: Segments,
    scale: float,
    fewest: int,
) -> None:
    """`sdpa_into` for bfloat16 rows. q times `scale` should be exact: a power of two, or 1 where q has it already.

    Segments of less than `fewest` rows go to sdpa, for calls for every head would cost more than they save; and those
    whose scores lie too far apart for one c or are no numbers: that is read from values, which a CPU has at hand.
    Memory: 1 MiB or 128 rows of p, twice that for its sum, a head.
    """
    for start, count, length in segments.runs:
        step = length if length >= fewest else count * length
        for a in range(start, start + count * length, step):
            part = slice(a, a + step)
            mine, queries, keys, values = out[part], q[part], k[part], v[part]
            if length < fewest or not _one_segment(mine, queries, keys, values, scale):
                sdpa_into(mine, queries, keys, values, Segments((length,) * (step // length)), scale)
            if out.is_meta:  # the others are as large
                break


def _one_segment(out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> bool:
    """Whether c could be found; else out holds nothing of use. On meta the first head stands for all."""
    rows, heads, _ = q.shape
    farthest = _longest(q) * _longest(k) * scale
    if not out.is_meta and not bool((farthest <= FARTHEST).all()):
        return False
    shift = (-APART - farthest).to(q.dtype)
    sums = torch.empty(heads, rows, device=q.device)
    block = max(BLOCK_ROWS[0], min(BLOCK_ROWS[1], BLOCK // rows))
    for h in range(1 if out.is_meta else heads):
        keys, values, bias = k[:, h].contiguous(), v[:, h].contiguous(), shift[h].repeat(rows)
        for a in range(0, rows, block):
            part = slice(a, a + block)
            queries = q[part, h] if scale == 1.0 else q[part, h] * scale
            p = torch.ops.mkldnn._linear_pointwise(queries, keys, bias, "sigmoid", [], "")
            torch.sum(p, -1, dtype=torch.float32, out=sums[h, part])
            torch.mm(p, values, out=out[part, h])
            del p
    if not out.is_meta and not bool((sums >= LEAST).all()):
        return False
    quotient = sums.reciprocal_().t().unsqueeze(-1)
    for a in range(0, rows, CACHED):
        out[a : a + CACHED] *= quotient[a : a + CACHED]
    return True


def _longest(x: Tensor) -> Tensor:
    """The largest length of a row in each head."""
    lengths = [torch.linalg.vector_norm(part, dim=-1, dtype=torch.float32).amax(0) for part in x.split(CACHED)]
    return torch.stack(lengths).amax(0)


@lru_cache(maxsize=4)
def able(dtype: torch.dtype) -> bool:
    """Whether this torch has such a product for this type, and it is right near 0 and far from it."""
    if dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    x = torch.arange(32 * 64).mul(7.31).sin().view(32, 1, 64)
    q, k, v = ((x.roll(n, n % 2 * 2) * n).to(dtype) for n in (4, 3, 1))
    out = torch.empty_like(v)
    with torch.inference_mode():
        try:
            done = _one_segment(out, q, k, v, 0.125)
        except (AttributeError, RuntimeError):  # no such operator, or not for this type
            return False
    wide = [x.float().transpose(0, 1) for x in (q, k, v)]
    want = F.scaled_dot_product_attention(wide[0], wide[1], wide[2]).transpose(0, 1)
    return done and torch.allclose(out.float(), want, atol=3e-2)
