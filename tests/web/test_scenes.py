"""A scene's folder over HTTP: what is told is what was saved, and what somebody made of a folder is refused."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.geometry.rooms import room
from tests.web.asgi import HOST, TOKEN, Answer, ask, post
from tests.web.scenes import HOSTILE, changed, exact_scene, named_by_a_stranger, untrained_scene

from tubelet.encoder.model import Encoder
from tubelet.geometry.export import read_ply
from tubelet.inspect.draw.frames import FRAME
from tubelet.inspect.draw.scene_page import MOST_POINTS, frame_label, quantise, scene_page, told_of
from tubelet.inspect.draw.shades import UNKNOWN, shaded
from tubelet.reading.isolated import pool
from tubelet.web.api import Api
from tubelet.web.bench import Bench
from tubelet.web.guard import Guard, Rules

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, media: dict[str, Path]) -> Path:
    """room/ and deep/walk/ are scenes, and beside them are things that are none."""
    folder = tmp_path_factory.mktemp("scenes")
    exact_scene(folder / "room")
    untrained_scene(folder / "deep" / "walk", media["clip"])
    (folder / "link").symlink_to(folder / "room")
    (folder / "none").mkdir()
    shutil.copy(media["page"], folder / "page.png")
    (folder / "secret").mkdir()
    shutil.copytree(folder / "room", folder / "secret" / "outside")
    return folder


@pytest.fixture(scope="module")
def api(encoder: Encoder, place: Path) -> Iterator[Api]:
    files = (str(place / "room"), str(place / "link"), str(place / "none"))
    made = Api(Bench("tiny", encoder, encoder.pixels, True, files=files, root=place))
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(api: Api) -> Any:
    return Guard(api.router, Rules(TOKEN, frozenset({HOST}), 1_000_000))


@pytest.fixture(scope="module")
def opened(app: Any) -> dict[str, Any]:
    return post(app, "/api/open", {"file": 0}).json


def pixels(answer: Answer) -> np.ndarray:
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(answer.body)))


# ---- what is told


def test_a_scene_is_listed_and_its_frames_are_not(app: Any):
    told = ask(app, "/api/about").json
    assert told["files"] == ["room/", "link/", "none/"]
    assert told["root"] == ["deep/walk/", "page.png", "room/", "secret/outside/"]


def test_counts_are_those_of_the_scene(opened: dict[str, Any]):
    scene = room(3, (28, 42), "ahead")
    cloud = scene.cloud()
    assert (opened["kind"], opened["name"], opened["again"]) == ("scene", "room/", {"file": 0})
    assert (opened["width"], opened["height"], opened["untrained"], opened["network"]) == (42, 28, False, "exact")
    assert opened["points"] == {"shown": len(cloud.points), "kept": len(cloud.points), "usable": cloud.total}
    assert [frame["time_s"] for frame in opened["frames"]] == [0.0, 0.5, 1.0]
    known = scene.depth.flatten().sort().values
    near, far = float(opened["depth"]["near"]), float(opened["depth"]["far"])
    assert near == pytest.approx(float(known[round(0.01 * len(known))]), abs=0.06)
    assert far == pytest.approx(float(known[round(0.99 * len(known))]), abs=0.06)
    for frame, depth in zip(opened["frames"], scene.depth, strict=True):
        assert float(frame["depth"]["middle"]) == pytest.approx(float(depth.median()), abs=0.06)
        assert frame["depth"]["known"] == 1.0


def test_points_and_cameras_are_those_of_the_page_that_was_written(app: Any, opened: dict[str, Any], place: Path):
    page = (place / "room" / "index.html").read_text(encoding="utf-8")
    said = json.loads(page.split('id="scene">')[1].partition("</script>")[0])
    assert opened["scene"] == said | {"name": "room/"}
    with (place / "room" / "points.ply").open("rb") as file:
        points, colours = read_ply(file, MOST_POINTS)
    packed = quantise(points, colours)
    assert ask(app, f"/api/points/{opened['id']}").body == packed.steps + packed.colours
    assert len(packed.steps) == 6 * opened["points"]["shown"]


def test_the_script_that_turns_them_is_one(app: Any):
    script = ask(app, "/turn.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.body.decode() in scene_page(room(1))


def test_frames_and_depth_are_what_was_saved(app: Any, opened: dict[str, Any]):
    scene = room(3, (28, 42), "ahead")
    near, far = (float(opened["depth"][end]) for end in ("near", "far"))
    for i in range(3):
        assert np.array_equal(pixels(ask(app, f"/api/frame/{opened['id']}/{i}")), scene.frames[i])
        drawn = pixels(ask(app, f"/api/depth/{opened['id']}/{i}")).astype(int)
        assert np.abs(drawn - shaded(scene.depth[i].numpy(), far, near)).max() <= 16  # the ends are told rounded
    assert pixels(ask(app, f"/api/depth/{opened['id']}/0?side=21")).shape == (14, 21, 3)


def test_what_has_no_depth_is_red_and_margins_are_grey(app: Any, place: Path):
    def pad(told: dict[str, Any]) -> None:
        told["frames"][0]["content"] = [0, 7, 42, 21]

    folder = changed(place / "room", place / "padded", pad)
    depth = np.asarray(Image.open(folder / "depth" / "0000.png")).copy()
    depth[:, :21] = 0
    Image.fromarray(depth).save(folder / "depth" / "0000.png")
    told = post(app, "/api/open", {"path": "padded/"}).json
    drawn = pixels(ask(app, f"/api/depth/{told['id']}/0"))
    assert (drawn[:7] == FRAME).all() and (drawn[21:] == FRAME).all()
    assert (drawn[7:21, :21] == UNKNOWN).all() and not (drawn[7:21, 21:] == UNKNOWN).all(-1).any()
    assert [frame["depth"]["known"] for frame in told["frames"]] == [0.5, 1.0, 1.0]


def test_random_weights_are_told(app: Any):
    told = post(app, "/api/open", {"path": "deep/walk/"}).json
    assert (told["untrained"], told["network"], told["name"]) == (True, "vggt_tiny", "walk/")
    assert told["again"] == {"path": "deep/walk/"}
    assert (
        "/" not in told["world"] + told["frames"][0]["source"]
    )  # the folders of another machine are nobody's business


def test_a_scene_is_open_beside_documents_and_has_no_tokens(app: Any, api: Api, opened: dict[str, Any]):
    again = ask(app, f"/api/document/{opened['id']}").json
    assert again == opened
    for path in (f"scores/{opened['id']}/edges", f"positions/{opened['id']}", f"colours/{opened['id']}"):
        answer = ask(app, f"/api/{path}")
        assert (answer.status, answer.json["message"]) == (422, "a scene has no tokens")
    page = post(app, "/api/open", {"path": "page.png"}).json
    assert ask(app, f"/api/points/{page['id']}").status == ask(app, f"/api/depth/{page['id']}/0").status == 404
    for path in ("3", "0?side=4", "0?side=x"):
        assert ask(app, f"/api/depth/{opened['id']}/{path}").status == 422
    for _ in range(api.scenes.most):
        assert post(app, "/api/open", {"file": 0}).status == 200
    assert len(api.scenes) == api.scenes.most
    assert ask(app, f"/api/points/{opened['id']}").status == 404


def test_maps_and_frames_are_decoded_in_a_child(app: Any, monkeypatch: pytest.MonkeyPatch):
    told = post(app, "/api/open", {"path": "room"}).json
    asked = []
    monkeypatch.setattr(pool.DecodeChild, "ask", lambda *args: asked.append(args[1]["kind"]) or 1 / 0)
    for path in ("frame", "depth"):
        with pytest.raises(ZeroDivisionError):
            ask(app, f"/api/{path}/{told['id']}/0")
    with pytest.raises(ZeroDivisionError):
        post(app, "/api/open", {"path": "room"})
    assert asked == ["clip", "grey16", "grey16"]


# ---- what is refused


def without(part: str) -> Change:
    return lambda folder: (folder / part).unlink()


def cut(part: str, length: int) -> Change:
    return lambda folder: (folder / part).write_bytes((folder / part).read_bytes()[:length])


def linked(part: str) -> Change:
    def change(folder: Path) -> None:
        (folder / part).unlink()
        (folder / part).symlink_to(folder.parent / "secret" / "outside" / part)

    return change


def piped(part: str) -> Change:
    def change(folder: Path) -> None:
        (folder / part).unlink()
        os.mkfifo(folder / part)

    return change


def drawn(part: str, array: np.ndarray) -> Change:
    return lambda folder: Image.fromarray(array).save(folder / part)


def of_nothing(folder: Path) -> None:
    """Points that are no numbers."""
    data = (folder / "points.ply").read_bytes()
    at = data.index(b"end_header\n") + 11
    (folder / "points.ply").write_bytes(data[:at] + b"\xff" * 12 + data[at + 12 :])


DAMAGE: dict[str, Change] = {
    "no cameras": without("cameras.json"),
    "no points": without("points.ply"),
    "no depth": without("depth/0001.png"),
    "cameras cut": cut("cameras.json", 900),
    "points cut": cut("points.ply", 5000),
    "a head cut": cut("points.ply", 60),
    "depth cut": cut("depth/0002.png", 200),
    "cameras elsewhere": linked("cameras.json"),
    "points elsewhere": linked("points.ply"),
    "depth elsewhere": linked("depth/0000.png"),
    "a pipe": piped("points.ply"),
    "a map of 8 bits": drawn("depth/0000.png", np.zeros((28, 42), np.uint8)),
    "a larger map": drawn("depth/0000.png", np.ones((29, 42), np.uint16)),
    "a smaller map": drawn("depth/0000.png", np.ones((27, 42), np.uint16)),
    "points of nothing": of_nothing,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_our_own_words(app: Any, place: Path, name: str, tmp_path: Path):
    folder = place / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "room", folder)
    DAMAGE[name](folder)
    answer = post(app, "/api/open", {"path": "damaged/"})
    assert answer.status == 422
    assert set(answer.json) == {"error", "message"}
    assert " of this scene: " in answer.json["message"]
    assert str(place) not in answer.body.decode()


@pytest.mark.parametrize("part", ["gone", "linked", "cut"])
def test_a_frame_that_is_lost_meanwhile_is_refused(app: Any, place: Path, part: str):
    folder = place / f"lost-{part}"
    shutil.copytree(place / "room", folder)
    told = post(app, "/api/open", {"path": folder.name}).json
    {"gone": without, "linked": linked, "cut": lambda name: cut(name, 90)}[part]("images/0001.png")(folder)
    answer = ask(app, f"/api/frame/{told['id']}/1")
    assert (answer.status, answer.json["message"].partition(":")[0]) == (422, "images/0001.png of this scene")
    assert ask(app, f"/api/frame/{told['id']}/0").status == 200


def put(*names: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(told: dict[str, Any]) -> None:
        for name in names[:-1]:
            told = told[name]
        told[names[-1]] = value

    return change


LIES = {
    "format": put("format", value="tubelet-scene-2"),
    "no frames": put("frames", value=[]),
    "many frames": lambda told: told["frames"].extend(told["frames"] * 100),
    "a frame too many": lambda told: told["frames"].append(told["frames"][0]),
    "a name outside": put("frames", 0, "depth", value="../secret/outside/depth/0000.png"),
    "an absolute name": put("frames", 0, "image", value="/etc/passwd"),
    "a huge size": put("size", value={"height": 60000, "width": 60000}),
    "another size": put("size", "height", value=56),
    "no size": put("size", value=[28, 42]),
    "half a size": put("size", "height", value=28.5),
    "a focal length of 0": put("frames", 0, "K", 0, 0, value=0),
    "a number out of range": put("frames", 0, "world_to_cam", 0, 3, value=10**400),
    "text for a number": put("frames", 0, "K", 0, 0, value="1"),
    "true for a number": put("frames", 0, "K", 0, 0, value=True),
    "a short row": put("frames", 0, "K", 0, value=[1.0, 0.0]),
    "no rotation": put("frames", 1, "world_to_cam", 0, 0, value=9.0),
    "a mirror": put("frames", 1, "world_to_cam", value=[[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    "half the times": put("frames", 1, "time_s", value=None),
    "no content": put("frames", 1, "content", value=None),
    "no scale": put("depth", "scale", value=0),
    "more kept than there are": put("points", "kept", value=10**9),
    "a share of 2": put("points", "share", value=2),
    "untrained as text": put("untrained", value="no"),
    "no network": put("network", value=None),
}


@pytest.mark.parametrize("name", LIES)
def test_a_folder_that_lies_is_refused(app: Any, place: Path, name: str):
    shutil.rmtree(place / "lies", ignore_errors=True)
    changed(place / "room", place / "lies", LIES[name])
    answer = post(app, "/api/open", {"path": "lies/"})
    assert answer.status == 422
    assert " of this scene: " in answer.json["message"]


@pytest.mark.parametrize(
    "path",
    ["link/", "../room/", "deep/../room/", "/", "", ".", "room//", "deep/walk/x/", "none", "secret", "room/images/"],
)
def test_no_other_folder_is_a_scene(app: Any, path: str):
    answer = post(app, "/api/open", {"path": path})
    assert (answer.status, answer.json["error"]) == (422, "InputError")


def test_a_link_that_a_person_names_is_followed(app: Any):
    assert post(app, "/api/open", {"file": 1}).json["points"]["shown"] > 0
    assert post(app, "/api/open", {"file": 2}).status == 422


def test_names_from_strangers_are_text(app: Any, place: Path):
    named_by_a_stranger(place / "room", place / HOSTILE)
    told = post(app, "/api/open", {"path": f"{HOSTILE}/"})
    assert told.headers["content-type"] == "application/json"
    assert (told.json["name"], told.json["network"], told.json["world"]) == (f"{HOSTILE}/", HOSTILE, HOSTILE)
    assert told.json["scene"]["frames"][0]["label"] == frame_label(HOSTILE, 0.0)


def test_numbers_at_their_limits_are_told_and_nothing_is_infinite(app: Any, place: Path):
    def change(told: dict[str, Any]) -> None:
        told["frames"][0]["K"] = [[1e-6, 0, 1e30], [0, 1e-6, 1e30], [0, 0, 1]]
        told["frames"][1]["world_to_cam"][0][3] = 1e30
        told["frames"][2]["time_s"] = 1e30

    changed(place / "room", place / "far", change)
    assert post(app, "/api/open", {"path": "far/"}).status == 200


def test_told_cameras_are_plain_values():
    scene = room(2)
    points, colours = scene.cloud().points.numpy(), scene.cloud().colours.numpy()
    said = told_of("a", "b", scene.cameras, ["x", "y"], points, 9, quantise(points, colours))
    assert (
        json.loads(json.dumps(said, allow_nan=False))["about"]
        == f"2 frames, {len(points):,} of 9 points, the surest first; b"
    )
