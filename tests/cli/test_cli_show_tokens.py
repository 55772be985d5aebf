"""`tubelet show tokens.safetensors`: what is drawn, what is said, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tubelet import Item, pack
from tubelet.cli import main
from tubelet.packed import Grid


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tokens(here: Path) -> Path:
    """Tokens of a picture of 100 x 40 and of a clip of 64 x 48, as encode writes them."""
    wide = Item(Grid(1, 4, 10), (0.0,), 0, (0.0, 0.0, 100.0, 40.0))
    clip = Item(Grid(3, 3, 4), (0.0, 0.5, 1.0), 1, (0.0, 0.0, 64.0, 48.0))
    p = pack([torch.randn(40, 16), torch.randn(36, 16)], [wide, clip])
    words = {
        "files": json.dumps(["in/wide.png", "in/clip.mp4"]),
        "model": json.dumps({"name": "tiny"}),
        "untrained": "true",
    }
    p.save(here / "tokens.safetensors", {"pooled": torch.randn(2, 16)}, words)
    return here / "tokens.safetensors"


def show(*args: object) -> int:
    return main(["show", *map(str, args)])


def page(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_page_of_maps(tokens: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    assert show(tokens) == 0
    assert capsys.readouterr().out == "tokens.maps.png  (76 tokens of 16 values, of 2 inputs, UNTRAINED)\n"
    assert max(page(here / "tokens.maps.png").shape) <= 1600


def test_what_is_said_to_programs(tokens: Path, capsys: pytest.CaptureFixture[str]):
    assert show(tokens, "--like", "1:10,20,0.6", "--out", "maps.png", "--json") == 0
    told = json.loads(capsys.readouterr().out)["files"][0]
    assert [(i["name"], i["grid"], i["tokens"]) for i in told["items"]] == [
        ("in/wide.png", [1, 4, 10], 40),
        ("in/clip.mp4", [3, 3, 4], 36),
    ]
    assert told["beside"] == ["pooled"]
    assert told["like"] == {"picture": 1, "x": 10.0, "y": 20.0, "time_s": 0.6}


def test_pictures_are_found_by_their_names(files: dict[str, Path], tokens: Path, here: Path):
    """In any order; and without names, in the order of the tokens."""
    assert show(tokens, "--out", "bare.png", "--quiet") == 0
    assert show(tokens, "--pictures", files["clip"], files["wide"], "--out", "named.png", "--quiet") == 0
    named, bare = page(here / "named.png"), page(here / "bare.png")
    assert len({tuple(c) for c in named[::3, ::3].reshape(-1, 3)}) > len(
        {tuple(c) for c in bare[::3, ::3].reshape(-1, 3)}
    )
    pack([torch.randn(40, 16)], [Item(Grid(1, 4, 10), (0.0,), 0, (0.0, 0.0, 100.0, 40.0))]).save("plain.safetensors")
    assert show("plain.safetensors", "--pictures", files["wide"], "--quiet") == 0
    assert page(here / "plain.maps.png").shape[1] > 800


def test_nothing_that_a_file_names_is_opened(files: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]):
    p = pack([torch.randn(40, 16)], [Item(Grid(1, 4, 10), (0.0,), 0, (0.0, 0.0, 100.0, 40.0))])
    p.save("named.safetensors", None, {"files": json.dumps([str(files["wide"])])})
    p.save("other.safetensors", None, {"files": json.dumps(["/no/such/file.png"])})
    for name in ("named", "other"):
        assert show(f"{name}.safetensors", "--quiet") == 0
    assert page(here / "named.maps.png").shape == page(here / "other.maps.png").shape


def test_tokens_beside_a_picture(files: dict[str, Path], tokens: Path, here: Path):
    assert show(files["wide"], tokens, "--patch", 16, "--out", "all/", "--quiet") == 0
    assert sorted(f.name for f in (here / "all").iterdir()) == ["tokens.maps.png", "wide.grid.png"]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--like", "a,b"), 2, "--like is [PICTURE:]X,Y[,SECONDS]"),
        (("--like", "1:3"), 2, "--like is [PICTURE:]X,Y[,SECONDS]"),
        (("--like", "2:3,4"), 2, "--like counts the 2 inputs of tokens.safetensors from 0, got 2"),
        (("--like", "500,4"), 1, "there is no token at 500, 4"),
        (("--pictures", "else.png"), 2, "not of else.png; they are of wide.png, clip.mp4"),
    ],
)
def test_what_is_refused(args: tuple[str, ...], code: int, said: str, tokens: Path, capsys: pytest.CaptureFixture[str]):
    assert show(tokens.name, *args) == code
    assert said in capsys.readouterr().err
    assert not list(tokens.parent.glob("*.png"))


def test_options_of_tokens_are_refused_without_any(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    assert show(files["wide"], "--like", "3,4") == 2
    assert "are for a file of tokens" in capsys.readouterr().err


def test_a_file_that_is_none(here: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    (here / "bad.safetensors").write_bytes(b"not this")
    assert show("bad.safetensors") == 1
    assert "bad.safetensors" in capsys.readouterr().err
    args = ("bad.safetensors", files["wide"], "--patch", 16, "--on-error", "skip", "--json")
    assert show(*args) == 1
    told = json.loads(capsys.readouterr().out)
    assert [e["error"] for e in told["errors"]] == ["UnsafeFile"] and len(told["files"]) == 1
