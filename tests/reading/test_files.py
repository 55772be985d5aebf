"""Folders and patterns as lists of files: which, in what order, and what is said of the rest."""

from pathlib import Path

import pytest
from PIL import Image

from tubelet.errors import InputError
from tubelet.reading.files import expand, natural


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "scans"
    (place / "deep").mkdir(parents=True)
    for name in ("f10.png", "f2.PNG", "f1.jpg", "no_suffix", ".hidden.png", "deep/f3.png", "a[1].png"):
        Image.new("RGB", (4, 4)).save(place / name, "PNG")  # what a file is its bytes say, not its name
    (place / "notes.png").write_text("no picture")
    (place / "walk.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isommp42")
    return place


def names(found: tuple[str, ...]) -> list[str]:
    return [Path(one).name for one in found]


def test_a_folder_is_its_own_files_in_the_order_people_count(folder: Path):
    found = expand(["scans"])
    assert names(found.files) == ["a[1].png", "f1.jpg", "f2.PNG", "f10.png", "no_suffix", "walk.mp4"]
    assert [(Path(path).name, kind) for path, kind in found.skipped] == [("notes.png", "text")]
    pictures = expand(["scans"], pictures_only=True)
    assert names(pictures.files) == ["a[1].png", "f1.jpg", "f2.PNG", "f10.png", "no_suffix"]
    assert ("walk.mp4", "MP4") in [(Path(path).name, kind) for path, kind in pictures.skipped]


def test_a_pattern_is_its_matches_and_goes_as_deep_as_it_says(folder: Path):
    assert names(expand(["scans/f*"]).files) == ["f1.jpg", "f2.PNG", "f10.png"]
    assert names(expand(["scans/**"]).files)[:2] == ["a[1].png", "f3.png"]
    assert names(expand(["scans/*.mp4"], pictures_only=True).files) == ["walk.mp4"]


def test_a_name_is_kept_whatever_it_is_and_in_its_place(folder: Path):
    found = expand(["gone.png", "scans/f1*", "scans/a[1].png", "-", "x" * 5000])
    assert [Path(one).name for one in found.files[:4]] == ["gone.png", "f1.jpg", "f10.png", "a[1].png"]
    assert found.files[4:6] == ("-", "x" * 5000)
    assert found.of[:5] == (0, 1, 1, 2, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "empty: the folder has no picture or clip; 'empty/\\*\\*'"),
        ("texts", "texts: no picture or clip is there, only a.txt \\(text\\)"),
        ("*.jpg", "\\*.jpg: no file has such a name"),
    ],
)
def test_nothing_is_an_error_that_says_what_is_there(name: str, said: str, folder: Path):
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("text, and more of it")
    with pytest.raises(InputError, match=said) as caught:
        expand(["scans", name])
    assert caught.value.item == 1


def test_names_sort_as_people_count():
    assert sorted(["b10", "b9", "a", "10", "9", "b"], key=natural) == ["a", "b", "b9", "b10", "9", "10"]
