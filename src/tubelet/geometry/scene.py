"""A scene as a geometry network saw it: frames, cameras, depth and points, and a folder that other programs read.

    images/0000.png ...    the frames as the network saw them
    depth/0000.png ...     16 bits a pixel: depth = value x the scale in cameras.json, 0 where none is known
    sparse/0/*.txt         COLMAP's text model: the cameras, and points without tracks
    points.ply             the points that are kept, with their colours
    cameras.json           conventions, sizes, times, intrinsics, poses, and the scale of depth

images and sparse/0 stand as programs for Gaussian splatting expect them.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tubelet.doors import door
from tubelet.errors import InputError, NotFinite, ShapeError
from tubelet.geometry.cameras import Cameras
from tubelet.geometry.export import write_colmap, write_ply
from tubelet.packed.header import read_small, strict_json
from tubelet.shapes import Bool, Float, Int, Shaped, UInt8
from tubelet.writing import new_folder, require_writable, resolved, write_errors, write_json

FORMAT = "tubelet-scene-1"
PICTURES = ("sheet.png", "path.png", "index.html")  # what `tubelet.inspect.draw.scene` adds
MOST_COLMAP = 100_000  # points in COLMAP's text, which has a line for each
DEEPEST = 65535  # of 16 bits
BEYOND = 100.0  # times the median depth: what is deeper is stored as this deep, so that one pixel takes no precision
_MOST_JSON = 64 << 20  # bytes of a cameras.json that is looked at

Box = tuple[float, float, float, float]


class Cloud(NamedTuple):
    """Points of a scene, the surest first; those of equal confidence in the order of frames, lines and columns."""

    points: Float[Tensor, "P 3"]  # in the world of the cameras
    colours: UInt8[Tensor, "P 3"]
    frame: Int[Tensor, " P"]  # that sees each
    confidence: Float[Tensor, " P"]
    total: int  # how many pixels had a finite point
    share: float  # of these that is kept

    def thinned(self, most: int) -> "Cloud":
        """At most so many of the points, drawn by a seed, in the same order. Raises ShapeError below 1."""
        if most < 1:
            raise ShapeError(f"at least one point is kept, got {most}", limit=1, got=most)
        if most >= len(self.points):
            return self
        at = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(0))[:most].sort().values
        parts = (self.points[at], self.colours[at], self.frame[at], self.confidence[at])
        return Cloud(*parts, self.total, self.share)


@dataclass(frozen=True, eq=False)
class Scene:
    """What a network made of F frames of one size. All tensors are float32 on the host. Raises ShapeError, NotFinite.

    >>> from tubelet.geometry.look import frames_of_clips, look_at
    >>> from tubelet.geometry.network import load_network
    >>> seen = frames_of_clips(tubelet.read(["walk.mp4"], num_frames=2), fit="square", side=56)
    >>> look_at(load_network("vggt_tiny"), seen).depth.shape
    torch.Size([2, 56, 56])
    """

    frames: UInt8[np.ndarray, "F H W 3"]  # as the network saw them
    names: tuple[str, ...]  # the file each came from
    times_s: tuple[float, ...] | None  # when each starts; None: pictures, which have no time
    content: tuple[Box, ...]  # left, top, right, bottom of the picture in each frame's pixels; margins are beyond it
    cameras: Cameras
    depth: Float[Tensor, "F H W"]  # along the camera's axis, in the unit of `cameras`; NaN where unknown
    confidence: Float[Tensor, "F H W"]  # of the points, from 1 up
    points: Float[Tensor, "F H W 3"]  # of every pixel
    network: str  # the name of what saw it
    untrained: bool  # its weights are random: nothing here means anything

    @door
    def __post_init__(self) -> None:
        f, h, w = self.frames.shape[:3]
        shapes = (tuple(self.depth.shape), tuple(self.confidence.shape), tuple(self.points.shape[:3]))
        if f < 1 or any(shape != (f, h, w) for shape in shapes) or self.points.shape[3:] != (3,):
            raise ShapeError(f"maps of {shapes} for frames of {(f, h, w)}", expected=(f, h, w), got=shapes)
        counts = [len(self.cameras), len(self.names), len(self.content)]
        counts += [] if self.times_s is None else [len(self.times_s)]
        if set(counts) != {f} or self.cameras.size != (h, w):
            raise ShapeError(f"cameras, names, boxes or times of {counts} frames for {f}", expected=f, got=counts)
        sane = self.cameras.world_to_cam.isfinite().flatten(1).all(1) & self.cameras.K.isfinite().flatten(1).all(1)
        if not bool(sane.all()):
            bad = int((~sane).nonzero()[0])
            raise NotFinite("the camera of this frame holds NaN or infinity", item=bad, source=self.names[bad])

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        h, w = self.cameras.size
        state = ", UNTRAINED" if self.untrained else ""
        return f"Scene({self.cameras.world!r}, {len(self)} frames of {w}x{h}{state})"

    @property
    def name(self) -> str:
        """The last part of what it was made of, without folders."""
        return PurePath(self.cameras.world).name or self.cameras.world

    @property
    def inside(self) -> Bool[Tensor, "F H W"]:
        """Pixels of the picture, which margins are not."""
        out = torch.zeros(self.depth.shape, dtype=torch.bool)
        for own, (left, top, right, bottom) in zip(out, self.content, strict=True):
            rows = slice(max(0, math.ceil(top)), max(0, math.floor(bottom)))
            own[rows, max(0, math.ceil(left)) : max(0, math.floor(right))] = True
        return out

    @property
    def usable(self) -> Bool[Tensor, "F H W"]:
        """Pixels with a finite point in front of the camera, inside the picture."""
        known = self.points.isfinite().all(-1) & self.confidence.isfinite() & self.depth.isfinite()
        return known & (self.depth > 0) & self.inside

    @door
    def cloud(self, share: float = 0.5) -> Cloud:
        """The points of the `share` of usable pixels that the network is surest of, at least one.

        Raises ShapeError for a share outside 0 < share <= 1, NotFinite where no pixel is usable. Cost: one sort.
        """
        if not 0 < share <= 1:
            raise ShapeError(f"a share is above 0 and at most 1, got {share}", limit=1, got=share)
        place = self.usable.flatten().nonzero()[:, 0]
        if not len(place):
            raise NotFinite("no pixel has a finite point in front of its camera", source=self.cameras.world)
        sure = self.confidence.flatten()[place]
        order = sure.argsort(descending=True, stable=True)[: max(1, round(share * len(place)))]
        at = place[order]
        h, w = self.cameras.size
        colours = torch.from_numpy(self.frames.reshape(-1, 3))[at]
        return Cloud(self.points.flatten(0, 2)[at], colours, at // (h * w), sure[order], len(place), float(share))

    def depth_range(self, share: float = 0.98) -> tuple[float, float]:
        """Depths between which this share of the usable pixels lies, the same number off at both ends."""
        return _range(self.depth[self.usable], share)

    def confidence_range(self, share: float = 0.98) -> tuple[float, float]:
        """As `depth_range`, of confidences."""
        return _range(self.confidence[self.usable], share)

    @door
    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        cloud: Cloud | None = None,
        overwrite: bool = False,
        also: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> Path:
        """Write the folder that the head of this file draws; it appears whole or not at all. The path comes back.

        cloud: the points; None: those of `cloud()`. overwrite: a folder of a scene is replaced, and one that holds
        anything else is not. also: further files, of `PICTURES`, each written by a function of its path. Raises
        InputError where something stands there, RunError where it cannot be written, NotFinite without a point.
        """
        extra = dict(also or {})
        if wrong := sorted(set(extra) - set(PICTURES)):
            raise ShapeError(f"{wrong[0]!r} is no part of a scene's folder", expected=PICTURES, got=tuple(wrong))
        cloud = self.cloud() if cloud is None else cloud
        path = scene_place(folder, overwrite=overwrite)
        tops = {part.partition("/")[0] for part in parts_of(0)}
        with new_folder(path, tops.__contains__, overwrite=overwrite) as beside:
            _write_frames(self, beside)
            some = cloud.thinned(MOST_COLMAP)
            names = [_name(i) for i in range(len(self))]
            write_colmap(beside / "sparse" / "0", self.cameras, names, some.points, some.colours)
            write_ply(beside / "points.ply", cloud.points, cloud.colours)
            for name, write in extra.items():
                write(beside / name)
            write_json(beside / "cameras.json", described(self, cloud))
        return path


def _range(values: Tensor, share: float) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    off = (1 - share) / 2
    low, high = np.quantile(values.numpy(), [off, 1 - off])  # torch's takes 16 million values at most
    return float(low), float(high)


# ---- the folder


def parts_of(count: int) -> set[str]:
    """Every file that a scene of so many frames may have in its folder.

    >>> sorted(parts_of(1))[:3]
    ['cameras.json', 'depth/0000.png', 'images/0000.png']
    """
    frames = {part(i) for part in (image_part, depth_part) for i in range(max(1, count))}
    colmap = {f"sparse/0/{name}.txt" for name in ("cameras", "images", "points3D")}
    return {*frames, *colmap, "points.ply", "cameras.json", *PICTURES}


def scene_place(folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """The path that `Scene.save` would write to, links followed, its parent made. Raises InputError where it would not:
    something else stands there, or a scene does and `overwrite` is not said. Raises RunError where nothing can be
    written."""
    path = resolved(folder)
    with write_errors(f"{path.name}: the folder"):
        there = path.exists()
        if there and not path.is_dir():
            raise InputError("the output exists already and is no folder", source=path.name)
        found = (
            {str(f.relative_to(path)) for f in path.rglob("*") if not f.is_dir() or f.is_symlink()} if there else set()
        )
        if found:
            strange = sorted(found - parts_of(_frames_said(path)))
            if strange or "cameras.json" not in found:
                what = ", ".join(strange[:3]) or "no scene"
                raise InputError(
                    f"the output exists already and holds {what}, which this does not write: not replaced",
                    source=path.name,
                    got=tuple(strange[:8]),
                )
            if not overwrite:
                raise InputError(
                    "the output exists already; overwrite=True (--overwrite) replaces it", source=path.name
                )
        path.parent.mkdir(parents=True, exist_ok=True)
    require_writable(path.parent)
    return path


def _frames_said(folder: Path) -> int:
    """How many frames the cameras.json of a scene's folder tells of; -1 where it is none of ours."""
    try:
        said = strict_json(read_small(folder / "cameras.json", InputError, _MOST_JSON), InputError, "cameras.json")
    except InputError:
        return -1
    frames = said.get("frames") if isinstance(said, dict) and said.get("format") == FORMAT else None
    return len(frames) if isinstance(frames, list) else -1


