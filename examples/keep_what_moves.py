"""A clip with fewer rows: the first frame whole, and of every later frame the patches that changed.

    python examples/keep_what_moves.py

Rows that are left keep their true place and time, so the encoder sees a sparse clip as what it is.
"""

import torch

import tubelet
from tubelet import Packed


def changed(p: Packed, item: int, levels: float) -> torch.Tensor:
    """Which rows of a whole item differ from the same patch a frame before by `levels` grey levels on average."""
    grid = p.items[item].grid
    frames = p.unpack()[item].view(grid.t, grid.h * grid.w, -1).float()
    moved = torch.ones(grid.t, grid.h * grid.w, dtype=torch.bool)
    moved[1:] = (frames[1:] - frames[:-1]).abs().mean(dim=2) > levels
    return moved.flatten()


encoder = tubelet.untrained("llava_vit_packing_small")
whole = tubelet.patchify(tubelet.read("examples/walk.mp4", fps=2.0), encoder.pixels)
sparse = whole.keep(changed(whole, 0, levels=8.0))
print(whole)
print(sparse)
assert sparse.items == whole.items
assert sparse.lengths[0] < whole.lengths[0]

with torch.inference_mode():
    tokens = encoder(sparse)
per_frame = torch.bincount(tokens.pos[:, 0].long(), minlength=tokens.items[0].grid.t)
for time_s, rows in zip(tokens.items[0].times_s, per_frame.tolist(), strict=True):
    print(f"{time_s:4.1f} s  {rows:4d} tokens  {'#' * (rows // 10)}")
