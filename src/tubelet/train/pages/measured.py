"""What a reader said to questions about pages it has not seen, and the shares that tell how well."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tubelet.inspect.metrics.answers import anls
from tubelet.train.pages.evaluate import Share, constants
from tubelet.train.pages.page import Page, Question

MOST_WRONG = 0.05  # share of wrong answers that those it is sure of may have


class Said(NamedTuple):
    """What a reader said to one question. inside: whether the place it read first touches the answer's box."""

    page: Page
    question: Question
    answer: str
    probability: float
    inside: bool

    @property
    def right(self) -> bool:
        """Letter by letter; nothing for what is not there."""
        return self.answer == self.question.answer


@dataclass(frozen=True)
class Measured:
    """One kind of pages: what was said, and at which probability it counts as sure."""

    said: tuple[Said, ...]
    sure: float

    def exact(self, which: Callable[[Said], bool] = lambda _: True) -> Share:
        """Right answers of those questions whose answer is there."""
        return _share(s.right for s in self.said if s.question.answer and which(s))

    def near(self) -> float:
        """ANLS of the same: the mean of how near the letters are, 0 below half of them."""
        there = [s for s in self.said if s.question.answer]
        scores = anls([s.answer for s in there], [[s.question.answer] for s in there])
        return sum(scores) / len(scores) if scores else 0.0

    def constant(self) -> Share:
        """What the best constant answer of each kind of question would get right: one that knows the answers."""
        there = [s.question for s in self.said if s.question.answer]
        best = constants(there)
        return _share(q.answer == best[q.kind].answer for q in there)

    def absent(self) -> Share:
        """Nothing said, of questions about what is not there."""
        return _share(s.right for s in self.said if not s.question.answer)

    def confident(self) -> Share:
        """Questions it is sure about."""
        return _share(s.probability >= self.sure for s in self.said)

    def wrong(self) -> Share:
        """Questions that get a wrong answer it is sure of."""
        return _share(s.probability >= self.sure and not s.right for s in self.said)

    def placed(self) -> Share:
        """Right answers whose first place touches the box they stand in."""
        return _share(s.inside for s in self.said if s.right and s.question.answer)


def _share(right: Iterable[bool]) -> Share:
    values = list(right)
    return Share(sum(values), len(values))
