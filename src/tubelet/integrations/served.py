"""Rows as inference servers take them: every item whole and in raster order, deepstack beside the tokens, patch grids.

tokens      x0  x1  x2 ...    one row a token, in the language model's width D
deepstack   a0  a1  a2 ...    rows of the same places for its first layers (Qwen3-VL)
sent        x0 a0 b0 | x1 a1 b1 | ...                      (T, D (1 + L)), as both servers split them again
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tubelet.errors import AlignmentError, ConfigError, InputError, ShapeError
from tubelet.language.vlm.features import VisualRows
from tubelet.packed import Packed, concat
from tubelet.shapes import Int64

Kind = Literal["image", "video"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def joined(rows: Packed | VisualRows) -> Packed:
    """The rows with their deepstack rows behind them on the channel axis, (T, D (1 + L)). One copy where L > 0.

    Raises ShapeError where a deepstack pack has other rows or another width than the tokens.
    """
    if isinstance(rows, Packed):
        return rows
    for number, deep in enumerate(rows.deepstack):
        if deep.x.shape != rows.tokens.x.shape or not torch.equal(deep.pos.long(), rows.tokens.pos.long()):
            raise ShapeError(
                f"deepstack pack {number} has other rows than the tokens: {deep!r}",
                expected=tuple(rows.tokens.x.shape),
                got=tuple(deep.x.shape),
            )
    if not rows.deepstack:
        return rows.tokens
    return rows.tokens.with_x(torch.cat([rows.tokens.x, *(deep.x for deep in rows.deepstack)], dim=1))


def in_raster_order(p: Packed) -> Packed:
    """The same rows, those of each item by time, picture row, column, as the servers' own towers give them.

    The pack itself where they stand so already. Looks at places on the host: syncs where they are on a device.
    """
    pos, grids = p.pos.cpu().long(), p.grid_thw
    owner = torch.arange(len(p)).repeat_interleave(torch.tensor(p.lengths, dtype=torch.long))
    size = grids[owner]
    key = owner * (1 << 40) + (pos[:, 0] * size[:, 1] + pos[:, 1]) * size[:, 2] + pos[:, 2]
    if bool((key.diff() > 0).all()):
        return p
    return p.keep(key.argsort().to(p.device), p.lengths)


def patch_grids(p: Packed, merge: int) -> Int64[Tensor, "N 3"]:
    """Grids of the patches that `merge` x `merge` at a time became these rows: image_grid_thw, on the host.

    Raises InputError for a merge below 1.
    """
    if merge < 1:
        raise InputError(f"merge starts at 1, got {merge}", limit=1, got=merge)
    return p.grid_thw * torch.tensor([1, merge, merge])


def require_whole(p: Packed, why: str) -> None:
    """Raises AlignmentError naming the first item that has lost rows, with `why` none may be lost."""
    for i, (item, length) in enumerate(zip(p.items, p.lengths, strict=True)):
        if length != item.grid.rows:
            raise AlignmentError(
                f"{length} of the {item.grid.rows} rows of its grid are left; {why}",
                item=i,
                expected=item.grid.rows,
                got=length,
            )


def require_features(p: Packed) -> None:
    """Raises ShapeError for rows that are pixels, InputError for a pack without items or of views."""
    if not len(p):
        raise InputError("a pack without items has nothing to send")
    view = next((i for i, item in enumerate(p.items) if item.content is not None), None)
    if view is not None:
        raise InputError(
            "a view of a picture: servers take one item for each picture, and cut views by rules of their own",
            item=view,
        )
    if not p.dtype.is_floating_point:
        raise ShapeError(f"rows to send are floating point features, got {p.dtype}", got=str(p.dtype))


def kinds_of(p: Packed, kinds: Sequence[Kind] | None) -> tuple[Kind, ...]:
    """The kind of each item: as given, else video where its grid has several rows of time.

    Raises InputError for other words or another number of them, and for an image with several rows of time.
    """
    if kinds is None:
        return tuple("video" if item.grid.t > 1 else "image" for item in p.items)
    if len(kinds) != len(p):
        raise InputError(f"{len(kinds)} kinds for {len(p)} items", expected=len(p), got=len(kinds))
    for i, (kind, item) in enumerate(zip(kinds, p.items, strict=True)):
        if kind not in KINDS:
            raise InputError(f"a kind is {' or '.join(KINDS)}, got {kind!r:.40}", item=i, expected=KINDS, got=kind)
        if kind == "image" and item.grid.t > 1:
            raise InputError(f"an image has one row of time, this item {item.grid.t}", item=i, limit=1, got=item.grid.t)
    return tuple(kinds)


def of_kind(p: Packed, kinds: Sequence[Kind], kind: Kind) -> tuple[Packed | None, list[int]]:
    """The items of one kind in their order, None without any, and their numbers in p. A view where all are."""
    chosen = [i for i, one in enumerate(kinds) if one == kind]
    if len(chosen) == len(p):
        return p, chosen
    parts = p.split([1] * len(p))
    return (concat([parts[i] for i in chosen], renumber=False) if chosen else None), chosen


def require_model(model: str, known: Sequence[str], server: str) -> None:
    """Raises ConfigError for a model this door does not lead to."""
    if model not in known:
        raise ConfigError(f"{server} is written to for {', '.join(known)}", expected=tuple(known), got=model)


def on_host(x: Tensor) -> Tensor:
    """The tensor without its graph, on the host, contiguous."""
    return x.detach().cpu().contiguous()


Payload = dict[str, Any]
