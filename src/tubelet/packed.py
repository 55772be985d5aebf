"""The value that travels: rows of many items end to end, each row with its place.

    x    (T, D)   rows of all items, one item after the other, never padded
    pos  (T, 3)   (t, h, w) of each row in its own item's grid
    items, lengths   on the host: what was cut into rows, and how many rows each item has now

Every stage takes a Packed and gives a Packed. Sizes live on the host and values on the device, so nothing here syncs
unless its docstring says so. Because places travel with rows, dropping and reordering rows is data that can be checked.
"""

import json
import math
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tubelet.errors import NotFinite, ShapeError, UnsafeFile
from tubelet.shapes import Bool, Int, Int32, Int64, Shaped

MAX_ROWS = 2**31 - 1  # cu_seqlens is int32 in every varlen kernel
FORMAT = "tubelet-packed-1"


class Grid(NamedTuple):
    """Patch counts of one item. Host integers, hashable: a key for cached tables."""

    t: int
    h: int
    w: int

    @property
    def rows(self) -> int:
        """t x h x w."""
        return self.t * self.h * self.w


@dataclass(frozen=True)
class Item:
    """One image, video or view, as it was cut: host data only.

    grid: before any row was dropped. times_s: start time in seconds of each of the grid's t rows, (0.0,) for a picture.
    picture: index of the input it was cut from; views of one picture share it. box: left, top, right, bottom in that
    picture's upright pixels. Raises ShapeError where these contradict each other.
    """

    grid: Grid
    times_s: tuple[float, ...]
    picture: int
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", Grid(*(int(n) for n in self.grid)))
        object.__setattr__(self, "times_s", tuple(float(s) for s in self.times_s))
        object.__setattr__(self, "box", tuple(float(b) for b in self.box))
        if min(self.grid) < 1:
            raise ShapeError(f"a grid needs at least one patch on each axis, got {tuple(self.grid)}", got=self.grid)
        if len(self.times_s) != self.grid.t:
            raise ShapeError(
                f"{len(self.times_s)} times for {self.grid.t} rows of time", expected=self.grid.t, got=len(self.times_s)
            )
        if not all(math.isfinite(s) for s in self.times_s):
            raise ShapeError(f"times must be finite seconds, got {self.times_s}", got=self.times_s)
        if len(self.box) != 4 or not all(math.isfinite(b) for b in self.box):
            raise ShapeError(f"a box is four finite numbers, got {self.box}", got=self.box)

    @classmethod
    def of(cls, t: int, h: int, w: int, picture: int = 0) -> "Item":
        """An item known by its grid alone: a t-row clip gets times 0, 1, 2 ... and a box of h x w units."""
        return cls(Grid(t, h, w), tuple(float(i) for i in range(t)), picture, (0.0, 0.0, float(w), float(h)))


@lru_cache(maxsize=4096)
def _raster(grid: Grid) -> Tensor:
    t, h, w = (torch.arange(n, dtype=torch.int32) for n in grid)
    return torch.stack(torch.meshgrid(t, h, w, indexing="ij"), dim=-1).reshape(-1, 3)


