"""The value that travels: rows of many items end to end, each row with its place.

    x    (T, D)   rows of all items, one item after the other, never padded
    pos  (T, 3)   (t, h, w) of each row in its own item's grid
    items, lengths   on the host: what was cut into rows, and how many rows each item has now

Every stage takes a Packed and gives a Packed. Sizes live on the host and values on the device, so nothing here syncs
unless its docstring says so. Because places travel with rows, dropping and reordering rows is data that can be checked.
"""

import copy
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tubelet.doors import door, doors
from tubelet.errors import NotFinite, ShapeError
from tubelet.packed.checks import check_places, kept_lengths
from tubelet.packed.displays import packed_html
from tubelet.packed.file import read_pack, write_pack
from tubelet.packed.grid import MAX_ROWS as MAX_ROWS
from tubelet.packed.grid import Grid as Grid
from tubelet.packed.grid import Item as Item
from tubelet.packed.grid import all_positions as all_positions
from tubelet.packed.grid import positions as positions
from tubelet.shapes import Int, Int32, Int64, Shaped

if TYPE_CHECKING:
    from PIL.Image import Image

_PLACES = (torch.int8, torch.int16, torch.int32, torch.int64)


@doors
@dataclass(frozen=True, eq=False)
class Packed:
    """Rows `x` (T, D) of N items with their places `pos` (T, 3); see the module's head.

    Checked at construction on the host alone (shapes, devices, counts); `check()` looks at the values too.
    Raises ShapeError.

        >>> p = pack([torch.ones(6, 8), torch.ones(4, 8)], [Item.of(1, 2, 3), Item.of(1, 2, 2)])
        >>> p.keep(torch.tensor([0, 5, 9]))
        Packed(T=3, D=8, float32, cpu, 2 items: [1x2x3 (2 kept), 1x2x2 (1 kept)])
    """

    x: Shaped[Tensor, "T D"]
    pos: Int[Tensor, "T 3"]
    items: tuple[Item, ...]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        x, pos = self.x, self.pos
        object.__setattr__(self, "items", tuple(self.items))
        object.__setattr__(self, "lengths", _integers(self.lengths, "lengths"))
        if x.ndim != 2 or pos.ndim != 2 or pos.shape[1] != 3:
            raise ShapeError(f"x must be (T, D) and pos (T, 3), got {tuple(x.shape)} and {tuple(pos.shape)}")
        if pos.dtype not in _PLACES:
            raise ShapeError(f"pos must hold signed integers, got {pos.dtype}", got=str(pos.dtype))
        if x.shape[0] > MAX_ROWS:
            raise ShapeError(f"{x.shape[0]:,} rows do not fit an int32 cu_seqlens", limit=MAX_ROWS, got=x.shape[0])
        if x.device != pos.device:
            raise ShapeError(f"x is on {x.device} and pos on {pos.device}", expected=str(x.device), got=str(pos.device))
        n, said = len(self.items), len(self.lengths)
        if n != said:
            raise ShapeError(f"{n} items with {said} lengths", expected=n, got=said)
        for i, (item, length) in enumerate(zip(self.items, self.lengths, strict=True)):
            most = item.grid.rows
            if not 0 <= length <= most:
                raise ShapeError(f"{length} rows cannot come from a grid of {most}", item=i, limit=most, got=length)
        total = sum(self.lengths)
        if not total == x.shape[0] == pos.shape[0]:
            raise ShapeError(
                f"lengths sum to {total}, x has {x.shape[0]} rows and pos {pos.shape[0]}",
                expected=total,
                got=x.shape[0],
            )

    # ---- sizes, all on the host

    def __len__(self) -> int:
        return len(self.items)

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First row of each item, and T at the end: N + 1 integers."""
        return tuple(accumulate(self.lengths, initial=0))

    @property
    def whole(self) -> bool:
        """True when no item has lost a row."""
        return all(n == item.grid.rows for item, n in zip(self.items, self.lengths, strict=True))

    @cached_property
    def cu_seqlens(self) -> Int32[Tensor, " n"]:
        """`starts` as an int32 tensor on the rows' device, the form varlen kernels take."""
        return torch.tensor(self.starts, dtype=torch.int32, device="cpu").to(self.device, non_blocking=True)

    @cached_property
    def grid_thw(self) -> Int64[Tensor, "N 3"]:
        """Grids before any selection as an int64 tensor on the host, Hugging Face's name and form."""
        return torch.tensor([i.grid for i in self.items], dtype=torch.int64, device="cpu").reshape(-1, 3)

    def __repr__(self) -> str:
        shown = [
            f"{i.grid.t}x{i.grid.h}x{i.grid.w}" + ("" if n == i.grid.rows else f" ({n} kept)")
            for i, n in zip(self.items[:6], self.lengths[:6], strict=True)
        ]
        more = f", ... {len(self.items) - 6} more" if len(self.items) > 6 else ""
        dtype = str(self.dtype).removeprefix("torch.")
        t, d = self.x.shape
        return f"Packed(T={t}, D={d}, {dtype}, {self.device}, {len(self.items)} items: [{', '.join(shown)}{more}])"

    # ---- the same rows in another form

    def with_x(self, x: Tensor) -> "Packed":
        """The same items and places with other values, (T, D'); the row count must stay. No sync, no copy."""
        if x.ndim != 2 or x.shape[0] != self.x.shape[0]:
            raise ShapeError(
                f"expected {self.x.shape[0]} rows, got {tuple(x.shape)}", expected=self.x.shape[0], got=tuple(x.shape)
            )
        return self._other(x, self.pos.to(x.device))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Packed":
        """Rows moved to `device` and cast to `dtype`; uint8 rows keep their type, because they are pixels."""
        dtype = None if self.dtype == torch.uint8 else dtype
        device = self.device if device is None else device
        return self._other(self.x.to(device, dtype or self.dtype), self.pos.to(device))

    def _other(self, x: Tensor, pos: Tensor) -> "Packed":
        # As many rows of the same items: what was checked at construction still holds, and N may be thousands.
        other = copy.copy(self)
        object.__setattr__(other, "x", x)
        object.__setattr__(other, "pos", pos)
        if x.device != self.device:
            other.__dict__.pop("cu_seqlens", None)
        return other

    def unpack(self) -> list[Tensor]:
        """One (n_i, D) view per item, in order. `pack` puts them together again exactly."""
        return list(self.x.split(self.lengths)) if self.lengths else []

    def check(self, *, finite: bool = False) -> "Packed":
        """Look at the values as well: places inside their grids, no place twice and, on request, finite rows.

        Returns self. Syncs with the device. Raises ShapeError or NotFinite naming the item.
        """
        check_places(self.pos.cpu().long(), self.items, self.lengths)
        if finite and self.x.is_floating_point():
            bad = (~self.x.isfinite().all(dim=1)).cpu().nonzero()
            if len(bad):
                raise NotFinite("NaN or infinity in its rows", item=bisect_right(self.starts, int(bad[0])) - 1)
        return self

    def equal(self, other: "Packed") -> bool:
        """Same items, lengths, places and bit-equal values (NaN equals nothing). Syncs."""
        return (
            self.items == other.items
            and self.device == other.device
            and self.lengths == other.lengths
            and self.x.dtype == other.x.dtype
            and torch.equal(self.pos.long(), other.pos.long())
            and torch.equal(self.x, other.x)
        )

    # ---- fewer rows, other order

    def keep(self, rows: Tensor, lengths: Sequence[int] | None = None) -> "Packed":
        """The rows named by `rows`: indices (K,) in the order wanted within each item, or a mask (T,), True = keep.

        Items stay, with fewer rows, also when none is left. On an accelerator, counting the rows of each item costs a
        device sync; pass their `lengths` to avoid it, and the values of `rows` are trusted. Differentiable in x.
        Raises: ShapeError when an index is out of range or named twice, rows of different items are interleaved, or
        `lengths` is not what is kept.
        """
        if rows.dtype == torch.bool:
            if rows.shape != (self.x.shape[0],):
                raise ShapeError(f"a mask of {tuple(rows.shape)} for {self.x.shape[0]} rows", got=tuple(rows.shape))
            rows = rows.nonzero().squeeze(1)
        if rows.ndim != 1 or rows.is_floating_point() or rows.is_complex():
            raise ShapeError(f"rows are a 1-D index or mask, got {rows.dtype} {tuple(rows.shape)}")
        rows = rows.to(self.device, torch.long)
        if lengths is None or rows.device.type == "cpu":
            kept = kept_lengths(rows.cpu(), self.starts)
            if lengths is not None and _integers(lengths, "lengths") != kept:
                raise ShapeError("lengths are not the rows kept of each item", expected=kept, got=tuple(lengths))
            lengths = kept
        return Packed(self.x[rows], self.pos[rows], self.items, tuple(lengths))

    def reorder(self, order: Sequence[int]) -> "Packed":
        """The items `order[0], order[1], ...`: a permutation or a choice of items, each at most once."""
        order = _integers(order, "order")
        if len(set(order)) != len(order) or not all(0 <= i < len(self.items) for i in order):
            n = len(self.items)
            raise ShapeError(f"not a choice of {n} items: {list(order)}", limit=n, got=order)
        rows = [slice(self.starts[i], self.starts[i + 1]) for i in order]
        return Packed(
            torch.cat([self.x[:0], *(self.x[own] for own in rows)]),
            torch.cat([self.pos[:0], *(self.pos[own] for own in rows)]),
            tuple(self.items[i] for i in order),
            tuple(self.lengths[i] for i in order),
        )

    def split(self, counts: Sequence[int]) -> list["Packed"]:
        """Consecutive parts of counts[0], counts[1], ... items; views, no copy. The counts must sum to N."""
        counts = _integers(counts, "counts")
        if sum(counts) != len(self.items) or any(c < 0 for c in counts):
            raise ShapeError(f"{list(counts)} does not divide {len(self.items)} items", expected=len(self.items))
        parts, first = [], 0
        for c in counts:
            a, b, own = self.starts[first], self.starts[first + c], slice(first, first + c)
            parts.append(Packed(self.x[a:b], self.pos[a:b], self.items[own], self.lengths[own]))
            first += c
        return parts

    # ---- files

    def save(
        self,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """One safetensors file: `x`, `pos` and any further `tensors`, with the items as JSON metadata beside yours.

        Whole or not at all, over a pack and no other file. Syncs. Raises: ShapeError when a name of `tensors` or
        `metadata` is the pack's own; InputError where no pack may stand; RunError when it cannot be written.
        """
        write_pack(path, self.x, self.pos, self.items, self.lengths, tensors or {}, metadata or {})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Packed":
        """The rows that `save` wrote, checked, on the host; `TokenFile.load` gives what stands beside them. Raises:
        InputError for no such file; UnsafeFile for none of ours; ShapeError where its parts contradict each other."""
        try:
            return Packed(*read_pack(path)[:4]).check()
        except ShapeError as e:
            raise e.placed(source=Path(path).name) from e.__cause__

    # ---- to look at

    def __getitem__(self, which: int | slice) -> "Packed":
        """One item, or those of a slice, as a pack of views; a step other than 1 copies. Pictures keep their number."""
        found = range(len(self))[which]  # beyond the last: IndexError, which ends loops
        first, count = (found.start, len(found)) if isinstance(found, range) else (found, 1)
        if isinstance(found, range) and found.step != 1:
            return self.reorder(found)
        return self.split((first, count, len(self) - first - count))[1]

    def __iter__(self) -> Iterator["Packed"]:
        return iter(self.split([1] * len(self)))

    def _repr_html_(self) -> str:
        return packed_html(self.x, self.items, self.lengths)

    def show(self, clips: Sequence[Any] | None = None, *, max_side: int = 1200) -> "Image":
        """Which cells of each item have a row, on the clips that `Item.picture` counts or on blank grids, as a picture.
        Raises ShapeError for clips these items cannot come from."""
        import tubelet  # drawing comes later in the flow: it is asked for by its public name, when a person looks

        return tubelet.inspect.draw_packed(self, clips, max_side=max_side)


def _integers(values: Iterable[int], what: str) -> tuple[int, ...]:
    """Host integers, exactly: 2.5 is refused where int() would make it 2."""
    try:
        return tuple(index(n) for n in values)
    except TypeError as e:
        raise ShapeError(f"{what} must be integers, got {values!r}", got=values) from e


@door
def pack(rows: Iterable[Tensor], items: Sequence[Item], *, merge: int = 1) -> Packed:
    """Whole items from one (grid.rows, D) tensor each, in raster order (or in block order of `merge`).

    Cost: one copy. Raises ShapeError naming the item whose rows do not fill its grid.

        >>> pack([torch.zeros(6, 8)], [Item.of(1, 2, 3)])
        Packed(T=6, D=8, float32, cpu, 1 items: [1x2x3])
    """
    rows, items = list(rows), tuple(items)
    if len(rows) != len(items):
        raise ShapeError(f"{len(rows)} row tensors for {len(items)} items", expected=len(items), got=len(rows))
    for i, (r, item) in enumerate(zip(rows, items, strict=True)):
        if r.ndim != 2 or r.shape[0] != item.grid.rows:
            raise ShapeError(
                f"grid {tuple(item.grid)} needs {item.grid.rows} rows, got {tuple(r.shape)}",
                item=i,
                expected=item.grid.rows,
                got=tuple(r.shape),
            )
        if r.shape[1] != rows[0].shape[1] or r.dtype != rows[0].dtype or r.device != rows[0].device:
            raise ShapeError("all items must have the same width, type and device", item=i, got=tuple(r.shape))
    x = torch.cat(rows) if rows else torch.zeros(0, 0, device="cpu")
    return Packed(x, all_positions(items, merge=merge).to(x.device), items, tuple(i.grid.rows for i in items))


@door
def concat(packs: Sequence[Packed], *, renumber: bool = True) -> Packed:
    """All items of all packs, in order. Cost: one copy.

    renumber=True: packs came from different inputs, so each one's `picture` numbers follow those of the packs before
    it. renumber=False keeps them, which undoes `split`. A pack without items adds nothing, whatever its width.
    Raises ShapeError when widths, types or devices differ.

        >>> one = pack([torch.ones(6, 8)], [Item.of(1, 2, 3)])
        >>> [item.picture for item in concat([one, one]).items]
        [0, 1]
    """
    if not packs:
        return pack([], [])
    packs = [p for p in packs if len(p)] or [packs[0]]
    width = packs[0].x.shape[1]
    for i, p in enumerate(packs):
        if p.x.shape[1] != width or p.dtype != packs[0].dtype or p.device != packs[0].device:
            raise ShapeError(f"pack {i} differs in width, type or device: {p!r}", expected=width, got=p.x.shape[1])
    items: list[Item] = []
    for p in packs:
        first = max((i.picture for i in items), default=-1) + 1 if renumber else 0
        items += [replace(i, picture=i.picture + first) for i in p.items]
    return Packed(
        torch.cat([p.x for p in packs]),
        torch.cat([p.pos for p in packs]),
        tuple(items),
        tuple(n for p in packs for n in p.lengths),
    )


def whole(x: Tensor, items: tuple[Item, ...]) -> Packed:
    return Packed(x, all_positions(items).to(x.device), items, tuple(i.grid.rows for i in items))
