"""Retrieval and loss: against loops over pairs and torch's cross entropy, and cases with known answers."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.golden.upstream.shirg_training import info_nce
from torch import Tensor

from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.inspect.metrics import alignment


def vectors(seed: int, batch: int = 12, width: int = 6) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))


def test_numbers_are_those_of_a_loop():
    a = vectors(1)
    b = a + 0.8 * vectors(2)
    cosine = [[float(F.cosine_similarity(x, y, dim=0)) for y in b] for x in a]
    ranks = [sum(c >= row[i] for j, c in enumerate(row) if j != i) for i, row in enumerate(cosine)]
    got = alignment(a, b)
    assert got.recall_1.value == sum(r < 1 for r in ranks) / 12
    assert got.recall_5.value == sum(r < 5 for r in ranks) / 12
    margins = [row[i] - sum(c for j, c in enumerate(row) if j != i) / 11 for i, row in enumerate(cosine)]
    assert got.margin.value == pytest.approx(sum(margins) / 12, abs=1e-6)


def test_the_loss_is_the_symmetric_cross_entropy_over_chance():
    a, b = vectors(3), vectors(4)
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.07
    own = torch.arange(12)
    wanted = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2 / math.log(12)
    assert alignment(a, b).loss.value == pytest.approx(float(wanted), rel=1e-5)
    assert alignment(a, b).loss.value == pytest.approx(float(info_nce(a[:, None], b[:, None])) / math.log(12), rel=1e-5)


def test_known_cases():
    perfect = alignment(torch.eye(16), torch.eye(16))
    assert perfect.recall_1.value == perfect.recall_5.value == perfect.margin.value == 1
    assert perfect.recall_1.low == pytest.approx(0.025 ** (1 / 16))
    assert perfect.loss.value < 0.01
    same = alignment(torch.ones(16, 4), torch.ones(16, 4))  # nothing tells them apart
    assert same.recall_1.value == same.recall_5.value == 0
    assert same.loss.value == pytest.approx(1.0)
    assert same.margin.value == pytest.approx(0.0)
    chance = alignment(vectors(5, 400), vectors(6, 400))
    assert chance.recall_5.low < 5 / 400 < chance.recall_5.high + 0.01
    shifted = alignment(torch.eye(8), torch.eye(8).roll(1, dims=0))
    assert shifted.recall_1.value == 0


def test_small_batches():
    assert alignment(torch.eye(3), torch.eye(3)).recall_5.value == 1
    with pytest.raises(InputError, match="2 or more"):
        alignment(torch.eye(4)[:1], torch.eye(4)[:1])


@pytest.mark.usefixtures("as_in_production")
def test_bad_input_is_named():
    for a, b in ((vectors(1), vectors(1, 11)), (vectors(1)[0], vectors(1)[0]), (vectors(1), vectors(1, width=7))):
        with pytest.raises(ShapeError):
            alignment(a, b)
    bad = vectors(1)
    bad[3, 2] = math.nan
    with pytest.raises(NotFinite):
        alignment(bad, vectors(2))
    with pytest.raises(InputError):
        alignment(vectors(1), vectors(2), temperature=0.0)