@lru_cache(maxsize=4096)
def _block(grid: Grid, merge: int) -> Tensor:
    rows = _raster(grid).view(grid.t, grid.h // merge, merge, grid.w // merge, merge, 3)
    return rows.permute(0, 1, 3, 2, 4, 5).reshape(-1, 3)


def positions(grid: Grid, *, merge: int = 1) -> Int32[Tensor, "T 3"]:
    """(t, h, w) of every patch of a grid, on the host; shared and cached, so never write into it.

    Raster order (merge=1) goes time, then picture row, then column. Block order puts the merge x merge patches that a
    merger joins next to each other. A 2 x 4 grid, numbered in the order of its rows:

        raster   0 1 2 3      block, merge=2   0 1 4 5
                 4 5 6 7                       2 3 6 7

    Raises ShapeError when merge does not divide h and w.
    """
    if merge < 1 or grid.h % merge or grid.w % merge:
        raise ShapeError(f"a {grid.h} x {grid.w} grid has no {merge} x {merge} blocks", expected=merge, got=grid)
    return _raster(grid) if merge == 1 else _block(grid, merge)


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows `x` (T, D) of N items with their places `pos` (T, 3); see the module's head.

    Checked at construction on the host alone (shapes, devices, counts); `check()` looks at the values too.
    Raises ShapeError.
    """

    x: Shaped[Tensor, "T D"]
    pos: Int[Tensor, "T 3"]
    items: tuple[Item, ...]
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        x, pos = self.x, self.pos
        object.__setattr__(self, "items", tuple(self.items))
        object.__setattr__(self, "lengths", tuple(int(n) for n in self.lengths))
        if x.ndim != 2 or pos.ndim != 2 or pos.shape[1] != 3:
            raise ShapeError(f"x must be (T, D) and pos (T, 3), got {tuple(x.shape)} and {tuple(pos.shape)}")
        if pos.is_floating_point() or pos.is_complex() or pos.dtype == torch.bool:
            raise ShapeError(f"pos must hold integers, got {pos.dtype}", got=str(pos.dtype))
        if x.shape[0] > MAX_ROWS:
            raise ShapeError(f"{x.shape[0]:,} rows do not fit an int32 cu_seqlens", limit=MAX_ROWS, got=x.shape[0])
        if x.device != pos.device:
            raise ShapeError(f"x is on {x.device} and pos on {pos.device}", expected=str(x.device), got=str(pos.device))
        if len(self.items) != len(self.lengths):
            raise ShapeError(
                f"{len(self.items)} items with {len(self.lengths)} lengths",
                expected=len(self.items),
                got=len(self.lengths),
            )
        for i, (item, length) in enumerate(zip(self.items, self.lengths, strict=True)):
            if not 0 <= length <= item.grid.rows:
                raise ShapeError(
                    f"{length} rows cannot come from a grid of {item.grid.rows}",
                    item=i,
                    limit=item.grid.rows,
                    got=length,
                )
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
        return torch.tensor(self.starts, dtype=torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def grid_thw(self) -> Int64[Tensor, "N 3"]:
        """Grids before any selection as an int64 tensor on the host, Hugging Face's name and form."""
        return torch.tensor([tuple(i.grid) for i in self.items], dtype=torch.int64).reshape(-1, 3)

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
        return replace(self, x=x, pos=self.pos.to(x.device))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Packed":
        """Rows moved to `device` and cast to `dtype`; uint8 rows keep their type, because they are pixels."""
        dtype = None if self.dtype == torch.uint8 else dtype
        device = self.device if device is None else device
        return replace(self, x=self.x.to(device, dtype or self.dtype), pos=self.pos.to(device))

    def unpack(self) -> list[Tensor]:
        """One (n_i, D) view per item, in order. `pack` puts them together again exactly."""
        return list(self.x.split(self.lengths)) if self.lengths else []

    def check(self, *, finite: bool = False) -> "Packed":
        """Look at the values as well: places inside their grids, no place twice and, on request, finite rows.

        Returns self. Syncs with the device. Raises ShapeError or NotFinite naming the item.
        """
        for i, (a, b) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            rows, grid = self.pos[a:b].long().cpu(), self.items[i].grid
            if rows.numel() and bool((rows < 0).any() | (rows >= torch.tensor(grid)).any()):
                bad = rows[((rows < 0) | (rows >= torch.tensor(grid))).any(dim=1)][0].tolist()
                raise ShapeError(f"place {tuple(bad)} is outside the grid {tuple(grid)}", item=i, limit=grid, got=bad)
            flat = (rows[:, 0] * grid.h + rows[:, 1]) * grid.w + rows[:, 2]
            if flat.unique().numel() != flat.numel():
                raise ShapeError("the same place occurs in more than one row", item=i, got=flat.numel())
            if finite and self.x.is_floating_point() and not bool(self.x[a:b].isfinite().all()):
                raise NotFinite("NaN or infinity in its rows", item=i)
        return self

    def equal(self, other: "Packed") -> bool:
        """Same items, lengths, places and bit-equal values (NaN equals nothing). Syncs."""
        return (
            self.items == other.items
            and self.lengths == other.lengths
            and self.x.dtype == other.x.dtype
            and torch.equal(self.pos.long(), other.pos.long())
            and torch.equal(self.x, other.x)
        )

    # ---- fewer rows, other order

    def keep(self, rows: Int[Tensor, " K"] | Bool[Tensor, " T"], lengths: Sequence[int] | None = None) -> "Packed":
        """The rows named by `rows` (indices into T, in the order wanted within each item; or a mask, True = keep).

        Items stay, with fewer rows, also when none is left. Pass the new `lengths` (rows kept of each item) to avoid
        the one device sync that counting them costs. Differentiable in x. Raises ShapeError when an index is out of
        range, named twice, or rows of different items are interleaved.
        """
        if rows.dtype == torch.bool:
            if rows.shape != (self.x.shape[0],):
                raise ShapeError(f"a mask of {tuple(rows.shape)} for {self.x.shape[0]} rows", got=tuple(rows.shape))
            rows = rows.nonzero().squeeze(1)
        if rows.ndim != 1 or rows.is_floating_point():
            raise ShapeError(f"rows are a 1-D index or mask, got {rows.dtype} {tuple(rows.shape)}")
        rows = rows.to(self.device, torch.long)
        if lengths is None:
            host = rows.cpu()
            if host.numel() and (int(host.min()) < 0 or int(host.max()) >= self.x.shape[0]):
                raise ShapeError(
                    f"row index outside 0..{self.x.shape[0] - 1}",
                    limit=self.x.shape[0],
                    got=(int(host.min()), int(host.max())),
                )
            if host.unique().numel() != host.numel():
                raise ShapeError("a row is named more than once", got=host.numel() - host.unique().numel())
            owner = torch.bucketize(host, torch.tensor(self.starts[1:]), right=True)
            if bool((owner.diff() < 0).any()):
                raise ShapeError("rows of different items are interleaved; sort them by item first")
            lengths = torch.bincount(owner, minlength=len(self.items)).tolist()
        return Packed(self.x[rows], self.pos[rows], self.items, tuple(lengths))

    def reorder(self, order: Sequence[int]) -> "Packed":
        """The items `order[0], order[1], ...`: a permutation or a choice of items, each at most once."""
        order = [int(i) for i in order]
        if len(set(order)) != len(order) or not all(0 <= i < len(self.items) for i in order):
            raise ShapeError(f"not a choice of {len(self.items)} items: {order}", limit=len(self.items), got=order)
        xs, ps = self.x.split(self.lengths), self.pos.split(self.lengths)
        return Packed(
            torch.cat([self.x[:0], *(xs[i] for i in order)]),
            torch.cat([self.pos[:0], *(ps[i] for i in order)]),
            tuple(self.items[i] for i in order),
            tuple(self.lengths[i] for i in order),
        )

    def split(self, counts: Sequence[int]) -> list["Packed"]:
        """Consecutive parts of counts[0], counts[1], ... items; views, no copy. The counts must sum to N."""
        if sum(counts) != len(self.items) or any(c < 0 for c in counts):
            raise ShapeError(f"{list(counts)} does not divide {len(self.items)} items", expected=len(self.items))
        parts, first = [], 0
        for c in counts:
            a, b = self.starts[first], self.starts[first + c]
            parts.append(
                Packed(self.x[a:b], self.pos[a:b], self.items[first : first + c], self.lengths[first : first + c])
            )
            first += c
        return parts

    # ---- the padded form other libraries use, at the edge only

    def to_padded(self, fill: float = 0.0) -> tuple[Shaped[Tensor, "N L D"], Bool[Tensor, "N L"]]:
        """(N, L, D) with L the longest item, and keep (N, L), True where a row is real. Cost: one copy."""
        longest = max(self.lengths, default=0)
        out = self.x.new_full((len(self.items), longest, self.x.shape[1]), fill)
        keep = torch.zeros(len(self.items), longest, dtype=torch.bool)
        for i, rows in enumerate(self.unpack()):
            out[i, : len(rows)] = rows
            keep[i, : len(rows)] = True
        return out, keep.to(self.device)

    def from_padded(self, x: Shaped[Tensor, "N L D"]) -> "Packed":
        """Values of the form `to_padded` gave, back as rows of these items; what stands in the padding is dropped."""
        longest = max(self.lengths, default=0)
        if x.ndim != 3 or x.shape[0] != len(self.items) or x.shape[1] < longest:
            raise ShapeError(f"expected ({len(self.items)}, {longest} or more, D), got {tuple(x.shape)}")
        return self.with_x(torch.cat([x[:0, 0], *(x[i, :n] for i, n in enumerate(self.lengths))]))

    # ---- files

    def save(self, path: str | os.PathLike[str], tensors: dict[str, Tensor] | None = None) -> None:
        """One safetensors file: `x`, `pos` and any further `tensors`, with the items as JSON metadata.

        Written beside the target and renamed, so an error or a kill leaves the old file as it was.
        """
        items = [
            {"grid": list(i.grid), "times_s": list(i.times_s), "picture": i.picture, "box": list(i.box)}
            for i in self.items
        ]
        meta = {"format": FORMAT, "items": json.dumps(items), "lengths": json.dumps(list(self.lengths))}
        data = {"x": self.x, "pos": self.pos, **(tensors or {})}
        target = Path(path)
        beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in data.items()}, str(beside), metadata=meta)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Packed":
        """What `save` wrote, checked. Raises UnsafeFile or ShapeError when the file is not such a pack."""
        source = Path(path).name
        try:
            with safe_open(str(path), framework="pt") as f:
                meta = f.metadata() or {}
                if meta.get("format") != FORMAT:
                    raise UnsafeFile("not a tubelet pack", source=source, expected=FORMAT, got=meta.get("format"))
                x, pos = f.get_tensor("x"), f.get_tensor("pos")
                items = tuple(
                    Item(Grid(*i["grid"]), tuple(i["times_s"]), int(i["picture"]), tuple(i["box"]))
                    for i in json.loads(meta["items"])
                )
                lengths = tuple(json.loads(meta["lengths"]))
        except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as e:
            raise UnsafeFile("the file is damaged or not a tubelet pack", source=source) from e
        return Packed(x, pos, items, lengths).check()


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
    x = torch.cat(rows) if rows else torch.zeros(0, 0)
    return Packed(x, all_positions(items, merge=merge).to(x.device), items, tuple(i.grid.rows for i in items))


def all_positions(items: Sequence[Item], *, merge: int = 1) -> Int32[Tensor, "T 3"]:
    """`positions` of whole items, end to end, on the host."""
    if not items:
        return torch.zeros(0, 3, dtype=torch.int32)
    return torch.cat([positions(i.grid, merge=merge) for i in items])


def concat(packs: Sequence[Packed], *, renumber: bool = True) -> Packed:
    """All items of all packs, in order. Cost: one copy.

    renumber=True: packs came from different inputs, so each one's `picture` numbers follow those of the packs before
    it. renumber=False keeps them, which undoes `split`.
    """
    if not packs:
        return Packed(torch.zeros(0, 0), torch.zeros(0, 3, dtype=torch.int32), (), ())
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
