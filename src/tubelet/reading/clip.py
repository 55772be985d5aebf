"""What reading gives: upright RGB frames and the true time of each."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tubelet.doors import door
from tubelet.errors import ShapeError
from tubelet.shapes import UInt8

Allocate = Callable[[tuple[int, int, int, int]], np.ndarray]
"""Gives a C-contiguous uint8 array of the shape (F, H, W, 3) for frames to be decoded into."""


def new_frames(shape: tuple[int, int, int, int]) -> np.ndarray:
    """The usual allocator: fresh memory of this process."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True, eq=False)
class Clip:
    """One picture or video, decoded. A picture is a clip of one frame at 0.0 s.

    >>> Clip(np.zeros((2, 270, 480, 3), np.uint8), (0.0, 0.5), source="walk.mp4", is_video=True)
    Clip('walk.mp4', 480x270, 2 frames, 0.00..0.50 s)
    """

    frames: UInt8[np.ndarray, "F H W 3"]  # upright, sRGB-coded RGB, contiguous
    times_s: tuple[float, ...]  # when each frame starts, in seconds from the clip's start; not guessed from a rate
    source: str = "?"  # a name to show
    is_video: bool = False  # it came from a video or an animation
    duration_s: float | None = None  # of the whole clip, where known
    complete: bool = True  # False: the file ended or was damaged before everything asked for was read
    frames_expected: int | None = None  # where it is not complete, how many frames were asked for
    notes: tuple[str, ...] = ()  # what a person might want to know (composited, tone range), a line each

    @door
    def __post_init__(self) -> None:
        shape = self.frames.shape
        if len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or self.frames.dtype != np.uint8:
            raise ShapeError(f"frames must be (F, H, W, 3) uint8, got {self.frames.dtype} {shape}", source=self.source)
        if len(self.times_s) != shape[0]:
            raise ShapeError(f"{len(self.times_s)} times for {shape[0]} frames", source=self.source, expected=shape[0])
        if not all(math.isfinite(s) for s in self.times_s):
            raise ShapeError("times must be finite seconds", source=self.source, got=self.times_s)

    def __len__(self) -> int:
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    def __repr__(self) -> str:
        kind = f"{len(self)} frames, {self.times_s[0]:.2f}..{self.times_s[-1]:.2f} s" if self.is_video else "picture"
        state = "" if self.complete else ", INCOMPLETE"
        return f"Clip({self.source!r}, {self.width}x{self.height}, {kind}{state})"

    def _repr_png_(self) -> bytes:
        import tubelet  # drawing comes later in the flow, and is asked for by its public name only to be looked at

        out = io.BytesIO()
        tubelet.inspect.contact_sheet(self, max_frames=12, max_side=900).save(out, format="PNG")
        return out.getvalue()
