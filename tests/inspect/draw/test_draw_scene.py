"""A scene's sheet and page: depth in the right colours, points and cameras that come back out of the page."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.geometry.rooms import room

from tubelet.errors import LimitError, NotFinite, ShapeError
from tubelet.geometry.scene import PICTURES, parts_of
from tubelet.inspect.draw.frames import FRAME, MARGIN
from tubelet.inspect.draw.lettering import PAPER
from tubelet.inspect.draw.scene import save_scene, scene_sheet
from tubelet.inspect.draw.scene_page import MOST_POINTS, quantise, scene_page
from tubelet.inspect.draw.shades import GREYS, UNKNOWN, VIRIDIS, ends, legend, shaded, shades

# ---- colours


def test_lightness_of_the_tables_goes_one_way_in_even_steps():
    for table in (VIRIDIS, GREYS):
        rgb = shades(table, np.linspace(0, 1, 65)) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        y = linear @ (0.2126, 0.7152, 0.0722)
        lightness = 116 * np.cbrt(y) - 16
        steps = np.diff(lightness)
        assert steps.min() > 0
        assert table is GREYS or steps.max() < 2.5 * steps.mean()


def test_maps_are_coloured_from_one_end_to_the_other_and_what_is_unknown_otherwise():
    values = np.array([[1.0, 3.0, 2.0, 9.0, -9.0, np.nan, np.inf]])
    got = shaded(values, 1.0, 3.0)[0]
    first, last = VIRIDIS[0].astype(int).tolist(), VIRIDIS[-1].astype(int).tolist()
    assert [got[0].tolist(), got[1].tolist(), got[3].tolist(), got[4].tolist()] == [first, last, last, first]
    assert got[2].tolist() == VIRIDIS[4].astype(int).tolist()
    assert got[5].tolist() == got[6].tolist() == list(UNKNOWN)
    assert shaded(values, 3.0, 1.0)[0][0].tolist() == last  # the other way round
    assert len(np.unique(shaded(np.full((2, 2), 7.0), 7.0, 7.0).reshape(-1, 3), axis=0)) == 1


def test_a_legend_tells_its_ends_apart():
    assert ends(0.99931, 0.99994) == ("0.99931", "0.99994")
    assert ends(1.0, 1.0) == ("1.0", "1.0") and ends(0.0, 0.0) == ("0.0", "0.0")
    bar = np.asarray(legend("depth", "near", "far", VIRIDIS[::-1]))[8]
    colours = [tuple(c) for c in bar]
    assert colours.index((253, 231, 37)) < colours.index((68, 1, 84))


# ---- the sheet


def test_a_sheet_shows_frame_depth_and_confidence_of_every_frame():
    scene = room(4, (28, 42), "ahead")
    sheet = np.asarray(scene_sheet(scene))
    wide, high = 294, 196  # 7 times the frame
    assert np.array_equal(sheet[MARGIN:, :MARGIN], np.broadcast_to(PAPER, sheet[MARGIN:, :MARGIN].shape))
    near, far = scene.depth_range()
    for i in range(4):
        x = MARGIN + i * (wide + 14)
        frame = np.asarray(Image.fromarray(scene.frames[i]).resize((wide, high), Image.Resampling.NEAREST))
        top = next(y for y in range(len(sheet) - high) if np.array_equal(sheet[y : y + high, x : x + wide], frame))
        depth, sure = (sheet[top + k * (high + 3) :, x : x + wide][:high:7, ::7] for k in (1, 2))
        assert np.array_equal(depth, shaded(scene.depth[i].numpy(), far, near))
        nearest = np.unravel_index(int(scene.depth[i].argmin()), (28, 42))
        farthest = np.unravel_index(int(scene.depth[i].argmax()), (28, 42))
        assert int(depth[nearest].sum()) > int(depth[farthest].sum())  # near is light
        assert np.all(np.diff(sure.astype(int).sum(-1), axis=1) >= 0)  # surer to the right


def test_a_sheet_of_many_frames_shows_some_and_of_no_point_is_an_error():
    scene = room(30, (14, 28))
    assert scene_sheet(scene, max_frames=4).height < scene_sheet(scene).height
    with pytest.raises(ShapeError):
        scene_sheet(scene, max_frames=0)
    blind = replace(room(1), depth=torch.full((1, 28, 42), torch.nan))
    with pytest.raises(NotFinite):
        scene_sheet(blind)


def test_margins_are_drawn_as_no_part_of_the_picture():
    scene = replace(room(1, (28, 42)), content=((0.0, 7.0, 42.0, 21.0),))
    picture = np.asarray(scene_sheet(scene)).reshape(-1, 3)
    assert int((picture == FRAME).all(1).sum()) >= 2 * 294 * 98
    assert not (picture == UNKNOWN).all(1).any()


def test_pixels_without_depth_are_drawn_as_unknown():
    scene = room(1, (28, 42))
    depth = scene.depth.clone()
    depth[0, :, :21] = torch.nan
    picture = np.asarray(scene_sheet(replace(scene, depth=depth))).reshape(-1, 3)
    assert 0 <= int((picture == UNKNOWN).all(1).sum()) - 294 * 196 // 2 < 200  # and the words that say so


# ---- the page


class Tags(HTMLParser):
    """Open tags, what is never closed, and what scripts and attributes hold."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def part(page: str, name: str) -> str:
    found = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', page, re.S)
    assert found is not None
    return found[1]


