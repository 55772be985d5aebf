"""What the kept rows still say of the others: likeness of two sets of features, reconstruction, volume.

Computed in float64 on the host, picture by picture; estimates are means over pictures with a bootstrap interval.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import mean_of
from tubelet.inspect.metrics.pictures import pairs, shown
from tubelet.packed import Packed
from tubelet.reduce.groups import checked_rows
from tubelet.shapes import Float

Rebuild = Literal["nearest", "ridge"]
PENALTY, FLOOR = 1e-2, 1e-3


def linear_cka(a: Packed, b: Packed, *, unbiased: bool = False, seed: int = 0) -> Estimate:
    """Linear centred kernel alignment of two encoders' features of the same rows: 1 up to rotation and scale.

        |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)     X, Y centred over the rows of a picture

    Of few rows it is large whatever the features: with more channels than rows, unrelated ones look alike. unbiased
    takes that out (it may then be below 0, and needs 4 rows). Cost: n^2 D for n rows. Raises ShapeError, NotFinite.
    Source: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019, equation 3; unbiased:
    Song et al., "Feature selection via dependence maximization", JMLR 2012, equation 5.

        >>> p = tubelet.pack([torch.randn(9, 4)], [tubelet.Item.of(1, 3, 3)])
        >>> round(linear_cka(p, p.with_x(-3 * p.x)).value, 6)
        1.0
    """
    x, y = _same_rows(a, b)
    inner = _unbiased if unbiased else _centred
    values = []
    for pair in pairs(a, b):
        k, m = (v[pair.whole] @ v[pair.whole].T for v in (x, y))
        scale = inner(k, k) * inner(m, m)
        values.append(inner(k, m) / math.sqrt(scale) if scale > 0 else math.nan)
    return mean_of(values, seed=seed)


def token_cosine(a: Packed, b: Packed, *, seed: int = 0) -> Estimate:
    """Mean cosine between two encoders' features of each row: 1 only for the same directions, unlike `linear_cka`.

    >>> p = tubelet.pack([torch.eye(4)], [tubelet.Item.of(1, 2, 2)])
    >>> token_cosine(p, p.with_x(p.x * 2)).value
    1.0
    """
    x, y = _same_rows(a, b)
    if x.shape[1] != y.shape[1]:
        raise ShapeError(f"features of {x.shape[1]} and {y.shape[1]} channels", expected=x.shape[1], got=y.shape[1])
    cosine = F.cosine_similarity(x, y, dim=1)
    return mean_of([float(cosine[pair.whole].mean()) for pair in pairs(a, b)], seed=seed)


def reconstruction(
    whole: Packed, kept: Packed, *, how: Rebuild = "ridge", penalty: float = PENALTY, seed: int = 0
) -> Estimate:
    """R^2 of all rows of a picture rebuilt from its kept ones: 1 for exact, 0 for no better than the mean of all rows,
    below 0 for worse.

    nearest: each row by the kept row at the least distance. ridge: by the weighted sum of kept rows w K nearest to it
    under `penalty` x (mean squared length of kept rows) x |w|^2, all less the mean of the kept rows. With as many kept
    rows as channels, ridge can rebuild anything, and says little. Not defined where nothing is kept or all rows are
    equal. Cost: n k D, and k^3 for ridge. Raises InputError, ShapeError, NotFinite.

        >>> p = tubelet.pack([torch.tensor([[0.0], [1.0], [4.0], [5.0]])], [tubelet.Item.of(1, 1, 4)])
        >>> round(reconstruction(p, p.keep(torch.tensor([0, 3])), how="nearest").value, 4)
        0.8824
    """
    if how not in ("nearest", "ridge") or not penalty > 0:
        raise InputError(f"how is nearest or ridge and penalty above 0, got {how}, {penalty}", got=how)
    if whole.x.shape[1] != kept.x.shape[1]:
        raise ShapeError(f"rows of {whole.x.shape[1]} and {kept.x.shape[1]}", got=kept.x.shape[1])
    whole = shown(whole)
    x, k = _rows(whole), _rows(kept)
    values = []
    for pair in pairs(whole, kept):
        rows, own = x[pair.whole], k[pair.kept]
        spread = float((rows - rows.mean(dim=0)).square().sum())
        if not len(own) or spread == 0:
            values.append(math.nan)
            continue
        rebuilt = _by_nearest(rows, own) if how == "nearest" else _by_ridge(rows, own, penalty)
        values.append(1 - float((rows - rebuilt).square().sum()) / spread)
    return mean_of(values, seed=seed)


def log_volume(kept: Packed, *, floor: float = FLOOR, seed: int = 0) -> Estimate:
    """log det(U U^T + floor) / k over the kept rows at unit length: how many directions they span. About 0 for k rows
    at right angles, log(floor) for the same row again and again.

    Compare at one budget only. Not defined for a picture of which nothing is kept. Cost: k^2 D + k^3.

        >>> p = tubelet.pack([torch.eye(4)], [tubelet.Item.of(1, 2, 2)])
        >>> round(log_volume(p).value, 3), round(log_volume(p.with_x(torch.ones(4, 4))).value, 1)
        (0.001, -4.8)
    """
    if not floor > 0:
        raise InputError(f"floor is above 0, got {floor}", limit=0, got=floor)
    unit = F.normalize(_rows(kept), dim=1)
    values = []
    for pair in pairs(kept, kept):
        own = unit[pair.kept]
        gram = own @ own.T + floor * torch.eye(len(own), dtype=own.dtype, device="cpu")
        values.append(float(torch.linalg.slogdet(gram).logabsdet) / len(own))
    return mean_of(values, seed=seed)


# ---- the steps


def _rows(p: Packed) -> Float[Tensor, "T D"]:
    return checked_rows(p).detach().double().cpu()


def _same_rows(a: Packed, b: Packed) -> tuple[Tensor, Tensor]:
    if a.items != b.items or a.lengths != b.lengths or not torch.equal(a.pos.cpu().long(), b.pos.cpu().long()):
        raise ShapeError("not two sets of features of the same rows", expected=repr(a), got=repr(b))
    return _rows(a), _rows(b)


def _centred(k: Float[Tensor, "n n"], m: Float[Tensor, "n n"]) -> float:
    """tr(K H M H), H = 1 - 1/n."""
    k = k - k.mean(dim=0)
    return float(((k - k.mean(dim=1, keepdim=True)) * m).sum())


def _unbiased(k: Float[Tensor, "n n"], m: Float[Tensor, "n n"]) -> float:
    n = len(k)
    if n < 4:
        return math.nan
    k, m = k - k.diag().diag(), m - m.diag().diag()
    across = float(k.sum() * m.sum()) / ((n - 1) * (n - 2))
    through = 2 / (n - 2) * float(k.sum(dim=0) @ m.sum(dim=1))
    return (float((k * m).sum()) + across - through) / (n * (n - 3))


def _by_nearest(rows: Float[Tensor, "n D"], own: Float[Tensor, "k D"]) -> Float[Tensor, "n D"]:
    return own[torch.cdist(rows, own).argmin(dim=1)]


def _by_ridge(rows: Float[Tensor, "n D"], own: Float[Tensor, "k D"], penalty: float) -> Float[Tensor, "n D"]:
    """(X - m) K^T (K K^T + p)^-1 K + m, by whichever of k and D is smaller."""
    middle = own.mean(dim=0)
    centred, basis = rows - middle, own - middle
    weight = penalty * float(basis.square().sum()) / len(own)
    if weight == 0:
        return middle.expand_as(rows)
    few = len(own) <= own.shape[1]
    gram = basis @ basis.T if few else basis.T @ basis
    gram = gram + weight * torch.eye(len(gram), dtype=gram.dtype, device="cpu")
    if few:
        return torch.linalg.solve(gram, basis @ centred.T).T @ basis + middle
    return torch.linalg.solve(gram, basis.T @ (basis @ centred.T)).T + middle
