"""VSI-Bench as its authors and Spatial-MLLM's count it: strict matching, means over questions and over tasks.

    micro                 each question counts alike
    macro, eight tasks    the three kinds of relative direction are one task (since 2026-02-05)
    macro, ten kinds      they are three (before; numbers of the two are not comparable)

Tolerant matching is `option_accuracy` and `relative_accuracy` of `inspect.metrics.answers`, which the benchmark's own
authors use: the first word counts. Strict matching is Spatial-MLLM's: the whole answer counts.
Source: Yang et al., "Thinking in space", CVPR 2025; diankun-wu/Spatial-MLLM:src/evaluation/vsibench/@9fc4738.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tubelet.errors import ShapeError

NUMBERS = frozenset({"object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation"})
DIRECTION = "object_rel_direction"
_TOLERANCES = np.float32(1) - np.linspace(0.5, 0.95, 10, dtype=np.float32)


def strict_scores(answers: Sequence[str], accepted: Sequence[Sequence[str]], kinds: Sequence[str]) -> list[float]:
    """1 for an answer that is an accepted text as a whole; of `NUMBERS` the share of the ten tolerances it is within.

    What stands in the last <answer> ... </answer> counts where there is one; letter case, white space at the ends and a
    final point do not. A number may hold commas; what is no number counts as 0. Computed in float32, as there, where
    an answer on a tolerance's edge is decided by rounding. Raises ShapeError for other numbers of questions.

        >>> kinds = ["route_planning", "route_planning", "object_counting"]
        >>> strict_scores(["A. chair", "<answer>B</answer>", "1,120"], [["A"], ["B"], ["1000"]], kinds)
        [0.0, 1.0, 0.8]
    """
    if not len(answers) == len(accepted) == len(kinds):
        got = len(accepted), len(kinds)
        raise ShapeError(f"{len(answers)} answers to {got[0]} questions of {got[1]} kinds", expected=len(answers))

    def score(answer: str, wanted: str, kind: str) -> float:
        a, b = _clean(answer), _clean(wanted)
        return relative_score(_number(a), _number(b)) if kind in NUMBERS else float(a == b)

    return [
        max((score(a, w, kind) for w in wanted), default=0.0)
        for a, wanted, kind in zip(answers, accepted, kinds, strict=True)
    ]


def relative_score(answer: float, wanted: float) -> float:
    """The share of the tolerances 0.5, 0.45, ... 0.05 that |answer - wanted| / |wanted| is below (MRA), in float32."""
    a, b = np.float32(answer), np.float32(wanted)
    with np.errstate(over="ignore", invalid="ignore"):
        off = abs(a - b) / (abs(b) + np.float32(1e-8))
    return float(np.mean(off < _TOLERANCES))


def task_weights(kinds: Sequence[str], *, tasks: int = 8) -> list[float]:
    """Of each question what makes the mean over questions one over tasks. tasks: 8, directions being one, or 10.

    Kinds that are not there count in neither. Raises ShapeError for another number of tasks.

        >>> task_weights(["room_size_estimation", "object_rel_direction_easy", "object_rel_direction_hard"])
        [1.5, 0.75, 0.75]
    """
    if tasks not in (8, 10):
        raise ShapeError("VSI-Bench has 8 tasks, or 10 kinds of question", expected=(8, 10), got=tasks)
    own = [DIRECTION if tasks == 8 and kind.startswith(DIRECTION) else kind for kind in kinds]
    kinds_of = Counter(task for task, _ in set(zip(own, kinds, strict=True)))
    number = Counter(kinds)
    return [len(kinds) / (len(kinds_of) * kinds_of[task] * number[kind]) for task, kind in zip(own, kinds, strict=True)]


def _clean(text: str) -> str:
    blocks = re.findall(r"<answer>(.*?)</answer>", text, re.S)
    return (blocks[-1] if blocks else text).strip().casefold().removesuffix(".").strip()


def _number(text: str) -> float:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0
