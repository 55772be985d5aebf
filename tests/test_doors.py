"""What a door says of an argument of a wrong type."""

import numpy as np
import pytest
import torch

import tubelet
from tubelet.doors import door


@door
def width(p: tubelet.Packed) -> int:
    """As every function that takes a pack: the checks of shapes that tests switch on would speak before the door."""
    return p.x.shape[1]


@pytest.mark.parametrize("given", ["x.jpg", torch.zeros(1, 3, 8, 8), None, tubelet.read(np.zeros((8, 8, 3), np.uint8))])
def test_what_is_no_pack_is_told_how_one_is_made(given: object):
    with pytest.raises(TypeError, match=r"p is \w+, expected Packed: tubelet.patchify\(tubelet.read\(files\), encoder"):
        width(given)  # pyright: ignore[reportArgumentType]
