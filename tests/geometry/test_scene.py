"""A scene as a value and as a folder: which points are kept, what is written, what is never overwritten."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.geometry.rooms import HALF, room

from tubelet.errors import DecodeError, InputError, NotFinite, ShapeError
from tubelet.geometry import export
from tubelet.geometry.export import read_ply, write_ply
from tubelet.geometry.scene import BEYOND, DEEPEST, FORMAT, Scene, depth_scale, parts_of, stored_depth
from tubelet.geometry.stored import read_stored

NAN = float("nan")


def changed(scene: Scene, **maps: torch.Tensor) -> Scene:
    return replace(scene, **maps)


# ---- points


def test_a_cloud_holds_the_surest_points_with_their_colours():
    scene = room(3)
    h, w = scene.cameras.size
    cloud = scene.cloud(0.25)
    assert (cloud.total, len(cloud.points)) == (3 * h * w, round(0.25 * 3 * h * w))
    assert bool((cloud.confidence.diff() <= 0).all())
    least = scene.confidence.flatten().sort(descending=True).values[len(cloud.points) - 1]
    assert cloud.confidence[-1] == least
    on_a_wall = (cloud.points.double().abs() - HALF).abs().amin(1)
    assert float(on_a_wall.max()) < 1e-5
    for i in (0, 17, len(cloud.points) - 1):  # a point is projected back onto a pixel of its colour
        frame = int(cloud.frame[i])
        local = scene.cameras.world_to_cam[frame] @ torch.cat([cloud.points[i], torch.ones(1)])
        u, v, _ = (scene.cameras.K[frame] @ (local / local[2])).tolist()
        assert cloud.colours[i].tolist() == scene.frames[frame, round(v), round(u)].tolist()


def test_a_share_is_met_by_rank_also_where_all_are_equally_sure():
    scene = room(2)
    equal = changed(scene, confidence=torch.ones_like(scene.confidence))
    cloud = equal.cloud(0.1)
    assert len(cloud.points) == round(0.1 * cloud.total)
    assert torch.equal(cloud.points, equal.points.flatten(0, 2)[: len(cloud.points)])
    assert len(equal.cloud(1e-9).points) == 1


def test_a_thinned_cloud_keeps_its_order_and_every_part_of_a_point():
    cloud = room(2).cloud(1.0)
    few = cloud.thinned(50)
    assert len(few.points) == 50 and (few.total, few.share) == (cloud.total, 1.0)
    at = [int((cloud.points == p).all(1).nonzero()[0]) for p in few.points]
    assert at == sorted(at)
    assert torch.equal(cloud.colours[at], few.colours) and torch.equal(cloud.frame[at], few.frame)
    assert cloud.thinned(10**9) is cloud
    with pytest.raises(ShapeError):
        cloud.thinned(0)


@pytest.mark.parametrize("bad", [NAN, float("inf"), 0.0, -1.0])
def test_pixels_without_a_depth_in_front_have_no_point(bad: float):
    scene = room(2)
    depth = scene.depth.clone()
    depth[1, :5] = bad
    cloud = changed(scene, depth=depth).cloud(1.0)
    assert cloud.total == scene.depth.numel() - 5 * scene.cameras.size[1]
    assert int((cloud.frame == 1).sum()) == cloud.total - scene.depth[0].numel()


def test_nan_in_points_or_confidence_counts_as_no_point_and_only_there():
    scene = room(2)
    points, confidence = scene.points.clone(), scene.confidence.clone()
    points[0, 0, 0, 1] = NAN
    confidence[1, 2, 3] = NAN
    cloud = changed(scene, points=points, confidence=confidence).cloud(1.0)
    assert cloud.total == scene.depth.numel() - 2
    assert bool(cloud.points.isfinite().all()) and bool(cloud.confidence.isfinite().all())


def test_margins_are_no_part_of_the_place():
    scene = room(1, (28, 42))
    padded = replace(scene, content=((3.0, -50.0, 40.0, 20.0),))
    assert padded.usable[0].nonzero().amin(0).tolist() == [0, 3]
    assert padded.usable[0].nonzero().amax(0).tolist() == [19, 39]


def test_a_scene_without_a_point_is_an_error_that_names_it():
    scene = room(1)
    empty = changed(scene, depth=torch.full_like(scene.depth, NAN))
    with pytest.raises(NotFinite, match=r"room\.mp4: no pixel"):
        empty.cloud()
    assert empty.depth_range() == (0.0, 1.0)


def test_a_camera_of_nan_is_an_error_that_names_the_frame():
    scene = room(3)
    poses = scene.cameras.world_to_cam.clone()
    poses[2, 0, 3] = NAN
    with pytest.raises(NotFinite) as e:
        replace(scene, cameras=replace(scene.cameras, world_to_cam=poses))
    assert (e.value.item, e.value.source) == (2, "room.mp4")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, NAN])
def test_a_share_that_is_none(share: float):
    with pytest.raises(ShapeError):
        room(1).cloud(share)


def test_parts_that_do_not_fit_are_refused(as_in_production: None):
    scene = room(2)
    for wrong in ({"names": ("a",)}, {"times_s": (0.0,)}, {"depth": scene.depth[:1]}, {"cameras": room(1).cameras}):
        with pytest.raises(ShapeError):
            replace(scene, **wrong)


# ---- depth in 16 bits


def test_stored_depth_comes_back_within_half_a_step():
    scene = room(2)
    scale = depth_scale(scene)
    stored = torch.from_numpy(stored_depth(scene.depth[0], scale).astype(np.int64))
    assert scale * DEEPEST == pytest.approx(float(scene.depth.max()))
    assert float((stored * scale - scene.depth[0]).abs().max()) <= scale / 2 * 1.001


def test_one_far_pixel_takes_no_precision_from_the_others():
    scene = room(1)
    depth = scene.depth.clone()
    depth[0, 0, 0] = 1e30
    far = changed(scene, depth=depth)
    assert depth_scale(far) == pytest.approx(BEYOND * float(depth.median()) / DEEPEST)
    assert stored_depth(depth[0], depth_scale(far))[0, 0] == DEEPEST


def test_nothing_known_is_0_and_nothing_near_is():
    depth = torch.tensor([[NAN, float("inf"), -2.0, 0.0, 1e-12, 1.0]])
    assert stored_depth(depth, 0.5).tolist() == [[0, 0, 0, 0, 1, 2]]


# ---- the folder


def test_the_folder_says_what_the_scene_is(tmp_path: Path):
    scene = room(3, (14, 28))
    folder = scene.save(tmp_path / "out" / "room", cloud=scene.cloud(0.5))
    found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
    assert found == parts_of(3) - {"sheet.png", "path.png", "index.html"}
    said = json.loads((folder / "cameras.json").read_text())
    assert (said["format"], said["untrained"], said["size"]) == (FORMAT, False, {"height": 14, "width": 28})
    assert said["points"] == {"share": 0.5, "kept": 3 * 14 * 14, "usable": 3 * 14 * 28}
    for i, frame in enumerate(said["frames"]):
        assert frame["time_s"] == 0.5 * i
        assert torch.equal(torch.tensor(frame["world_to_cam"]), scene.cameras.world_to_cam[i])
        assert torch.equal(torch.tensor(frame["K"]), scene.cameras.K[i])
        with Image.open(folder / frame["image"]) as picture:
            assert np.array_equal(np.asarray(picture), scene.frames[i])
        with Image.open(folder / frame["depth"]) as picture:
            depth = np.asarray(picture)
            assert depth.dtype == np.uint16
            assert np.abs(depth * said["depth"]["scale"] - scene.depth[i].numpy()).max() < said["depth"]["scale"]
    lines = (folder / "sparse" / "0" / "images.txt").read_text().split("\n")
    assert [line.split()[-1] for line in lines[1:-1] if line] == ["0000.png", "0001.png", "0002.png"]
    assert (
        (folder / "points.ply").read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 588\n")
    )


def test_the_folder_is_read_again_as_it_was_written(tmp_path: Path):
    scene = replace(room(3, (14, 28)), untrained=True)
    cloud = scene.cloud(0.5)
    folder = scene.save(tmp_path / "room", cloud=cloud)
    stored = read_stored((folder / "cameras.json").read_bytes())
    assert (stored.names, stored.times_s, stored.content) == (scene.names, scene.times_s, scene.content)
    assert (stored.network, stored.untrained, stored.depth_scale) == ("exact", True, depth_scale(scene))
    assert (stored.share, stored.kept, stored.usable) == (0.5, len(cloud.points), cloud.total)
    for name in ("world_to_cam", "K"):
        assert torch.equal(getattr(stored.cameras, name), getattr(scene.cameras, name))
    assert (stored.cameras.size, stored.cameras.world, stored.cameras.scale) == ((14, 28), "room.mp4", "scene")
    with (folder / "points.ply").open("rb") as file:
        points, colours = read_ply(file, 10**6)
    assert np.array_equal(points, cloud.points.numpy()) and np.array_equal(colours, cloud.colours.numpy())


@pytest.mark.parametrize("most", [1, 7, 100, 587, 588, 589])
def test_of_many_points_some_are_read_evenly_and_in_order(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "_READ_POINTS", 50)
    cloud = room(3, (14, 28)).cloud(0.5)
    write_ply(tmp_path / "points.ply", torch.arange(588.0)[:, None].expand(588, 3), cloud.colours)
    with (tmp_path / "points.ply").open("rb") as file:
        points, colours = read_ply(file, most)
    at = points[:, 0].astype(int)
    assert len(at) == min(most, 588) and bool((np.diff(at) > 0).all())
    parts = np.arange(len(at) + 1) * 588 // len(at)
    assert bool(((parts[:-1] <= at) & (at < parts[1:])).all())  # one of each
    assert np.array_equal(colours, cloud.colours.numpy()[at])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"ply\n",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data.replace(b"vertex 588", b"vertex 999999999999"),
        lambda data: data.replace(b"little", b"big"),
        lambda data: data.replace(b"float z", b"float w"),
        lambda data: data.replace(b"ply", b"PLY"),
    ],
)
def test_points_of_others_are_refused(tmp_path: Path, change: Callable[[bytes], bytes]):
    write_ply(tmp_path / "points.ply", torch.zeros(588, 3))
    with pytest.raises(DecodeError):
        read_ply(io.BytesIO(change((tmp_path / "points.ply").read_bytes())), 100)


def test_points_that_become_fewer_while_they_are_read_are_refused(tmp_path: Path):
    class Shorter(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:4000]

    write_ply(tmp_path / "points.ply", torch.zeros(588, 3))
    with pytest.raises(DecodeError, match="shorter"):
        read_ply(Shorter((tmp_path / "points.ply").read_bytes()), 100)


def test_pictures_have_no_time(tmp_path: Path):
    scene = replace(room(1), times_s=None)
    text = (scene.save(tmp_path / "a") / "cameras.json").read_bytes()
    assert json.loads(text)["frames"][0]["time_s"] is None
    assert read_stored(text).times_s is None


def test_a_scene_is_replaced_only_when_told_to(tmp_path: Path):
    folder = room(3).save(tmp_path / "room")
    before = (folder / "cameras.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        room(2).save(folder)
    assert (folder / "cameras.json").read_bytes() == before
    room(2).save(folder, overwrite=True)
    assert not (folder / "images" / "0002.png").exists()
    assert [f.name for f in tmp_path.iterdir()] == ["room"]


@pytest.mark.parametrize("mine", ["images/holiday.jpg", "notes.txt", "images/0003.png", "sparse/0/points3D.bin"])
def test_a_folder_with_anything_else_is_never_replaced(tmp_path: Path, mine: str):
    folder = room(3).save(tmp_path / "room")
    (folder / mine).write_bytes(b"mine")
    with pytest.raises(InputError, match="not replaced"):
        room(2).save(folder, overwrite=True)
    assert (folder / mine).read_bytes() == b"mine" and (folder / "images" / "0002.png").exists()


@pytest.mark.parametrize("said", ["", "[]", '{"format": "other"}', '{"format": "tubelet-scene-1", "frames": 7}'])
def test_photographs_in_a_folder_called_images_are_no_scene(tmp_path: Path, said: str):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0000.png").write_bytes(b"mine")
    (tmp_path / "images" / "0001.png").write_bytes(b"mine")
    if said:
        (tmp_path / "cameras.json").write_text(said)
    with pytest.raises(InputError, match="not replaced"):
        room(1).save(tmp_path, overwrite=True)
    assert (tmp_path / "images" / "0000.png").read_bytes() == b"mine"


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    folder = room(1).save(tmp_path / "room")
    before = sorted(str(f) for f in tmp_path.rglob("*"))

    def fails(place: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        room(2).save(folder, overwrite=True, also={"sheet.png": fails})
    assert sorted(str(f) for f in tmp_path.rglob("*")) == before
    with pytest.raises(ShapeError, match="no part"):
        room(2).save(folder, overwrite=True, also={"other.png": fails})
