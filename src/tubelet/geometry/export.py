"""Cameras and points as files others read: COLMAP's text model and binary PLY, which is read again.

COLMAP counts a pixel's centre from 0.5, so a principal point in the middle of the image is W / 2 there as here. Its
quaternions are (w, x, y, z) and its poses world-to-camera with OpenCV's axes, as ours are.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import DecodeError, NotFinite, ShapeError
from tubelet.geometry.cameras import Cameras
from tubelet.geometry.rotation import rotation_to_quaternion
from tubelet.reading.source import BinaryFile
from tubelet.shapes import Float, Shaped, UInt8
from tubelet.writing import new_file, new_folder, starts_with

_ROW = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_READ_POINTS, _LONGEST_HEAD = 1 << 18, 200


@door
def write_colmap(
    folder: Path,
    cameras: Cameras,
    names: Sequence[str],
    points: Tensor | None = None,
    colours: Tensor | None = None,
) -> None:
    """cameras.txt, images.txt and points3D.txt of a COLMAP text model, one PINHOLE camera a frame, ids from 1.

    points: (P, 3), colours: (P, 3) of uint8; points have no tracks. names: of the images, one a frame; K must be for
    their size (`Cameras.resized`). The folder appears whole or not at all; a text model there is replaced, and nothing
    else. Raises NotFinite, ShapeError where numbers of names, points and colours differ or a name has white space,
    InputError where the folder holds something else, RunError where it cannot be written.
    """
    if len(names) != len(cameras):
        raise ShapeError(f"{len(names)} names for {len(cameras)} cameras", expected=len(cameras), got=len(names))
    for i, name in enumerate(names):
        if not name or name.split() != [name]:
            raise ShapeError(f"COLMAP reads no image name with white space: {name!r}", item=i, got=name)
    xyz, rgb = _points(points, colours)
    poses, ks = cameras.world_to_cam.detach().cpu().double(), cameras.K.detach().cpu().double()
    _check_finite(poses.flatten(1), "camera")
    height, width = cameras.size
    sizes = [
        f"{i} PINHOLE {width} {height} {k[0, 0]:.9g} {k[1, 1]:.9g} {k[0, 2]:.9g} {k[1, 2]:.9g}"
        for i, k in enumerate(ks.numpy(), 1)
    ]
    turns = rotation_to_quaternion(poses[..., :3]).numpy()
    images = []
    for i, (name, (x, y, z, w), t) in enumerate(zip(names, turns, poses[..., 3].numpy(), strict=True), 1):
        images += [f"{i} " + " ".join(f"{v:.12g}" for v in (w, x, y, z, *t)) + f" {i} {name}", ""]
    rows = [
        f"{i} {x:.9g} {y:.9g} {z:.9g} {r} {g} {b} 0"
        for i, ((x, y, z), (r, g, b)) in enumerate(zip(xyz, rgb, strict=True), 1)
    ]
    files = {
        "cameras.txt": ("# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy", sizes),
        "images.txt": ("# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2-D points", images),
        "points3D.txt": ("# POINT3D_ID X Y Z R G B ERROR TRACK[]", rows),
    }
    with new_folder(folder, files.__contains__, overwrite=True) as beside:
        for name, (head, lines) in files.items():
            (beside / name).write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")


@door
def write_ply(path: Path, points: Tensor, colours: Tensor | None = None) -> None:
    """(P, 3) points and colours as a binary little-endian PLY; grey where no colours are given.

    15 bytes a point. Whole or not at all; only a PLY file is replaced. Raises ShapeError, NotFinite naming the first
    point (drop those of no depth before), InputError, RunError.

        >>> write_ply(Path("points.ply"), torch.rand(100, 3))
    """
    xyz, rgb = _points(points, colours)
    rows = np.empty(len(xyz), dtype=_ROW)
    rows["xyz"], rows["rgb"] = xyz, rgb
    with new_file(path, starts_with(b"ply")) as beside:
        beside.write_bytes(_ply_head(len(xyz)) + rows.tobytes())


def _ply_head(count: int) -> bytes:
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    head += [f"property float {n}" for n in "xyz"] + [f"property uchar {n}" for n in ("red", "green", "blue")]
    return ("\n".join([*head, "end_header"]) + "\n").encode("ascii")


@door
def read_ply(
    file: BinaryFile, most: int, source: str = "points.ply"
) -> tuple[Float[np.ndarray, "P 3"], UInt8[np.ndarray, "P 3"]]:
    """Points and colours of a file that `write_ply` wrote, in its order; of more than `most` one out of each of `most`
    equal parts, drawn by a seed. Memory grows with `most`, not with the file.

    Raises DecodeError for any other PLY and one that is cut short, NotFinite naming the first point.

        >>> write_ply(Path("points.ply"), torch.rand(100, 3))
        >>> with open("points.ply", "rb") as file:
        ...     read_ply(file, 40)[0].shape
        (40, 3)
    """
    found = re.match(rb"ply\n[^\n]{0,80}\nelement vertex (\d{1,12})\n", file.read(_LONGEST_HEAD))
    count = 0 if found is None else int(found[1])
    head = _ply_head(count)
    file.seek(0)
    if file.read(len(head)) != head:
        raise DecodeError("not points as tubelet scene writes them", source=source)
    if file.seek(0, 2) != len(head) + count * _ROW.itemsize:
        raise DecodeError(f"the file has another length than {count:,} points", source=source, expected=count)
    file.seek(len(head))
    starts = np.arange(min(count, most) + 1) * count // max(1, min(count, most))  # of the parts, and the end
    places = starts[:-1] + (np.random.default_rng(0).random(len(starts) - 1) * np.diff(starts)).astype(np.int64)
    rows = np.empty(len(places), _ROW)
    for start in range(0, count, _READ_POINTS):
        data = file.read(_READ_POINTS * _ROW.itemsize)
        part = np.frombuffer(data, _ROW, count=len(data) // _ROW.itemsize)
        low, high = np.searchsorted(places, (start, start + _READ_POINTS))
        if low < high and places[high - 1] - start >= len(part):
            raise DecodeError("the file became shorter while it was read", source=source)
        rows[low:high] = part[places[low:high] - start]
    bad = np.flatnonzero(~np.isfinite(rows["xyz"]).all(1))
    if len(bad):
        raise NotFinite("a point holds NaN or infinity", item=int(places[bad[0]]), source=source)
    return rows["xyz"], rows["rgb"]


def _points(points: Tensor | None, colours: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    xyz = torch.zeros(0, 3) if points is None else points.detach().cpu().float()
    rgb = torch.full((len(xyz), 3), 128, dtype=torch.uint8) if colours is None else colours.cpu()
    if xyz.ndim != 2 or xyz.shape[1] != 3 or rgb.shape != xyz.shape:
        got = (tuple(xyz.shape), tuple(rgb.shape))
        raise ShapeError(f"points and colours are (P, 3), got {got[0]} and {got[1]}", got=got)
    _check_finite(xyz, "point")
    return xyz.numpy(), rgb.numpy()


def _check_finite(rows: Shaped[Tensor, "n m"], what: str) -> None:
    bad = (~rows.isfinite().all(1)).nonzero()
    if len(bad):
        raise NotFinite(f"a {what} holds NaN or infinity", item=int(bad[0]))
