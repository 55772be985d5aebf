"""A run in numbers before it starts, beside what it then does: steps, FLOPs and memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.inspect.budget.budget_cases import allocated, counted
from tests.train.tiny_models import write_all

from tubelet.cli import main
from tubelet.train.config import read_config
from tubelet.train.data.spare import Spares
from tubelet.train.launch import open_run
from tubelet.train.plan import plan_run, run_memory
from tubelet.train.run_config import RunConfig
from tubelet.train.work import work_of

EXAMPLES = Path(__file__).parents[2] / "examples" / "train"
RUNS = ("projector", "lora", "alignment")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_all(folder)
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def config_of(name: str, **changes: Any) -> RunConfig:
    return replace(read_config(RunConfig, EXAMPLES / f"{name}.yaml"), **changes)


def batch_of(opened: Any, count: int = 12) -> Any:
    return opened.collate(Spares(len(opened.dataset), 0))(tuple(range(count)), 0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in RUNS),
        ("projector", {"parts": "mm_mlp_adapter,mm_language_model"}),
        ("projector", {"parts": "mm_mlp_adapter,mm_language_model", "gradient_checkpointing": True}),
        ("projector", {"data": "text"}),
        *((name, {"precision": "bf16"}) for name in RUNS),
        ("projector", {"parts": "mm_mlp_adapter,mm_language_model", "precision": "bf16"}),
    ],
    ids=[*(RUNS), "whole", "checkpointed", "text", *(f"{name} in bf16" for name in RUNS), "whole in bf16"],
)
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # a float32 norm of bfloat16 is not fused
def test_memory_is_that_of_the_run(name: str, changes: dict, record_property: Any):
    """plan / peak of torch's allocator in forward and backward, weights included and without them."""
    config = config_of(name, **{k: v for k, v in changes.items() if k != "data"})
    opened = open_run(config)
    batch = batch_of(opened)
    if "data" in changes:
        batch = replace(batch, pixels=batch.pixels.reorder([]), input_ids=batch.input_ids.clamp(min=5))
        batch = replace(batch, rows=(0,) * len(batch.rows), media=(0,) * len(batch.media))
    model = opened.model.train()
    if config.gradient_checkpointing:
        from tubelet.train.loop import recompute

        recompute(model)
    total = lambda loss: getattr(loss, "total", loss)  # noqa: E731

    def work() -> object:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            loss = total(model(batch))
        loss.backward()
        return [p.grad for p in model.parameters()]

    work()
    model.zero_grad()
    peak = allocated(work)
    model.zero_grad()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    pixels = batch.pixels if hasattr(batch, "pixels") else batch.patches
    given = pixels.x.nbytes + pixels.pos.nbytes
    found = run_memory(model, batch, config)
    whole = found.work_bytes + found.weights_bytes
    record_property(
        "say",
        f"{name} {changes}: plan / peak {found.work_bytes / (peak + given):.3f}, "
        f"with weights {whole / (peak + given + weights):.3f}",
    )
    assert 1.0 <= whole / (peak + given + weights) <= 1.25


@pytest.mark.parametrize("name", RUNS)
def test_flops_are_those_of_the_run(name: str):
    """Against torch's counter over forward and backward: what is small, and norms of 32 channels, apart."""
    config = config_of(name)
    opened = open_run(config)
    batch = batch_of(opened)
    model = opened.model.train()
    seen = counted(lambda: getattr(model(batch), "total").backward())  # noqa: B009
    work = work_of(model)
    assert work is not None
    assert work(batch) == pytest.approx(seen, rel=0.08)


def test_the_steps_of_the_plan_are_those_of_the_run():
    config = config_of("projector", folder=Path("runs/planned"))
    found = plan_run(config)
    assert found.exact and found.samples == 24 and found.steps == 4 * found.steps_per_epoch
    from tubelet.train.launch import run

    assert run(config).outcome.step == found.steps
    lines = [json.loads(text) for text in (config.folder / "log.jsonl").read_text().splitlines()]
    assert {line["message"] for line in lines if line["kind"] == "learned"} == {f"learned {one}" for one in found.lines}


def test_608000_pairs_by_128_are_4750_steps(capsys: pytest.CaptureFixture[str]):
    file = str(EXAMPLES / "alignment.yaml")
    words = ["--budget", "32", "--accumulation", "4", "--epochs", "1"]
    assert main(["plan", "--train", file, "--samples", "608000", "--json", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["steps"], said["steps_per_epoch"], said["samples_per_step"]) == (4750, 4750, 128.0)
    assert main(["plan", "--train", file, "--samples", "608000", "--processes", "8", "--budget", "4", *words[2:]]) == 0
    said = capsys.readouterr().out
    assert "4,750" in said and "832 of" in said and "128" in said
