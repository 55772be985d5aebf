"""The order rows stand in: raster or blocks, checked once for all who need it."""

from itertools import accumulate

import torch
from torch import Tensor

from tubelet.errors import ShapeError
from tubelet.packed.grid import all_positions
from tubelet.packed.packed import Packed
from tubelet.shapes import Bool, Int64


def check_order(p: Packed, merge: int) -> None:
    """Raise ShapeError unless the rows of whole items stand in block order of `merge` (1: in raster order).

    On CUDA a device assertion does it, so that nothing waits.
    """
    expected = all_positions(p.items, merge=merge).to(p.device)
    if not _holds((p.pos == expected).all()):
        order = f"block order of {merge}: patchify with order='block'" if merge > 1 else "raster order"
        raise ShapeError(f"rows are not in {order}", expected="block" if merge > 1 else "raster")


def check_blocks(p: Packed, merge: int) -> None:
    """Raise ShapeError unless the rows of each item are whole merge x merge blocks, each in raster order inside.

    On CUDA a device assertion does it for the places, so that nothing waits.
    """
    group = merge * merge
    odd = next((i for i, n in enumerate(p.lengths) if n % group), None)
    if odd is not None:
        raise ShapeError(
            "a merger needs every row of its blocks: merge before rows are dropped",
            item=odd,
            expected=group,
            got=p.lengths[odd],
        )
    blocks = p.pos.view(-1, group, 3)
    inside = torch.tensor([(0, y, x) for y in range(merge) for x in range(merge)], dtype=p.pos.dtype, device="cpu")
    first = blocks[:, :1]
    in_order = (blocks == first + inside.to(p.device)).all() & (first[..., 1:] % merge == 0).all()
    if not _holds(in_order):
        raise ShapeError("a merger needs every row of its blocks: merge before rows are dropped", expected=group)


def rows_by_place(p: Packed) -> Int64[Tensor, " T"]:
    """For every place, item by item in raster order, the row that stands there: x[rows_by_place(p)] is in raster order.

    Raises ShapeError naming the item that is not whole or has a place twice or outside its grid.
    """
    for i, (item, length) in enumerate(zip(p.items, p.lengths, strict=True)):
        if length != item.grid.rows:
            raise ShapeError(
                f"{length} of {item.grid.rows} rows are left: merge and pool before rows are dropped",
                item=i,
                expected=item.grid.rows,
                got=length,
            )
    total, device = p.x.shape[0], p.device
    sizes = torch.tensor([(*i.grid, n) for i, n in zip(p.items, p.starts, strict=False)], device="cpu").long()
    lengths = torch.tensor(p.lengths, dtype=torch.long, device="cpu")
    each = sizes.reshape(-1, 4).to(device).repeat_interleave(lengths.to(device), dim=0, output_size=total)
    place, size = p.pos.long(), each[:, :3]
    number = (place[:, 0] * size[:, 1] + place[:, 1]) * size[:, 2] + place[:, 2] + each[:, 3]
    found = torch.full((total,), -1, dtype=torch.long, device=device)
    found.scatter_(0, number.clamp(0, max(total - 1, 0)), torch.arange(total, device=device))
    if not _holds(((place >= 0) & (place < size)).all() & (found >= 0).all()):
        p.check()  # says where not
    return found


def rows_in(whole: Packed, kept: Packed) -> Int64[Tensor, " K"]:
    """For each row of `kept`, the row of `whole` with its item and place: whole.x[rows_in(whole, kept)] goes with it.

    On the device of `whole`, no sync. `kept` has the items of `whole` and no rows but its own: what a selection gives.
    Raises ShapeError for other items and, on the host, for a row that `whole` does not have.

        >>> p = tubelet.pack([torch.zeros(6, 8)], [tubelet.Item.of(1, 2, 3)])
        >>> rows_in(p, p.keep(torch.tensor([5, 0]))).tolist()
        [5, 0]
    """
    if kept.items != whole.items:
        raise ShapeError("the kept rows are of other items", expected=repr(whole), got=repr(kept))
    of_whole, of_kept = _row_numbers(whole), _row_numbers(kept).to(whole.device)
    ordered, order = of_whole.sort()
    at = torch.searchsorted(ordered, of_kept).clamp(max=max(len(ordered) - 1, 0))
    found = (ordered[at] == of_kept).all() if len(ordered) else torch.tensor(not len(of_kept), device=whole.device)
    if not _holds(found):
        raise ShapeError("a row is kept that was not there", expected=repr(whole), got=repr(kept))
    return order[at]


def _row_numbers(p: Packed) -> Int64[Tensor, " T"]:
    """One number for each row, ascending in raster order: its place among all rows of the whole items."""
    lengths = torch.tensor(p.lengths, dtype=torch.long, device="cpu").to(p.device)
    firsts = torch.tensor([0, *accumulate(i.grid.rows for i in p.items)], dtype=torch.long, device="cpu")[:-1]
    sizes = torch.cat([p.grid_thw, firsts[:, None]], dim=1).to(p.device)
    each = sizes.repeat_interleave(lengths, dim=0, output_size=p.x.shape[0])
    pos = p.pos.long()
    return (pos[:, 0] * each[:, 1] + pos[:, 1]) * each[:, 2] + pos[:, 2] + each[:, 3]


def _holds(in_order: Bool[Tensor, ""]) -> bool:
    """Whether an order holds. On CUDA the device asserts it and nothing waits; on meta there is nothing to look at."""
    if in_order.device.type == "cuda":
        torch._assert_async(in_order)
        return True
    return in_order.device.type == "meta" or bool(in_order)


def require_block_order(p: Packed, side: int) -> None:
    """Raises ShapeError when whole items with sides that `side` divides stand in another order; what is not whole or
    not divided, `merge` refuses. On CUDA the device asserts it, and nothing waits."""
    if not p.whole or any(i.grid.h % side or i.grid.w % side for i in p.items):
        return
    if not _holds((p.pos == all_positions(p.items, merge=side).to(p.device)).all()):
        raise ShapeError(
            f"patch_merger joins rows that follow each other, and these are not in block order of {side}: patchify "
            "with order='block', use spatial_merge (the same weights), or repeat upstream with compat='consecutive'",
            expected="block",
        )
