"""The cost of very many files: the formulas by hand, and the advice that follows."""

import json
from pathlib import Path

import pytest

from tubelet.cli import main
from tubelet.errors import ConfigError
from tubelet.families.onevision import VARIANTS
from tubelet.inspect.budget.fleet import fleet_cost
from tubelet.inspect.budget.flops import encoder_flop
from tubelet.packed.grid import Grid

GIVEN = {"files": 10**9, "patches": 1024.0, "tokens": 1024.0, "width": 1024, "flop": 5.6e14 / 771, "gpus": 64}


def test_a_thousand_million_pictures_by_hand():
    cost = fleet_cost(**GIVEN, price=3.5)
    assert cost.gpu_hours == pytest.approx(1e9 / 771 / 3600)
    assert cost.hours == pytest.approx(cost.gpu_hours / 64)
    assert cost.dollars == pytest.approx(360.28 * 3.5, rel=1e-4)
    whole, fewer, pooled = cost.stored
    assert (whole.bytes, fewer.bytes, pooled.bytes) == (1e9 * 2**21, 1e9 * 2**17, 1e9 * 2**11)
    assert whole.dollars_per_month == pytest.approx(1e9 * 2**21 / 1e9 * 0.023)
    assert cost.shards == 3_906_250
    assert cost.list_calls == 3_907
    assert cost.read_bytes_per_s == pytest.approx(771 * 64 * 400_000)
    assert "64 tokens a file" not in cost.advice  # 131 TB are 3,015 dollars a month
    assert "store pooled vectors" in cost.advice


def test_advice_follows_the_money():
    assert "store pooled" in fleet_cost(**GIVEN).advice
    assert fleet_cost(**GIVEN, price=3.5, storage_price=1e-6).advice.startswith("all tokens can be stored")
    assert fleet_cost(**GIVEN, price=3.5, storage_price=100.0).advice.startswith("store nothing")


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ConfigError):
        fleet_cost(**{**GIVEN, "gpus": 0})


def test_the_command_counts_as_the_formulas_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "list.txt").write_text("a.jpg\n\nb.jpg\n")
    words = ["plan", "--size", "512x512", "--manifest", str(tmp_path / "list.txt"), "--gpus", "2", "--price", "4"]
    words += ["--model", "llava_vit_packing_small"]
    assert main([*words, "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["fleet"]
    flop = sum(encoder_flop(VARIANTS["llava_vit_packing_small"], [Grid(1, 32, 32)]).values())
    assert cost["files"] == 2
    assert cost["gpu_hours"] == pytest.approx(2 * flop / 5.6e14 / 3600)
    assert cost["stored"][0]["bytes"] == 2 * 1024 * 384 * 2
    assert main(words) == 0
    assert "2 files on 2 GPUs" in capsys.readouterr().out
    assert main(["plan", "--size", "512x512", "--gpus", "2"]) == 2
    assert main(["plan", "--size", "512x512", "--manifest", "none"]) == 2
    assert main(["plan", "--size", "512x512", "--manifest", "x" * 5000]) == 2
    assert main(["plan", "--size", "512x512", "--patch", "16", "--manifest", "5"]) == 2
