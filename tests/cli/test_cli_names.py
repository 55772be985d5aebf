"""Names that no file has, at every option that takes one: an error of ours in one line, and nothing written."""

import json
from pathlib import Path

import pytest
from tests.weights.tiny_models import random_encoder, tiny_config

import tubelet.errors
from tubelet.cli import main
from tubelet.weights.save import save_encoder

LONG = "x" * 5000
HERE, BUDGET = ("a.png", "--model", "model"), ("--budget", "2")
OUTPUTS = {
    "encode --out": ("encode", *HERE, "--out"),
    "show --out": ("show", "a.png", "--out"),
    "select --out": ("select", *HERE, *BUDGET, "--out"),
    "select --show": ("select", *HERE, *BUDGET, "--show"),
    "compare --show": ("compare", *HERE, *BUDGET, "--show"),
    "ask --show": ("ask", "a.png", "why?", "--model", "model", "--show"),
    "scene --out": ("scene", "a.png", "--model", "vggt_tiny", "--out"),
    "plan --plot": ("plan", *HERE, "--plot"),
    "data --plot": ("data", "check", "set.json", "--plot"),
}
INPUTS = {
    "encode FILE": ("encode", "--model", "model", "--out", "o.safetensors", "--"),
    "encode --model": ("encode", "a.png", "--out", "o.safetensors", "--model"),
    "show FILE": ("show", "--"),
    "show --model": ("show", "a.png", "--model"),
    "select FILE": ("select", "--model", "model", *BUDGET, "--"),
    "ask FILE": ("ask", "--model", "model", "--", "a.png", "why?"),
    "ask QUESTION": ("ask", "--model", "none/there", "--", "a.png"),
    "ask --model": ("ask", "a.png", "why?", "--model"),
    "scene FILE": ("scene", "--model", "vggt_tiny", "--out", "o", "--"),
    "scene --model": ("scene", "a.png", "--out", "o", "--model"),
    "plan FILE": ("plan", "--model", "model", "--"),
    "plan --model": ("plan", "a.png", "--model"),
    "plan --train": ("plan", "--train"),
    "data FILE": ("data", "check", "--"),
    "data --root": ("data", "check", "set.json", "--root"),
    "train FILE": ("train",),
    "convert SOURCE": ("convert", "--to", "standard", "--", "o"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("loop").symlink_to("loop")
    Path("a.png").write_bytes(files["wide"].read_bytes())
    said = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    Path("set.json").write_text(json.dumps([{"image": "a.png", "conversations": said}]))
    save_encoder(random_encoder(tiny_config("packing")), "model")
    return tmp_path


def refusals(command: tuple[str, ...], names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    for name in names:
        words = [*command, name] if command[0] != "convert" else [*command[:-1], name, command[-1]]
        where = words.index("--") if "--" in words else len(words)
        code = main([*words[:where], "--json", *words[where:]])
        said = capsys.readouterr()
        kind = json.loads(said.out)["error"]
        assert kind == "UsageError" or issubclass(getattr(tubelet.errors, kind), tubelet.errors.TubeletError), said.out
        assert (code, said.err.count("\n")) == (2 if kind == "UsageError" else 1, 1), said.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("option", OUTPUTS)
def test_an_output(option: str, place: Path, capsys: pytest.CaptureFixture[str]):
    names = [LONG, "y" * 300, "loop", "loop/x", "a\0b", "", "-", "a.png/x", "set.json"]
    refusals(
        OUTPUTS[option],
        names if "show" in option or option.split()[0] in ("scene", "encode") else [*names, "new/"],
        capsys,
    )


@pytest.mark.parametrize("option", INPUTS)
def test_an_input(option: str, place: Path, capsys: pytest.CaptureFixture[str]):
    refusals(INPUTS[option], [LONG, "y" * 300, "loop", "loop/x"], capsys)
    if "--model" in option:
        refusals(INPUTS[option], [""], capsys)
