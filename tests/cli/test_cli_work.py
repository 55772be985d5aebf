"""Long work is told before it begins, and how far it is where nobody watches a bar."""

from queue import Queue
from threading import enumerate as enumerate_threads

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
    heard: Queue[str] = Queue()
    say = Terminal.say

    def noted(self: Terminal, text: str) -> None:
        say(self, text)
        heard.put(text)

    monkeypatch.setattr(Terminal, "say", noted)
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with progress.progress(Terminal(), 3) as tick:
        tick("encoding", 1)
        while "encoding, 1 of 3 files done" not in heard.get(timeout=60):
            pass
    assert "encoding, 1 of 3 files done" in capsys.readouterr().err
    with progress.progress(Terminal(quiet=True), 3):
        assert "tubelet-progress" not in [thread.name for thread in enumerate_threads()]
