"""Files below a folder: what is there, and nothing else, whatever the path says."""

import os
from pathlib import Path

import pytest

from tubelet.errors import InputError, LimitError
from tubelet.reading.limits import Limits
from tubelet.web.folder import is_folder_below, listed, read_below


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(b"secret")
    place = tmp_path / "root"
    (place / "deep" / "er").mkdir(parents=True)
    for name in ("a.png", "deep/b.JPG", "deep/er/c.mp4", "notes.txt", ".hidden.png"):
        (place / name).write_bytes(name.encode())
    (place / "out.png").symlink_to(tmp_path / "secret.png")
    (place / "inner.png").symlink_to("a.png")
    (place / "up").symlink_to(tmp_path)
    os.mkfifo(place / "pipe.png")
    return place


def test_files_are_read_by_their_path(root: Path):
    assert read_below(root, "a.png") == b"a.png"
    assert read_below(root, "deep/er/c.mp4") == b"deep/er/c.mp4"


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "/", "/etc/passwd", "../secret.png", "deep/../../secret.png", "deep/./b.JPG", "deep//b.JPG"),
        *("out.png", "inner.png", "up/secret.png", "deep", "pipe.png", "a.png/", "a.png/x", "none.png", "a\0.png"),
        *("..\\secret.png", "%2e%2e/secret.png", "x" * 300, "/".join(["deep"] * 40), "\udcff"),
    ],
)
def test_nothing_leads_out_of_it(root: Path, path: str):
    with pytest.raises(InputError, match="no such file below"):
        read_below(root, path)


def test_a_file_above_the_limit_is_refused(root: Path):
    with pytest.raises(LimitError):
        read_below(root, "a.png", Limits(max_bytes=4))


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(root)
    assert read_below(tmp_path / "link", "a.png") == b"a.png"


def test_what_can_be_opened_is_listed(root: Path):
    assert listed(root) == ["a.png", "deep/b.JPG", "deep/er/c.mp4"]


def test_a_scene_is_one_thing_and_what_only_looks_like_one_is_not(root: Path):
    for name in ("deep/room", "deep/half", "deep/linked"):
        for part in ("images", "depth"):
            (root / name / part).mkdir(parents=True)
            (root / name / part / "0000.png").write_bytes(b"")
        for part in ("cameras.json", "points.ply"):
            (root / name / part).write_bytes(b"")
    (root / "deep/half/points.ply").unlink()
    (root / "deep/linked/points.ply").unlink()
    (root / "deep/linked/points.ply").symlink_to(root / "deep/room/points.ply")
    found = [path for path in listed(root) if path.startswith("deep/")]
    frames = [f"deep/{name}/{part}/0000.png" for name in ("half", "linked") for part in ("depth", "images")]
    assert found == ["deep/b.JPG", "deep/er/c.mp4", *frames, "deep/room/"]


def test_a_folder_is_told_from_a_file_and_from_a_link(root: Path):
    assert [is_folder_below(root, path) for path in ("deep", "deep/er")] == [True, True]
    assert not any(is_folder_below(root, path) for path in ("a.png", "up", "up/root", "..", "", "deep/", "none"))
