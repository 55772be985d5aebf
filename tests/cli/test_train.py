"""`tubelet train`: the example configurations on tiny random models, from the command line to what they leave."""

import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.tiny_models import write_all

import tubelet
from tubelet.cli import main
from tubelet.language.project.projector import build_projector
from tubelet.train.checkpoint import shapes_of
from tubelet.train.config import read_config
from tubelet.train.lora import load_lora
from tubelet.train.manifest import newest_whole
from tubelet.train.open_model import load_vlm, open_language
from tubelet.train.report import read_log
from tubelet.train.run_config import RunConfig

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "train"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_all(folder)
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def train(name: str, folder: Path, *words: str) -> int:
    return main(["train", str(EXAMPLES / f"{name}.yaml"), "--folder", str(folder), *words])


def told(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    return [line for line in read_log(folder / "log.jsonl") if line["kind"] == kind]


def test_a_projector_learns_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train("projector", tmp_path / "run", "--steps", "30", "--optimizer.lr", "2e-2") == 0
    said = capsys.readouterr()
    losses = [line["loss"] for line in told(tmp_path / "run")]
    assert len(losses) == 30 and losses[-1] < losses[0] - 0.3
    assert "learns projector: 4 tensors, 3,936 of 101,200 (3.9 %)" in said.err
    assert "learned projector: 4 tensors, 3,936 of 101,200 (3.9 %)" in said.err
    assert "step 30/30  loss" in said.err and "tokens/s" in said.err  # plain lines where nobody watches
    assert "final" in said.out and (tmp_path / "run" / "curve.png").stat().st_size > 1000
    held = shapes_of(tmp_path / "run" / "step-00000030" / "model")
    assert sorted(held) == [f"vlm.projector.{n}" for n in ("0.bias", "0.weight", "2.bias", "2.weight")]
    projector = tubelet.load_projector(tmp_path / "run" / "final")
    torch.manual_seed(0)
    first = build_projector("mlp2x_gelu", 32, 48)
    assert projector.config == first.config
    assert not torch.equal(next(projector.parameters()), next(first.parameters()))


def test_it_goes_on_from_the_newest_checkpoint_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps = ("--schedule.kind", "constant")
    assert train("projector", tmp_path / "run", *steps, "--steps", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["step"], said["stopped_by"], said["learned"][0]["parameters"]) == (2, None, 3936)
    assert train("projector", tmp_path / "run", *steps, "--steps", "4", "--quiet") == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0].startswith(f"goes on from step 2 of {tmp_path / 'run' / 'step-00000002'}"), said.err
    assert "steps 2 -> 4" in lines[0] and said.out == ""
    assert [line["step"] for line in told(tmp_path / "run")] == [0, 1, 2, 3]
    assert train("projector", tmp_path / "run", *steps, "--resume", "never") == 1
    assert "resume='auto' goes on" in capsys.readouterr().err


def test_adapters_learn_and_load_bit_equal(tmp_path: Path):
    assert train("lora", tmp_path / "run", "--optimizer.lr", "1e-2") == 0
    losses = [line["loss"] for line in told(tmp_path / "run")]
    assert losses[-1] < losses[0]
    config = read_config(RunConfig, EXAMPLES / "lora.yaml")
    trained = open_language(config)
    from tubelet.train.export import fill

    path = newest_whole(tmp_path / "run").path
    assert path is not None
    fill(trained, path)
    fresh = load_vlm(config.model, 0)
    assert load_lora(fresh, tmp_path / "run" / "final" / "adapter") == config.lora
    assert all(torch.equal(a, b) for a, b in zip(trained.vlm.parameters(), fresh.parameters(), strict=True))
    assert any(bool(p.any()) for n, p in fresh.named_parameters() if "lora_B" in n)


def test_the_whole_chain_of_an_alignment_converges(tmp_path: Path):
    words = ("--steps", "30", "--optimizer.lr", "1e-2", "--alignment.lora.dropout", "0", "--alignment.lora.alpha", "16")
    assert train("alignment", tmp_path / "run", *words) == 0
    steps = told(tmp_path / "run")
    assert steps[0]["loss"] > 0.8 * math.log(8)  # chance
    last = sum(line["loss"] for line in steps[-3:]) / 3
    assert last < 0.8 * steps[0]["loss"] and steps[-1]["cosine"] > steps[0]["cosine"]
    assert (tmp_path / "run" / "final" / "adapter" / "adapter_model.safetensors").exists()


