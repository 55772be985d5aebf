"""benchmarks/train.py: its two forms agree, and its figures are there, at a small size."""

from collections.abc import Callable
from types import ModuleType

import pytest

from tubelet.encoder.config import EncoderConfig
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.load import untrained


@pytest.fixture
def train(benchmark_of: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_of("train")


@pytest.mark.filterwarnings("ignore")
def test_packed_and_padded_agree_before_they_are_timed(train: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "WIDTH", 64)
    monkeypatch.setattr(train, "VOCABULARY", 128)
    tower = EncoderConfig(hidden=64, layers=1, heads=2, mlp=128, pixels=PixelRecipe(14))
    monkeypatch.setattr(train, "untrained", lambda name: untrained(tower))
    found = train.packed_and_padded(layers=1, count=4, rounds=1)
    assert found["places_in_the_padded_batch"] > found["tokens"] > 0
    assert set(found["tokens_a_second"]) == {"tubelet packed", train.PADDED}
    assert train.PADDED in found["ratios"]


def test_dealing_by_cost_evens_loads(train: ModuleType):
    found = train.spreads(4, 8192, 20)
    assert found["dealt"]["median"] < 0.01 < found["as_they_come"]["median"] < found["so_many_samples"]["median"]
