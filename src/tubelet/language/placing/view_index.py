"""Position ids of prompts whose videos count time or pose by numbers of their own, on three axes or four.

    THW    (time, row, column)          PHW    (pose, row, column)          PTHW    (pose, time, row, column)

Positions are floats, since a pose is no whole number. Text runs on all axes from the largest number before it, plus
one; where a pose is the largest, all later text moves by a fraction. Every video has its own numbers, and every sample
its own videos. Whole videos only; for times alone `rope_index` is exact in whole numbers.
Source: Jinjing98/Spatial-MLLM:src/custom_qwenvl/model/custom_qwen2_5_VLRoPE.py@def53a68; differs in that batches and
several videos work, and a mask is optional.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tubelet.errors import ConfigError, ShapeError
from tubelet.language.placing import align
from tubelet.language.placing.rules import TokenIds
from tubelet.shapes import Float

Axes = Literal["THW", "PTHW", "PHW"]
# Shares of a head's 64 angles that each axis has, for rotary sections
SECTIONS: dict[Axes, tuple[int, ...]] = {"THW": (16, 24, 24), "PTHW": (8, 8, 24, 24), "PHW": (16, 24, 24)}


class ViewPositions(NamedTuple):
    """position_ids (axes, B, S) and rope_deltas (B, 1), the next position less the padded length. Padding holds 1."""

    position_ids: Float[Tensor, "axes B S"]
    rope_deltas: Float[Tensor, "B 1"]


def view_index(
    input_ids: Tensor,
    token_ids: TokenIds,
    video_grid_thw: Tensor,
    *,
    time_steps: Sequence[Sequence[float]],
    pose_steps: Sequence[Sequence[float] | Tensor] | None = None,
    axes: Axes = "THW",
    pose_offset: bool = True,
    attention_mask: Tensor | None = None,
    merge: int = 2,
) -> ViewPositions:
    """Positions of (B, S) prompts. time_steps, pose_steps: of each video, one number for each of its rows of time.

    pose_offset: poses count from where the video begins, as time does; False: from 0. Host work, a few passes over the
    tokens. Raises AlignmentError where grids and placeholders differ, ShapeError where numbers and grids do.

        >>> ids, grid = torch.tensor([[5, 9, 9, 6]]), torch.tensor([[2, 2, 2]])
        >>> view_index(ids, TokenIds(8, 9), grid, time_steps=[[0, 3]]).position_ids[:, 0].tolist()
        [[0.0, 1.0, 4.0, 5.0], [0.0, 1.0, 1.0, 5.0], [0.0, 1.0, 1.0, 5.0]]
    """
    if axes not in SECTIONS or (pose_steps is None) != (axes == "THW"):
        raise ConfigError(
            f"axes are one of {tuple(SECTIONS)}, and P needs pose_steps", expected=tuple(SECTIONS), got=axes
        )
    found = align.prompts(input_ids, attention_mask)
    grids = (video_grid_thw.cpu().numpy() // np.array([1, merge, merge])).astype(np.int64)
    for i, grid in enumerate(video_grid_thw.tolist()):
        if grid[1] % merge or grid[2] % merge:
            raise ShapeError(f"video grid {tuple(grid)} has no {merge} x {merge} blocks", item=i, got=tuple(grid))
    times = _numbers(time_steps, grids, "time_steps")
    poses = None if pose_steps is None else _numbers(pose_steps, grids, "pose_steps")
    placeholder = token_ids.image if token_ids.video is None else token_ids.video
    runs = found.runs(placeholder)
    first = align.fit(found, runs.of(placeholder), grids.prod(axis=1), owners=np.arange(len(grids)), what="video")
    batch, length = found.ids.shape
    out = np.ones((len(axes), batch * length), dtype=np.float32)
    real = np.ones(batch * length, dtype=bool) if found.real is None else found.real.ravel()
    nexts = np.zeros(batch, dtype=np.float32)
    video = 0
    for b in range(batch):
        at, count, end = b * length, np.float32(0), (b + 1) * length
        while at < end:
            begin = int(first[video]) if video < len(first) and first[video] < end else end
            text = np.flatnonzero(real[at:begin]) + at
            out[:, text] = count + np.arange(len(text))
            count = count + np.float32(len(text))
            at = begin
            if begin < end:
                t, h, w = _places(grids[video])
                own = {"T": times[video][t] + count, "H": h + count, "W": w + count}
                if poses is not None:
                    own["P"] = poses[video][t] + (count if pose_offset else 0)
                block = np.stack([own[axis] for axis in axes]).astype(np.float32)
                out[:, at : at + block.shape[1]] = block
                count = block.max() + np.float32(1)
                at += block.shape[1]
                video += 1
        nexts[b] = count
    ids = torch.from_numpy(out.reshape(len(axes), batch, length)).to(input_ids.device)
    return ViewPositions(ids, torch.from_numpy(nexts - length)[:, None].to(input_ids.device))


def _places(grid: np.ndarray) -> np.ndarray:
    return np.indices(tuple(grid.tolist())).reshape(3, -1)


def _numbers(given: Sequence[Sequence[float] | Tensor], grids: np.ndarray, name: str) -> list[np.ndarray]:
    """One array a video. Raises ShapeError naming the first that has not one number for each row of time."""
    if len(given) != len(grids):
        raise ShapeError(f"{name} of {len(given)} videos for {len(grids)}", expected=len(grids), got=len(given))
    out = [np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float32) for x in given]
    for i, (own, grid) in enumerate(zip(out, grids, strict=True)):
        if own.shape != (grid[0],):
            raise ShapeError(
                f"{name} has {own.shape} numbers for {grid[0]} rows", item=i, expected=int(grid[0]), got=own.shape
            )
    return out
