"""`tubelet ask`: the answer, what it cost, the picture of what was seen, and how it ends."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from tests.language.vlm.tiny_speakers import SPECIAL, randomised, tokenizer, whole_model  # pyright: ignore[reportMissingImports]

from tubelet import read
from tubelet.cli import main
from tubelet.cli.ask import told_answer
from tubelet.language.vlm.answer_places import LocatedAnswer
from tubelet.language.vlm.chat import ask as ask_model
from tubelet.language.vlm.model import VLM
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.weights.load import untrained

Run = Callable[..., subprocess.CompletedProcess[str]]
PIXELS = 28 * 28 * 16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Complete models: two of transformers' own, one without a template, one with an untrained encoder."""
    out = {}
    for kind in ("qwen2_5_vl", "qwen3_vl"):
        out[kind] = tmp_path_factory.mktemp(kind)
        whole_model(kind, seed=7).save_pretrained(out[kind])
        tokenizer().save_pretrained(out[kind])
    out["mute"] = tmp_path_factory.mktemp("mute")
    whole_model("qwen2_vl").save_pretrained(out["mute"])
    tokenizer(None).save_pretrained(out["mute"])
    vlm = VLM.from_pretrained(out["qwen2_5_vl"])
    encoder = untrained(vlm.encoder.config, seed=1)
    random = VLM(encoder, vlm.speaker, vlm.scheme, tokenizer=vlm.tokenizer)
    out["untrained"] = random.save_pretrained(tmp_path_factory.mktemp("made") / "untrained")
    return out


def ask(*args: object) -> int:
    return main(["ask", *map(str, args), "--device", "cpu", "--max-pixels", str(PIXELS)])


def small(recipe: PixelRecipe) -> PixelRecipe:
    """The recipe that --max-pixels makes."""
    return replace(recipe, max_pixels=PIXELS, min_pixels=min(recipe.min_pixels or PIXELS, PIXELS))


