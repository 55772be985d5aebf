"""A run in a bucket of an S3 server: the same bits, in spite of kills, and everything that is asked of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.cli_inputs import write_picture
from tests.scale.runs import digests
from tests.scale.s3 import Server

from tubelet.cli import main
from tubelet.encoder.model import Encoder
from tubelet.scale.local import here
from tubelet.scale.options import EncodeOptions
from tubelet.scale.plan import make_plan, read_plan
from tubelet.scale.poison import notes_of
from tubelet.scale.status import done_shards, finish, verify
from tubelet.scale.store import open_store
from tubelet.scale.tokens import TokenFolder
from tubelet.scale.work import Worker


def test_a_run_in_a_bucket_gives_the_same(
    s3: Server, sixty: Path, wanted: EncodeOptions, encoder: Encoder, expected: dict[int, dict[str, str]]
):
    store = open_store(f"{s3.new_bucket()}/tokens")
    plan = make_plan([str(sixty)], wanted, store, workers=2)
    first = Worker(store, encoder=encoder).run(0)
    assert (first.state, Worker(store, encoder=encoder).run(0).state) == ("done", "skipped")
    list(here(Worker(store, encoder=encoder)))
    assert digests(plan, store) == expected
    assert verify(plan, store) == []
    assert finish(plan, store) is not None
    assert list(store.list("attempts")) == []
    assert len(TokenFolder(store.place)) == 60


def test_a_killed_run_in_a_bucket_goes_on(s3: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The command, two workers, SIGKILL after the first shard, the same command."""
    (tmp_path / "files").mkdir()
    for i in range(40):
        write_picture(tmp_path / "files" / f"{i:02d}.png", 64, 64, i)
    out = f"{s3.new_bucket()}/tokens"
    words = ["encode", str(tmp_path / "files"), "--model", "llava_vit_packing_small", "--shard-tokens", "60"]
    words += ["--workers", "2", "--out", out, "--quiet"]
    command = [sys.executable, "-W", "ignore", "-m", "tubelet", *words]
    first = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    store = open_store(out)
    until = time.monotonic() + 300
    while not list(store.list("shards")) and first.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    while any(note.live(300.0) for note in notes_of(store).values()) and time.monotonic() < until:
        time.sleep(0.02)  # its workers end by themselves
    plan = read_plan(store)
    there = {k: entry.time_s for k, entry in done_shards(plan, store).items()}
    assert 0 < len(there) < plan.shards
    assert main(words) == 0
    assert {k: entry.time_s for k, entry in done_shards(plan, store).items() if k in there} == there
    assert main(["encode", "--verify", out]) == 0
    assert main(["encode", "--status", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["done"], said["files_done"], said["bad"]) == (plan.shards, 40, 0)
