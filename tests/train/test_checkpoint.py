"""Checkpoints are whole or not there, and nothing that is not whole is read."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.runs import finish, run_to_the_end, said, start
from tests.train.train_toy import Behaviour, digest, run, toy_config

from tubelet.errors import CheckpointError, RunError
from tubelet.train.checkpoint import Checkpoints, read_part, read_state
from tubelet.train.config import SaveConfig
from tubelet.train.manifest import MANIFEST, newest_whole, verify
from tubelet.train.report import LOG, read_log
from tubelet.train.strategy import Group

ONE = Group("one", 0, 1, torch.device("cpu"))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    with Checkpoints(tmp_path / "run", ONE) as opened:
        yield opened


def parts(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((3, 2), value), "step": torch.tensor(value)}, "optimizer": {}}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_is_read(checkpoints: Checkpoints):
    path = checkpoints.save(7, parts(2.0), {"step": 7})
    found = checkpoints.newest_whole()
    assert found.path == path and path.name == "step-00000007" and not found.broken
    read = {"w": torch.zeros(3, 2), "step": torch.tensor(0.0)}
    read_part(path / "model", read)
    assert torch.equal(read["w"], torch.full((3, 2), 2.0)) and read["step"] == 2.0
    assert read_state(path)["step"] == 7


def test_the_newest_two_stay_and_those_at_multiples(tmp_path: Path):
    with Checkpoints(tmp_path, ONE, keep=2, keep_every=4) as kept:
        for step in range(1, 11):
            kept.save(step, parts(step), {})
    assert names(tmp_path) == ["lock", *(f"step-{s:08d}" for s in (4, 8, 9, 10))]


def damage(path: Path, kind: str, draw: random.Random) -> None:
    files = sorted(f for f in path.rglob("*") if f.is_file())
    file = draw.choice(files)
    if kind == "flip":
        data = bytearray(file.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(data))
    elif kind == "missing":
        file.unlink()
    elif kind == "short":
        file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    elif kind == "added":
        (path / "model" / "more.safetensors").write_bytes(b"")
    else:
        shutil.copy(path.with_name("step-00000001") / MANIFEST, path / MANIFEST)


@pytest.mark.parametrize("kind", ["flip"] * 25 + ["missing"] * 4 + ["short"] * 4 + ["added", "manifest of another"])
def test_a_damaged_one_is_named_and_the_one_before_taken(checkpoints: Checkpoints, kind: str, request):
    folder = checkpoints.folder
    for step in (1, 2):
        checkpoints.save(step, parts(step), {"step": step})
    whole = verify(folder / "step-00000002")
    damage(folder / "step-00000002", kind, random.Random(request.node.name))
    found = newest_whole(folder)
    if found.path == folder / "step-00000002":
        # A flip in the white space or a name that says nothing of the content: all content was verified all the same.
        assert verify(found.path)["files"] == whole["files"]
        return
    assert found.path == folder / "step-00000001"
    assert [name for name, _ in found.broken] == ["step-00000002"] and found.broken[0][1]


def test_broken_ones_are_set_aside_and_do_not_count(checkpoints: Checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, parts(step), {"step": step})
    (checkpoints.folder / "step-00000003" / MANIFEST).unlink()
    found = checkpoints.newest_whole()
    assert found.path is not None and found.path.name == "step-00000002"
    checkpoints.save(3, parts(3), {"step": 3})
    assert checkpoints.newest_whole() == (checkpoints.folder / "step-00000003", ())
    with pytest.raises(CheckpointError, match="is writing"), Checkpoints(checkpoints.folder, ONE):
        pass
    checkpoints.__exit__()
    with Checkpoints(checkpoints.folder, ONE):
        assert names(checkpoints.folder) == ["lock", "step-00000002", "step-00000003"]


def test_where_all_are_broken_nothing_starts_anew(checkpoints: Checkpoints):
    checkpoints.save(1, parts(1), {"step": 1})
    (checkpoints.folder / "step-00000001" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints is whole.*state\.json is not what was written"):
        checkpoints.newest_whole()
    assert names(checkpoints.folder) == ["lock", "step-00000001"]


def test_tensors_must_be_the_same(checkpoints: Checkpoints):
    path = checkpoints.save(1, parts(1), {"step": 1})
    with pytest.raises(
        CheckpointError, match=r"1 missing \['b'\], 1 unexpected \['step'\], 1 of another shape \['w'\]"
    ):
        read_part(path / "model", {"w": torch.zeros(2, 2), "b": torch.zeros(1)})


def test_one_of_a_later_version_is_refused(checkpoints: Checkpoints):
    path = checkpoints.save(1, parts(1), {"step": 1})
    (path / "state.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(CheckpointError, match="version 2, this tubelet reads 1"):
        read_state(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"), Checkpoints(tmp_path / "file" / "run", ONE):
        pass


def test_a_full_disk_leaves_what_was_there(tmp_path: Path):
    """No file may pass a limit, as on a disk that is full; the next start with room goes on."""
    config = toy_config(tmp_path / "run", steps=8)
    run_to_the_end(replace(config, folder=tmp_path / "unbroken"))
    run_to_the_end(replace(config, steps=4, schedule=config.schedule))
    before = names(config.folder)
    assert finish(start(config, 1, Behaviour(file_bytes=10_000))) == [1]
    assert "CheckpointError" in said(config) and "step-00000006" in said(config) and "bytes are free" in said(config)
    assert names(config.folder) == before
    assert newest_whole(config.folder).path == config.folder / "step-00000004"


def test_too_little_room_is_told_before_anything_is_written(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    checkpoints.save(1, parts(1), {"step": 1})
    usage = shutil.disk_usage(checkpoints.folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"28 bytes are needed and 1,000 are free") as e:
        checkpoints.save(2, parts(2.0), {"step": 2})
    assert (e.value.expected, e.value.got) == (28, 1000) and ".step-00000002" in str(e.value.source)
    assert names(checkpoints.folder) == ["lock", "step-00000001"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_rank_that_cannot_write_ends_all(tmp_path: Path, strategy: str):
    config = toy_config(tmp_path / "run", steps=2, strategy=strategy, accumulation=1)
    ranks = start(config, 2, Behaviour(file_bytes=5_000))
    codes = finish(ranks)
    assert None not in codes and 0 not in codes
    assert said(config).count("CheckpointError") >= 2
    assert not [n for n in names(config.folder) if "step" in n]


def test_training_may_go_on_without_a_save(tmp_path: Path):
    config = toy_config(tmp_path / "run", steps=5, save=SaveConfig(2, None, on_error="go_on"))
    assert finish(start(config, 1, Behaviour(file_bytes=10_000))) == [1]  # the last save must succeed
    kinds = [line["kind"] for line in read_log(config.folder / LOG)]
    assert kinds.count("not_saved") == 2 and kinds.count("step") == 5


def test_a_resume_says_from_where_and_refuses_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = toy_config(tmp_path / "run", steps=4)
    run(config)
    run(replace(config, steps=6))
    said = capsys.readouterr().err
    assert "goes on from step 4 of" in said and "steps 4 -> 6" in said and "same machine, bit-equal" in said
    with pytest.raises(CheckpointError, match="belongs to another run: samples, seed"):
        run(replace(config, steps=8, seed=12))
    with pytest.raises(RunError, match="has checkpoints"):
        run(replace(config, resume="never"))
    with pytest.raises(CheckpointError, match="tensors differ"):
        run(replace(config, steps=8, optimizer=replace(config.optimizer, kind="adamw")))


def test_a_named_checkpoint_is_taken_and_its_differences_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = toy_config(tmp_path / "first", steps=4)
    run(config)
    other = replace(config, folder=tmp_path / "second", steps=6, seed=12, resume=str(tmp_path / "first"))
    assert run(other).step == 6
    assert "so the order does" in capsys.readouterr().err
    anew = replace(config, folder=tmp_path / "third", init=tmp_path / "first" / "step-00000004", init_optimizer=True)
    assert run(anew).step == 4
    assert "starts at step 0" in capsys.readouterr().err
    assert digest(tmp_path / "third") != digest(tmp_path / "first")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        run(replace(config, folder=tmp_path / "fourth", init=tmp_path / "nothing"))


def test_frozen_weights_must_be_the_same(tmp_path: Path):
    from tests.train.train_toy import Toy

    config = toy_config(tmp_path / "run", steps=2)
    run(config)
    model = Toy()
    with torch.no_grad():
        model.tower.weight.mul_(2)
    with pytest.raises(CheckpointError, match="frozen parameters are others"):
        run(replace(config, steps=4), model=model)


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path):
    (tmp_path / "lock").write_text("1\n")
    (tmp_path / ".step-00000003.aaaa.new").mkdir()
    with Checkpoints(tmp_path, ONE):
        assert names(tmp_path) == ["lock"]
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
