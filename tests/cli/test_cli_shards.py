"""`tubelet encode ... --out OUT/`: what is written and said, how it ends, and what is asked of it afterwards."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.cli.cli_inputs import write_picture

from tubelet import Packed
from tubelet.cli import main
from tubelet.scale import local
from tubelet.scale.store import open_store
from tubelet.scale.tokens import TokenFolder


def encode(*args: object) -> int:
    return main(["encode", *map(str, args)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine pictures in two folders, one of them no picture at all."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for i in range(8):
        write_picture(tmp_path / "pictures" / ("more" if i % 2 else "") / f"{i}.png", 32 + 8 * i, 40, i)
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_a_folder_of_shards_holds_what_one_file_would(
    pictures: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    given = ("--model", model, "--pool", "--shard-tokens", 30)
    assert encode(pictures, *given, "--out", f"{out}/", "--json") == 1  # one file is bad
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shards, last = lines[:-1], lines[-1]
    assert {line["event"] for line in shards} == {"shard"}
    assert {line["state"] for line in shards} == {"done"}
    assert sum(line["files"] for line in shards) == last["files"] == 9
    assert (last["command"], last["pending"], last["bad"], last["done"]) == ("encode", 0, 1, len(shards))
    tokens = TokenFolder(out)
    names = [str(p) for p in sorted(pictures.rglob("*.png"))]
    assert encode(*names, "--model", model, "--pool", "--out", tmp_path / "one.safetensors", "--quiet") == 0
    one = Packed.load(tmp_path / "one.safetensors")
    for i, name in enumerate(names):
        assert torch.equal(tokens.by_file(name).x, one[i].x)
    assert (out / "DONE.json").exists()
    assert json.loads((out / "bad.jsonl").read_text())["error"] == "UnsupportedFormat"
    # again: nothing is done twice, and nothing is replaced
    before = {p: p.stat().st_mtime_ns for p in (out / "shards").rglob("*.safetensors")}
    assert encode(pictures, *given, "--out", out, "--quiet") == 1
    assert encode("--resume", out, "--quiet") == 1
    assert {p: p.stat().st_mtime_ns for p in (out / "shards").rglob("*.safetensors")} == before
    assert encode("--status", out) == 0
    assert f"{len(shards)} of {len(shards)}" in capsys.readouterr().out
    assert encode("--verify", out) == 0
    assert encode(pictures, *given, "--dtype", "float16", "--out", out) == 1
    assert "dtype was 'float32' and is 'float16'" in capsys.readouterr().err
    (pictures / "broken.jpg").write_bytes((pictures / "0.png").read_bytes() + b" ")
    assert encode("--retry-bad", out, "--quiet") == 0
    again = TokenFolder(out / "retry-1").by_file(str(pictures / "broken.jpg"))
    assert again.lengths == tokens.by_file(names[0]).lengths


def test_max_bad_stops_with_a_code_of_its_own(
    pictures: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = (pictures, "--model", model, "--out", f"{tmp_path / 'out'}/", "--shard-tokens", 10)
    assert encode(*given, "--max-bad", 0, "--quiet") == 3
    assert "--max-bad allows 0" in capsys.readouterr().err
    assert not (tmp_path / "out" / "DONE.json").exists()
    assert encode(*given, "--quiet") == 1
    assert (tmp_path / "out" / "DONE.json").exists()


def test_people_read_what_was_done(pictures: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert encode(pictures, "--model", model, "--out", f"{out}/", "--workers", 2) == 1
    said = capsys.readouterr()
    assert "2 workers and 1 shard to make: some have nothing to do" in said.err
    assert "1 file could not be encoded" in said.out
    assert "broken.jpg: UnsupportedFormat: " in said.out
    assert "tokens/s" in said.out
    assert f"model   {model}" in said.out.replace("\n", "")
    assert encode("--resume", out) == 1
    assert "every shard was there" in capsys.readouterr().out
    assert encode("--verify", out) == 0
    assert "1 shard, 9 files, each once" in capsys.readouterr().out
    (pictures / "broken.jpg").unlink()
    fine = tmp_path / "fine"
    assert encode(pictures, "--model", model, "--out", f"{fine}/", "--quiet") == 0
    assert encode("--retry-bad", fine) == 0
    assert "no file of this run is bad" in capsys.readouterr().err
    assert not (fine / "retry-1").exists()


def test_a_plan_alone_is_gone_on_with(pictures: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert encode(pictures, "--model", model, "--out", f"{out}/", "--plan-only", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["done"], said["files"]) == (0, 9)
    assert not (out / "shards").exists()
    assert encode("--resume", out, "--plan-only") == 2
    assert "--plan-only is for a run that has no plan yet" in capsys.readouterr().err
    assert encode("--resume", out, "--quiet") == 1
    assert encode("--verify", out, "--quiet") == 0


def test_ranks_share_a_run(pictures: Path, model: Path, tmp_path: Path):
    given = (pictures, "--model", model, "--out", f"{tmp_path / 'out'}/", "--shard-tokens", 30, "--quiet")
    assert encode(*given, "--rank", 1, "--world", 2) == 1  # takes what nobody else works on as well
    assert encode(*given, "--rank", 0, "--world", 2) == 1
    assert encode("--verify", tmp_path / "out", "--quiet") == 0


def test_verify_ends_with_one_where_a_shard_is_missing(pictures: Path, model: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert encode(pictures, "--model", model, "--out", f"{out}/", "--quiet") == 1
    next((out / "shards").rglob("*.safetensors")).unlink()
    assert encode("--verify", out, "--quiet") == 1
    assert encode("--resume", out, "--quiet") == 1
    assert encode("--verify", out, "--quiet") == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("x.png",), "--out names the .safetensors file"),
        (("x.png", "--out", "o.safetensors", "--world", "2"), "--world is for many files"),
        (("x.png", "--out", "o/", "--overwrite"), "a run goes on where it stopped"),
        (("x.png", "--out", "o/", "--rank", "2", "--world", "2"), "--rank counts from 0"),
        (("x.png", "--out", "o/", "--max-bad", "many"), "--max-bad is a number of files"),
        (("x.png", "--out", "o/", "--select", "norm"), "--select and --budget belong together"),
        (("x.png", "--out", "o/", "--pool-only"), "--pool-only belongs to --pool"),
        (("x.png", "--out", "o/", "--model", "siglip2_base_patch16_nafle"), "did you mean siglip2_base_patch16_naflex"),
        (("--out", "o/"), "name at least one file"),
        (("--status", "o/", "--verify", "o/"), "one at a time"),
        (("x.png", "--status", "o/"), "name none"),
        (("--resume", "o/", "--dtype", "float16"), "dtype was given again"),
    ],
)
def test_a_wrong_command_line_says_what(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert encode(*words) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_a_folder_with_other_things_in_it_is_no_output(
    pictures: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    assert encode(pictures, "--model", model, "--out", tmp_path / "mine") == 1
    assert "thesis.txt" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_pools_alone_and_chosen_tokens_are_written(pictures: Path, model: Path, tmp_path: Path):
    out = tmp_path / "pooled"
    assert encode(pictures, "--model", model, "--pool", "--pool-only", "--out", f"{out}/", "--quiet") == 1
    ids, pooled = TokenFolder(out).pooled(0)
    assert pooled.shape == (8, 64)
    assert len(TokenFolder(out)[ids[0]].x) == 0
    one = tmp_path / "one.safetensors"
    given = ("--model", model, "--quiet", "--out", one)
    assert encode(pictures / "0.png", pictures / "2.png", "--select", "norm", "--budget", 3, *given) == 0
    assert Packed.load(one).lengths == (3, 3)
    assert encode(pictures / "0.png", "--merge", 2, "--overwrite", *given) == 0
    assert Packed.load(one).x.shape[1] == 4 * 64


def test_two_processes_encode(pictures: Path, model: Path, tmp_path: Path):
    """In interpreters of their own, as on a user's machine."""
    out = tmp_path / "out"
    given = (pictures, "--model", model, "--out", f"{out}/", "--shard-tokens", 30, "--quiet")
    assert encode(*given, "--workers", 2) == 1
    assert encode("--verify", out, "--quiet") == 0
    assert list(open_store(out).list("attempts")) == []
    assert local.pending(TokenFolder(out).plan, open_store(out)) == []


def test_sigterm_ends_with_143_and_the_same_command_goes_on(
    pictures: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def ended(*_: object, **__: object) -> Iterator[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        yield

    before = signal.getsignal(signal.SIGTERM)
    given = (pictures, "--model", model, "--out", f"{tmp_path / 'out'}/", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(local, "run", ended)
        assert encode(*given) == 143
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
    assert encode(*given) == 1
