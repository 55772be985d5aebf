"""Which number a frame's rows carry as `t`: the rules OneVision models were trained and are run with.

    default             0, 1, 2, ...            position in the clip, not scaled
    interpolated        0 .. 63, rounded        frame number in a virtual clip of 64 (converters, HEAD's evaluation)
    linspace            0 .. 63, truncated      the j-th of n frames in 64 (HEAD's README and training)
    real frame numbers  as in the source file   LLaVA-OneVision-2

The two 64-frame rules differ: for 16 frames they give 0, 4, 8, 13, 17 ... and 0, 4, 8, 12, 16 ...
Host arithmetic throughout, in float32 where upstream computes in float32, because truncation would show the difference.
"""

from collections.abc import Sequence

import torch

from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Grid, positions
from tubelet.shapes import Int64


def interpolate_frame_indices(indices: Sequence[int], total_frames: int, target_frames: int = 64) -> tuple[int, ...]:
    """Frame numbers of a clip of `total_frames` as numbers in 0 .. target_frames - 1, halves rounded to even.

    >>> interpolate_frame_indices(range(8), 8)
    (0, 9, 18, 27, 36, 45, 54, 63)

    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/conversion_utils.py@28efa3a.
    """
    if total_frames < 1 or target_frames < 1:
        raise ConfigError(f"clips have at least one frame, got {total_frames} and {target_frames}")
    frames = torch.tensor(list(indices), dtype=torch.float32)
    place = frames / max(total_frames - 1, 1) * (target_frames - 1)
    return tuple(place.round().long().clamp(0, target_frames - 1).tolist())


def linspace_frame_indices(frames: int, target_frames: int = 64) -> tuple[int, ...]:
    """`frames` equally spaced numbers in 0 .. target_frames - 1, cut off instead of rounded.

    Source: EvolvingLMMs-Lab/OneVision-Encoder:onevision_encoder/README.md@c2cd3e0.
    """
    if frames < 1 or target_frames < 1:
        raise ConfigError(f"clips have at least one frame, got {frames} and {target_frames}")
    return tuple(torch.linspace(0, target_frames - 1, frames).long().tolist())


def choose_frames(
    duration_s: float, max_frames: int = 32, *, fixed: int | None = None, fps: float | None = None
) -> int:
    """How many frames LLaVA-OneVision-2 takes of a clip: by `fps` up to max_frames, or `fixed`, or by its length.

    By length: 8 below 10 s, 16 below 30 s, max_frames above, even where that is fewer.
    Source: EvolvingLMMs-Lab/LLaVA-OneVision-2:
    transformers_impl/llavaonevision2/video_processing_llava_onevision2.py@2c3c25e.
    """
    if fps is not None and fps > 0:
        return min(max(1, int(duration_s * fps)), max_frames)
    if fixed is not None:
        return fixed
    if duration_s < 10:
        return 8
    return 16 if duration_s < 30 else max_frames


def select_frames(frame_count: int, target: int) -> tuple[int, ...]:
    """The frame numbers LLaVA-OneVision-2 reads: all when there are no more than `target`, else equally spaced.

    Source: as `choose_frames`.
    """
    if frame_count < 0 or target < 1:
        raise ConfigError(f"cannot take {target} of {frame_count} frames", got=(frame_count, target))
    if frame_count <= target:
        return tuple(range(frame_count))
    return tuple(torch.linspace(0, frame_count - 1, target).round().long().tolist())


def build_positions(
    grids: Sequence[Grid], *, merge: int = 1, frames: Sequence[Sequence[int] | None] | None = None
) -> Int64[torch.Tensor, "T 3"]:
    """(t, h, w) of every row of whole grids, in block order of `merge`, with `frames[i]` as the t of grid i.

    frames: per grid the number of each of its t rows (interpolated or real); None counts 0, 1, 2 ...
    Pass the result to the encoder as `positions=`. Raises ShapeError naming the item whose counts disagree.
    Source: as `choose_frames` (build_patch_positions); without merge it equals OneVision-Encoder's
    model_factory/vit_preview_v0_packing_hf.py@28efa3a (compute_patch_positions_from_grid_thw).
    """
    if frames is not None and len(frames) != len(grids):
        raise ShapeError(f"{len(frames)} frame lists for {len(grids)} grids", expected=len(grids), got=len(frames))
    out: list[torch.Tensor] = []
    for i, grid in enumerate(grids):
        place = positions(grid, merge=merge).long()
        numbers = None if frames is None else frames[i]
        if numbers is not None:
            if len(numbers) != grid.t:
                raise ShapeError(
                    f"{len(numbers)} frame numbers for {grid.t} rows of time", item=i, expected=grid.t, got=len(numbers)
                )
            place = place.clone()
            place[:, 0] = torch.tensor(list(numbers), dtype=torch.int64)[place[:, 0]]
        out.append(place)
    return torch.cat(out) if out else torch.zeros(0, 3, dtype=torch.int64)
