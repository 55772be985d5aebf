"""Every family's towers against transformers: outputs, packing, gradients, bf16, and back to the publisher's form."""

from pathlib import Path

import pytest
import transformers as hf
from tests.families import cases, parity
from tests.families.parity import Pair

pytestmark = pytest.mark.parametrize("pair", cases.CASES, ids=str, indirect=True, scope="module")


def test_outputs(pair: Pair) -> None:
    """Everything the tower has is compared, prefix tokens and every layer's state as well."""
    c = pair.config
    every = range(c.layers + 1)
    expected = {"tokens", *(f"hidden.{i}" for i in every)}
    expected |= {"prefix", *(f"hidden_prefix.{i}" for i in every)} if c.prefix else set()
    expected |= {"merged", *(f"deepstack.{i}" for i in range(len(c.deepstack)))} if c.merger else set()
    expected |= {"pooled"} if c.pool and all(t == 1 for t, _, _ in pair.case.grids) else set()
    assert parity.check_outputs(pair).keys() == expected


def test_packing(pair: Pair) -> None:
    parity.check_packing(pair)


def test_gradients(pair: Pair) -> None:
    """Of the rows and of every weight there is."""
    assert parity.check_gradients(pair).keys() == {"rows", *(name for name, _ in pair.ours.named_parameters())}


def test_bf16(pair: Pair) -> None:
    parity.check_bf16(pair)


def test_save_back(pair: Pair, tmp_path: Path) -> None:
    """Its own class reads what we write, and so does its image processor."""
    parity.check_save_back(pair, tmp_path / "out")
    if pair.case.family.processor_to is not None:
        processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "out")
        assert list(processor.image_mean) == list(pair.config.pixels.mean)
        assert getattr(processor, "merge_size", None) is None or processor.patch_size == pair.config.pixels.patch
