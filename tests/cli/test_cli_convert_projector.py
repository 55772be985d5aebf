"""`tubelet convert --to projector`: LLaVA's stage-one file and whole checkpoints."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tubelet.cli import main
from tubelet.families.onevision import VARIANTS
from tubelet.language.project.files import load_projector, save_projector
from tubelet.language.project.projector import Projector, build_projector
from tubelet.weights.load import load_encoder, untrained
from tubelet.weights.save import save_encoder


def run(*args: object) -> int:
    return main([str(a) for a in args])


@pytest.fixture
def stage_one(tmp_path: Path) -> tuple[Path, Projector]:
    projector = build_projector("spatial_merge", 4, 6)
    path = tmp_path / "mm_projector.bin"
    torch.save({f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}, path)
    return path, projector


@pytest.mark.skipif(sys.platform == "win32", reason="the door for pickles exists on POSIX only")
@pytest.mark.usefixtures("confined_forks")
def test_a_stage_one_file(stage_one: tuple[Path, Projector], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, projector = stage_one
    args = ("convert", path, tmp_path / "out", "--to", "projector")
    assert run(*args) == 1
    assert "--unsafe-pickle" in capsys.readouterr().err
    assert run(*args, "--unsafe-pickle") == 1
    said = capsys.readouterr().err
    assert said.startswith("tubelet: mm_projector.bin: ") and "kind=" not in said
    assert said.endswith("say which kind it is, --config spatial_merge or --config patch_merger\n")
    assert not (tmp_path / "out").exists()
    assert run(*args, "--unsafe-pickle", "--config", "spatial_merge", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["kind"], told["merge"], told["tensors"], told["bit_equal"]) == (
        "convert", "spatial_merge", 2, 6, True,
    )  # fmt: skip
    loaded = load_projector(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in projector.state_dict().items())


def test_what_is_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = save_projector(build_projector("mlp2x_gelu", 4, 6), tmp_path)
    assert run("convert", source, tmp_path / "out", "--to", "projector") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == ["kind     mlp2x_gelu, 4 -> 6", "tensors  4, 0.00 MiB, bit for bit the same"]
    assert run("convert", source, tmp_path / "out", "--to", "projector") == 1
    assert "exists" in capsys.readouterr().err
    for useless in (("--variant", "custom"), ("--drop", "pool"), ("--eps", "upstream")):
        assert run("convert", source, tmp_path / "o", "--to", "projector", *useless) == 2
        assert "no meaning" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_projector_is_folded_into_a_tower(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = replace(VARIANTS["llava_vit_packing_small"], hidden=64, layers=3, heads=2, mlp=32)
    save_encoder(untrained(config), tmp_path / "tower", "packing")
    save_projector(build_projector("spatial_merge", 64, 6), tmp_path)
    args = ("convert", tmp_path / "tower", tmp_path / "ov2", "--to", "ov2", "--projector", tmp_path)
    assert run(*args) == 2
    assert "go together" in capsys.readouterr().err
    assert run(*args[:-3], "packing", *args[-2:], "--select-layer", "-2") == 2
    assert "--to ov2" in capsys.readouterr().err
    assert run(*args, "--select-layer", "-2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["to_format"], told["bit_equal"], told["max_abs_diff"], told["dropped"]) == ("ov2", True, 0.0, ["pool"])
    tower = load_encoder(tmp_path / "ov2")
    assert (tower.config.layers, tower.config.out, tower.pixels.merge) == (2, 6, 2)
