"""Scores of arms: the benchmark's own metric, the mean over tasks, differences on the same questions."""

from pathlib import Path

import pytest
from tests.train.evaluate.benchmark_files import write_benchmark

from tubelet.errors import ShapeError
from tubelet.train.evaluate.questions import READERS, read_questions
from tubelet.train.evaluate.scores import METRICS, compare_arms, scores_of

RIGHT = {
    "docvqa": (["0.28", "itc limitad"], {"ANLS": [1.0, 1 - 1 / 11]}),
    "textvqa": (["dakota"], {"VQA accuracy": [(8 * 2 / 3 + 2 * 1 / 3) / 10]}),
    "chartqa": (["14.5", "no", "13"], {"relaxed accuracy": [1.0, 1.0, 0.0]}),
    "scanqa": (["the left side"], {"EM@1": [0.0], "EM-R1": [1.0]}),
    "sqa3d": (["dark brown", "behind."], {"EM@1": [0.0, 1.0], "EM-R1": [1.0, 1.0]}),
    "vsibench": (
        ["5", "B.", "A. left", "left", "B"],
        {"accuracy or MRA": [0.6, 1.0, 1.0, 0.0, 0.0], "strict": [0.5, 1.0, 0.0, 0.0, 0.0]},
    ),
    "pages": (["$4.1", ""], {"exact match": [0.0, 1.0], "ANLS": [0.8, 1.0]}),
}


@pytest.mark.parametrize("benchmark", READERS)
def test_answers_have_the_scores_of_their_benchmark(tmp_path: Path, benchmark: str):
    questions = read_questions(benchmark, write_benchmark(tmp_path, benchmark), str(tmp_path))
    answers, expected = RIGHT[benchmark]
    got = scores_of(benchmark, questions, answers)
    assert got.keys() == expected.keys() >= METRICS[benchmark].keys()
    for name, values in expected.items():
        assert got[name] == pytest.approx(values), name
    with pytest.raises(ShapeError):
        scores_of(benchmark, questions, [])


def test_vsibench_is_the_mean_over_its_tasks(tmp_path: Path):
    """Counting 0.6, distance 1; of the direction's kinds easy 1 and hard 0, whose mean is one task's."""
    questions = read_questions("vsibench", write_benchmark(tmp_path, "vsibench"), str(tmp_path))
    answers = {"all": RIGHT["vsibench"][0], "pool": ["4", "A", "A", "B", "A"]}
    got = compare_arms("vsibench", questions, answers, {arm: [9] * 5 for arm in answers}, "all")
    metric = "accuracy or MRA"
    assert got["all"].metrics[metric].value == pytest.approx((0.6 + 1.0 + (1.0 + 0.0) / 2) / 3)
    assert got["pool"].metrics[metric].value == pytest.approx((1.0 + 0.0 + (1.0 + 1.0) / 2) / 3)
    assert got["all"].metrics["strict"].value == pytest.approx((0.5 + 1.0 + 0.0) / 3)
    assert got["all"].metrics["over ten kinds"].value == pytest.approx((0.6 + 1.0 + 1.0 + 0.0) / 4)
    assert got["all"].metrics["over questions"].value == pytest.approx((0.6 + 1.0 + 1.0 + 0.0 + 0.0) / 5)
    assert got["all"].kinds["object_counting"].value == pytest.approx(0.6) and len(got["all"].kinds) == 4
    beside = got["pool"].against
    assert beside is not None and (beside.wins, beside.losses) == (3, 1)
    difference = got["pool"].metrics[metric].value - got["all"].metrics[metric].value
    assert beside.difference.value == pytest.approx(difference)


def test_an_arm_is_compared_with_the_reference_on_the_same_questions(tmp_path: Path):
    questions = read_questions("docvqa", write_benchmark(tmp_path, "docvqa"), str(tmp_path))
    answers = {"all": ["0.28", "ITC limited"], "pool": ["none", "itc limited"]}
    got = compare_arms("docvqa", questions, answers, {"all": [100, 50], "pool": [16, 16]}, "all")
    assert got["all"].against is None and got["all"].metrics["ANLS"].value == 1.0
    beside = got["pool"].against
    assert beside is not None and (beside.difference.value, beside.wins, beside.losses) == (-0.5, 0, 1)
    assert (got["all"].tokens.value, got["pool"].tokens.value) == (75.0, 16.0)
