"""packed/order.py: which rows of the whole were kept, found again by item and place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reduce.merge_cases import packs

from tubelet import Item, Packed, pack
from tubelet.errors import ShapeError
from tubelet.packed.order import rows_in


@given(packs(), st.randoms())
def test_rows_are_found_again_in_any_order(p: Packed, random):
    """keep by rows, then ask: the same rows, whatever their order within each item; tensors beside them follow."""
    rows = []
    for a, b in zip(p.starts, p.starts[1:], strict=False):
        own = list(range(a, b))
        random.shuffle(own)
        rows += own[: random.randint(0, len(own))]
    kept = p.keep(torch.tensor(rows, dtype=torch.long))
    assert rows_in(p, kept).tolist() == rows
    beside = torch.arange(len(p.x))
    assert beside[rows_in(p, kept)].tolist() == rows


@given(packs())
def test_of_a_part_of_a_part(p: Packed):
    """`whole` may have lost rows before: numbers are those of its own rows."""
    half = p.keep(torch.arange(0, len(p.x), 2))
    rest = half.keep(torch.arange(0, len(half.x), 3))
    assert rows_in(half, rest).tolist() == list(range(0, len(half.x), 3))


def test_what_was_not_there_is_said():
    p = pack([torch.zeros(6, 2)], [Item.of(1, 2, 3)])
    some = p.keep(torch.tensor([0, 2]))
    with pytest.raises(ShapeError, match="not there"):
        rows_in(some, p)
    with pytest.raises(ShapeError, match="other items"):
        rows_in(p, pack([torch.zeros(6, 2)], [Item.of(1, 3, 2)]))
    nothing = p.keep(torch.tensor([], dtype=torch.long))
    assert rows_in(nothing, nothing).tolist() == []
    with pytest.raises(ShapeError, match="not there"):
        rows_in(nothing, some)
