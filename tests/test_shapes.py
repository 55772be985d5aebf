"""Shapes are checked in every test and are plain types in production."""

import subprocess
import sys

import jaxtyping
import pytest
import torch

from tubelet.packed import Grid, Item, Packed, positions
from tubelet.shapes import Float, Int


def test_a_wrong_shape_fails_in_tests():
    """The hook that pyproject.toml asks pytest for is at work, also in the processes of pytest-xdist."""
    with pytest.raises(jaxtyping.TypeCheckError):
        Packed(torch.zeros(3, 1), torch.zeros(2, 3, dtype=torch.int32), (Item.of(1, 1, 3),), (3,))
    with pytest.raises(jaxtyping.TypeCheckError):
        positions(Grid(1, 1, 1), merge="2")  # type: ignore[arg-type]


def test_annotations_mean_what_jaxtyping_says():
    assert isinstance(torch.zeros(2, 3), Float[torch.Tensor, "T 3"])
    assert not isinstance(torch.zeros(2, 3), Int[torch.Tensor, "T 3"])


def test_without_jaxtyping_an_annotation_is_the_plain_type():
    code = """
import sys
sys.modules["jaxtyping"] = None
import torch
from tubelet import Item, pack, shapes
assert all(getattr(shapes, name)[int, "T D"] is int for name in shapes.__all__)
assert pack([torch.zeros(6, 2)], [Item.of(1, 2, 3)]).lengths == (6,)
print("plain")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "plain\n"
