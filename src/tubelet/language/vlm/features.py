"""Features of items as a language model takes them: kept by content, and rows that follow a selection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tubelet.errors import ConfigError
from tubelet.language.vlm.cache import FeatureCache
from tubelet.packed import Packed, concat
from tubelet.packed.grid import Grid
from tubelet.packed.order import rows_in


@dataclass(frozen=True, eq=False)
class VisualRows:
    """What a language model is given of its items. tokens: rows in its width. deepstack: rows of the same places that
    are added to its first hidden states, one pack for each of its layers that takes some (Qwen3-VL)."""

    tokens: Packed
    deepstack: tuple[Packed, ...] = ()


def encode_cached(
    p: Packed,
    keys: Sequence[str],
    cache: FeatureCache,
    run: Callable[[Packed], tuple[Packed, ...]],
    merge: int,
    unchanged: Callable[[], bool],
) -> tuple[Packed, ...]:
    """What `run` gives of every item of p: from the cache where an item's key is there, else run and kept.

    run: packs of the same items and rows, on grids `merge` times as small. Items of one key run once. unchanged:
    whether the keys still say what decides the features, asked behind a run: another thread may have written.
    """
    if not len(p):
        return run(p)
    found = {key: cache.get(key) for key in dict.fromkeys(keys)}
    wanted = [keys.index(key) for key, kept in found.items() if kept is None]
    if wanted:
        made = run(p.reorder(wanted))
        pieces = zip(made[0].pos.split(made[0].lengths), *(one.unpack() for one in made), strict=True)
        keep = unchanged()
        for i, piece in zip(wanted, pieces, strict=True):
            found[keys[i]] = piece
            if keep:
                cache.put(keys[i], piece)
    parts: list[list[Packed]] = []
    for i, key in enumerate(keys):
        kept = found[key]
        assert kept is not None
        parts.append([_item(p, i, kept[0], x, merge) for x in kept[1:]])
    return tuple(concat(list(packs), renumber=False) for packs in zip(*parts, strict=True))


def frames_apart(rows: VisualRows) -> VisualRows:
    """The rows with every frame of a clip an item by itself, for models that write text between frames.

    One item for each row of time, in order of time, also for one that has no rows left. Syncs with the device where
    rows were dropped.
    """
    return VisualRows(_apart(rows.tokens), tuple(_apart(one) for one in rows.deepstack))


def _apart(p: Packed) -> Packed:
    if all(item.grid.t == 1 for item in p.items):
        return p
    items, lengths, pos, order = [], [], [], []
    for item, start, length in zip(p.items, p.starts, p.lengths, strict=False):
        own = p.pos[start : start + length]
        each = [item.grid.h * item.grid.w] * item.grid.t
        if length != item.grid.rows:
            each = torch.bincount(own[:, 0].long().cpu(), minlength=item.grid.t).tolist()
        times = item.times_s
        items += [replace(item, grid=Grid(1, *item.grid[1:]), times_s=times[t : t + 1]) for t in range(item.grid.t)]
        lengths += each
        by_time = own[:, 0].argsort(stable=True)
        order.append(by_time + start)
        pos.append(own[by_time] * own.new_tensor([0, 1, 1]))
    return Packed(p.x.index_select(0, torch.cat(order)), torch.cat(pos), tuple(items), tuple(lengths))


def keep_same_rows(kept: Packed, whole: Packed, other: Packed) -> Packed:
    """The rows of `other`, which has those of `whole`, that a selection kept.

    Raises ConfigError where rows were joined: those have no counterpart.
    """
    if kept.items != whole.items:
        raise ConfigError("the reduction changes grids: the deepstack rows of this encoder cannot follow it")
    return other.keep(rows_in(whole, kept), kept.lengths)


def _item(p: Packed, i: int, pos: Tensor, x: Tensor, merge: int) -> Packed:
    """One item's features under its own times and box."""
    item = p.items[i]
    grid = Grid(item.grid.t, item.grid.h // merge, item.grid.w // merge)
    return Packed(x, pos, (replace(item, grid=grid),), (len(x),))
