"""`tubelet compare`: every method at one budget, with its references, and how far the numbers can be trusted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from tubelet import read
from tubelet.cli import compare_report, compared, main
from tubelet.inspect.metrics import mean_of, summary
from tubelet.packed import concat
from tubelet.pixels.patchify import patchify
from tubelet.reduce.inputs import inputs_of
from tubelet.reduce.methods import choose
from tubelet.reduce.settings import Settings
from tubelet.weights.load import load_encoder

NUMBER = re.compile(r"-?\d+\.\d\d")
INTERVAL = re.compile(r"\[-?\d+\.\d\d, -?\d+\.\d\d\]")


def compare(*args: object) -> int:
    return main(["compare", *map(str, args)])


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared, "DRAWS", 4)


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
    draws = [choose("random", found, budget=4, settings=Settings(seed=3 + i)).kept for i in range(compared.DRAWS)]
    wanted = mean_of([summary(found.tokens, kept)["distance"].value for kept in draws])
    assert told["random"]["distance"] == pytest.approx(wanted.as_dict())
    assert told["random"]["coverage"]["n"] == compared.DRAWS
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


def drawn(table: object, columns: int) -> str:
    console = Console(width=columns, highlight=False, emoji=False, markup=False)
    with console.capture() as text:
        console.print(table)
    return text.get()


def test_one_picture_has_plain_numbers_and_one_footnote(
    files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert compare(files["wide"], "--model", model, "--budget", 4, "--methods", "edges") == 0
    table, _, rest = capsys.readouterr().out.partition("coverage: ")
    assert len(NUMBER.findall(table)) == 4 * 4  # methods x columns
    assert "[" not in table and "n=" not in table and "time" not in table
    assert "coverage \N{UPWARDS ARROW}" in table and "distance \N{DOWNWARDS ARROW}" in table
    assert rest.count("one input: no number has an interval") == 1
    assert f"random: the mean of {compared.DRAWS} draws; 95 % of it: coverage" in rest
    assert "in boxes" not in rest and "time:" not in rest  # only the columns that are there are explained


def test_over_several_pictures_no_number_is_without_its_interval(
    files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch
):
    """On one line where there is room, under the number where there is less, in a list where there is hardly any."""
    found: list[compared.Compared] = []
    table_of = compare_report.compare_table

    def keep(result: compared.Compared, *args: object, **kwargs: object) -> str:
        found.append(result)
        return ""

    monkeypatch.setattr(compare_report, "compare_table", keep)
    assert compare(files["wide"], files["tall"], "--model", model, "--budget", 4, "--methods", "edges") == 0
    heights = []
    for columns in (200, 80, 60):
        table, _, rest = drawn(table_of(found[0], columns), columns).partition("coverage: ")
        assert len(INTERVAL.findall(table)) == 4 * 4
        assert len(NUMBER.findall(INTERVAL.sub("", table))) == 4 * 4
        assert "95 % intervals over 2 inputs" in rest
        heights.append(table.count("\n"))
    assert heights[0] < heights[1] < heights[2]
    plain = drawn(table_of(found[0], 200, arrows=False), 200)
    assert "coverage ^" in plain and "distance v" in plain
    assert not set("\N{UPWARDS ARROW}\N{DOWNWARDS ARROW}") & set(plain)


def test_nothing_is_timed_unless_asked(
    files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr("tubelet.inspect.metrics.timed", refuse)
    assert compare(files["wide"], "--model", model, "--budget", 4, "--methods", "edges", "--json") == 0
    told = document(capsys)
    assert told["runs"] == 0
    assert not any("time" in m["metrics"] for m in told["methods"])


def test_chance_is_drawn_a_few_times_where_much_is_to_be_drawn(
    files: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(compared, "MUCH", 4)
    monkeypatch.setattr(compared, "FEW_DRAWS", 2)
    assert compare(files["wide"], "--model", model, "--budget", 4, "--methods", "edges", "--json") == 0
    found = {m["name"]: m["metrics"] for m in document(capsys)["methods"]}
    assert found["random"]["coverage"]["n"] == 2


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
    assert compare(files["wide"], "--model", model, "--budget", 0, "--runs", 0, "--json") == 1
    assert document(capsys)["message"].startswith("pool: ")


def test_the_command_line_is_checked_first(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    for args, said in (
        (("--budget", 4, "--methods", "edges,best"), "no method best"),
        (("--budget", 4, "--methods", "text"), "--text or --text-embeddings"),
        (("--budget", 4, "--runs", -1), "--runs 0 or more"),
        (("--budget", -4), "0 tokens or more"),
    ):
        assert compare(files["wide"], "--model", "no_such_model", *args) == 2
        assert said in capsys.readouterr().err
