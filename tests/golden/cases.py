"""A golden case and how it is judged.

A case is NAME.json (configuration, tolerance) beside NAME.safetensors (`weight.*`, `input.*`, `output.*`). A runner
computes outputs and hands each to `Case.check`. A case passes when every output it lists was checked and none differed,
so an output that a runner forgets is a failure, and so is a case without a runner.
"""

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

FP32 = {"atol": 1e-4, "rtol": 1e-4}  # where a case gives no tolerance of its own: the fixtures' own advice
GRADIENT = {"atol": 2e-6, "rtol": 2e-4}
BF16_COSINE = 0.999

# What a case may fail with: anything its content or the code it runs can raise. One case never takes the others along.
FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(MemoryError, NotImplementedError, SafetensorError),
)


class Mismatch(AssertionError):
    """An output that differs, is missing, or that the project cannot give."""


@dataclass
class Case:
    """One case, loaded, with what has been checked so far."""

    name: str
    meta: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    folder: Path = Path()
    remark: str = ""  # what a runner has to say beside the numbers
    checked: set[str] = field(default_factory=set)
    worst: float = 0.0
    cosine: float = 1.0
    swapped: int = 0  # choices other than the recorded ones, all within `tolerance.indices`

    @property
    def config(self) -> dict[str, Any]:
        return self.meta.get("config", {})

    @property
    def tolerance(self) -> dict[str, Any]:
        return self.meta.get("tolerance", {})

    @property
    def has_gradients(self) -> bool:
        return any(is_gradient(name) for name in self.outputs)

    def check(self, name: str, got: Tensor, *, exact: bool = False) -> None:
        """Compare one output. Integers and booleans are always exact. Raises Mismatch saying where they differ."""
        want = self.outputs[name]
        got = got.detach().cpu()
        if got.shape != want.shape:
            raise Mismatch(f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
        if got.is_floating_point() != want.is_floating_point():
            raise Mismatch(f"{name}: type {got.dtype}, expected {want.dtype}")
        if want.is_floating_point() and not bool(got.isfinite().all()):
            raise Mismatch(f"{name}: NaN or infinity")
        if exact or not want.is_floating_point():
            self._exact(name, got, want)
        elif want.dtype in (torch.bfloat16, torch.float16):
            self._cosine(name, got, want)
        else:
            self._close(name, got, want)
        self.checked.add(name)

    def check_choice(self, name: str, got: Tensor, scores: Tensor, *, best_first: bool) -> None:
        """Compare chosen places, (K,) or (K, axes) indices into `scores`, the best first or ascending.

        Exact, except that choices whose scores differ by less than the case's own `tolerance.indices` may swap: in a
        list by score, with what stands in the same place; in an ascending one, with what was chosen instead.
        Raises Mismatch also for a place chosen twice or outside, which no tolerance covers.
        """
        want = self.outputs[name]
        limit = self._swap_limit()
        if limit is None or got.shape != want.shape or got.is_floating_point():
            self.check(name, got)
            return
        mine, theirs = (_numbers(name, index, scores) for index in (got, want))
        if not best_first:
            if bool((mine.diff() <= 0).any()):
                raise Mismatch(f"{name}: the numbers do not ascend")
            both = torch.isin(mine, theirs), torch.isin(theirs, mine)
            mine, theirs = (n[~b] for n, b in zip((mine, theirs), both, strict=True))
            mine, theirs = (n[_score(scores, n).argsort(descending=True)] for n in (mine, theirs))
        moved = mine != theirs
        apart = (_score(scores, mine) - _score(scores, theirs)).abs()
        far = moved & ~(apart < limit)  # the other way round a NaN would pass
        if bool(far.any()):
            raise Mismatch(f"{name}: {int(far.sum())} of {len(got)} choices differ, by up to {float(apart.max()):.3g}")
        self.swapped += int(moved.sum())
        self.checked.add(name)

    def _swap_limit(self) -> float | None:
        """The one number in `tolerance.indices` ("exact where scores differ by more than 1e-4"), None without it."""
        told = self.tolerance.get("indices")
        if told is None:
            return None
        numbers = re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", str(told))
        if len(numbers) != 1:
            raise Mismatch(f"tolerance.indices names {len(numbers)} numbers, expected one: {told}")
        return float(numbers[0])

    def _exact(self, name: str, got: Tensor, want: Tensor) -> None:
        differ = got != want if got.is_floating_point() else got.long() != want.long()
        if bool(differ.any()):
            raise Mismatch(f"{name}: {int(differ.sum())} of {differ.numel()} values differ, they must be equal")

    def _close(self, name: str, got: Tensor, want: Tensor) -> None:
        tolerance = self._tolerance_of(name)
        difference = (got.double() - want.double()).abs()
        largest = float(difference.max()) if difference.numel() else 0.0
        self.worst = max(self.worst, largest)
        bound = tolerance["atol"] + tolerance.get("rtol", 0.0) * want.double().abs()
        if bool((difference > bound).any()):
            far = int((difference > bound).sum())
            raise Mismatch(f"{name}: max abs diff {largest:.3g}, {far} of {difference.numel()} values too far")

    def _cosine(self, name: str, got: Tensor, want: Tensor) -> None:
        a, b = (x.double().reshape(-1, x.shape[-1] if x.ndim else 1) for x in (got, want))
        same = (a == 0).all(1) & (b == 0).all(1)
        cosine = torch.cosine_similarity(a, b, dim=1).masked_fill(same, 1.0)
        lowest = float(cosine.min()) if cosine.numel() else 1.0
        scale = (a.norm(dim=1) / b.norm(dim=1).clamp_min(1e-30)).masked_fill(same, 1.0)
        self.cosine = min(self.cosine, lowest)
        self.worst = max(self.worst, float((a - b).abs().max()) if a.numel() else 0.0)
        least = self.tolerance.get("cosine_min", BF16_COSINE)
        if lowest < least:
            raise Mismatch(f"{name}: cosine {lowest:.6f} is below {least}")
        if bool(((scale - 1).abs() > 0.1).any()):
            raise Mismatch(f"{name}: lengths differ by a factor of up to {float(scale.max()):.3g}")

    def _tolerance_of(self, name: str) -> dict[str, float]:
        """The case's own, except that in a case with gradients it belongs to the gradients, as its text says."""
        own = {k: v for k, v in self.tolerance.items() if k in ("atol", "rtol")}
        if is_gradient(name):
            return own or GRADIENT
        return FP32 if self.has_gradients or "atol" not in own else own

    def finish(self) -> None:
        """Raise Mismatch for outputs nobody looked at."""
        left = [name for name in self.outputs if name not in self.checked]
        if left:
            raise Mismatch(f"output {left[0]} not checked" + (f" (and {len(left) - 1} more)" if len(left) > 1 else ""))
        if not self.outputs:
            raise Mismatch("the case lists no outputs")


def _numbers(name: str, index: Tensor, scores: Tensor) -> Tensor:
    """(K,) positions in the flattened scores. Raises Mismatch for one outside or there twice."""
    index = index.detach().cpu().long().reshape(len(index), -1)
    if index.shape[1] != scores.ndim:
        raise Mismatch(f"{name}: {index.shape[1]} numbers a choice, the scores have {scores.ndim} axes")
    sizes = torch.tensor(scores.shape)
    if bool(((index < 0) | (index >= sizes)).any()):
        raise Mismatch(f"{name}: a choice outside {tuple(scores.shape)}")
    numbers = torch.zeros(len(index), dtype=torch.long)
    for axis, size in enumerate(scores.shape):
        numbers = numbers * size + index[:, axis]
    if len(numbers.unique()) != len(numbers):
        raise Mismatch(f"{name}: {len(numbers) - len(numbers.unique())} choices are there twice")
    return numbers


def _score(scores: Tensor, numbers: Tensor) -> Tensor:
    return scores.double().reshape(-1)[numbers]


def is_gradient(name: str) -> bool:
    """grad.<parameter>, grad_input, grad_<input> ..."""
    return name.startswith("grad")


@dataclass(frozen=True)
class Result:
    """How one case went; `line` is what is printed."""

    name: str
    passed: bool
    line: str


def find_cases(folder: Path) -> list[Path]:
    """The JSON of every case in a folder, in the order of names; a tensor file without one counts as a case too."""
    stems = {path.stem for path in (*folder.glob("*.json"), *folder.glob("*.safetensors"))}
    return [folder / f"{stem}.json" for stem in sorted(stems)]


def load_case(path: Path) -> Case:
    """Both files of a case. Raises Mismatch when one is missing or unreadable."""
    tensor_file = path.with_suffix(".safetensors")
    for file in (path, tensor_file):
        if not file.is_file():
            raise Mismatch(f"{file.name} is missing")
    groups: dict[str, dict[str, Tensor]] = {"weight": {}, "input": {}, "output": {}}
    for key, tensor in load_file(str(tensor_file)).items():
        kind, _, rest = key.partition(".")
        if kind not in groups:
            raise Mismatch(f"tensor {key} is neither weight, input nor output")
        groups[kind][rest] = tensor
    meta = json.loads(path.read_text(encoding="utf-8"))
    return Case(path.stem, meta, groups["weight"], groups["input"], groups["output"], path.parent)


def run_case(path: Path, *, show: Callable[[str], None] = print) -> Result:
    """Run one case through the project and print its line. Never raises for a case that fails, whatever the failure."""
    from .runners import runner_for

    name = path.stem
    try:
        case = load_case(path)
        runner = runner_for(case)
        if runner is None:
            raise Mismatch(f"no runner for {name}")
        runner(case)
        case.finish()
    except Mismatch as e:
        result = Result(name, False, f"FAIL {name}  {e}")
    except FAILURES as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        reason = f"{type(e).__name__}: {e} ({Path(where.filename).name}:{where.lineno})".replace("\n", " ")
        result = Result(name, False, f"FAIL {name}  {reason}")
    else:
        extra = f", min cosine {case.cosine:.6f}" if case.cosine < 1 else ""
        extra += f", {case.swapped} near ties swapped" if case.swapped else ""
        extra += f", {len(case.checked)} outputs" + (f"; {case.remark}" if case.remark else "")
        result = Result(name, True, f"PASS {name}  max abs diff {case.worst:.2e}{extra}")
    show(result.line)
    return result
