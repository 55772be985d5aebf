"""Saved tiny encoders for the tests of weights."""

from pathlib import Path

import pytest
from tests.weights.tiny_models import random_encoder, tiny_config

from tubelet.encoder.model import Encoder
from tubelet.families import onevision as ov
from tubelet.weights.save import save_encoder


@pytest.fixture(params=ov.FORMATS)
def fmt(request: pytest.FixtureRequest) -> ov.Format:
    return request.param


@pytest.fixture
def encoder(fmt: ov.Format) -> Encoder:
    return random_encoder(tiny_config(fmt))


@pytest.fixture
def folder(encoder: Encoder, fmt: ov.Format, tmp_path: Path) -> Path:
    """That encoder, saved."""
    return save_encoder(encoder, tmp_path / "model", fmt)


@pytest.fixture
def packing(tmp_path: Path) -> Path:
    """A packing model, saved."""
    return save_encoder(random_encoder(tiny_config("packing")), tmp_path / "packing", "packing")
