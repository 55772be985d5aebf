"""Token dropout that knows a selection: some rows of each item leave, by a draw that only their sample decides.

    selected   # . # # . #          # rows a selection kept, . rows it dropped before
    thinned    # . . # . #          one of four left; places stay true, so positions and metrics do too

A row leaves the pack instead of turning into zeros, so the language model sees what it sees after a stricter selection,
and pays less. How many are left is known on the host before anything is encoded: `thinned_lengths`.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.packed import Item, Packed
from tubelet.train.draws import draws


def thin(
    p: Packed,
    ids: Sequence[int | str],
    *,
    seed: int,
    step: int,
    rate: float | None = None,
    budget: int | None = None,
    whole: Sequence[int] = (),
) -> Packed:
    """Fewer rows of each item, in the order they stood, as many as `thinned_lengths` says.

    ids: the sample of each item. Every place of an item's grid has a number drawn from (seed, step, sample, which of
    the sample's items it is); the rows with the smallest stay. So the choice is the same in every batch, on every rank
    and device and in every order of rows, and of two selections the same places leave first. One sync for places on a
    device. Cost: one draw for each cell of the grids. Raises what `thinned_lengths` raises.

    Differs from rkawamura0483/LaViDa_mod:shirg/shirg_token_dropout.py@501c7ba, which zeroes rows, scales the others
    by 1 / (1 - rate) and draws from the global generator.

        >>> p = tubelet.pack([torch.arange(6.0)[:, None]], [tubelet.Item.of(1, 2, 3)])
        >>> thin(p, ["000123"], seed=0, step=1, rate=0.5)
        Packed(T=3, D=1, float32, cpu, 1 items: [1x2x3 (3 kept)])
    """
    lengths = thinned_lengths(p.items, p.lengths, rate=rate, budget=budget, whole=whole)
    if len(ids) != len(p):
        raise ShapeError(f"{len(ids)} ids for {len(p)} items", expected=len(p), got=len(ids))
    seen: dict[str, int] = {}
    kept: list[np.ndarray] = [np.zeros(0, np.int64)]
    places = p.pos.cpu().numpy().astype(np.int64)
    for i, (item, name) in enumerate(zip(p.items, ids, strict=True)):
        number = seen[str(name)] = seen.get(str(name), -1) + 1
        start, stop, wanted = p.starts[i], p.starts[i + 1], lengths[i]
        if wanted == stop - start:
            kept.append(np.arange(start, stop))
            continue
        drawn = draws(item.grid.rows, purpose=f"thin {number}", seed=seed, step=step, sample=name)
        own = drawn[_cells(item, places[start:stop])]
        kept.append(start + np.sort(own.argsort(kind="stable")[:wanted]))
    rows: Tensor = torch.from_numpy(np.concatenate(kept))
    return p.keep(rows, lengths)


def thinned_lengths(
    items: Sequence[Item],
    lengths: Sequence[int],
    *,
    rate: float | None = None,
    budget: int | None = None,
    whole: Sequence[int] = (),
) -> tuple[int, ...]:
    """Rows that `thin` leaves of each item; at least one of each that has any. On the host, for placeholders and plans.

    rate: n - floor(n rate) of an item's n rows stay, 0 <= rate < 1, the decimal number as written. budget: rows that
    stay of each picture, exactly, or all where it has fewer: one of each view, the others in proportion to the views'
    other rows (largest remainder, the earlier view first). Give one of the two. whole: items that lose nothing, such as
    a global view; their rows count towards the budget.
    Raises InputError, naming the item where a budget cannot hold one row of each view.

        >>> thinned_lengths([tubelet.Item.of(1, 2, 3)] * 2, (6, 4), budget=5)   # one picture, two views
        (3, 2)
    """
    if (rate is None) == (budget is None):
        raise InputError("thin by a rate or to a budget, one of them", got=(rate, budget))
    for i in whole:
        if not 0 <= i < len(items):
            raise InputError(f"there is no item {i} among {len(items)}", limit=len(items), got=i)
    if rate is not None:
        if not 0 <= rate < 1:
            raise InputError(f"a share of rows to drop is 0 or more and below 1, got {rate}", limit=1, got=rate)
        share = Fraction(repr(float(rate)))
        return tuple(n if i in whole else n - int(n * share) for i, n in enumerate(lengths))
    assert budget is not None
    out = list(lengths)
    for picture in dict.fromkeys(item.picture for item in items):
        views = [i for i, item in enumerate(items) if item.picture == picture and lengths[i]]
        free = [i for i in views if i not in whole]
        room = budget - sum(lengths[i] for i in views if i in whole)
        have = [lengths[i] for i in free]
        if room < min(len(free), sum(have)) or room < 0:
            raise InputError(
                f"{budget} rows cannot hold one of each of {len(views)} views, {len(views) - len(free)} of them whole",
                item=views[0],
                limit=budget,
                got=budget - room + len(free),
            )
        for i, n in zip(free, _divided(min(room, sum(have)), have), strict=True):
            out[i] = n
    return tuple(out)


def _divided(total: int, parts: list[int]) -> list[int]:
    """`total` divided as the parts are, one at least for each, none above its part, the sum exact."""
    rest, spare = total - len(parts), sum(parts) - len(parts)  # one each is given; the others in proportion
    if not spare:
        return list(parts)
    exact = [Fraction(rest * (n - 1), spare) for n in parts]
    shares = [int(x) for x in exact]
    order = sorted(range(len(parts)), key=lambda k: (shares[k] - exact[k], k))
    for k in order[: rest - sum(shares)]:
        shares[k] += 1
    return [1 + s for s in shares]


def _cells(item: Item, places: np.ndarray) -> np.ndarray:
    """The number of each place in its item's grid, raster order."""
    return (places[:, 0] * item.grid.h + places[:, 1]) * item.grid.w + places[:, 2]
