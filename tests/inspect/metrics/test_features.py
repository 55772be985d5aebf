"""CKA, reconstruction, volume: against formulas written out another way, and cases with known answers."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inspect.metrics.metric_cases import choices, picture
from torch import Tensor

from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.inspect.metrics import linear_cka, log_volume, reconstruction, token_cosine
from tubelet.packed import Packed, concat

LAWS = settings(deadline=None)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=0)


def test_cka_is_the_formula_of_features():
    """|Y^T X|^2 / (|X^T X| |Y^T Y|), where the library goes through the n x n kernels."""
    a, b = picture(6, 5, width=4, seed=1), picture(6, 5, width=7, seed=2)
    x, y = centred(a.x.double()), centred(b.x.double())
    wanted = (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(a, b).value == pytest.approx(float(wanted))


def test_cka_knows_rotation_scale_and_nothing_else():
    a = picture(7, 7, width=5, seed=1)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3))).Q
    assert linear_cka(a, a.with_x(2.5 * a.x @ rotation + 3)).value == pytest.approx(1.0)
    assert linear_cka(a, a.with_x(a.x @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1])))).value < 0.95
    assert token_cosine(a, a.with_x(a.x @ rotation)).value < 0.9
    assert token_cosine(a, a.with_x(3 * a.x)).value == pytest.approx(1.0)


def slow_hsic(k: Tensor, m: Tensor) -> float:
    """Song et al.'s estimator from its definition: sums over all i, j, q, r that differ."""
    n, total = len(k), 0.0
    pair = three = four = 0.0
    for i in range(n):
        for j in range(n):
            if j == i:
                continue
            pair += float(k[i, j] * m[i, j])
            for q in range(n):
                if q in (i, j):
                    continue
                three += float(k[i, j] * m[i, q])
                four += sum(float(k[i, j] * m[q, r]) for r in range(n) if r not in (i, j, q))
    total += pair / (n * (n - 1)) - 2 * three / (n * (n - 1) * (n - 2))
    return total + four / (n * (n - 1) * (n - 2) * (n - 3))


def test_the_unbiased_cka_is_its_definition():
    a, b = picture(2, 4, width=3, seed=4), picture(2, 4, width=6, seed=5)
    k, m = (v.x.double() @ v.x.double().T for v in (a, b))
    wanted = slow_hsic(k, m) / math.sqrt(slow_hsic(k, k) * slow_hsic(m, m))
    assert linear_cka(a, b, unbiased=True).value == pytest.approx(wanted)


def test_unrelated_features_of_few_rows_look_alike_only_to_the_biased_one():
    a, b = picture(5, 5, width=200, seed=1), picture(5, 5, width=200, seed=2)
    assert linear_cka(a, b).value > 0.8
    assert abs(linear_cka(a, b, unbiased=True).value) < 0.15
    assert math.isnan(linear_cka(picture(1, 3), picture(1, 3, seed=1), unbiased=True).value)
    flat = a.with_x(torch.ones_like(a.x))
    assert math.isnan(linear_cka(a, flat).value)


@LAWS
@given(choices(), st.sampled_from(("nearest", "ridge")))
def test_reconstruction_is_the_loop(pair: tuple[Packed, Packed], how: str):
    whole, kept = pair
    values = []
    for number in sorted({i.picture for i in whole.items}):
        rows = torch.cat([r for i, r in zip(whole.items, whole.unpack(), strict=True) if i.picture == number]).double()
        own = torch.cat([r for i, r in zip(kept.items, kept.unpack(), strict=True) if i.picture == number]).double()
        spread = sum(float((r - rows.mean(dim=0)).square().sum()) for r in rows)
        if len(own) and spread:
            left = sum(float((r - (nearest if how == "nearest" else ridge)(r, own)).square().sum()) for r in rows)
            values.append(1 - left / spread)
    wanted = sum(values) / len(values) if values else math.nan
    got = reconstruction(whole, kept, how="nearest" if how == "nearest" else "ridge")
    assert got.value == pytest.approx(wanted, rel=1e-6, abs=1e-9, nan_ok=True)
    assert got.n == len(values)


