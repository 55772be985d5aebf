"""The order rows stand in: raster or blocks, checked once for all who need it."""

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
