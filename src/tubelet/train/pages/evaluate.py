"""How well a reader answers on pages it has not seen, beside two that do not look: another page's picture, and the
answer that is most often right.

An answer counts when every byte of it and its end is right. This is computed with the true beginning given, which is
the same: greedy decoding has the true beginning exactly as long as every byte was right.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from tubelet.train.pages.batch import batch_of
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.page import Page, PageRecipe, Question, print_page
from tubelet.train.pages.task import ReaderTask

Z = 1.96  # of a 95 % interval


class Share(NamedTuple):
    """right of asked."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """right / asked, 0 of nothing."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        n, p = self.asked, self.share
        if not n:
            return 0.0, 1.0
        middle, spread = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return (middle - spread) / (1 + Z * Z / n), (middle + spread) / (1 + Z * Z / n)


class Answered(NamedTuple):
    """One question and what became of it. blind: with another page's picture."""

    page: int
    layout: str
    em: int
    family: str
    question: Question
    right: bool
    blind: bool


class Constant(NamedTuple):
    """The answer that is most often right. share: of the questions it answers."""

    answer: str
    share: float


@dataclass(frozen=True)
class Evaluation:
    """answered: every question. figures: means over batches of what the task tells (bytes, pointer, slots ...)."""

    answered: tuple[Answered, ...]
    figures: Mapping[str, float]

    @property
    def there(self) -> tuple[Answered, ...]:
        """The questions whose answer stands on their page."""
        return tuple(a for a in self.answered if a.question.answer)

    def exact(self) -> Share:
        """Answers that are right in every byte, of those that stand on their page."""
        return _share(self.there)

    def blind(self) -> Share:
        """The same with each page's picture exchanged for another's: what can be guessed from the question."""
        return Share(sum(a.blind for a in self.there), len(self.there))

    def absent(self) -> Share:
        """Of the questions about what is not there, those that were answered with nothing."""
        return _share([a for a in self.answered if not a.question.answer])

    def by(self, of: Callable[[Answered], str]) -> dict[str, Share]:
        """`exact` by what `of` says of a question: its kind, its page's layout, its size."""
        groups: dict[str, list[Answered]] = defaultdict(list)
        for one in self.there:
            groups[of(one)].append(one)
        return {name: _share(group) for name, group in sorted(groups.items())}


@torch.no_grad()
def evaluate(
    task: ReaderTask, recipe: PageRecipe, fonts: Fonts, numbers: Sequence[int], *, batch: int = 16, room: int = 1024
) -> Evaluation:
    """Ask everything about the pages of these numbers. All sizes of the recipe must have as many tokens.

    Cost: two forwards of every page. The task is left in the mode it was in.
    """
    was = task.training
    task.eval()
    answered: list[Answered] = []
    sums: dict[str, float] = defaultdict(float)
    for start in range(0, len(numbers), batch):
        pages = [print_page(recipe, fonts, number) for number in numbers[start : start + batch]]
        pages = [page for page in pages if page.questions]
        if not pages:
            continue
        whole = batch_of(pages, room=room)
        seen = task.run(whole)
        order = [*range(1, len(pages)), 0]
        blind = task.run(replace(whole, patches=whole.patches.reorder(order))).right if len(pages) > 1 else seen.right
        asked = [(page, question) for page, some in zip(pages, whole.questions, strict=True) for question in some]
        for (page, question), right, guessed in zip(asked, seen.right.tolist(), blind.tolist(), strict=True):
            answered.append(Answered(page.number, page.layout, page.em, page.family, question, right, guessed))
        for name, value in seen.figures.items():
            sums[name] += float(value) * len(pages)
        sums["pages"] += len(pages)
    task.train(was)
    pages_seen = max(1.0, sums.pop("pages", 0.0))
    return Evaluation(tuple(answered), {name: value / pages_seen for name, value in sums.items()})


def constants(questions: Iterable[Question]) -> dict[str, Constant]:
    """By kind, and under "" of all, the most frequent answer and the share of questions it is right for."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[""][question.answer] += 1
        counts[question.kind][question.answer] += 1
    best = {kind: some.most_common(1)[0] for kind, some in counts.items()}
    return {kind: Constant(answer, n / counts[kind].total()) for kind, (answer, n) in sorted(best.items())}


def frequent(pages: Iterable[Page], most: int = 10) -> list[tuple[str, int]]:
    """The answers that are asked for most often, with their numbers."""
    return Counter(question.answer for page in pages for question in page.questions).most_common(most)


def _share(answered: Sequence[Answered]) -> Share:
    return Share(sum(a.right for a in answered), len(answered))
