"""Names that no file has, at every door of training data and runs: errors of ours, and never a wait."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tubelet.errors import InputError, TubeletError
from tubelet.train.config import TrainConfig, read_config
from tubelet.train.data.check import check
from tubelet.train.data.lines import open_records
from tubelet.train.data.mixture import read_registry
from tubelet.train.data.open import open_dataset
from tubelet.train.data.root import Root
from tubelet.train.data.tar import open_archive
from tubelet.train.evaluate.questions import read_questions
from tubelet.train.lora import load_lora

DOORS: dict[str, Callable[[str], object]] = {
    "data set": open_dataset,
    "records": lambda name: open_records(name, Root(".")),
    "archive": open_archive,
    "registry": read_registry,
    "root": Root,
    "name in a root": lambda name: Root(".").path(f"{name}/../x", "a.json"),
    "configuration": lambda name: read_config(TrainConfig, name),
    "adapters": lambda name: load_lora(torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)}), name),
    "questions": lambda name: read_questions("docvqa", [name], "."),
    "root of questions": lambda name: read_questions("docvqa", ["set.json"], name),
}
NAMES = ["x" * 5000, "y" * 300, "x/" * 5000 + "x", "a\0b", "\ud800", "loop", "loop/x", "file/x", "pipe", "/dev/full"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("file").touch()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("suffix", ["", ".json", ".jsonl", ".tar", ".json:a"])
def test_every_door(door: str, suffix: str):
    for name in NAMES:
        with pytest.raises(TubeletError):
            DOORS[door](name + suffix)


def test_a_long_name_in_a_record_is_that_of_a_file_that_is_not_there():
    said = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    records = [{"image": name, "conversations": said} for name in ("y" * 300, "x/" * 1500 + "x", "loop/x", "gone.png")]
    Path("set.json").write_text(json.dumps(records))
    found = check(open_dataset("set.json"))
    assert found.bad == len(records) and "unsafe name" not in found.faults


def test_questions_that_are_nested_too_deeply():
    Path("deep.json").write_text("[" * 9000)
    with pytest.raises(InputError, match="as JSON"):
        read_questions("docvqa", ["deep.json"], ".")
