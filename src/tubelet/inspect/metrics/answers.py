"""Whether answers are right, and whether one method answers better than another on the same questions.

    anls                DocVQA, InfoVQA     nearly the right letters
    relaxed_accuracy    ChartQA             the right number within 5 %, or the right words
    vqa_accuracy        TextVQA, VQAv2      what at least three of ten people said

Each takes one answer of the model for each question and the accepted ones, and gives the score of each question;
`mean_of` makes an estimate of them, `paired` compares two methods.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from tubelet.errors import ShapeError
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import at_least, mean_of

THRESHOLD = 0.5  # letters that may differ, as a share of the longer text, before an answer counts nothing
TOLERANCE = 0.05
_ARTICLES = ("a", "an", "the")


class Paired(NamedTuple):
    """difference: mean of ours - theirs, bootstrap over questions. wins, losses: questions in which one is better.
    p: of the two-sided sign test over those, exact."""

    difference: Estimate
    wins: int
    losses: int
    p: float


def anls(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """1 - edits / letters of the longer text, to the nearest accepted answer; 0 where half the letters or more differ.

    Letter case and runs of white space do not count. Raises ShapeError for another number of questions.
    Source: Biten et al., "Scene text visual question answering", ICCV 2019, equation 1.

        >>> anls(["Invoice 4711"], [["invoice 4712", "4711"]])
        [0.9166666666666666]
    """
    _same_number(answers, accepted)

    def score(answer: str, right: str) -> float:
        a, b = (" ".join(text.casefold().split()) for text in (answer, right))
        longest = max(len(a), len(b))
        share = edits(a, b) / longest if longest else 0.0
        return 1 - share if share < THRESHOLD else 0.0

    return [max((score(a, r) for r in right), default=0.0) for a, right in zip(answers, accepted, strict=True)]


def relaxed_accuracy(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """1 for a number within 5 % of an accepted one, or for the same words, else 0. A per cent sign divides by 100.

    An accepted 0 is compared as words. Source: Masry et al., "ChartQA", ACL Findings 2022, section 5.1, as its authors'
    evaluation computes it.

        >>> relaxed_accuracy(["96", "90", "Yes"], [["100"], ["100"], ["yes"]])
        [1.0, 0.0, 1.0]
    """
    _same_number(answers, accepted)

    def right(answer: str, wanted: str) -> bool:
        a, b = _number(answer), _number(wanted)
        if a is not None and b:
            return abs(a - b) <= TOLERANCE * abs(b) + 1e-12
        return answer.strip().casefold() == wanted.strip().casefold()

    return [float(any(right(a, w) for w in wanted)) for a, wanted in zip(answers, accepted, strict=True)]


def vqa_accuracy(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """min(people who said so / 3, 1), the mean over leaving out one of the people at a time.

    Letter case, articles and punctuation at the ends of words do not count; upstream's tables of contractions and
    number words are not applied. Source: Antol et al., "VQA", ICCV 2015, section 3.

        >>> vqa_accuracy(["the stop"], [["stop"] * 2 + ["go"] * 8])
        [0.6]
    """
    _same_number(answers, accepted)
    scores = []
    for answer, people in zip(answers, accepted, strict=True):
        same = [_bare(p) == _bare(answer) for p in people]
        others = [sum(same) - s for s in same]
        scores.append(round(sum(min(n / 3, 1.0) for n in others) / len(people), 12) if people else 0.0)
    return scores


def paired(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Paired:
    """How much better one method scores than another on the same questions. Raises ShapeError for other numbers.

    >>> paired([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]).wins
    2
    """
    if len(ours) != len(theirs):
        raise ShapeError(f"{len(ours)} and {len(theirs)} scores", expected=len(ours), got=len(theirs))
    steps = [a - b for a, b in zip(ours, theirs, strict=True)]
    wins, losses = sum(s > 0 for s in steps), sum(s < 0 for s in steps)
    fewer, n = min(wins, losses), wins + losses
    p = min(1.0, 2 * (1 - at_least(fewer + 1, n, 0.5))) if n else 1.0
    return Paired(mean_of(steps, seed=seed), wins, losses, p)


def edits(a: str, b: str) -> int:
    """The fewest letters to insert, drop or replace that turn one text into the other (Levenshtein).

    >>> edits("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bare(text: str) -> str:
    words = (re.sub(r"^\W+|\W+$", "", word) for word in text.casefold().split())
    return " ".join(word for word in words if word and word not in _ARTICLES)


def _same_number(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> None:
    if len(answers) != len(accepted):
        raise ShapeError(f"{len(answers)} answers to {len(accepted)} questions", expected=len(accepted))
