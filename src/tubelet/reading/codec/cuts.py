"""Where one scene ends and another begins, judged frame by frame from what has been seen so far."""

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

_LEAST_LEVELS: Final = 3.0  # below this a change of picture cannot be told from noise
_OF_CONTRAST: Final = 0.12  # of the contrast of both pictures that must be unexplained ...
_TIMES: Final = 4.5  # ... and how many times as much as is usual here
_SHARE: Final = 0.2  # of the cells must be concerned
_ALONE: Final = 0.3  # of the contrast, where nothing is known yet of what is usual
_PAST: Final = 8  # frames from which what is usual is known


class CutFinder:
    """Told of each frame in turn; says whether a scene begins with it.

    A cut leaves much of a picture unexplained, and far more than the frames before did: motion, however large, is
    explained by vectors; one thing that appears is a small part; flicker and grain are usual where they are. The
    thresholds were set between the jump cuts of a fixed camera (11 times what is usual, or 5 where blocks are searched)
    and the sharpest moment of anything else (3.5).

        >>> finder = CutFinder()
        >>> [finder.is_cut(unexplained, lambda: (50.0, 0.9)) for unexplained in (2.0, 2.5, 40.0, 2.0)]
        [False, False, True, False]
    """

    def __init__(self) -> None:
        self._past: deque[float] = deque(maxlen=_PAST)

    def is_cut(self, unexplained: float, look: Callable[[], tuple[float, float]]) -> bool:
        """unexplained: mean levels of the frame that neither staying nor moving explains. look: asked only where that
        is much; gives the contrast (the deviation of luma in this frame and the one before, together, in levels) and
        the share of cells that are much unexplained."""
        least = max(_LEAST_LEVELS, _TIMES * median(self._past)) if self._past else _LEAST_LEVELS
        of_contrast = _OF_CONTRAST if self._past else _ALONE
        self._past.append(unexplained)  # a cut too: where everything shakes, that soon is usual
        if unexplained < least:
            return False
        contrast, share = look()
        return unexplained >= of_contrast * contrast and share >= _SHARE
