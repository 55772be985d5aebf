"""`tubelet pages`: files that can be read back, a sheet to look at, and what is said where fonts are missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from tubelet.cli import main
from tubelet.train.pages import fonts as module
from tubelet.train.pages.fonts import Face, Fonts


@pytest.fixture
def one_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's built-in face as all the system has."""
    font = ImageFont.load_default(20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    path = tmp_path / "face.ttf"
    path.write_bytes(font.font_bytes)
    faces = tuple(Face(family, "Regular", path, family, frozenset("€£")) for family in ("Lato", "Tuffy"))
    monkeypatch.setattr(module, "find_fonts", lambda: Fonts(faces))


def run(*args: object) -> int:
    return main(["pages", *(str(a) for a in args)])


@pytest.mark.usefixtures("one_face")
def test_pages_come_with_conversations_boxes_and_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    assert run("--out", out, "--count", 5, "--seed", 3, "--first", 7, "--show", sheet, "--json") == 0
    said = json.loads(capsys.readouterr().out.partition("{")[2].join(("{", "")))
    asked = [json.loads(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert said["pages"] == 5
    assert said["questions"] == len(asked) > 5
    assert json.loads((out / "recipe.json").read_text())["seed"] == 3
    for one in asked:
        with Image.open(out / one["image"]) as page:
            left, top, right, bottom = map(round, one["box"])
            part = np.asarray(page.convert("L"))[top:bottom, left:right]
            assert part.max() - part.min() > 60  # something is printed there
    for line in (out / "chat.jsonl").read_text(encoding="utf-8").splitlines():
        talk = json.loads(line)
        answers = [m["content"] for m in talk["messages"] if m["role"] == "assistant"]
        assert answers == [one["answer"] for one in asked if one["image"] == talk["images"][0]]
    with Image.open(sheet) as drawn:
        assert min(drawn.size) > 256


@pytest.mark.usefixtures("one_face")
def test_a_folder_of_pages_is_replaced_whole_and_one_of_something_else_never(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert run("--out", out, "--count", 3) == 0
    assert run("--out", out, "--count", 1, "--first", 9) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert len(list(out.glob("*.png"))) == 3
    assert run("--out", out, "--count", 1, "--first", 9, "--overwrite") == 0
    assert sorted(f.name for f in out.glob("*.png")) == ["page-0000009.png"]
    (out / "diary.txt").write_text("dear")
    assert run("--out", out, "--count", 2, "--overwrite") == 1
    assert "diary.txt" in capsys.readouterr().err
    assert sorted(f.name for f in out.glob("*.png")) == ["page-0000009.png"]
    assert [f.name for f in tmp_path.iterdir() if f.is_dir()] == ["out"]


@pytest.mark.usefixtures("one_face")
def test_the_same_command_writes_the_same_pages(tmp_path: Path):
    for name in ("a", "b"):
        assert (
            run(
                "--out",
                tmp_path / name,
                "--count",
                3,
                "--layouts",
                "table,chart:2",
                "--em",
                "20-22",
                "--sizes",
                "256x96",
            )
            == 0
        )
        with Image.open(tmp_path / name / "page-0000000.png") as page:
            assert page.size == (256, 96)  # width first, as in every command
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_system_without_fonts_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    find = module.find_fonts
    monkeypatch.setattr(module, "find_fonts", lambda: find([tmp_path]))
    assert run("--show", tmp_path / "s.png") == 1
    assert "apt-get install" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--show", "s.png", "--count", 0),
        ("--show", "s.png", "--sizes", "100"),
        ("--show", "s.png", "--layouts", "form:x"),
    ],
)
@pytest.mark.usefixtures("one_face")
def test_wrong_command_lines(wrong: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run(*wrong) == 2
