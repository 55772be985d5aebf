"""The scaffold: the whole picture at a glance, pooled to a few rows that are always kept, beside chosen rows of tiles.

whole view 27 x 27, tiles 27 x 27 each   ->   whole view 8 x 8, kept as it is, and budget - 64 rows of the tiles
"""

import math
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from tubelet.errors import InputError
from tubelet.packed import Packed, concat
from tubelet.reduce.condense import pool_to
from tubelet.reduce.methods import Inputs


class Scaffold(NamedTuple):
    """inputs: with the whole view of each picture pooled. items: numbers of these views, for `Settings.scaffold`."""

    inputs: Inputs
    items: tuple[int, ...]


def with_scaffold(inputs: Inputs, *, rows: int) -> Scaffold:
    """Inputs whose whole views are average-pooled to at most `rows`, and which items these are.

    The whole view of a picture is the coarsest of its views that shows all of it; pictures of one view have none and
    are left alone. Tokens, features, attention and keys are pooled alike. Raises InputError where no picture has one.

        >>> whole = tubelet.Item(tubelet.Grid(1, 4, 4), (0.0,), 0, (0, 0, 8, 8))
        >>> tile = tubelet.Item(tubelet.Grid(1, 4, 4), (0.0,), 0, (0, 0, 4, 4))
        >>> p = tubelet.pack([torch.randn(16, 2), torch.randn(16, 2)], [whole, tile])
        >>> found = with_scaffold(Inputs(p), rows=4)
        >>> found.inputs.tokens.lengths, found.items
        ((4, 16), (0,))
    """
    p = inputs.tokens
    numbers = whole_views(p)
    if not numbers:
        raise InputError("a scaffold is the whole view of a picture that has several; these have one each")

    def pooled(q: Packed) -> Packed:
        parts = [q.reorder([i]) for i in range(len(q))]
        return concat([pool_to(v, budget=rows) if i in numbers else v for i, v in enumerate(parts)], renumber=False)

    def along(values: Tensor | None) -> Tensor | None:
        return None if values is None else pooled(p.with_x(values.reshape(len(values), -1).float())).x

    attention = along(inputs.attention)
    small = replace(
        inputs,
        tokens=pooled(p),
        features=None if inputs.features is None else pooled(inputs.features),
        attention=None if attention is None else attention.flatten(),
        keys=along(inputs.keys),
    )
    return Scaffold(small, numbers)


def whole_views(p: Packed) -> tuple[int, ...]:
    """The number of the coarsest view of each picture that shows all of it, for pictures of several views.

    A strip narrower than one of its cells may be missing, such as what a patch of 14 leaves of 384 pixels.

        >>> whole_views(tubelet.pack([torch.zeros(4, 1)], [tubelet.Item.of(1, 2, 2)]))
        ()
    """
    views: dict[int, list[int]] = {}
    for i, item in enumerate(p.items):
        views.setdefault(item.picture, []).append(i)
    found = []
    for members in views.values():
        shown = {i: p.items[i].shown for i in members}
        left, top = (min(box[n] for box in shown.values()) for n in (0, 1))
        right, bottom = (max(box[n] for box in shown.values()) for n in (2, 3))
        every = []
        for i in members:
            wide, high = p.items[i].cell
            across = shown[i][0] - left < wide and right - shown[i][2] < wide
            if across and shown[i][1] - top < high and bottom - shown[i][3] < high:
                every.append(i)
        if len(members) > 1 and every:
            found.append(max(every, key=lambda i: math.prod(p.items[i].cell)))
    return tuple(found)
