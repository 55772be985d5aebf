"""Workers that are begun before there is a plan: they serve it, and nobody is left when they are not needed."""

import subprocess
from pathlib import Path

import pytest
from tests.scale.conftest import Begun
from tests.scale.runs import digests

from tubelet.scale.interpreters import Interpreters
from tubelet.scale.local import run


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
