"""Configurations from YAML, changed on the command line."""

import os
from pathlib import Path
from typing import Any

import pytest

from tubelet.errors import ConfigError
from tubelet.train.config import TrainConfig, from_tree, read_config, to_tree
from tubelet.train.order import Cost

TREE: dict[str, Any] = {
    "budget": 64,
    "steps": 10,
    "folder": "runs/one",
    "cost": [0.5, 1],
    "optimizer": {"kind": "muon", "lr": "1e-2", "betas": [0.9, 0.98], "split": {"*qkv*": 3}},
    "save": {"every_s": None, "every_steps": 5},
}


def test_a_file_is_read(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "budget: 64\nsteps: 10\nfolder: runs/one\ncost: [0.5, 1]\n"
        "optimizer: {kind: muon, lr: 1e-2, betas: [0.9, 0.98], split: {'*qkv*': 3}}\n"
        "save: {every_s: null, every_steps: 5}\n"
    )
    config = read_config(TrainConfig, file)
    assert config == from_tree(TrainConfig, TREE)
    assert config.optimizer.lr == 0.01 and config.cost == Cost(0.5, 1.0) and config.save.every_s is None
    changed = read_config(TrainConfig, file, ["--optimizer.lr", "0.5", "--save.keep", "3", "--strategy", "ddp"])
    assert (changed.optimizer.lr, changed.save.keep, changed.strategy) == (0.5, 3, "ddp")
    assert changed.optimizer.kind == "muon" and changed.folder == Path("runs/one")


def test_a_configuration_survives_a_round_trip():
    config = from_tree(TrainConfig, TREE)
    assert from_tree(TrainConfig, to_tree(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgett": 3}, "no entry budgett; budget is meant"),
        ({"optimizer": {"lrr": 3}}, "no entry optimizer.lrr; lr is meant"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr must be float, got 'fast'"),
        ({"optimizer": {"lr": True}}, "optimizer.lr must be float, got True"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr must be above 0, got 0"),
        ({"optimizer": 3}, "optimizer must be a list of names with values"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas must be 2 values, got [0.9]"),
        ({"optimizer": {"split": {"a": "b"}}}, "optimizer.split.a must be int"),
        ({"cost": {"cubic": 1}}, "cost must have quadratic, linear, constant"),
        ({"strategy": "zero"}, "strategy must be one or ddp or fsdp2, got 'zero'"),
        ({"steps": 2.5}, "steps must be int, got 2.5"),
        ({"steps": True}, "steps must be int, got True"),
        ({"ema": 1.0}, "ema lies between 0 and 1"),
        ({"save": {"keep": 1}}, "save.keep is at least 2"),
        ({"save": {"every_s": -1}}, "save.every_s must be above 0"),
        ({"schedule": {"decay_from": 2}}, "schedule.decay_from lies in 0 to 1"),
        ({"report": {"peak_flop_per_s": 0}}, "report.peak_flop_per_s must be above 0"),
        ({"prefetch": -1}, "prefetch must be 0 or more"),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str):
    with pytest.raises(ConfigError) as e:
        from_tree(TrainConfig, {**TREE, **change})
    assert message in str(e.value)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="budget missing"):
        from_tree(TrainConfig, {})
    with pytest.raises(ConfigError, match="steps, or epochs"):
        from_tree(TrainConfig, {"budget": 64})


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']", "\xff"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str):
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"^run\.yaml"):
        read_config(TrainConfig, file)


def test_wrong_words_on_the_command_line_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "run.yaml"
    file.write_text("{budget: 64, steps: 10}")
    with pytest.raises(SystemExit):
        read_config(TrainConfig, file, ["--optimizer.lrr", "3"])
    assert "lrr" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("pipe.yaml", "absent.yaml", "."):
        with pytest.raises(ConfigError, match="no such regular file"):
            read_config(TrainConfig, tmp_path / name)
    (tmp_path / "torn.yaml").write_text("budget: 64\nsteps: [\n")
    with pytest.raises(ConfigError, match="as YAML, from line 3 on"):
        read_config(TrainConfig, tmp_path / "torn.yaml")


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "{a: " * 3000, "budget: " + "9" * 5000, "budget: 2001-99-99", "budget: &a [*a]", "? [a]\n: b"],
    ids=["deep list", "deep object", "digits", "no date", "in itself", "a list as a name"],
)
def test_whatever_yaml_fails_of_is_one_error(text: str, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as e:
        read_config(TrainConfig, tmp_path / "run.yaml")
    assert e.value.source == "run.yaml"