def expected(model: Path, files: list[Path], question: str, fps: float | None = None) -> tuple[str, int, int]:
    """The answer of 12 tokens by the library, the prompt's length and the visual tokens."""
    vlm = VLM.from_pretrained(model)
    clips = vlm.scheme.video_pixels
    assert clips is not None
    vlm.scheme = replace(vlm.scheme, pixels=small(vlm.scheme.pixels), video_pixels=small(clips))
    asked = ask_model(vlm, read(files, fps=fps), question)
    ids = vlm.generate(asked.ready, max_new_tokens=12)
    text = vlm.tokenizer.decode(ids[0], skip_special_tokens=True)
    return text, asked.ready.input_ids.shape[1], int(asked.ready.visual.sum())


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_the_answer_is_the_library_s(
    kind: str, files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    named = [files["wide"], files["clip"], files["small"]]
    text, prompt, visual = expected(models[kind], named, "What is it?", fps=2.0)
    assert ask(*named, "What is it?", "--model", models[kind], "--max-new-tokens", 12, "--fps", 2) == 0
    out, err = capsys.readouterr()
    assert out == text + "\n"
    assert err.splitlines()[2].split()[:4] == [str(n) for n in (prompt, visual, prompt - visual, 12)]
    assert "first token" in err


def test_what_does_not_fit_into_memory_is_told_before_the_model_is_loaded(
    files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    free, told = [1 << 10], []
    monkeypatch.setattr("tubelet.inspect.budget.room.free_bytes", lambda device: free[0])
    monkeypatch.setattr(VLM, "from_pretrained", lambda *a, **k: told.append(capsys.readouterr().err))  # ends it
    for kind in ("qwen2_5_vl", "qwen3_vl"):
        ask(files["wide"], "What is it?", "--model", models[kind])
        assert "needs at least" in told[-1] and "cpu has 0.00 MiB free" in told[-1]
    free[0] = 1 << 40
    capsys.readouterr()
    ask(files["wide"], "What is it?", "--model", models["qwen2_5_vl"])
    assert told[-1] == ""


def test_json_is_one_document(files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    named = [files["wide"], files["clip"]]
    text, prompt, visual = expected(models["qwen2_5_vl"], named, "Why?", fps=5.0)
    options = ("--model", models["qwen2_5_vl"], "--max-new-tokens", 12, "--fps", 5, "--json")
    assert ask(*named, "Why?", *options) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert err == ""
    assert said["answer"] == text
    assert said["untrained"] is False
    tokens = said["tokens"]
    assert (tokens["prompt"], tokens["visual"], tokens["text"]) == (prompt, visual, prompt - visual)
    assert tokens["answer"] == 12
    assert tokens["patches"] == 4 * visual
    assert sum(f["tokens"] for f in said["files"]) == visual
    assert [f["frames"] for f in said["files"]] == [1, 10]
    seconds = said["seconds"]
    assert 0 < seconds["encode"] <= seconds["first_token"] <= seconds["answer"]


def test_views_of_a_picture_are_asked_about_and_drawn(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """transformers' LlavaNext: a picture is a global view and joined tiles, one run of placeholders."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": None}
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 160, "pad_token_id": 0}
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**tower, image_size=56, patch_size=14),
        text_config=hf.LlamaConfig(**sizes, **heads),
        image_token_index=150,
        image_grid_pinpoints=pinpoints,
    )
    model = tmp_path / "next"
    randomised(hf.LlavaNextForConditionalGeneration(config), scale=0.15).save_pretrained(model)
    part = "{% if c.type == 'image' %}" + SPECIAL[2] + "{% else %}{{ c.text }}{% endif %}"
    talk = "{% for m in messages %}{% for c in m.content %}" + part + "{% endfor %}{% endfor %}"
    tokenizer(talk).save_pretrained(model)
    options = ("--model", model, "--device", "cpu", "--max-new-tokens", 3, "--show", tmp_path / "seen.png", "--json")
    assert main(["ask", str(files["wide"]), str(files["small"]), "Why?", *map(str, options)]) == 0
    said = json.loads(capsys.readouterr().out)
    rule = ViewRule(56, tuple((h, w) for h, w in pinpoints), join="unpad", compat="transformers-5")
    for found in said["files"]:
        assert found["tokens"] == sum(rule.tokens(found["height"], found["width"], (4, 4)))
        assert found["grid"] == found["grids"][0] == [1, 4, 4] and len(found["grids"]) == 2
    assert said["tokens"]["visual"] == sum(found["tokens"] for found in said["files"])
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.height > 4 * 200  # two views of each of two pictures


def test_what_was_seen_is_drawn(files: dict[str, Path], models: dict[str, Path], tmp_path: Path):
    options = ("--model", models["qwen2_5_vl"], "--max-new-tokens", 2, "--quiet")
    assert ask(files["wide"], files["clip"], "Why?", *options, "--show", tmp_path / "seen.png") == 0
    both = Image.open(tmp_path / "seen.png")
    assert ask(files["wide"], "Why?", *options, "--show", tmp_path / "one.png") == 0
    one = Image.open(tmp_path / "one.png")
    assert both.height > one.height > 0
    assert both.crop((0, 0, one.width, one.height)).tobytes() == one.tobytes()


def test_a_model_that_points_says_where_and_how_sure(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A reader with random weights: of what it says it cannot be sure."""
    sizes = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)
    model = build_reader(sizes, seed=4).save_pretrained(tmp_path / "reader")
    options = ("--model", model, "--max-new-tokens", 4)
    assert ask(files["small"], "Total?", *options, "--show", tmp_path / "seen.png") == 0
    plain = capsys.readouterr().out
    assert ask(files["small"], "Total?", *options, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sure"] is False
    assert 0 < said["probability"] < 0.5
    assert plain.rstrip("\n") == told_answer(said["answer"], LocatedAnswer(said["probability"], False, ()))
    for place in said["places"]:
        assert place["file"] == said["files"][0]["file"]
        left, top, right, bottom = place["box"]
        assert 0 <= left < right
        assert 0 <= top < bottom
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.height > 100


def test_a_reader_of_pages_says_in_which_file_and_when(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A clip and a picture: as many questions as pages, one answer."""
    sizes = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)
    model = build_reader(sizes, seed=4).save_pretrained(tmp_path / "reader")
    options = ("--model", model, "--max-new-tokens", 4, "--fps", 2)
    assert ask(files["clip"], files["small"], "Total?", *options, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    clip, small = said["files"]
    assert clip["frames"] > 1
    assert said["tokens"]["visual"] == clip["tokens"] + small["tokens"]
    assert {place["file"] for place in said["places"]} <= {str(files["clip"]), str(files["small"])}
    for place in said["places"]:
        assert place["time_s"] == (clip["times_s"][place["frame"]] if place["file"] == clip["file"] else 0.0)
    assert ask(files["clip"], files["small"], "Total?", *options, "--show", tmp_path / "seen.png", "--quiet") == 0
    first, *second = capsys.readouterr().out.splitlines()
    assert first.startswith("not sure")
    assert not second or second[0].startswith("in ")
    with Image.open(tmp_path / "seen.png") as seen:  # the page that was read, not all of them
        assert seen.height > 100


def test_what_is_not_sure_or_not_there_is_told():
    def told(answer: str, sure: bool) -> str:
        return told_answer(answer, LocatedAnswer(0.5, sure, ()))

    assert told("12.50", True) == "12.50"
    assert told("12.50", False) == "not sure: 12.50"
    assert told("", True) == "it is not there"
    assert told("", False) == "not sure: it seems not to be there"


def test_sampling_follows_its_seed(files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    def said(*more: object) -> str:
        options = ("--model", models["qwen2_5_vl"], "--max-new-tokens", 12, "--quiet", *more)
        assert ask(files["small"], "Why?", *options) == 0
        return capsys.readouterr().out

    drawn = said("--temperature", 3, "--seed", 4)
    assert drawn == said("--temperature", 3, "--seed", 4)
    assert drawn != said("--temperature", 3, "--seed", 5)
    assert said() == said("--seed", 5)


def test_an_untrained_model_is_said_to_be_one(
    files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    options = ("--model", models["untrained"], "--max-new-tokens", 2)
    assert ask(files["small"], "Why?", *options) == 0
    assert "UNTRAINED" in capsys.readouterr().err
    assert ask(files["small"], "Why?", *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["untrained"] is True
    assert ask(files["small"], "Why?", "--model", models["qwen2_5_vl"], "--max-new-tokens", 2) == 0
    assert "UNTRAINED" not in capsys.readouterr().err


def test_the_answer_is_told_while_it_is_made(
    files: dict[str, Path], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """All of it is on stdout when `generate` returns; what a streamer hands on, and when, is tested with it."""
    written: list[str] = []
    there: list[str] = []
    generate = VLM.generate

    def noted(self: VLM, *args: Any, **options: Any) -> Any:
        ids = generate(self, *args, **options)
        there.append(self.tokenizer.decode(ids[0], skip_special_tokens=True))
        assert "".join(written) == there[0]
        return ids

    monkeypatch.setattr(VLM, "generate", noted)
    monkeypatch.setattr("tubelet.cli.terminal.Terminal._write", lambda self, text: written.append(text))
    assert ask(files["small"], "Why?", "--model", models["qwen2_5_vl"], "--max-new-tokens", 9, "--quiet") == 0
    assert there


def test_dtype_is_the_weights(files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    options = ("--model", models["qwen2_5_vl"], "--max-new-tokens", 2, "--dtype", "bfloat16", "--json")
    assert ask(files["small"], "Why?", *options) == 0
    assert json.loads(capsys.readouterr().out)["tokens"]["answer"] == 2
    assert torch.get_default_dtype() == torch.float32


# ---- wrong command lines, and what cannot be used


@pytest.mark.parametrize(
    ("words", "options", "why"),
    [
        (["Why?"], (), "at least one file"),
        ([], (), "at least one file"),
        (["wide", "  "], (), "the question is empty"),
        (["wide", "small"], (), "the last argument is the question"),
        (["wide", "Why?"], ("--max-new-tokens", "0"), "--max-new-tokens"),
        (["wide", "Why?"], ("--temperature", "0"), "--temperature"),
        (["wide", "Why?"], ("--fps", "2", "--num-frames", "3"), "--"),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_told(
    words: list[str], options: tuple[str, ...], why: str, files: dict[str, Path], models: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    named = [str(files.get(word, word)) for word in words]
    assert main(["ask", *named, "--model", str(models["qwen3_vl"]), *options]) == 2
    assert why in capsys.readouterr().err


def test_a_model_without_a_template_is_told(
    files: dict[str, Path], models: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    assert ask(files["small"], "Why?", "--model", models["mute"], "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "ConfigError"
    assert "no chat template" in err


def test_a_damaged_file_and_no_model_are_told(
    files: dict[str, Path], models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert ask(files["broken"], "Why?", "--model", models["qwen2_5_vl"]) == 1
    assert "broken.png" in capsys.readouterr().err
    assert ask(files["small"], "Why?", "--model", tmp_path / "nothing") == 1
    assert "nothing" in capsys.readouterr().err
    assert ask(files["small"], "Why?", "--model", models["qwen3_vl"], "--show", files["small"]) == 1
    assert "one of the inputs" in capsys.readouterr().err


def test_a_wrong_file_name_is_told_before_the_model_is_read(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(VLM, "from_pretrained", lambda *_, **__: pytest.fail("the model was read"))
    assert ask("not-there.png", "Why?", "--model", models["qwen3_vl"]) == 1
    assert "not-there.png" in capsys.readouterr().err


def test_without_transformers_it_says_what_to_install(
    files: dict[str, Path], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert ask(files["small"], "Why?", "--model", models["qwen2_5_vl"]) == 1
    assert "pip install 'tubelet[hf]'" in capsys.readouterr().err


def test_as_a_process_without_stdin(files: dict[str, Path], models: dict[str, Path]):
    """Nothing is asked of stdin, nothing but the answer is on stdout, and nothing from other libraries on stderr."""
    command = [
        sys.executable,
        "-m",
        "tubelet",
        "ask",
        str(files["small"]),
        "Why?",
        "--model",
        str(models["qwen2_5_vl"]),
    ]
    options = ["--max-new-tokens", "2", "--quiet", "--device", "cpu"]
    done = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *command, *options], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")


def test_help_is_there(tubelet: Run):
    done = tubelet("ask", "--help")
    assert done.returncode == 0
    assert "FILE... QUESTION" in done.stdout
    assert "Example: tubelet ask" in done.stdout
