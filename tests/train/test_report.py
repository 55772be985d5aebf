"""What a run tells."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from tests.full_disk import full_disk

from tubelet.errors import InputError, RunError
from tubelet.train.config import ReportConfig
from tubelet.train.report import CURVE, LOG, Figures, Report, curve, read_log


def figures(step: int, loss: float = 1.0) -> Figures:
    return Figures(step, loss, 10.0, 12, 0.5, 1.0, 0.25, 1e6, {"right": 0.5})


def test_a_line_a_step_and_a_picture(tmp_path: Path):
    report = Report(
        tmp_path, ReportConfig(bar=False, every_steps=2, peak_flop_per_s=1e8), speaks=True, start=0, steps=6
    )
    for step in range(6):
        report.step(figures(step, 6.0 - step), {"adamw": 1e-3})
    report.close()
    lines = read_log(tmp_path / LOG)
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert lines[0]["tokens_per_s"] == 48.0 and lines[0]["mfu"] == pytest.approx(0.04) and lines[0]["right"] == 0.5
    with Image.open(tmp_path / CURVE) as picture:
        assert picture.size[0] > 800 and len(picture.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_numbers_that_are_not_finite_are_null(tmp_path: Path):
    report = Report(tmp_path, ReportConfig(bar=False), speaks=True, start=0, steps=2)
    report.step(figures(0, math.nan), {"adamw": math.inf})
    report.close()
    line = json.loads((tmp_path / LOG).read_text())
    assert line["loss"] is None and line["lr"] == {"adamw": None}
    assert not (tmp_path / CURVE).exists()


def test_a_log_that_was_cut_short_goes_on(tmp_path: Path):
    (tmp_path / LOG).write_text('{"kind": "step", "step": 0}\n{"kind": "st')
    report = Report(tmp_path, ReportConfig(bar=False, curve=False), speaks=True, start=1, steps=2)
    report.event("start", "goes on", {"step": 1})
    report.close()
    assert [line["kind"] for line in read_log(tmp_path / LOG)] == ["step", "start"]


def test_other_ranks_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = Report(tmp_path, ReportConfig(), speaks=False, start=0, steps=2)
    report.step(figures(0), {"adamw": 1.0})
    report.event("start", "nobody hears it", {})
    report.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""


def test_the_bar_tells_what_a_person_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    report = Report(tmp_path, ReportConfig(curve=False, peak_flop_per_s=1e8), speaks=True, start=0, steps=4)
    assert report._bar is not None
    report.step(figures(0), {"adamw": 1e-3})
    told = report._bar.tasks[0].fields["told"]
    report.close()
    assert "loss 1" in told and "lr 1.00e-03" in told and "48 tokens/s" in told and "GiB" in told and "MFU 4.0%" in told


def test_long_curves_are_averaged():
    steps = [
        {"step": i, "loss": 2.0, "grad_norm": None, "rate": 1.0, "tokens_per_s": 5.0, "tokens": 3} for i in range(2000)
    ]
    assert curve(steps, "run") is not None
    assert curve(steps[:1], "run") is None


def test_tensorboard_is_there_or_an_error(tmp_path: Path):
    if find_spec("tensorboard") is None:
        with pytest.raises(RunError, match="pip install tensorboard"):
            Report(tmp_path, ReportConfig(bar=False, tensorboard=True), speaks=True, start=0, steps=2)
        return
    report = Report(tmp_path, ReportConfig(bar=False, tensorboard=True), speaks=True, start=0, steps=2)
    report.step(figures(0), {"adamw": 1.0})
    report.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_log_that_cannot_be_written(tmp_path: Path):
    report = Report(tmp_path, ReportConfig(bar=False, curve=False), speaks=True, start=0, steps=2)
    with full_disk(10):
        with pytest.raises(RunError, match="log could not be written: File too large"):
            report.step(figures(0), {"adamw": 1.0})
        with pytest.raises(RunError, match="File too large"):
            report.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOG).symlink_to("/dev/full")
    with pytest.raises(InputError):
        Report(tmp_path / "other", ReportConfig(bar=False), speaks=True, start=0, steps=2)
