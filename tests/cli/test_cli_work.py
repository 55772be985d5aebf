"""Long work is told before it begins, and how far it is where nobody watches a bar."""

import time

import pytest

from tubelet.cli import progress, work
from tubelet.cli.terminal import Terminal


def test_long_work_is_told_and_short_work_is_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("tubelet.inspect.speed.rate.gemm_rate", lambda *_, **__: 5e10)
    work.tell_flop(Terminal(), 6 * 10**12, 384, dtype="float32", device="cpu")
    told = capsys.readouterr().err
    assert told == "tubelet: about 2:00 min or more: 6,000 GFLOP at 50 GFLOP/s as measured\n"
    work.tell_flop(Terminal(), 5 * 10**11, 384, dtype="float32", device="cpu")
    work.tell_flop(Terminal(quiet=True), 6 * 10**12, 384, dtype="float32", device="cpu")
    assert capsys.readouterr().err == ""


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with progress.progress(Terminal(), 3) as tick:
        tick("encoding", 1)
        said = ""
        while "encoding, 1 of 3 files done" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
    with progress.progress(Terminal(quiet=True), 3):
        time.sleep(0.03)