def test_a_whole_model_is_written(tmp_path: Path):
    words = ("--parts", "mm_mlp_adapter,mm_language_model", "--steps", "2", "--export", "whole")
    assert train("projector", tmp_path / "run", *words) == 0
    vlm = tubelet.VLM.from_pretrained(tmp_path / "run" / "final" / "model")
    held = shapes_of(tmp_path / "run" / "step-00000002" / "model")
    assert held["vlm.projector.0.weight"] == dict(vlm.named_parameters())["projector.0.weight"].shape


def test_bad_samples_are_replaced_and_listed_and_too_many_stop(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    records = json.loads((place / "data" / "blip_laion_cc_sbu_558k.json").read_text())
    records[3]["image"] = "gone.jpg"
    file = tmp_path / "some.json"
    file.write_text(json.dumps(records))
    words = ("--data.paths", str(file), "--data.root", str(place / "data"), "--steps", "4")
    assert train("projector", tmp_path / "few", *words, "--data.most-bad", "0.05") == 0
    [bad] = set((tmp_path / "few" / "bad.jsonl").read_text().splitlines())
    assert json.loads(bad)["index"] == 3
    assert train("projector", tmp_path / "many", *words) == 1
    assert "1 of 24 samples cannot be used, more than 1.00%" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert train("projector", tmp_path / "run", "--mm_tunable_parts", "mm_mlp_adaptor") == 1
    assert "did you mean mm_mlp_adapter" in capsys.readouterr().err
    assert train("projector", tmp_path / "run", "--optimizer.lrr", "3") == 2
    assert "lrr" in capsys.readouterr().err
    assert main(["train", "nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err
    assert main(["train", str(EXAMPLES / "alignment.yaml"), "--model.text-tower", "None"]) == 2
    assert "text_tower says whose words" in capsys.readouterr().err


def test_help_lists_every_entry_with_its_comment(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--help"]) == 0
    assert "CONFIG.yaml" in capsys.readouterr().out
    assert main(["train", str(EXAMPLES / "projector.yaml"), "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for entry in ("--optimizer.lr", "--steps", "--strategy", "--resume", "--data.paths", "--model.projector"):
        assert entry in said
    assert "optimizer steps; every schedule counts them" in said


def test_sigterm_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Stopped amid a long run it saves and says 143."""
    log = tmp_path / "run" / "log.jsonl"

    def stops() -> None:
        while not log.exists() or not told(tmp_path / "run"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    other = threading.Thread(target=stops)
    other.start()
    assert train("projector", tmp_path / "run", "--steps", "100000", "--save.every-s", "None") == 143
    other.join()
    assert "stopped by SIGTERM" in capsys.readouterr().out
    path = newest_whole(tmp_path / "run").path
    assert path is not None and int(path.name[-8:]) == told(tmp_path / "run")[-1]["step"] + 1


def test_trainer_runs_the_same(tmp_path: Path):
    """transformers' Trainer in place of the loop: the same losses, and what learned is written."""
    from tubelet.integrations.trainer import CHECKPOINTS
    from tubelet.integrations.trainer_run import driven_by_trainer
    from tubelet.train.launch import run

    config = replace(
        read_config(RunConfig, EXAMPLES / "projector.yaml", ["--device", "cpu"]), folder=tmp_path / "trainer"
    )
    ended = run(config, drive=driven_by_trainer(None), naming=CHECKPOINTS)
    assert ended.final is not None and (ended.final / "mm_projector.safetensors").exists()
    assert train("projector", tmp_path / "loop", "--device", "cpu") == 0
    ours, theirs = ([line["loss"] for line in told(tmp_path / name)] for name in ("loop", "trainer"))
    assert theirs == pytest.approx(ours, rel=1e-6)
    one, two = (tubelet.load_projector(tmp_path / name / "final") for name in ("loop", "trainer"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
