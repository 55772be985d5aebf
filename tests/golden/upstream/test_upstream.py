"""SHIRG's own numbers: equal to the recorded ones (tests/golden), and as wrong as their docstrings say."""

import pytest
import torch
from tests.golden.upstream import shirg_metrics as upstream

from tubelet.errors import ShapeError


def tokens(n: int, seed: int = 0, width: int = 8) -> torch.Tensor:
    return torch.randn(1, n, width, generator=torch.Generator().manual_seed(seed))


def test_noise_is_the_most_diverse():
    smooth = tokens(64).cumsum(dim=1)
    assert upstream.token_diversity(tokens(64)) > upstream.token_diversity(smooth)


def test_coherence_is_not_about_space():
    """Any order of the selected tokens has the same spatial coherence."""
    whole = tokens(64, 1)
    chosen = whole[:, ::3]
    order = torch.randperm(chosen.shape[1], generator=torch.Generator().manual_seed(2))
    got = upstream.spatial_coherence(whole, chosen[:, order])
    assert got == pytest.approx(upstream.spatial_coherence(whole, chosen), rel=1e-5)


def test_keeping_fewer_tokens_preserves_more_letters():
    """Neighbours in the list differ more once tokens between them are gone."""
    smooth = tokens(64, 3).cumsum(dim=1)
    assert upstream.edge_responsiveness(smooth[:, ::8]) > upstream.edge_responsiveness(smooth)


def test_frequencies_are_preserved_by_almost_anything():
    assert upstream.frequency_preservation(tokens(36), 5 * tokens(20, 4)) == 1.0


def test_what_upstream_answers_with_a_constant_is_an_error_here():
    with pytest.raises(ShapeError):
        upstream.spatial_coherence(tokens(9), tokens(4))
    with pytest.raises(ShapeError):
        upstream.token_diversity(tokens(1))
