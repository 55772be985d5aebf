"""Workers in interpreters of their own: begun before there is a plan, nobody is left when they are not needed, and what
a device takes is theirs alone."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from tests.cli.cli_inputs import write_picture
from tests.scale.conftest import Begun
from tests.scale.runs import digests

from tubelet.errors import InputError
from tubelet.scale.interpreters import Interpreters
from tubelet.scale.local import run
from tubelet.scale.status import done_shards


def test_they_write_the_same_and_leave_nobody(begun: Begun, expected: dict[int, dict[str, str]]):
    """One is begun early and one when it is wanted; a third that nobody takes ends with the block."""
    with Interpreters(1) as early:
        first = early._waiting[0][1].pid
        plan, store = begun()
        workers = {report.shard for report in run(store, workers=2, begun=early)}
        assert not Path(f"/proc/{first}").exists()
    assert workers == set(range(plan.shards))
    assert digests(plan, store) == expected
    with Interpreters(1) as early:
        third = early._waiting[0][1].pid
        assert Path(f"/proc/{third}").exists()
    assert not Path(f"/proc/{third}").exists()


def test_one_ends_when_nobody_is_at_its_door():
    door, process = Interpreters(1).take()
    with door, pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.wait(120.0) == 0


def test_who_plans_watches_and_finishes_imports_no_torch(model: Path, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        write_picture(tmp_path / "pictures" / f"{i}.png", 40 + 8 * i, 40, i)
    new = ("pictures", "--model", str(model), "--shard-tokens", "8", "--quiet", "--out")
    runs = [[*new, "plan/", "--plan-only"], ["--status", "plan/"], [*new, "out/", "--workers", "2"]]
    runs += [[word, "out/"] for word in ("--resume", "--status", "--verify")]
    code = "import sys; from tubelet.cli import main; "
    code += f"codes = [main(['encode', *words]) for words in {runs}]; sys.exit('torch' in sys.modules or any(codes))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "shards  3 of 3" in ran.stdout
    assert "right   3 shards, 3 files, each once" in ran.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_a_device_that_is_not_there_ends_the_run_and_is_no_death(begun: Begun, workers: int):
    plan, store = begun()
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"no {absent} device that torch can use"):
        list(run(store, workers=workers, device=absent))
    assert done_shards(plan, store) == {}
    assert list(store.list("attempts")) == []


def test_processes_of_a_world_take_turns_on_the_devices(begun: Begun, monkeypatch: pytest.MonkeyPatch):
    """A launcher that gives each of them one device shows it that one alone: a count of 1."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    taken: list[str] = []

    def worker(*_: object, device: str, **__: object) -> NoReturn:
        taken.append(device)
        raise InputError("only asked for its device")

    monkeypatch.setattr("tubelet.scale.work.Worker", worker)
    _, store = begun()
    for count, rank, world in ((2, 3, 4), (1, 3, 4), (2, 0, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(InputError, match="only asked"):
            run(store, rank=rank, world=world, device="cuda")
    assert taken == ["cuda:1", "cuda:0", "cuda"]
