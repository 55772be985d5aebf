"""Positions that are added to patches: a table resized to each item's grid, and rows taken from it by (h, w)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import to_device
from tubelet.encoder.config import Table
from tubelet.errors import ShapeError
from tubelet.packed import Packed
from tubelet.shapes import Float, Int64


class PositionTable(nn.Module):
    """(T, D) values to add to the rows of a pack. weight (height * width, D), in raster order; "sincos" has none.

    Each distinct grid of a call is resized once, in float32, and rows are gathered from it, so rows may have been
    dropped and every frame of a clip takes the same places. Cost: 16 taps per value of each distinct grid.
    """

    def __init__(self, table: Table, width: int) -> None:
        super().__init__()
        self.table = table
        self.width = width
        places = None if table.resize == "sincos" else torch.empty(table.height * table.width, width)
        self.weight = None if places is None else nn.Parameter(places)
        self.prefix = nn.Parameter(torch.empty(1, width)) if table.prefix else None

    def forward(self, p: Packed) -> tuple[Float[Tensor, "P D"], Int64[Tensor, " T"]]:
        """(values, index): values of all distinct grids end to end, and which of them each row of the pack takes.

        Raises ShapeError when a row's place lies outside its grid (not on CUDA, where nothing may wait).
        """
        grids = list(dict.fromkeys((i.grid.h, i.grid.w) for i in p.items))
        first, total = {}, 0
        for grid in grids:
            first[grid], total = total, total + grid[0] * grid[1]
        like = p.x if self.weight is None else self.weight
        values = [self.resized(h, w, like.device) for h, w in grids]
        begin = torch.tensor([[first[i.grid.h, i.grid.w], i.grid.w] for i in p.items], dtype=torch.int64).view(-1, 2)
        lengths = to_device(torch.tensor(p.lengths, dtype=torch.int64), p.device)
        begin = to_device(begin, p.device).repeat_interleave(lengths, dim=0, output_size=len(p.x))
        index = begin[:, 0] + p.pos[:, 1] * begin[:, 1] + p.pos[:, 2]
        if p.device.type == "cpu" and len(index) and not 0 <= int(index.min()) <= int(index.max()) < total:
            raise ShapeError("a row stands outside its grid", limit=total, got=int(index.max()))
        return (torch.cat(values) if values else like.new_zeros(0, self.width, dtype=torch.float32)), index

    def resized(self, h: int, w: int, device: torch.device) -> Float[Tensor, "P D"]:
        """The table for a grid of h x w in float32, in raster order. Differentiable."""
        if self.weight is None:
            return sincos(h, w, self.width, device)
        weight, table = self.weight.float(), self.table
        if table.resize == "buckets":
            rows, cols = buckets(h, table.height, device), buckets(w, table.width, device)
            return weight[(rows[:, None] * table.width + cols).flatten()]
        if (h, w) == (table.height, table.width):
            return weight
        picture = weight.unflatten(0, (table.height, table.width)).permute(2, 0, 1)[None].contiguous()
        # contiguous: torch 2.15 resizes channels-last pictures to one column wrongly when it antialiases
        mode = "bilinear" if table.resize == "corners" else table.resize.removesuffix("_antialias")
        out = F.interpolate(
            picture,
            size=(h, w),
            mode=mode,
            align_corners=table.resize == "corners",
            antialias=table.resize.endswith("_antialias"),
        )
        return out[0].permute(1, 2, 0).flatten(0, 1)


def buckets(patches: int, places: int, device: torch.device) -> Int64[Tensor, " n"]:
    """The place of each of `patches` on an axis of `places`.

    In float32 on the host, so that 19 patches on 19 places are not the places in turn: the weights were trained so.
    Source: huggingface/transformers:src/transformers/models/idefics3/modeling_idefics3.py@v5.23.0
    (Idefics3VisionEmbeddings), which counts on the device.
    """
    begins = (
        torch.arange(patches, dtype=torch.float32, device="cpu") * (1.0 / torch.tensor(patches, device="cpu"))
    ).clamp(max=1 - 1e-6)
    edges = torch.arange(1 / places, 1.0, 1 / places, device="cpu")
    return to_device(torch.bucketize(begins, edges, right=True), device)


def sincos(h: int, w: int, width: int, device: torch.device) -> Float[Tensor, "P D"]:
    """[sin w f | cos w f | sin h f | cos h f] with f_k = 10000^(-k / n), n = width / 4, in raster order.

    float64 inside. Source: huggingface/transformers:src/transformers/models/aimv2/modeling_aimv2.py@v5.23.0
    Aimv2VisionEmbeddings.
    """
    if width % 4:
        raise ShapeError(f"four parts of equal width do not make {width}", expected=4, got=width)
    n = width // 4
    f = 10000.0 ** -(torch.arange(n, dtype=torch.float64, device=device) / n)
    y = torch.arange(h, dtype=torch.float64, device=device).repeat_interleave(w)[:, None] * f
    x = torch.arange(w, dtype=torch.float64, device=device).repeat(h)[:, None] * f
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()