def nearest(row: Tensor, own: Tensor) -> Tensor:
    return min(own, key=lambda k: float((row - k).square().sum()))


def ridge(row: Tensor, own: Tensor, penalty: float = 1e-2) -> Tensor:
    """The weights by least squares with the penalty as further equations."""
    middle = own.mean(dim=0)
    basis, wanted = (own - middle).T, row - middle
    weight = penalty * float(basis.square().sum()) / len(own)
    if weight == 0:
        return middle
    a = torch.cat([basis, math.sqrt(weight) * torch.eye(len(own), dtype=torch.float64)])
    b = torch.cat([wanted, torch.zeros(len(own), dtype=torch.float64)])
    return basis @ torch.linalg.lstsq(a, b[:, None], driver="gelsd").solution[:, 0] + middle


def test_reconstruction_of_known_cases():
    p = picture(4, 4, width=3)
    assert reconstruction(p, p, how="nearest").value == 1
    assert reconstruction(p, p, how="ridge", penalty=1e-12).value == pytest.approx(1)
    repeated = p.with_x(p.x[:4].repeat(4, 1))
    assert reconstruction(repeated, repeated.keep(torch.arange(4)), how="nearest").value == pytest.approx(1)
    assert reconstruction(repeated, repeated.keep(torch.tensor([0])), how="nearest").value < 0.1
    assert math.isnan(reconstruction(p, p.keep(torch.arange(0))).value)
    assert math.isnan(reconstruction(p.with_x(torch.ones(16, 3)), p.keep(torch.arange(2))).value)


def test_volume_is_the_determinant():
    p = picture(3, 3, width=4)
    unit = F.normalize(p.x.double(), dim=1)
    wanted = torch.linalg.eigvalsh(unit @ unit.T + 1e-3 * torch.eye(9)).log().sum() / 9
    assert log_volume(p).value == pytest.approx(float(wanted), rel=1e-6)
    assert log_volume(picture(2, 2, width=64)).value > log_volume(picture(2, 2, width=2)).value
    assert math.isnan(log_volume(p.keep(torch.arange(0))).value)


def test_pictures_do_not_mix():
    a, b = picture(4, 4, width=3, seed=1), picture(3, 5, width=3, seed=2)
    both, rows = concat([a, b]), torch.tensor([0, 3, 9, 17, 20])
    one = reconstruction(a, a.keep(rows[:3])).value
    other = reconstruction(b, b.keep(rows[3:] - 16)).value
    together = reconstruction(both, both.keep(rows))
    assert (together.value, together.n) == (pytest.approx((one + other) / 2), 2)


def test_bad_input_is_named():
    p = picture(3, 3, width=4)
    with pytest.raises(ShapeError, match="same rows"):
        linear_cka(p, p.keep(torch.arange(4)))
    with pytest.raises(ShapeError, match="channels"):
        token_cosine(p, picture(3, 3, width=5))
    with pytest.raises(ShapeError):
        reconstruction(p, picture(3, 3, width=5))
    for call in (lambda: reconstruction(p, p, penalty=0.0), lambda: log_volume(p, floor=-1.0)):
        with pytest.raises(InputError):
            call()
    bad = p.with_x(p.x.clone().index_fill(0, torch.tensor([2]), math.nan))
    for call in (lambda: reconstruction(bad, p), lambda: log_volume(bad), lambda: linear_cka(p, bad)):
        with pytest.raises(NotFinite, match="item 0"):
            call()


@pytest.mark.usefixtures("as_in_production")
def test_another_way_to_rebuild_is_refused():
    p = picture(3, 3, width=4)
    with pytest.raises(InputError, match="nearest or ridge"):
        reconstruction(p, p, how="magic")  # pyright: ignore[reportArgumentType]
