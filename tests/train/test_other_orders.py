"""The check of an order after a restart, on us and on accelerate's defaults: it must be able to fail."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from tubelet.train.order import Batches

SAMPLES, BATCH, STEPS, STOP = 48, 4, 18, 5
Run = Callable[[Path, int, int], list[list[int]]]


def ours(folder: Path, start: int, stop: int) -> list[list[int]]:
    batches = Batches([1] * SAMPLES, BATCH, seed=3)
    return [list(micro.ids) for step in range(start, stop) for micro in batches.at(step)[0]]


def accelerates(folder: Path, start: int, stop: int) -> list[list[int]]:
    """What a loop with accelerate sees: defaults, save_state where it stops, load_state where it goes on."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    torch.manual_seed(3)
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(list(range(SAMPLES)), batch_size=BATCH, shuffle=True))
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    assert model is not None
    if start:
        accelerator.load_state(str(folder / "state"))
    seen: list[list[int]] = []
    while len(seen) < stop - start:
        for batch in loader:
            seen.append(batch.tolist())
            if len(seen) == stop - start:
                break
    accelerator.save_state(str(folder / "state"))
    return seen


def other_steps(run: Run, folder: Path) -> int:
    """At how many steps a run that was stopped once sees other samples than one that was not."""
    unbroken = run(folder / "a", 0, STEPS)
    broken = run(folder / "b", 0, STOP) + run(folder / "b", STOP, STEPS)
    return sum(sorted(a) != sorted(b) for a, b in zip(unbroken, broken, strict=True))


def test_the_check_passes_ours_and_fails_accelerates_defaults(tmp_path: Path):
    assert other_steps(ours, tmp_path) == 0
    assert other_steps(accelerates, tmp_path) > STEPS // 3
