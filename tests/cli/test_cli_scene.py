"""`tubelet scene`: what is written, what is said before and after, and how it ends."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.cli_inputs import write_picture

from tubelet.cli import main
from tubelet.cli.scene import cost_words
from tubelet.geometry.look import SceneFrames
from tubelet.geometry.scene import parts_of

SMALL = ("--model", "vggt_tiny", "--fit", "square", "--side", "42")


def scene(*args: object) -> int:
    return main(["scene", *map(str, args)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: str) -> set[str]:
    return {str(f.relative_to(folder)) for f in Path(folder).rglob("*") if f.is_file()}


def test_a_clip_becomes_a_folder_and_a_table(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    assert scene(files["clip"], "--out", "room", "--frames", 3, *SMALL) == 0
    said = capsys.readouterr()
    assert written("room") == parts_of(3)
    assert "frames    3 of 42 x 42" in said.out and "UNTRAINED: random weights, this scene means nothing" in said.out
    assert "3 frames of 42 x 42: " in said.err and "layers see the whole scene" in said.err
    assert "vggt_tiny is UNTRAINED" in said.err
    told = json.loads(Path("room/cameras.json").read_text())
    assert told["untrained"] and [f["time_s"] for f in told["frames"]] == [0.3, 1.0, 1.6]
    assert "UNTRAINED" in Path("room/index.html").read_text(encoding="utf-8")


def test_the_guide_s_line_runs(here: Path):
    root = Path(__file__).parents[2]
    [line] = re.findall(
        r"^    tubelet (scene .+)$", (root / "docs/guides/geometry.md").read_text(encoding="utf-8"), re.M
    )
    (here / "examples").symlink_to(root / "examples")
    assert main(shlex.split(line)) == 0
    told = json.loads(Path("walk/cameras.json").read_text())
    assert len(told["frames"]) == 4 and written("walk") == parts_of(4)


def test_json_holds_cost_points_and_frames(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    args = ("--frames", 2, "--by", "space", "--pool", 5, "--confidence", 0.25, "--points", "head", "--json", *SMALL)
    assert scene(files["clip"], "--out", "s", *args) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert said.err == "tubelet: vggt_tiny is UNTRAINED: random weights, the scene means nothing\n"
    assert (told["command"], told["out"], told["untrained"], told["seen"]) == ("scene", "s", True, 5)
    assert len(told["frames"]) == 2 and (told["width"], told["height"]) == (42, 42)
    assert told["points"]["kept"] == round(0.25 * told["points"]["usable"])
    assert told["cost"]["frames"] == 5 and told["cost"]["flop"] == 2 * sum(told["cost"]["macs"].values())
    assert told["cost"]["macs"]["points"] > 0 and told["cost"]["seconds_at_least"] is None
    assert written("s") == parts_of(2)


def test_pictures_by_name_and_in_a_folder_are_one_scene(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "in").mkdir()
    for i in (1, 2, 10):
        write_picture(here / "in" / f"f{i}.png", 40, 40, i)
    assert scene("in", "--out", "a", "--json", *SMALL) == 0
    told = json.loads(capsys.readouterr().out)
    assert [f["source"] for f in told["frames"]] == ["in/f1.png", "in/f2.png", "in/f10.png"]
    assert {f["time_s"] for f in told["frames"]} == {None}
    assert scene("in/f10.png", "in/f1.png", "--frames", 1, "--out", "b", "--json", *SMALL) == 0
    assert [f["source"] for f in json.loads(capsys.readouterr().out)["frames"]] == ["in/f10.png"]
    with Image.open("b/images/0000.png") as picture:
        assert np.asarray(picture).shape == (42, 42, 3)


def test_pictures_of_several_sizes_want_a_fit(files: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    args = (files["wide"], files["tall"], "--out", "o", "--model", "vggt_tiny")
    assert scene(*args) == 1
    assert "fit pad or square makes them one size" in capsys.readouterr().err
    assert scene(*args, "--fit", "square", "--side", 42, "--quiet") == 0


def test_a_scene_is_replaced_only_when_told_to_and_nothing_else_is(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    args = (files["small"], "--out", "o", "--quiet", *SMALL)
    assert scene(*args) == 0
    first = Path("o/cameras.json").stat().st_mtime_ns
    assert scene(*args) == 1
    assert Path("o/cameras.json").stat().st_mtime_ns == first
    assert scene(*args, "--overwrite") == 0
    Path("o/mine.txt").write_text("mine")
    assert scene(*args, "--overwrite") == 1
    assert "holds mine.txt, which this does not write" in capsys.readouterr().err
    assert Path("o/mine.txt").read_text() == "mine" and written("o") == {*parts_of(1), "mine.txt"}


@pytest.mark.parametrize(
    "wrong, says",
    [
        (("--frames", 0), "--frames must be from 1 to 256"),
        (("--frames", 300), "--frames must be from 1 to 256"),
        (("--confidence", 0), "--confidence must be above 0"),
        (("--confidence", "nan"), "--confidence must be above 0"),
        (("--side", 43), "--side takes a multiple of 14"),
        (("--fit", "crop"), "--side takes a multiple of 14 and goes with --fit square"),
        (("--pool", 9), "--pool goes with --by space or poses"),
        (("--by", "space", "--pool", 3, "--frames", 5), "--pool goes with"),
        (("--model", "vggt_huge"), "--model vggt_huge: no such folder or file, and not vggt_tiny or vggt_1b"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    files: dict[str, Path], wrong: tuple[object, ...], says: str, here: Path, capsys: pytest.CaptureFixture[str]
):
    assert scene(files["small"], "--out", "o", *SMALL, *wrong) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and says in said
    assert list(here.iterdir()) == []


def test_what_cannot_be_seen_is_one_line(files: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]):
    Path("none").mkdir()
    for inputs, more, says in (
        (("none",), (), "none: the folder has no picture"),
        ((files["clip"], files["small"]), (), "a video beside others"),
        ((files["broken"],), (), "broken.png"),
        (("gone.mp4",), (), "gone.mp4"),
        ((files["small"],), ("--model", "none"), "none"),
    ):
        assert scene(*inputs, "--out", "o", *SMALL, *more) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and says in said
    assert [f.name for f in here.iterdir()] == ["none"]


def test_long_work_is_told_before_it_starts_with_what_makes_it_less():
    frames = SceneFrames(np.zeros((16, 392, 518, 3), np.uint8), ("a",) * 16, None, ((0, 0, 518, 392),) * 16, "a")
    macs = {"patches": 10**12, "frame": 10**12, "scene": 2 * 10**12}
    cost = {"frames": 16, "macs": macs, "flop": 8 * 10**12, "memory_bytes": 3 << 30, "seconds_at_least": 300.0}
    assert cost_words(cost, frames, "cpu").split("\n") == [
        "16 frames of 518 x 392: 8 TFLOP, 50 % of it where layers see the whole scene; about 3,072 MiB, "
        "5:00 min or more on cpu",
        "twice the frames cost up to four times that: their attention is quadratic; --frames takes fewer",
    ]
    assert "\n" not in cost_words(cost | {"seconds_at_least": 2.0}, frames, "cpu")
