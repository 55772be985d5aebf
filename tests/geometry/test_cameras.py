"""Cameras keep their conventions, and files hold what was given. Rotations against slow twins."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tubelet.errors import ConfigError, NotFinite, ShapeError
from tubelet.geometry.cameras import (
    Cameras,
    cameras_of,
    decode_matrices,
    decode_poses,
    encode_matrices,
    inverse_poses,
    join_cameras,
    square_poses,
    tubelet_matrices,
    unproject,
)
from tubelet.geometry.export import write_colmap, write_ply
from tubelet.geometry.rotation import (
    halfway,
    orthogonal,
    quaternion_to_rotation,
    rotation_angle,
    rotation_to_quaternion,
)

SIZE = (476, 644)


def encodings(n: int = 6) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.cat([torch.randn(n, 7, generator=g), torch.rand(n, 2, generator=g) + 0.5], dim=1).double()


def some(n: int = 6, world: str = "a") -> Cameras:
    return decode_poses(encodings(n), SIZE, world=world)


def about(axis: int, angle: float) -> torch.Tensor:
    """A turn about one axis, written out."""
    c, s = math.cos(angle), math.sin(angle)
    m = torch.eye(3, dtype=torch.float64)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    m[i, i], m[j, j], m[i, j], m[j, i] = c, c, -s, s
    return m


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.3, 2.0, math.pi - 1e-6, math.pi])
def test_rotations_come_back_and_angles_are_exact(axis: int, angle: float):
    m = about(axis, angle)
    q = rotation_to_quaternion(m)
    assert q[3] >= 0
    assert torch.allclose(q.norm(), torch.ones((), dtype=torch.float64), atol=1e-9)
    assert torch.allclose(quaternion_to_rotation(3 * q), m, atol=1e-9)
    assert float(rotation_angle(torch.eye(3).double(), m)) == pytest.approx(angle, abs=1e-9)
    assert torch.allclose(orthogonal(m * 1.5), m, atol=1e-12)


def test_halfway_is_half_the_turn_the_short_way():
    a, b = about(0, 3.0), about(0, -3.0)  # 6 radians apart one way, 0.28 the other
    assert torch.allclose(halfway(a, b), about(0, math.pi), atol=1e-9)


def test_encoding_a_decoded_pose_gives_the_same_camera():
    k = some().K
    world_to_cam = some().world_to_cam
    again, k2, bounded = decode_matrices(encode_matrices(world_to_cam, k, SIZE), SIZE)
    assert torch.allclose(again, world_to_cam, atol=1e-9)
    assert torch.allclose(k2, k, atol=1e-9)
    assert not bounded.any()


@pytest.mark.parametrize("fov", [0.0, -1.0, 4.0, math.pi])
def test_a_field_of_view_that_is_none_is_bounded_and_told(fov: float):
    encoding = encodings(2).float()
    encoding[1, 7] = fov
    cameras = decode_poses(encoding, SIZE, world="a")
    assert cameras.bounded is not None
    assert cameras.bounded.tolist() == [False, True]
    assert bool(cameras.K.isfinite().all())
    assert bool((cameras.K[:, 0, 0] > 0).all())
    assert bool((cameras.K[:, 1, 1] > 0).all())


def test_a_half_precision_encoding_is_decoded_in_float32():
    assert decode_poses(encodings().to(torch.bfloat16), SIZE, world="a").K.dtype == torch.float32


def test_a_point_goes_to_its_pixel_and_back():
    cameras = some(3)
    g = torch.Generator().manual_seed(0)
    depth = torch.rand(3, 5, 7, generator=g, dtype=torch.float64) + 1
    points = unproject(depth, cameras.world_to_cam, cameras.K)
    local = (
        torch.einsum("fij,fhwj->fhwi", cameras.world_to_cam[:, :, :3], points)
        + cameras.world_to_cam[:, None, None, :, 3]
    )
    pixel = torch.einsum("fij,fhwj->fhwi", cameras.K, local)
    pixel = pixel[..., :2] / pixel[..., 2:]
    assert torch.allclose(local[..., 2], depth, atol=1e-9)
    assert torch.allclose(pixel[:, :, :, 0], torch.arange(7.0).double().expand(3, 5, 7), atol=1e-6)
    assert torch.allclose(pixel[:, :, :, 1], torch.arange(5.0).double()[:, None].expand(3, 5, 7), atol=1e-6)


def test_a_hole_in_the_depth_stays_in_its_own_point():
    cameras = some(1)
    depth = torch.ones(1, 2, 2, dtype=torch.float64)
    depth[0, 0, 1] = float("nan")
    finite = unproject(depth, cameras.world_to_cam, cameras.K).isfinite().all(-1)
    assert finite.tolist() == [[[True, False], [True, True]]]


# ---- conventions


def test_a_pose_of_either_direction_is_the_same_camera():
    cameras = some()
    other = cameras_of(cameras.cam_to_world, cameras.K, SIZE, world="a", direction="cam_to_world")
    assert torch.allclose(other.world_to_cam, cameras.world_to_cam, atol=1e-9)
    assert torch.allclose(cameras.centres, cameras.cam_to_world[:, :3, 3])
    assert torch.allclose(cameras.viewmats @ cameras.cam_to_world, torch.eye(4).double().expand(6, 4, 4), atol=1e-9)


@pytest.mark.parametrize("direction", ["cam_to_world", "world_to_cam"])
def test_axes_of_opengl_come_back(direction: str):
    cameras = some()
    gl = cameras.to_axes("opengl")
    poses = gl if direction == "cam_to_world" else inverse_poses(gl)
    back = cameras_of(poses, cameras.K, SIZE, world="a", direction=direction, axes="opengl")  # pyright: ignore
    assert torch.allclose(back.world_to_cam, cameras.world_to_cam, atol=1e-9)
    assert torch.allclose(gl[:, :3, 2], -cameras.cam_to_world[:, :3, 2])  # it looks along -z
    assert torch.allclose(gl[:, :3, 3], cameras.centres)


def test_a_stretched_image_stretches_each_axis_by_its_own_factor():
    cameras = some()
    other = cameras.resized((238, 1288))
    assert torch.allclose(other.K[:, 0, 0], cameras.K[:, 0, 0] * 2)
    assert torch.allclose(other.K[:, 1, 1], cameras.K[:, 1, 1] / 2)
    assert other.K[0, :2, 2].tolist() == [644.0, 119.0]
    window = cameras.cropped(10, 20, (100, 100))
    assert window.K[0, :2, 2].tolist() == [312.0, 218.0]
    assert torch.equal(window.K[:, 0, 0], cameras.K[:, 0, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [({"world": "b"}, "world"), ({"scale": "metres"}, "scale"), ({"size": (100, 100)}, "size")],
)
def test_cameras_of_two_conventions_do_not_mix(change: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said) as raised:
        join_cameras([some(), replace(some(), **change)])
    assert raised.value.item == 1


def test_cameras_of_one_convention_join():
    joined = join_cameras([some(2), some(3)])
    assert len(joined) == 5
    assert torch.equal(joined.choose([0, 1]).K, some(2).K)
    with pytest.raises(ShapeError):
        join_cameras([])


def test_a_scale_is_said_once():
    metric = some().scaled(2.0)
    assert torch.allclose(metric.centres, some().centres * 2, atol=1e-9)
    assert metric.scale == "metres"
    with pytest.raises(ConfigError):
        metric.scaled(2.0)
    with pytest.raises(ConfigError):
        some().scaled(0.0)


@pytest.mark.usefixtures("as_in_production")
def test_values_of_a_stranger_are_checked():
    good = some(3)
    poses, k = good.viewmats, good.K
    for change, error in (
        (lambda: (poses[:, :2], k), ShapeError),
        (lambda: (poses * 2, k), ShapeError),  # a scale inside the rotation
        (lambda: (poses * torch.tensor([-1.0, 1, 1, 1]).double(), k), ShapeError),  # a mirror image
        (lambda: (poses, -k), ShapeError),
        (lambda: (poses.masked_fill(torch.eye(4, dtype=torch.bool), float("nan")), k), NotFinite),
    ):
        bad = change()
        with pytest.raises(error):
            cameras_of(*bad, SIZE, world="a", direction="world_to_cam")
    with pytest.raises(ConfigError):
        cameras_of(poses, k, SIZE, world="a", direction="world_to_cam", axes="left")  # pyright: ignore
    with pytest.raises(ShapeError):
        replace(good, K=k[:2])
    with pytest.raises(ShapeError):
        replace(good, size=(0, 5))
    with pytest.raises(ConfigError):
        replace(good, scale="feet")


def test_tubelets_of_one_two_and_three_frames():
    cameras = some(3)
    views, ks = tubelet_matrices(cameras.world_to_cam, cameras.K, [(0, 1), (2,)])
    assert torch.allclose(views[1], cameras.viewmats[2], atol=1e-9)
    assert torch.allclose(inverse_poses(views[:1, :3])[0, :3, 3], cameras.centres[:2].mean(0), atol=1e-9)
    assert torch.equal(ks, cameras.K[[0, 2]])
    first, _ = tubelet_matrices(cameras.world_to_cam, cameras.K, [(1, 2)], "first")
    assert torch.equal(first, square_poses(cameras.world_to_cam[1:2]))
    for bad in ([()], [(0, 1, 2)]):
        with pytest.raises(ShapeError):
            tubelet_matrices(cameras.world_to_cam, cameras.K, bad)


# ---- files


def test_colmap_holds_the_cameras(tmp_path: Path):
    cameras = some(3)
    points, colours = torch.rand(4, 3), torch.arange(12, dtype=torch.uint8).view(4, 3)
    write_colmap(tmp_path, cameras, ["0.png", "1.png", "2.png"], points, colours)
    model = read_colmap(tmp_path)
    assert model["size"] == [(644, 476)] * 3
    assert np.allclose(model["focal"], torch.stack([cameras.K[:, 0, 0], cameras.K[:, 1, 1]], 1).numpy(), atol=1e-4)
    assert np.allclose(model["centres"], cameras.centres.numpy(), atol=1e-6)
    assert model["names"] == ["0.png", "1.png", "2.png"]
    assert np.allclose(model["points"][:, :3], points.numpy(), atol=1e-6)
    assert np.array_equal(model["points"][:, 3:6], colours.numpy())


def read_colmap(folder: Path) -> dict[str, object]:
    """A plain reader: the centre of a camera is where its own rotation, built another way, sends the origin back."""
    lines = {
        n: [x for x in (folder / f"{n}.txt").read_text().splitlines() if x[:1] != "#"]
        for n in ("cameras", "images", "points3D")
    }
    cameras = [one.split() for one in lines["cameras"]]
    images = [one.split() for one in lines["images"][::2]]
    assert not any(lines["images"][1::2])
    centres = []
    for one in images:
        w, x, y, z, *t = (float(v) for v in one[1:8])
        axis = np.array([x, y, z])
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(3) * (w * w - axis @ axis) + 2 * np.outer(axis, axis) + 2 * w * cross
        centres.append(-turn.T @ np.array(t))
    return {
        "size": [(int(c[2]), int(c[3])) for c in cameras],
        "focal": np.array([[float(c[4]), float(c[5])] for c in cameras]),
        "names": [one[9] for one in images],
        "centres": np.array(centres),
        "points": np.array([[float(v) for v in one.split()[1:]] for one in lines["points3D"]]),
    }


def test_ply_holds_the_points(tmp_path: Path):
    points, colours = torch.rand(5, 3), torch.arange(15, dtype=torch.uint8).view(5, 3)
    write_ply(tmp_path / "a.ply", points, colours)
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 5\n" in head
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\n")
    rows = np.frombuffer(body, dtype="<f4,<f4,<f4,u1,u1,u1")
    assert np.array_equal(np.stack([rows[f"f{i}"] for i in range(3)], 1), points.numpy())
    assert np.array_equal(np.stack([rows[f"f{i}"] for i in range(3, 6)], 1), colours.numpy())


def test_files_of_nothing_and_of_bad_values(tmp_path: Path):
    write_ply(tmp_path / "a.ply", torch.zeros(0, 3))
    assert b"element vertex 0\n" in (tmp_path / "a.ply").read_bytes()
    with pytest.raises(NotFinite) as raised:
        write_ply(tmp_path / "b.ply", torch.tensor([[0.0, 0, 0], [0, float("nan"), 0]]))
    assert raised.value.item == 1
    with pytest.raises(ShapeError):
        write_ply(tmp_path / "b.ply", torch.zeros(2, 3), torch.zeros(1, 3, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="1 names for 2"):
        write_colmap(tmp_path, some(2), ["a"])
    with pytest.raises(ShapeError, match="white space"):
        write_colmap(tmp_path, some(1), ["a b"])