def image_part(frame: int) -> str:
    """Where a frame is, below the folder."""
    return f"images/{_name(frame)}"


def depth_part(frame: int) -> str:
    """Where its depth is."""
    return f"depth/{_name(frame)}"


def _name(frame: int) -> str:
    return f"{frame:04d}.png"


def _write_frames(scene: Scene, folder: Path) -> None:
    scale = depth_scale(scene)
    for part in ("images", "depth"):
        (folder / part).mkdir()
    for i, (frame, depth) in enumerate(zip(scene.frames, scene.depth, strict=True)):
        Image.fromarray(frame).save(folder / image_part(i))
        Image.fromarray(stored_depth(depth, scale)).save(folder / depth_part(i))


def depth_scale(scene: Scene) -> float:
    """The depth that a stored 1 means: the deepest finite pixel is 65535, or `BEYOND` times the median if that is
    less."""
    known = scene.depth[scene.depth.isfinite() & (scene.depth > 0)]
    if not len(known):
        return 1.0
    return min(float(known.max()), BEYOND * float(known.median())) / DEEPEST


def stored_depth(depth: Float[Tensor, "H W"], scale: float) -> Shaped[np.ndarray, "H W"]:
    """uint16, depth over scale; 0 for what is not finite or not in front, at least 1 for the rest.

    >>> stored_depth(torch.tensor([[0.5, float("nan"), 99.0]]), 0.001).tolist()
    [[500, 0, 65535]]
    """
    known = depth.isfinite() & (depth > 0)
    steps = torch.where(known, depth.double() / scale, 0.0).round().clamp(0, DEEPEST)
    return torch.where(known, steps.clamp_min(1), 0.0).numpy().astype(np.uint16)


