"""Whether answers are right, and whether one method answers better than another on the same questions.

    anls                DocVQA, InfoVQA     nearly the right letters
    relaxed_accuracy    ChartQA             the right number within 5 %, or the right words
    vqa_accuracy        TextVQA, VQAv2      what at least three of ten people said
    exact_match         ScanQA, SQA3D       the same words; refined_match, one within the other
    option_accuracy     VSI-Bench           the right letter of several options
    relative_accuracy   VSI-Bench           how near a number is, at ten tolerances

Each takes one answer of the model for each question and the accepted ones, and gives the score of each question;
`mean_of` makes an estimate of them, `paired` compares two methods.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


def exact_match(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """1 for the words of an accepted answer (EM@1), else 0.

    Letter case, articles and punctuation at the ends of words do not count; LEO's table of misspellings is not applied.
    Source: Ma et al., "SQA3D", ICLR 2023, section 4; Azuma et al., "ScanQA", CVPR 2022, section 5.

        >>> exact_match(["The chair.", "table"], [["chair", "seat"], ["a desk"]])
        [1.0, 0.0]
    """
    _same_number(answers, accepted)
    return [float(_bare(a) in {_bare(r) for r in right}) for a, right in zip(answers, accepted, strict=True)]


def same_text(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """1 for an accepted answer letter by letter, white space at the ends aside, else 0.

    >>> same_text(["$4.10 ", "$4.1"], [["$4.10"], ["$4.10"]])
    [1.0, 0.0]
    """
    _same_number(answers, accepted)
    return [float(a.strip() in {r.strip() for r in right}) for a, right in zip(answers, accepted, strict=True)]


def refined_match(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """1 where an answer, without white space, lies within an accepted one or holds it (EM-R1), else 0. An empty answer
    counts nothing. Otherwise as `exact_match`.

    Source: Huang et al., "LEO", ICML 2024; embodied-generalist:evaluator/scanqa_eval.py@477dc44 (answer_match).

        >>> refined_match(["brown chair", "", "no"], [["chair"], ["yes"], ["yes"]])
        [1.0, 0.0, 0.0]
    """
    _same_number(answers, accepted)

    def right(answer: str, wanted: str) -> bool:
        a, b = (_bare(text).replace(" ", "") for text in (answer, wanted))
        return bool(a and b) and (a in b or b in a)

    return [float(any(right(a, w) for w in wanted)) for a, wanted in zip(answers, accepted, strict=True)]


def option_accuracy(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """1 where an answer's first word, without its final point, is an accepted letter, else 0.

    Source: Yang et al., "Thinking in space", CVPR 2025; vision-x-nyu/thinking-in-space:
    lmms_eval/tasks/vsibench/utils.py (fuzzy_matching, exact_match).

        >>> option_accuracy(["B. the sofa", "The sofa"], [["B"], ["B"]])
        [1.0, 0.0]
    """
    _same_number(answers, accepted)
    firsts = [_first_word(a).casefold() for a in answers]
    return [float(a in {r.strip().casefold() for r in right}) for a, right in zip(firsts, accepted, strict=True)]


def relative_accuracy(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> list[float]:
    """The share of the tolerances 0.5, 0.45, ... 0.05 within which a number is near the accepted one, relative to that
    (MRA); 0 for an answer whose first word is no number. A true 0 is met by 0 alone.

    Source: Yang et al., "Thinking in space", CVPR 2025, section 3.3; utils.py as for `option_accuracy`.

        >>> relative_accuracy(["4.0 meters", "5", "many"], [["4"], ["4"], ["4"]])
        [1.0, 0.6, 0.0]
    """
    _same_number(answers, accepted)
    tolerances = 1 - np.linspace(0.5, 0.95, 10)

    def score(answer: str, wanted: str) -> float:
        a, b = _number(_first_word(answer)), _number(wanted)
        if a is None or b is None:
            return 0.0
        return float((abs(a - b) / abs(b) <= tolerances).mean()) if b else float(a == 0)

    return [max((score(a, w) for w in wanted), default=0.0) for a, wanted in zip(answers, accepted, strict=True)]


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


def _first_word(text: str) -> str:
    return text.strip().split(" ")[0].rstrip(".").strip()


def _bare(text: str) -> str:
    words = (re.sub(r"^\W+|\W+$", "", word) for word in text.casefold().split())
    return " ".join(word for word in words if word and word not in _ARTICLES)


def _same_number(answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> None:
    if len(answers) != len(accepted):
        raise ShapeError(f"{len(answers)} answers to {len(accepted)} questions", expected=len(accepted))
