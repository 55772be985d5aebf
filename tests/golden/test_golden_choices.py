"""A case's `tolerance.indices`: near ties may swap, and nothing else may."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from .cases import Case, Mismatch, load_case, run_case
from .runners.onevision_codec import patch_sums, squares, valid

HERE = Path(__file__).parent / "onevision"
TOLERANCE = {"atol": 1e-6, "indices": "exact where scores differ by more than 1e-4"}
SCORES = torch.tensor([0.9, 0.5, 0.50005, 0.3, 0.1, 0.10009, 0.10018, 0.0])  # near ties: 1 and 2; 4 and 5; 5 and 6


def made(want: list[int] | list[list[int]], tolerance: dict[str, object] = TOLERANCE) -> Case:
    return Case("made", {"tolerance": tolerance}, {}, {}, {"chosen": torch.tensor(want, dtype=torch.int32)})


def judge(want: list[int], got: list[int], *, best_first: bool, tolerance: dict[str, object] = TOLERANCE) -> Case:
    case = made(want, tolerance)
    case.check_choice("chosen", torch.tensor(got, dtype=torch.int64), SCORES, best_first=best_first)
    case.finish()
    return case


@pytest.mark.parametrize(
    ("want", "got", "best_first", "swapped"),
    [
        ([0, 2, 1, 3], [0, 2, 1, 3], True, 0),
        ([0, 2, 1, 3], [0, 1, 2, 3], True, 2),  # the order of two near ties
        ([0, 2, 1, 3, 6], [0, 2, 1, 3, 5], True, 1),  # which of two near ties is the last chosen
        ([0, 2], [0, 1], False, 1),
        ([0, 1, 2, 5], [0, 1, 2, 4], False, 1),
    ],
)
def test_a_swap_within_the_tolerance_passes(want: list[int], got: list[int], best_first: bool, swapped: int):
    assert judge(want, got, best_first=best_first).swapped == swapped


@pytest.mark.parametrize(
    ("want", "got", "best_first"),
    [
        ([0, 2, 1, 3], [2, 0, 1, 3], True),
        ([0, 2, 1, 3], [0, 2, 3, 1], True),
        ([0, 2, 1, 6, 5, 4], [0, 2, 1, 4, 5, 6], True),  # 4 and 6 are 1.8e-4 apart, though each is near 5
        ([0, 2, 1, 3], [0, 2, 1, 7], True),
        ([0, 3], [0, 7], False),
        ([0, 6], [0, 4], False),
        ([0, 1, 2, 6], [0, 1, 2, 4], False),
    ],
)
def test_one_beyond_it_fails(want: list[int], got: list[int], best_first: bool):
    with pytest.raises(Mismatch, match="choices differ, by up to"):
        judge(want, got, best_first=best_first)


@pytest.mark.parametrize("best_first", [True, False])
@pytest.mark.parametrize(
    ("got", "reason"),
    [
        ([0, 1], "shape"),
        ([0, 1, 2, 3], "shape"),
        ([0, 1, 1], "twice|ascend"),  # 2 is missing
        ([0, 1, 8], "outside"),
        ([-1, 1, 2], "outside"),
    ],
)
def test_a_missing_index_fails(got: list[int], reason: str, best_first: bool):
    with pytest.raises(Mismatch, match=reason):
        judge([0, 1, 2], got, best_first=best_first)


def test_ascending_numbers_ascend():
    with pytest.raises(Mismatch, match="ascend"):
        judge([0, 1, 2], [0, 2, 1], best_first=False)


def test_a_case_without_it_is_exact():
    with pytest.raises(Mismatch, match="must be equal"):
        judge([0, 2, 1], [0, 1, 2], best_first=True, tolerance={"atol": 1e-6})


def test_a_tolerance_that_names_no_number_is_not_guessed_at():
    with pytest.raises(Mismatch, match="names 0 numbers"):
        judge([0], [0], best_first=True, tolerance={"indices": "almost exact"})


def test_a_score_that_is_no_number_covers_nothing():
    case = made([0])
    with pytest.raises(Mismatch):
        case.check_choice("chosen", torch.tensor([1]), torch.tensor([float("nan"), 0.5]), best_first=True)


def test_choices_of_several_axes():
    scores = torch.tensor([[0.5, 0.9], [0.50002, 0.1]])
    case = made([[0, 1], [1, 0], [0, 0]])
    case.check_choice("chosen", torch.tensor([[0, 1], [0, 0], [1, 0]]), scores, best_first=True)
    assert case.swapped == 2
    with pytest.raises(Mismatch):
        case.check_choice("chosen", torch.tensor([[0, 1], [1, 1], [0, 0]]), scores, best_first=True)
    with pytest.raises(Mismatch, match="outside"):
        case.check_choice("chosen", torch.tensor([[0, 1], [0, 2], [0, 0]]), scores, best_first=True)


FIRST_CHOICES = (
    "topk.zero.none",
    "topk.zero.uniform_first",
    "topk.exclude.none",
    "visible.9",
    "static.9",
    "static_off.9",
)


def of_choices(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The path and tensors of a case of choices alone, of a moving clip and a still one, recorded by plain sorting."""
    meta = json.loads((HERE / "codec_select.json").read_text(encoding="utf-8"))
    meta["config"] |= {"keep_frames_equiv": 1}
    recorded = load_case(HERE / "codec_select.json")
    generator = torch.Generator().manual_seed(0)
    residual = torch.randint(0, 256, (len(recorded.inputs["mv"]), 36, 64), dtype=torch.uint8, generator=generator)
    recorded.inputs["residual"] = residual
    still = torch.randint(0, 2, (5, 64, 64), dtype=torch.uint8, generator=generator)
    energy, inside = squares(recorded), valid(meta["config"])
    sums, still_sums = patch_sums(energy, 8), patch_sums(still.numpy(), 8).reshape(-1)
    zero, none = (np.where(inside, sums, low) for low in (-1e-4, -np.inf))
    first = np.argwhere(inside)
    of_first = np.concatenate([np.zeros((len(first), 1), int), first], axis=1)
    after = np.concatenate([np.full((1, 8, 8), -np.inf), zero[1:]])
    spread = np.array([0, 21, 43, *(64 * t + p for t, p in ((1, 0), (1, 32), (2, 0), (2, 32), (4, 0), (4, 32)))])
    chosen: dict[str, np.ndarray] = {
        "topk.zero.none": places(zero, 64),
        "topk.zero.uniform_first": np.concatenate([of_first, places(after, 64 - len(first))]),
        "topk.exclude.none": places(none, len(first)),
        "visible.9": np.sort((-sums).reshape(-1).argsort(kind="stable")[:9]),
        "static.9": spread,  # 3, 2, 2 and 2 of four equally spaced frames
        "static_off.9": np.sort((-still_sums).argsort(kind="stable")[:9]),
    }
    outputs = {f"output.{k}": torch.from_numpy(v.astype(np.int32)) for k, v in chosen.items()}
    inputs = {f"input.{k}": v for k, v in recorded.inputs.items()} | {"input.static": still}
    (folder / "codec_select.json").write_text(json.dumps(meta), encoding="utf-8")
    return folder / "codec_select.json", inputs | outputs


def places(scores: np.ndarray, keep: int) -> np.ndarray:
    return np.stack(np.unravel_index((-scores).reshape(-1).argsort(kind="stable")[:keep], scores.shape), axis=1)


def test_the_runner_of_choices_knows_the_scores(tmp_path: Path):
    path, state = of_choices(tmp_path)
    save_file(state, str(path.with_suffix(".safetensors")))
    result = run_case(path)
    assert result.passed, result.line


@pytest.mark.parametrize("name", FIRST_CHOICES)
def test_the_runner_of_choices_finds_a_far_swap(tmp_path: Path, name: str):
    """The first choice and the last change places; in ascending lists, the first gives way to the worst there is."""
    path, state = of_choices(tmp_path)
    choice = state[f"output.{name}"]
    if choice.ndim == 2:
        choice[[0, -1]] = choice[[-1, 0]]
    else:
        choice[0] = next(n for n in range(1, 64) if n not in choice)
        state[f"output.{name}"] = choice.sort().values
    save_file(state, str(path.with_suffix(".safetensors")))
    result = run_case(path)
    assert not result.passed
    assert name in result.line
