"""What FILE... may be, where results go, and what is never written over: one rule for every command."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.cli_inputs import write_picture
from tests.language.vlm.tiny_speakers import tokenizer, whole_model  # pyright: ignore[reportMissingImports]

from tubelet.cli import main
from tubelet.cli.terminal import Terminal, UsageError
from tubelet.packed import Packed
from tubelet.web.server import Serving
from tubelet.weights import load

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    for i in (10, 2):
        write_picture(Path(f"scans/{i}.png"), 40, 30, i)
    Path("scans/notes.txt").write_text("not a picture, by far")
    Path("a.png").write_bytes(files["wide"].read_bytes())
    Path("empty").mkdir()
    return tmp_path


def run(*args: object) -> int:
    return main([str(a) for a in args])


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- what is read


COMMANDS: dict[str, tuple[object, ...]] = {
    "encode": ("encode", "--out", "t.safetensors"),
    "show": ("show", "--out", "drawn"),
    "select": ("select", "--budget", 3, "--method", "edges", "--show", "drawn"),
    "compare": ("compare", "--budget", 3, "--methods", "edges", "--runs", 0, "--show", "drawn"),
    "plan": ("plan",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_folders_patterns_and_stdin(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    piped(monkeypatch, Path("a.png").read_bytes())
    first, *options = COMMANDS[name]
    assert run(first, "scans", "-", "scans/2*", *options, "--model", model, "--json") == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    seen = [Path(one.get("file", one.get("name"))).name for one in told.get("files") or told["items"]]
    assert seen == ["2.png", "10.png", "stdin", "2.png"]
    assert said.err == "tubelet: left out, no picture or clip: scans/notes.txt (text)\n"
    for wrong in ("empty", "*.gif", "-"):
        piped(monkeypatch, b"")
        assert run(first, wrong, *options, "--model", model, "--overwrite") == 1
        assert capsys.readouterr().err.startswith(f"tubelet: {wrong if wrong != '-' else 'stdin'}: ")


def test_stdin_is_read_once_and_never_from_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert run("show", "-", "-") == 2
    assert "once" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", None)
    assert run("show", "-") == 2
    assert "stdin is a terminal" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_files_are_looked_at_before_a_model_is_loaded(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(load, "open_weights", never)
    first, *options = COMMANDS[name]
    for wrong, why in (("gone.png", "no such file"), ("scans/notes.txt", "the content is text")):
        assert run(first, "a.png", wrong, *options, "--model", model, "--overwrite", "--json") == 1
        told = json.loads(capsys.readouterr().out)
        assert (told["item"], told["source"]) == (1, wrong)
        assert why in told["message"]
    if name == "encode":  # the measure that this test measures something
        with pytest.raises(AssertionError):
            main([first, "a.png", *map(str, options), "--model", str(model), "--debug"])
            raise AssertionError(capsys.readouterr().err)


OPENED: list[str] | None = None  # paths that were opened, while someone counts


def _opened(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and OPENED is not None and isinstance(args[0], str):
        OPENED.append(args[0])


sys.addaudithook(_opened)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_named_file_is_opened_for_its_plan_and_for_its_pixels(
    name: str, model: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    first, *options = COMMANDS[name]
    named = [os.fspath(files[one]) for one in ("wide", "clip")]
    for words in ([], ["--quiet"]):
        monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
        assert run(first, *named, *options, "--model", model, "--num-frames", 2, "--overwrite", *words) == 0
        assert OPENED is not None
        assert [OPENED.count(one) for one in named] == [2, 2]
    if name != "plan":  # which reads no pixels
        Path("a.png").write_bytes(Path("a.png").read_bytes()[:300])
        assert run(first, named[0], "a.png", *options, "--model", model, "--overwrite", "--quiet") == 1
        assert capsys.readouterr().err.startswith("tubelet: a.png: ")


def test_ask_opens_a_file_once_and_serve_once_before_it_is_shown(
    files: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole_model("qwen2_5_vl").save_pretrained(tmp_path / "whole")
    tokenizer().save_pretrained(tmp_path / "whole")
    named = [os.fspath(files[one]) for one in ("wide", "clip")]
    asked = ("ask", *named, "What?", "--max-new-tokens", 1, "--max-pixels", 28 * 28 * 4, "--model", "whole")
    monkeypatch.setattr(Serving, "run", lambda self, _: self.listening.close())
    for words in (asked, ("serve", *named, "--model", model)):
        monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
        assert run(*words) == 0
        assert OPENED is not None
        assert [OPENED.count(one) for one in named] == [1, 1]


def test_a_question_of_a_model_without_a_text_side_is_told_before_it_is_loaded(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(load, "load_encoder", None)
    for command in ("select", "compare"):
        for name in ("llava_vit_packing_small", "siglip_base_patch16_224", model):
            assert run(command, "a.png", "--budget", 3, "--text", "total", "--model", name) == 1
            said = capsys.readouterr().err
            assert "--model reader" in said and "google/siglip-so400m-patch14-384" in said


# ---- what is written


def written(path: str) -> tuple[int, int]:
    """When, and which file."""
    return Path(path).stat().st_mtime_ns, Path(path).stat().st_ino


def test_nothing_is_replaced_without_overwrite(model: Path, capsys: pytest.CaptureFixture[str]):
    for first, out, *options in (
        ("encode", "t.safetensors", "--model", model, "--out", "t.safetensors"),
        ("show", "a.grid.png"),
        ("show", "new/a.grid.png", "--out", "new"),
        ("show", "one.png", "--out", "one.png"),
        ("select", "a.kept.png", "--model", model, "--budget", 3),
        ("select", "s.safetensors", "--model", model, "--budget", 3, "--show", "x.png", "--out", "s.safetensors"),
        ("compare", "a.compared.png", "--model", model, "--budget", 3, "--runs", 0, "--methods", "edges"),
        ("plan", "p.png", "--model", model, "--plot", "p.png"),
    ):
        assert run(first, "a.png", *options, "--quiet") == 0, first
        Path("x.png").unlink(missing_ok=True)
        before = written(out)
        capsys.readouterr()
        assert run(first, "a.png", *options, "--quiet") == 1, first
        assert "--overwrite replaces it" in capsys.readouterr().err
        Path("x.png").unlink(missing_ok=True)
        assert written(out) == before
        assert run(first, "a.png", *options, "--quiet", "--overwrite") == 0, first
        Path("x.png").unlink(missing_ok=True)
        assert written(out)[0] > before[0]
    assert not [one for one in Path().iterdir() if one.name.startswith(".tubelet")]


def test_overwrite_replaces_what_was_written_here_and_no_other_file(model: Path, capsys: pytest.CaptureFixture[str]):
    Path("diary.safetensors").write_text("dear")
    Path("a.grid.png").write_text("dear")
    assert run("encode", "a.png", "--model", model, "--out", "diary.safetensors", "--overwrite") == 1
    assert run("show", "a.png", "--overwrite") == 1
    assert run("show", "a.png", "--out", "a.png", "--overwrite") == 1
    assert capsys.readouterr().err.count("of another kind") == 2
    assert Path("diary.safetensors").read_text() == Path("a.grid.png").read_text() == "dear"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("encode", "a.png", "--out", "tokens"), "--out is a file that ends with .safetensors, got tokens"),
        (("encode", "a.png", "--out", "tokens.pt"), "--out is a file that ends with .safetensors, got tokens.pt"),
        (("show", "a.png", "--out", "a.jpg"), "--out is a file that ends with .png, got a.jpg"),
        (
            ("show", "a.png", "scans", "--out", "a.jpg"),
            "--out must be a folder when several files are drawn, got a.jpg",
        ),
        (
            ("select", "a.png", "--budget", 3, "--out", "t.png"),
            "--out is a file that ends with .safetensors, got t.png",
        ),
        (("select", "a.png", "--budget", 3, "--show", "t.pdf"), "--show is a file that ends with .png, got t.pdf"),
        (("plan", "a.png", "--plot", "p.svg"), "--plot is a file that ends with .png, got p.svg"),
    ],
)
def test_a_wrong_suffix_is_an_error(words: tuple[object, ...], said: str, capsys: pytest.CaptureFixture[str]):
    before = sorted(Path().rglob("*"))
    assert run(*words) == 2
    assert said in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_results_go_to_stdout_and_words_to_stderr(model: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    assert run("encode", "a.png", "--model", model, "--out", "-") == 0
    said = capfdbinary.readouterr()
    Path("back.safetensors").write_bytes(said.out)
    assert Packed.load("back.safetensors").lengths == (12,)
    assert b"12 tokens of 64 values" in said.err
    assert run("show", "a.png", "--model", model, "--out", "-") == 0
    said = capfdbinary.readouterr()
    with Image.open(io.BytesIO(said.out)) as picture:
        assert picture.format == "PNG"
    assert b"(100 x 40, grid 1 x 2 x 6, 12 tokens)" in said.err
    for words, why in (
        (("encode", "a.png", "--model", model, "--out", "-", "--json"), b"so does --json"),
        (("select", "a.png", "--model", model, "--budget", 3, "--out", "-", "--show", "-"), b"another option"),
        (("show", "a.png", "scans", "--out", "-"), b"must be a folder"),
        (("pages", "--show", "-"), b"one that is called - is ./-"),
    ):
        assert run(*words) == (1 if words[0] == "pages" else 2)
        assert why in capfdbinary.readouterr().err


def test_stdout_that_is_a_terminal_gets_no_file(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", type("Screen", (io.StringIO,), {"isatty": lambda _: True})())
    with pytest.raises(UsageError, match="stdout is a terminal"):
        terminal.give_stdout("--out")


# ---- names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("encod", "a.png"), "there is no command encod (did you mean encode?)"),
        (("models", "siglp2"), "(did you mean siglip2"),
        (("select", "a.png", "--budget", 3, "--method", "divprun"), "(did you mean divprune?); there are shirg, text"),
        (("select", "a.png", "--budget", 3, "--method", "shirg-v9"), "; historical: shirg-v1"),
        (("convert", "x", "y", "--to", "packing_"), "(did you mean packing?)"),
        (("plan", "a.png", "--llm", "qwen2.5-7bb"), "(did you mean qwen2.5-7b"),
        (("bench", "--family", "siglip3"), "(did you mean siglip"),
        (
            ("encode", "a.png", "--out", "o.safetensors", "--model", "siglip_base_patch16_225"),
            "(did you mean siglip_base",
        ),
    ],
)
def test_what_was_meant_is_asked(words: tuple[object, ...], said: str, capsys: pytest.CaptureFixture[str]):
    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_the_command_alone_is_its_help_and_help_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "90")
    assert run() == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: tubelet") and "encode" in said.out and said.err == ""
    for command in ("encode", "select", "convert", "scene", "eval", "train", "plan"):
        assert run(command, "--help") == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 90, command
        assert sum(line.strip().startswith("Example: tubelet") for line in lines) >= 1
        assert not any(a == b == "" for a, b in pairwise(lines))


def test_models_are_found_by_a_part_of_any_name(capsys: pytest.CaptureFixture[str]):
    for wanted, first, count in (("siglip2", "siglip2_base_patch32_256", 17), ("Qwen/*7B*", "qwen2_vl_7b_vision", 2)):
        assert run("models", wanted, "--json") == 0
        rows = json.loads(capsys.readouterr().out)["models"]
        assert (rows[0]["name"], len(rows)) == (first, count)
    assert rows[0]["hub"] == "Qwen/Qwen2-VL-7B-Instruct"
