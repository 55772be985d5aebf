"""`tubelet bench` on towers too small to time: outputs are compared, and what is reported holds together."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from tubelet.cli import main
from tubelet.cli.bench import FAMILIES
from tubelet.encoder.cpu import work_dtype
from tubelet.errors import RunError
from tubelet.inspect.speed import encoders
from tubelet.inspect.speed.encoders import Case, fastest, peers_missing, products, run, threads
from tubelet.inspect.speed.towers import TOWERS, Shape, Tower

SMALL = Shape(hidden=64, heads=2, mlp=256, layers=2, patch=16, image=64)


@pytest.mark.parametrize("tower", TOWERS, ids=lambda t: t.peer)
def test_every_tower_agrees_and_is_reported(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoders.MIXES, "tiny", ((4, 4), (2, 6), (8, 4)))
    got = run(Case(tower, SMALL, "tiny", rounds=1, squares=3))
    assert got["tokens"] == (48 if tower.kind == "square" else 60)
    assert got["padding"] == (1.6 if tower.kind == "padded" else 1.0)
    assert (got["relative_error"] is not None) == tower.weights
    assert set(got["times"]) == {"tubelet", "tubelet (again)", tower.peer}
    assert got["ratios"].keys() == {tower.peer}
    assert set(got["share_of_gemm"]) == set(got["times"])
    assert got["useful_gflop"] >= 0
    assert got["gemm_gflops"] > 0
    assert got["gemm"] in ("addmm", "onednn")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_of_the_type_that_is_multiplied_here(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(torch, "addmm", lambda b, x, w, *, out: seen.append((x.dtype, tuple(x.shape), w.shape[1])))
    config = encoders.pair(TOWERS[0], SMALL)[0].config
    runs, flop = products(config, 10, "cpu", dtype)
    runs["addmm"]()
    assert seen == [(work_dtype(dtype), (10, i), o) for i, o in ((64, 192), (64, 64), (64, 256), (256, 64))]
    assert flop == 2 * 10 * 64 * (192 + 64 + 256 + 256)
    assert fastest({"a": 2.0, "b": 0.5}, 10.0) == ("b", 20.0)


def test_towers_that_disagree_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(TOWERS[0], SMALL, "one", rounds=1)
    honest = encoders.pair

    def changed(tower: Tower, shape: Shape) -> tuple:
        ours, peer = honest(tower, shape)
        with torch.no_grad():
            ours.layers[0].fc2.weight.data = 2 * ours.layers[0].fc2.weight.data  # pyright: ignore
        return ours, peer

    monkeypatch.setattr(encoders, "pair", changed)
    with pytest.raises(RunError, match="nothing is timed"):
        run(case)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_every_family_has_a_name_and_a_peer() -> None:
    assert set(FAMILIES) == {t.family for t in TOWERS}
    assert {replace(t, weights=True).peer.split()[0] for t in TOWERS} == {"transformers", "timm"}
    assert peers_missing(TOWERS) == []


def test_the_command_writes_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "--family", "qwen3_vl", "--mix", "one", "--layers", "1", "--hidden", "64", "--rounds", "1"]
    assert main([*line, "--threads", "1", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["command"] == "bench"
    assert out["missing"] == []
    (name, result), *rest = out["results"].items()
    assert not rest
    assert name == "transformers Qwen3-VL, one, float32, 1 layers of 64, 1 thread"
    assert result["relative_error"] < 3e-5


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "--family", "clip", "--layers", "1", "--hidden", "64", "--rounds", "1"]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "CLIP" in text
    assert "faster" in text


@pytest.mark.parametrize(
    "wrong",
    [["--family", "vgg"], ["--dtype", "int8"], ["--threads", "two"], ["--threads", "0"], ["--hidden", "100"]],
    ids=" ".join,
)
def test_a_wrong_command_line_is_said(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


def test_without_peers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(encoders, "peers_missing", lambda towers: ["transformers"])
    assert main(["bench"]) == 2
    assert "pip install" in capsys.readouterr().err
    assert "tubelet.inspect.speed.encoders" in sys.modules