def described(scene: Scene, cloud: Cloud) -> dict[str, Any]:
    """What cameras.json says: plain values."""
    cameras = scene.cameras
    scale = depth_scale(scene)
    flags = [False] * len(scene) if cameras.bounded is None else cameras.bounded.tolist()
    frames = []
    for i, name in enumerate(scene.names):
        k = cameras.K[i].tolist()
        frames.append(
            {
                "image": image_part(i),
                "depth": depth_part(i),
                "source": name,
                "time_s": None if scene.times_s is None else scene.times_s[i],
                "content": list(scene.content[i]),
                "K": k,
                "world_to_cam": cameras.world_to_cam[i].tolist(),
                "field_of_view_bounded": bool(flags[i]),
            }
        )
    return {
        "format": FORMAT,
        "world": cameras.world,
        "network": scene.network,
        "untrained": scene.untrained,
        "size": {"height": cameras.size[0], "width": cameras.size[1]},
        "axes": "opencv: x right, y down, z forward; x_cam = R x_world + t, world_to_cam = [R | t]",
        "unit": "a unit of this scene's own, which no metre is known for" if cameras.scale == "scene" else "metres",
        "depth": {
            "scale": scale,
            "unknown": 0,
            "deepest": DEEPEST * scale,
            "beyond": int((scene.depth > DEEPEST * scale * (1 + 1e-6)).sum()),
        },
        "points": {"share": cloud.share, "kept": len(cloud.points), "usable": cloud.total},
        "frames": frames,
    }
