"""`tubelet compare`: every method at one budget, with its references; no number without its interval."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tubelet import read
from tubelet.cli import main
from tubelet.cli.compared import DRAWS
from tubelet.inspect.metrics import mean_of, summary
from tubelet.packed import concat
from tubelet.pixels.patchify import patchify
from tubelet.reduce.inputs import inputs_of
from tubelet.reduce.methods import choose
from tubelet.reduce.settings import Settings
from tubelet.weights.load import load_encoder

NUMBER = re.compile(r"\d\.\d\d")
WITH_INTERVAL = re.compile(r"-?\d+\.\d\d \[(unknown|-?\w+(\.\d\d)?, -?\w+(\.\d\d)?)\] n=\d+")


def compare(*args: object) -> int:
    return main(["compare", *map(str, args)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_numbers_are_the_librarys(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    args = ("--model", model, "--budget", 5, "--methods", "edges, uniform", "--runs", 0, "--json")
    assert compare(files["wide"], files["tall"], *args) == 0
    told = document(capsys)
    assert [m["name"] for m in told["methods"]] == ["edges", "uniform", "random", "pool", "downsample"]
    encoder = load_encoder(model, dtype=torch.float32)
    found = []
    for name in ("wide", "tall"):
        with torch.inference_mode():
            found.append(inputs_of(encoder, patchify(read([files[name]]), encoder.pixels)))
    whole = concat([f.tokens for f in found])
    for method in told["methods"][:3]:
        kept = concat([choose(method["name"], f, budget=5).kept for f in found])
        for name, wanted in summary(whole, kept).items():
            assert method["metrics"][name] == pytest.approx(wanted.as_dict(), rel=1e-4), name
        assert method["tokens"] == 10
    assert told["methods"][0]["metrics"]["coverage"]["n"] == 2


def test_chance_of_one_picture_is_the_mean_of_draws(
    files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]
):
    args = ("--model", model, "--budget", 4, "--methods", "edges", "--seed", 3, "--runs", 0, "--json")
    assert compare(files["wide"], *args) == 0
    told = {m["name"]: m["metrics"] for m in document(capsys)["methods"]}
    encoder = load_encoder(model, dtype=torch.float32)
    with torch.inference_mode():
        found = inputs_of(encoder, patchify(read([files["wide"]]), encoder.pixels))
    draws = [choose("random", found, budget=4, settings=Settings(seed=3 + i)).kept for i in range(DRAWS)]
    wanted = mean_of([summary(found.tokens, kept)["distance"].value for kept in draws])
    assert told["random"]["distance"] == pytest.approx(wanted.as_dict())
    assert told["random"]["coverage"]["n"] == DRAWS
    assert told["edges"]["coverage"]["n"] == 1
    assert told["edges"]["coverage"]["low"] is None


def test_boxes_and_time(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    args = ("--model", model, "--budget", 6, "--methods", "boxes,attention", "--boxes", "0,0,50,40", "--json")
    assert compare(files["wide"], *args, "--runs", 6) == 0
    told = {m["name"]: m["metrics"] for m in document(capsys)["methods"]}
    assert told["boxes"]["in_boxes"]["value"] == 1.0
    assert told["boxes"]["over_random"]["value"] == pytest.approx(0.5)
    assert told["random"]["in_boxes"]["value"] < 1
    for numbers in told.values():
        assert numbers["time"]["n"] == 6
        assert 0 < numbers["time"]["low"] <= numbers["time"]["value"] <= numbers["time"]["high"]


def test_a_text_and_its_defaults(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    save_file({"words": torch.randn(2, 64)}, "words.safetensors")
    args = ("--model", model, "--budget", 4, "--text-embeddings", "words.safetensors", "--runs", 1, "--json")
    assert compare(files["wide"], *args) == 0
    told = document(capsys)
    assert [m["name"] for m in told["methods"]] == ["shirg", "text", "divprune", "random", "pool", "downsample"]
    assert told["methods"][0]["metrics"]["time"]["low"] is None  # one run has no interval


@pytest.mark.parametrize("columns", [80, 200])
def test_no_number_is_said_without_its_interval(
    columns: int, files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("tubelet.cli.terminal.Terminal.columns", property(lambda self: columns))
    assert compare(files["wide"], "--model", model, "--budget", 4, "--runs", 1) == 0
    table = capsys.readouterr().out.partition("coverage: share")[0]
    assert len(list(WITH_INTERVAL.finditer(table))) == 6 * 5
    left = WITH_INTERVAL.sub("", table)
    assert not NUMBER.search(left), left
    assert all(len(line) <= columns for line in table.splitlines())


def test_a_page_for_each_file(files: dict[str, Path], model: Path, here: Path):
    args = ("--model", model, "--budget", 8, "--methods", "edges,tome", "--runs", 0, "--num-frames", 3, "--quiet")
    assert compare(files["wide"], files["clip"], *args, "--show", "pages/") == 0
    for name in ("wide", "clip"):
        with Image.open(here / "pages" / f"{name}.compared.png") as page:
            assert ((np.asarray(page) == (255, 170, 0)).all(axis=2)).sum() > 100


def test_a_clip_by_its_codec_beside_the_others(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    args = ("--model", model, "--budget", 17, "--num-frames", 4, "--methods", "codec,edges", "--runs", 1, "--json")
    assert compare(files["clip"], *args) == 0
    told = {m["name"]: m for m in document(capsys)["methods"]}
    assert told["codec"]["tokens"] == told["edges"]["tokens"] == 17
    assert told["codec"]["metrics"]["time"]["n"] == 1


def test_views_beside_each_other(files: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]):
    args = ("--model", "siglip_base_patch16_224", "--budget", 60, "--views", "224:448x224,448x448", "--scaffold", 16)
    assert compare(files["wide"], *args, "--methods", "edges", "--runs", 0, "--json") == 0
    told = document(capsys)
    assert len(told["files"][0]["views"]) == 3
    assert {m["name"]: m["tokens"] for m in told["methods"]}["edges"] == 60


def test_what_a_method_refuses_names_it(files: dict[str, Path], model: Path, capsys: pytest.CaptureFixture[str]):
    args = ("--model", model, "--budget", 5, "--runs", 0, "--json")
    assert compare(files["wide"], *args, "--methods", "edges,shirg-v3") == 1
    told = document(capsys)
    assert told["error"] == "ShapeError"
    assert told["message"].startswith("shirg-v3: ")


def test_the_command_line_is_checked_first(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    for args, said in (
        (("--budget", 4, "--methods", "edges,best"), "no method best"),
        (("--budget", 4, "--methods", "text"), "--text or --text-embeddings"),
        (("--budget", 4, "--runs", -1), "--runs 0 or more"),
        (("--budget", -4), "--budget is a number of tokens from 1"),
        (("--budget", "101%"), "or a share such as 10%"),
    ):
        assert compare(files["wide"], "--model", "no_such_model", *args) == 2
        assert said in capsys.readouterr().err
