"""Which moments of a clip are wanted, and which frame is on the screen at each of them.

Frames are chosen by time and never by counting: a frame is on the screen from its own start until the next frame's
start, however uneven those are.

    starts      0    10   20   30                  70   80      (ms)
    frames      |-0--|-1--|-2--|-------3-----------|-4--|-5-
    wanted      ^              ^       ^       ^        ^       every 20 ms from 0, and what is shown then:
    shown       0              2       3       3        5       3 is taken once
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tubelet.errors import InputError
from tubelet.reading.limits import Limits

DEFAULT_FPS = 2.0  # what is taken when nothing is asked for ...
DEFAULT_MOST = 64  # ... and at most so many frames, spread over longer clips
_EPS_S = 1e-9  # seconds; rounding of products and quotients of times, far below any frame


@dataclass(frozen=True)
class Sampling:
    """The moments wanted, by at most one of three rules. Seconds count from the start of the first frame shown.

    fps: at 0, 1/fps, 2/fps, ... before the end; a frame that is still on the screen is not taken twice.
    num_frames: the middles of that many equal parts of the clip; a frame is not taken twice, so that a clip with few
    or very uneven frames gives fewer; a clip of no more than `num_frames` frames gives all of them.
    times_s: these, ascending; exactly one frame for each, the same one twice where it is on the screen at both.
    None of the three: 2 frames a second, and where that would be more than 64, `num_frames=64`.

    Raises: InputError for two rules at once, and for values that are not positive, finite and in order.

    >>> Sampling(num_frames=4).times(0.0, 8.0)
    (1.0, 3.0, 5.0, 7.0)
    >>> Sampling(fps=0.5).times(0.0, 5.0)
    (0.0, 2.0, 4.0)
    """

    fps: float | None = None
    num_frames: int | None = None
    times_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("fps", "num_frames", "times_s") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"give one of fps, num_frames and times_s, not {' and '.join(given)}", got=tuple(given))
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"fps must be a positive number of frames a second, got {self.fps}", got=self.fps)
        if self.num_frames is not None and self.num_frames < 1:
            raise InputError(f"num_frames must be at least 1, got {self.num_frames}", got=self.num_frames)
        if self.times_s is not None:
            if not self.times_s:
                raise InputError("times_s names no time", got=())
            if not all(math.isfinite(t) and t >= 0 for t in self.times_s):
                raise InputError("times_s must be finite seconds from the start, none below zero", got=self.times_s)
            if any(a > b for a, b in zip(self.times_s, self.times_s[1:], strict=False)):
                raise InputError("times_s must ascend", got=self.times_s)

    def times(self, start_s: float, duration_s: float, limits: Limits | None = None) -> tuple[float, ...]:
        """The wanted times of a clip that starts at `start_s` and lasts `duration_s`, on the clock of `start_s`.

        At least one. limits: when given, the number of times is checked before any is made.
        Raises: InputError for `times_s` after the end, LimitError.
        """
        if self.times_s is not None:
            if self.times_s[-1] > duration_s + _EPS_S:
                raise InputError(
                    f"time {self.times_s[-1]:g} s is after the end of the clip, which lasts {duration_s:g} s",
                    limit=duration_s,
                    got=self.times_s[-1],
                )
            if limits is not None:
                limits.check("max_frames", len(self.times_s), "frames wanted")
            return tuple(start_s + t for t in self.times_s)
        count = self._count(duration_s)
        if limits is not None:
            limits.check("max_frames", count, "frames wanted")
        if self.num_frames is None and (self.fps is not None or count < DEFAULT_MOST):
            rate = self.fps or DEFAULT_FPS
            return tuple(start_s + k / rate for k in range(count))
        return tuple(start_s + (k + 0.5) * duration_s / count for k in range(count))

    def _count(self, duration_s: float) -> int:
        if self.num_frames is not None:
            return self.num_frames
        wanted = duration_s * (self.fps or DEFAULT_FPS)
        count = max(1, math.ceil(wanted - 1e-6)) if math.isfinite(wanted) else 1
        return count if self.fps is not None else min(count, DEFAULT_MOST)

    def choose(
        self, starts_s: Sequence[float], duration_s: float, limits: Limits | None = None, slack_s: float = 0.0
    ) -> list[int]:
        """The indices of the frames to take, ascending, out of frames that start at `starts_s` (ascending, from 0.0).

        slack_s: by how much a stored start may be late through the rounding of its clock (half a tick): a frame that
        starts so little after a wanted time is the one shown. Raises: as `times`; InputError when there is no frame.
        """
        if not starts_s:
            raise InputError("there is no frame to choose from", got=0)
        if self.num_frames is not None and len(starts_s) <= self.num_frames:
            return list(range(len(starts_s)))
        chosen = [shown_at(starts_s, t, slack_s) for t in self.times(0.0, duration_s, limits)]
        return chosen if self.times_s is not None else sorted(set(chosen))


def shown_at(starts_s: Sequence[float], time_s: float, slack_s: float = 0.0) -> int:
    """The index of the frame on the screen at `time_s`: the last one that starts no later, or the first of all.

    >>> shown_at((0.0, 0.5, 0.5, 2.0), 1.9)
    2
    """
    return max(0, bisect_right(starts_s, time_s + slack_s + _EPS_S) - 1)
