"""One number for each tubelet to count by: its frames' numbers in the video, or how far its camera is from an anchor.

Frames that were chosen unevenly lie on a line of time that no step of one describes; a camera's distance says which
views are near each other whatever the time. `tubelet.language.placing.view_index` places them in a prompt.
Source: Jinjing98/Spatial-MLLM:src/custom_qwenvl/model/custom_qwen2_5_VLRoPE.py@def53a68 (readaptT, PTHW, PHW). It
counts in float32, where the last frame may lose a whole step: here that is arithmetic="float32".
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from tubelet.errors import ConfigError, ShapeError
from tubelet.geometry.tubelets import TubeletPlan
from tubelet.geometry.views import lie_medoid, lie_scalar
from tubelet.shapes import Float

Merge = Literal["mean", "first", "last"]


def steps_of_frames(
    frames: Sequence[float],
    plan: TubeletPlan,
    top: int,
    *,
    seconds: float = 1.0,
    merge: Merge = "mean",
    arithmetic: Literal["exact", "float32"] = "exact",
) -> list[int]:
    """Whole steps 0 .. top of each tubelet, as its frames' numbers or times lie between the first and the last.

    trunc((f - first) top / (last - first) seconds), f the mean, first or last of the tubelet's frames. All zeros where
    the frames are one. Raises ShapeError where frames and plan differ in number.

        >>> plan = TubeletPlan(((0,), (1,), (2,), (3,)), (0.0, 1.0, 2.0, 3.0))
        >>> steps_of_frames([0, 1, 50, 99], plan, top=7)
        [0, 0, 3, 7]
    """
    if len(frames) != len(plan.frame_times_s):
        expected = len(plan.frame_times_s)
        raise ShapeError(f"{len(frames)} frames for a plan of {expected}", expected=expected, got=len(frames))
    exact = [_merged([Fraction(frames[f]) for f in own], merge) for own in plan.tubelets]
    low, high = min(exact), max(exact)
    if low == high:
        return [0] * len(exact)
    if arithmetic == "exact":
        return [int((f - low) * top / (high - low) * Fraction(seconds)) for f in exact]
    f = np.array([float(x) for x in exact], dtype=np.float32)
    scale = np.float32(1) / (f.max() - f.min()) * np.float32(top)  # torch divides a number by a tensor so
    return ((f - f.min()) * scale * np.float32(seconds)).astype(np.int64).tolist()


def pose_steps(
    cam_to_world: Tensor,
    plan: TubeletPlan,
    *,
    top: float = 16.0,
    anchor: Literal["first", "medoid"] = "first",
    merge: Merge = "mean",
    translation: float = 1.0,
    whole_range: bool = True,
) -> Float[Tensor, " n"]:
    """0 .. top for each tubelet: `lie_scalar` of its frames from the anchor, merged.

    whole_range: stretched so that the nearest tubelet is 0 and the farthest `top`. Cameras that are all equal give
    zeros. Raises ShapeError, NotFinite.

        >>> pose_steps(torch.eye(4).expand(4, 4, 4), TubeletPlan(((0, 1), (2, 3)), (0.0, 1.0, 2.0, 3.0))).tolist()
        [0.0, 0.0]
    """
    if len(cam_to_world) != len(plan.frame_times_s):
        expected = len(plan.frame_times_s)
        raise ShapeError(f"{len(cam_to_world)} cameras for {expected} frames", expected=expected, got=len(cam_to_world))
    first = 0 if anchor == "first" else lie_medoid(cam_to_world, translation)
    p = lie_scalar(cam_to_world, anchor=first, translation=translation)
    p = p.new_tensor([_merged([float(p[f]) for f in own], merge) for own in plan.tubelets])
    if whole_range:
        extent = p.max() - p.min()
        p = (p - p.min()) / extent if float(extent) > 0 else p * 0
    return p * top


def _merged(values: list, merge: Merge):  # Fractions or floats: the same kind comes out
    if merge not in get_args(Merge):
        raise ConfigError(f"merge is one of {get_args(Merge)}", expected=get_args(Merge), got=merge)
    if merge == "mean":
        return sum(values[1:], values[0]) / len(values)
    return values[0 if merge == "first" else -1]
