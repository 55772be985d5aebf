"""What the answers of several arms are worth: each arm's scores with intervals, and each against all tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tubelet.errors import ShapeError
from tubelet.inspect.metrics.answers import (
    Paired,
    anls,
    exact_match,
    option_accuracy,
    paired,
    refined_match,
    relative_accuracy,
    relaxed_accuracy,
    same_text,
    vqa_accuracy,
)
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.intervals import mean_of
from tubelet.inspect.metrics.vsibench import NUMBERS, strict_scores, task_weights
from tubelet.train.evaluate.questions import BenchmarkQuestion

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]

# The first of a benchmark is the one its authors report.
METRICS: dict[str, dict[str, Metric]] = {
    "docvqa": {"ANLS": anls},
    "chartqa": {"relaxed accuracy": relaxed_accuracy},
    "textvqa": {"VQA accuracy": vqa_accuracy},
    "scanqa": {"EM@1": exact_match, "EM-R1": refined_match},
    "sqa3d": {"EM@1": exact_match, "EM-R1": refined_match},
    "vsibench": {"accuracy or MRA": relative_accuracy},  # by kind, see `scores_of`
    "pages": {"exact match": same_text, "ANLS": anls},
}


@dataclass(frozen=True)
class ArmScores:
    """One arm over the questions that every arm has answered."""

    metrics: Mapping[str, Estimate]  # the first is the authors'
    kinds: Mapping[str, Estimate]  # the first metric, by kind of question
    tokens: Estimate  # visual tokens of a question
    against: Paired | None  # the first metric beside the reference's; None of the reference itself


def scores_of(benchmark: str, questions: Sequence[BenchmarkQuestion], answers: Sequence[str]) -> dict[str, list[float]]:
    """The score of each question by each of the benchmark's metrics. Raises ShapeError for another number of answers.

    VSI-Bench: the letter of an option, or how near a number is; and the same with whole answers ("strict").
    """
    if len(questions) != len(answers):
        raise ShapeError(f"{len(answers)} answers to {len(questions)} questions", expected=len(questions))
    accepted = [question.accepted for question in questions]
    out = {name: metric(answers, accepted) for name, metric in METRICS[benchmark].items()}
    if benchmark == "vsibench":
        letters = option_accuracy(answers, accepted)
        [(name, near)] = out.items()
        out[name] = [a if q.kind in NUMBERS else b for q, a, b in zip(questions, near, letters, strict=True)]
        out["strict"] = strict_scores(answers, accepted, [q.kind for q in questions])
    return out


def compare_arms(
    benchmark: str,
    questions: Sequence[BenchmarkQuestion],
    answers: Mapping[str, Sequence[str]],  # by arm
    tokens: Mapping[str, Sequence[int]],  # visual ones, of each question by arm
    reference: str,
    *,
    seed: int = 0,
) -> dict[str, ArmScores]:
    """Every arm's scores, and each arm's difference from the reference on the same questions.

    VSI-Bench's scores are means over its eight tasks, the three kinds of direction being one task, as its authors';
    the mean over ten kinds and that over questions stand beside the first.
    """
    asked = [question.kind for question in questions]
    vsi = benchmark == "vsibench"
    weights = task_weights(asked) if vsi else [1.0] * len(questions)
    scored = {arm: scores_of(benchmark, questions, said) for arm, said in answers.items()}
    first = next(iter(METRICS[benchmark]))
    weighted = {arm: _weighed(own[first], weights) for arm, own in scored.items()}
    kinds = sorted({question.kind for question in questions} - {""})
    out = {}
    for arm, own in scored.items():
        metrics = {
            name: mean_of(_weighed(values, weights) if vsi else values, seed=seed) for name, values in own.items()
        }
        if vsi:
            ten = task_weights(asked, tasks=10)
            metrics["over ten kinds"] = mean_of(_weighed(own[first], ten), seed=seed)
            metrics["over questions"] = mean_of(own[first], seed=seed)
        by_kind = {
            kind: mean_of([s for q, s in zip(questions, own[first], strict=True) if q.kind == kind], seed=seed)
            for kind in kinds
        }
        beside = None if arm == reference else paired(weighted[arm], weighted[reference], seed=seed)
        out[arm] = ArmScores(metrics, by_kind, mean_of([float(n) for n in tokens[arm]], seed=seed), beside)
    return out


def _weighed(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    return [w * value for w, value in zip(weights, values, strict=True)]
