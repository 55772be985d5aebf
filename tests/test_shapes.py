"""Shapes are checked in every test and are plain types in production."""

import inspect
import subprocess
import sys

import jaxtyping
import pytest
import torch

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.options import RunOptions
from tubelet.inspect.budget.alive import parameter_count
from tubelet.inspect.budget.scratch import Kernels
from tubelet.packed import Grid, Item, Packed, positions
from tubelet.shapes import Float, Int


def test_a_wrong_shape_fails_in_tests():
    """The hook of tests/typed.py is at work, also in the processes of pytest-xdist."""
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


def test_every_annotated_call_is_checked_with_or_without_shapes(as_in_production: None):
    """Functions, methods and dataclasses whose annotations are plain; after the switch, and not before it."""
    options = RunOptions(gradient_checkpointing=7)  # type: ignore[arg-type] # nobody looks in production
    jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(jaxtyping.TypeCheckError, match="gradient_checkpointing"):
        RunOptions(gradient_checkpointing=options.gradient_checkpointing)
    with pytest.raises(jaxtyping.TypeCheckError, match="config"):
        parameter_count("a name")  # type: ignore[arg-type]
    with pytest.raises(jaxtyping.TypeCheckError, match="threads"):
        Kernels("two").product(1, 1, 1, torch.float32)  # type: ignore[arg-type]


def test_what_is_checked_still_looks_as_it_is_written():
    assert inspect.signature(Kernels.product).parameters["rows"].annotation is int
    assert inspect.signature(parameter_count).parameters["config"].annotation is EncoderConfig
    assert parameter_count.__doc__
    assert parameter_count.__module__ == "tubelet.inspect.budget.alive"