def test_points_and_cameras_come_back_out_of_the_page():
    scene = room(5, (28, 42), "ahead", 0.7)
    cloud = scene.cloud(0.6)
    page = scene_page(scene, cloud)
    told = json.loads(part(page, "scene"))
    steps = np.frombuffer(base64.b64decode(part(page, "points")), "<u2").reshape(-1, 3)
    points = np.array(told["low"]) + steps / 65535 * np.array(told["size"])
    assert told["count"] == len(points) == len(cloud.points)
    assert np.abs(points - cloud.points.numpy()).max() <= max(told["size"]) / 131070 * 1.01
    colours = np.frombuffer(base64.b64decode(part(page, "colours")), np.uint8).reshape(-1, 3)
    assert np.array_equal(colours, cloud.colours.numpy())
    assert len(told["frames"]) == 5
    for i, frame in enumerate(told["frames"]):
        assert np.allclose(frame["centre"], scene.cameras.centres[i].numpy(), atol=1e-6)
        corners = torch.tensor(frame["corners"], dtype=torch.float64)
        pose, k = scene.cameras.world_to_cam[i].double(), scene.cameras.K[i].double()
        local = corners @ pose[:, :3].T + pose[:, 3]
        pixels = (local / local[:, 2:]) @ k.T
        want = torch.tensor([[0.0, 0, 1], [42, 0, 1], [42, 28, 1], [0, 28, 1]], dtype=torch.float64)
        assert torch.allclose(pixels, want, atol=1e-3)
        assert np.allclose(frame["ahead"], pose[2, :3].numpy())
        assert frame["label"] == f"room.mp4 at {0.5 * i:.2f} s"


def test_the_page_is_whole_and_asks_nobody():
    page = scene_page(room(2))
    tags = Tags(page)
    assert not tags.open
    shell = page.replace(part(page, "points"), "").replace(part(page, "colours"), "")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|WebSocket|import\(|\beval\b", shell)
    assert not [tag for tag, _ in tags.seen if tag in ("img", "link", "iframe", "object", "embed", "base")]
    assert not [a for _, a in tags.seen if {"src", "href", "action"} & set(a)]
    rule = next(a["content"] for tag, a in tags.seen if tag == "meta" and "http-equiv" in a)
    assert rule is not None and rule.startswith("default-src 'none'")
    assert "{{" not in page and "}}" not in shell.split("<script>")[0]
    names = {a["id"] for _, a in tags.seen if "id" in a}
    asked = set(re.findall(r'\$\("(\w+)"\)', page)) | set(re.findall(r'\btext\("(\w+)"\)', page))
    assert asked <= names


def test_keys_hands_and_both_lights_are_in_the_page():
    page = scene_page(room(2))
    canvas = next(a for tag, a in Tags(page).seen if tag == "canvas")
    assert canvas["tabindex"] == "0" and canvas["aria-label"] and "touch-action: none" in page
    for word in ("pointerdown", "wheel", "keydown", "ArrowLeft", "prefers-color-scheme: dark", ":focus-visible"):
        assert word in page


def test_names_from_strangers_are_text():
    scene = room(1)
    evil = '<script>alert("x")<b>{{points}}'
    world = replace(scene.cameras, world=evil)
    page = scene_page(replace(scene, cameras=world, names=(evil,), network="</script><b>&"))
    assert "alert(&quot;" in page and evil not in page
    assert [tag for tag, _ in Tags(page).seen].count("script") == 4
    assert json.loads(part(page, "scene"))["frames"][0]["label"] == f"{evil} at 0.00 s"


def test_random_weights_are_told():
    scene = room(1)
    assert "UNTRAINED" not in scene_page(scene)
    assert "exact is UNTRAINED" in scene_page(replace(scene, untrained=True))


def test_a_page_is_bounded():
    scene = room(2)
    page = scene_page(scene, scene.cloud(1.0), most=100)
    assert json.loads(part(page, "scene"))["count"] == 100
    assert len(base64.b64decode(part(page, "points"))) == 600
    with pytest.raises(LimitError):
        scene_page(scene, most=MOST_POINTS + 1)


@pytest.mark.parametrize("points", [[[1.0, 2.0, 3.0]], [[0.0, 0, 0], [0, 0, 7]], [[1e6, 0, 0], [1e6 + 1, 1, 0]]])
def test_points_on_a_plane_a_line_or_in_one_place_are_quantised(points: list[list[float]]):
    rows = np.array(points)
    got = quantise(rows, np.zeros((len(rows), 3), np.uint8))
    back = np.array(got.low) + np.frombuffer(got.steps, "<u2").reshape(-1, 3) / 65535 * np.array(got.size)
    assert np.abs(back - rows).max() < 1e-4


def test_planar_and_equal_scenes_are_drawn(tmp_path: Path):
    scene = room(2, (14, 28))
    flat = replace(scene, points=scene.points * torch.tensor([1.0, 1.0, 0.0]), confidence=torch.ones_like(scene.depth))
    same = replace(scene, points=torch.ones_like(scene.points), cameras=scene.cameras.choose([0, 0]))
    for i, one in enumerate((flat, same)):
        folder = save_scene(one, tmp_path / str(i))
        found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
        assert found == parts_of(2) and set(PICTURES) <= found
        save_scene(one, folder, overwrite=True)
