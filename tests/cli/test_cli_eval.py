"""`tubelet eval`: tiny benchmarks in their published form, a tiny model, arms, and a run that goes on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.cli.cli_inputs import write_clip, write_picture
from tests.language.vlm.tiny_speakers import tokenizer, whole_model
from tests.train.evaluate.benchmark_files import write_benchmark

from tubelet.cli import main
from tubelet.language.vlm.chat import ask
from tubelet.language.vlm.model import VLM
from tubelet.reading.read import read
from tubelet.reduce.methods import Inputs, choose
from tubelet.train.evaluate.questions import read_questions

PIXELS = 28 * 28 * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    whole_model("qwen2_5_vl", seed=7).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the questions are about, where the benchmarks have it."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("documents", "png", "scannet"):
        (folder / name).mkdir()
    for n, name in enumerate(("documents/pybv0228_81.png", "documents/nkbl0226_1.png", "png/41699051005347.png")):
        write_picture(folder / name, 120, 90 + 10 * n, n)
    write_picture(folder / "003a8ae2ef43b901.jpg", 100, 80)
    write_picture(folder / "3.png", 128, 96)
    for name in ("scene0011_00.mp4", "scene0380_00.mp4", "scannet/scene0050_00.mp4"):
        write_clip(folder / name, frames=4)
    return folder


@pytest.fixture
def evaluate(model: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)

    def run(benchmark: str, *args: object) -> int:
        files = write_benchmark(tmp_path, benchmark)
        usual = ["--root", media, "--model", model, "--device", "cpu", "--max-pixels", PIXELS, "--max-new-tokens", 3]
        return main(["eval", benchmark, *map(str, [*files, *usual, *args])])

    return run


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("benchmark", ["docvqa", "chartqa", "textvqa", "scanqa", "sqa3d", "vsibench", "pages"])
def test_every_benchmark(evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str], benchmark: str):
    assert evaluate(benchmark, "--budget", 3, "--num-frames", 2, "--json") == 0
    told = document(capsys)
    assert list(told["arms"]) == ["all", "pool", "divprune"] and told["asked"] == told["questions"] > 0
    every = told["arms"]["all"]
    assert every["against"] is None and every["tokens"]["value"] > 3
    assert told["arms"]["divprune"]["tokens"]["value"] == 3
    for arm in told["arms"].values():
        assert all(0 <= metric["value"] <= 1 for metric in arm["metrics"].values())


def test_answers_are_the_library_s(evaluate: Callable[..., int], model: Path, media: Path, tmp_path: Path):
    assert evaluate("docvqa", "--arms", "all,edges", "--budget", 4, "--quiet") == 0
    lines = [json.loads(line) for line in (tmp_path / "docvqa.answers.jsonl").read_text().splitlines()]
    assert lines[0]["run"]["budget"] == 4 and len(lines) == 5
    vlm = VLM.from_pretrained(model)
    question = read_questions("docvqa", [tmp_path / "val_v1.0.json"], str(media))[1]

    pixels = vlm.scheme.pixels
    small = replace(pixels, max_pixels=PIXELS, min_pixels=min(pixels.min_pixels or PIXELS, PIXELS))
    vlm.scheme = replace(vlm.scheme, pixels=small)
    for arm in ("all", "edges"):
        vlm.reduce = None if arm == "all" else lambda p: choose("edges", Inputs(p), budget=4).kept
        ids = vlm.generate(ask(vlm, read([question.file]), question.prompt).ready, max_new_tokens=3)
        answer = vlm.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
        [line] = [line for line in lines[1:] if line["id"] == question.id and line["arm"] == arm]
        assert line["answer"] == answer


def test_a_run_goes_on_behind_its_last_answer(
    evaluate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    arms = ("--arms", "all,pool", "--budget", 4)
    assert evaluate("vsibench", *arms, "--num-frames", 2, "--json") == 0
    whole = document(capsys)
    file = tmp_path / "vsibench.answers.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][: len(lines[5]) // 2])  # a kill amid a line
    made: list[str] = []
    generate = VLM.generate
    monkeypatch.setattr(VLM, "generate", lambda self, ready, **how: made.append("") or generate(self, ready, **how))
    assert evaluate("vsibench", *arms, "--num-frames", 2, "--json") == 0
    assert document(capsys)["arms"] == whole["arms"]
    assert len(made) == len(lines) - 1 - 4
    made.clear()
    assert evaluate("vsibench", "--arms", "all,pool,norm", "--budget", 4, "--num-frames", 2) == 0
    assert len(made) == 5  # the arm that is new
    out = capsys.readouterr().out
    assert "5 new, 10 were there" in out and "accuracy or MRA" in out and "beside all" in out
    assert evaluate("vsibench", *arms, "--num-frames", 4) == 1
    assert "of another run: frames" in capsys.readouterr().err


def test_a_question_without_its_file_is_told(
    evaluate: Callable[..., int], media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    gone = media / "documents" / "nkbl0226_1.png"
    aside = gone.rename(tmp_path / "aside.png")
    try:
        assert evaluate("docvqa", "--arms", "all") == 1
        assert "nkbl0226_1.png" in capsys.readouterr().err
        assert evaluate("docvqa", "--arms", "all", "--on-error", "skip", "--json") == 1
        told = document(capsys)
        assert (told["asked"], told["questions"]) == (1, 2) and [e["id"] for e in told["left_out"]] == ["24580"]
    finally:
        aside.rename(gone)
    assert evaluate("docvqa", "--arms", "all", "--json") == 0
    assert document(capsys)["asked"] == 2


def test_a_picture_of_the_scores(evaluate: Callable[..., int], tmp_path: Path):
    assert evaluate("docvqa", "--arms", "all,random", "--budget", 2, "--plot", tmp_path / "bars.png", "--quiet") == 0
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.size[0] > 600


def test_the_word_that_deepspeed_s_launcher_puts_first(capsys: pytest.CaptureFixture[str]):
    assert main(["--local_rank=1", "--version"]) == 0
    assert capsys.readouterr().out.startswith("tubelet ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--arms", "pool"], "give --budget N"),
        (["--arms", "shirg", "--budget", 4], "the arm shirg needs text"),
        (["--arms", "all,nothing", "--budget", 4], "no method nothing"),
        (["--arms", ","], "one arm"),
        (["--budget", 4, "--questions", 0], "start at 1"),
    ],
)
def test_wrong_command_lines(
    evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str], options: list[object], told: str
):
    assert evaluate("docvqa", *options) == 2
    assert told in capsys.readouterr().err


def test_a_larger_draw_holds_the_smaller(evaluate: Callable[..., int], tmp_path: Path):
    for number in (1, 2):
        assert evaluate("chartqa", "--arms", "all", "--questions", number, "--quiet") == 0
    lines = [json.loads(line) for line in (tmp_path / "chartqa.answers.jsonl").read_text().splitlines()[1:]]
    assert len(lines) == 2 and lines[0]["id"] != lines[1]["id"]
