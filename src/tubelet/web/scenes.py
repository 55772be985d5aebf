"""A scene's folder, as `tubelet scene` writes it, for the page: points and cameras, frames, depth drawn.

points     uint16 (P, 3): steps of the box around them, little-endian, the surest first
           uint8 (P, 3): their colours

The folder is named by a person. What is in it is taken to be a stranger's: read below that folder and through no link,
checked before it is believed, bounded before it is decoded, and decoded in a process of its own.
"""

import io
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tubelet.errors import DecodeError, InputError, LimitError
from tubelet.geometry.export import read_ply
from tubelet.geometry.scene import depth_part, image_part
from tubelet.geometry.stored import MOST_TOLD_BYTES, StoredScene, read_stored
from tubelet.inspect.draw.frames import FRAME
from tubelet.inspect.draw.scene_page import MOST_POINTS, Quantised, frame_label, quantise, told_of
from tubelet.inspect.draw.shades import VIRIDIS, ends, shaded
from tubelet.reading.limits import Limits
from tubelet.reading.picture.grey16 import isolated_grey16
from tubelet.reading.read import read
from tubelet.reading.source import open_source
from tubelet.shapes import Shaped, UInt8
from tubelet.web.folder import open_below

MOST_SCENES, MOST_SCENE_BYTES = 8, 1 << 27  # that are open at a time; each holds 9 bytes a point
LIMITS = Limits(max_bytes=64 << 20, deadline_s=20.0)  # of one image or map, and no more pixels than the scene says
MOST_PLY_BYTES = 512 << 20
EDGE = 0.01  # share of the depths beyond each end of the colours


@dataclass(frozen=True)
class ScenePlace:
    """A folder that somebody named."""

    name: str  # to show
    root: Path
    path: str  # below root
    again: Mapping[str, Any] = field(default_factory=dict)  # the JSON that opens it again

    def open(self, part: str) -> BinaryIO:
        """A part of the folder, open for reading. Raises InputError."""
        try:
            return open_below(self.root, f"{self.path}/{part}")
        except InputError as e:
            raise InputError("not there, or no regular file", got=part) from e

    def read(self, part: str, most: int) -> bytes:
        """Its bytes. Raises InputError, LimitError above `most`."""
        with self.open(part) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise LimitError(f"more than {most:,} bytes", limit=most, got=len(data))
        return data


class DepthNumbers(NamedTuple):
    """Depths of one map, in the unit of the scene, zeros where it has none."""

    near: float
    middle: float
    far: float
    known: float  # share of the picture's pixels that have one

    def told(self) -> dict[str, Any]:
        """As the page shows them: texts, with as many digits as tell near from far."""
        near, far = ends(self.near, self.far)
        digits = len(near.partition(".")[2])
        texts = {"near": near, "middle": f"{self.middle:,.{digits}f}", "far": far} if self.known else {}
        return texts | {"known": self.known}


class SceneDocument:
    """A scene that is open. Frames and depth stay in its folder, and are read when they are looked at."""

    def __init__(self, place: ScenePlace, stored: StoredScene, points: Quantised, told: dict[str, Any]) -> None:
        self.id = secrets.token_urlsafe(12)
        self.place, self.stored, self.points, self.told = place, stored, points, told
        h, w = stored.cameras.size
        self.limits = replace(LIMITS, max_pixels=h * w)
        self.depths: list[DepthNumbers] = []
        self.near, self.far = 0.0, 0.0  # of the colours of every frame

    @property
    def size_bytes(self) -> int:
        return len(self.points.steps) + len(self.points.colours)

    @property
    def point_bytes(self) -> bytes:
        """As the head of this file lays it out."""
        return self.points.steps + self.points.colours

    def about(self) -> dict[str, Any]:
        """What the page is told."""
        stored, (near, far) = self.stored, ends(self.near, self.far)
        h, w = stored.cameras.size
        times = stored.times_s or (None,) * len(stored)
        return {
            "id": self.id,
            "kind": "scene",
            "name": self.place.name,
            "again": dict(self.place.again),
            "width": w,
            "height": h,
            "world": PurePath(stored.cameras.world).name,
            "unit": "metres" if stored.cameras.scale == "metres" else "the unit of this scene",
            "network": stored.network,
            "untrained": stored.untrained,
            "points": {"shown": self.told["count"], "kept": stored.kept, "usable": stored.usable},
            "depth": {"near": near, "far": far, "colours": VIRIDIS[::-1].tolist()},
            "frames": [
                {"source": PurePath(name).name, "time_s": time, "depth": depth.told()}
                for name, time, depth in zip(stored.names, times, self.depths, strict=True)
            ],
            "scene": self.told,
        }

    def frame(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        """The frame as the network saw it. Raises InputError."""
        part = image_part(self._checked(number))
        with _naming(part):
            [clip] = read([self.place.read(part, LIMITS.max_bytes)], limits=self.limits, isolate="always")
            return self._sized(clip.frames[0])

    def stored_depth(self, number: int) -> Shaped[np.ndarray, "H W"]:
        """Depth in steps of the stored scale, 0 where none is known. Raises InputError."""
        part = depth_part(self._checked(number))
        with _naming(part), open_source(self.place.read(part, LIMITS.max_bytes), self.limits, name=part) as src:
            return self._sized(isolated_grey16(src, self.limits))

    def drawn_depth(self, number: int) -> UInt8[np.ndarray, "H W 3"]:
        """Near light and far dark, with one scale for all frames; red where none is known, grey beyond the picture."""
        depth = self.stored_depth(number) * self.stored.depth_scale
        out = shaded(np.where(depth > 0, depth, np.nan), self.far, self.near)
        out[~inside(self.stored, number)] = FRAME
        return out

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self.stored):
            last = len(self.stored) - 1
            raise InputError(f"frames count 0 to {last}", limit=last, got=number)
        return number

    def _sized(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] != self.stored.cameras.size:
            h, w = self.stored.cameras.size
            raise DecodeError(f"not of {w} x {h} pixels", expected=(h, w), got=pixels.shape[:2])
        return pixels


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Errors of a part of the folder say which."""
    try:
        yield
    except InputError as e:
        raise type(e)(f"{part} of this scene: {e.message}", limit=e.limit, expected=e.expected, got=e.got) from e


def inside(stored: StoredScene, number: int) -> Shaped[np.ndarray, "H W"]:
    """Pixels of the picture, which margins are not."""
    h, w = stored.cameras.size
    left, top, right, bottom = stored.content[number]
    down, across = np.arange(h)[:, None], np.arange(w)[None]
    return (down >= top) & (down + 1 <= bottom) & (across >= left) & (across + 1 <= right)


def open_scene(place: ScenePlace) -> SceneDocument:
    """The scene, every number of its cameras, points and depth looked at once. Raises InputError and its kinds.

    Cost: decoding of every map of depth, and of no frame.
    """
    with _naming("cameras.json"):
        stored = read_stored(place.read("cameras.json", MOST_TOLD_BYTES))
    with _naming("points.ply"), place.open("points.ply") as file:
        if (size := file.seek(0, io.SEEK_END)) > MOST_PLY_BYTES:
            raise LimitError(f"more than {MOST_PLY_BYTES:,} bytes", limit=MOST_PLY_BYTES, got=size)
        file.seek(0)
        points, colours = read_ply(file, MOST_POINTS)
        if not len(points):
            raise DecodeError("no point")
    packed = quantise(points, colours)
    times = stored.times_s or (None,) * len(stored)
    labels = [frame_label(name, time) for name, time in zip(stored.names, times, strict=True)]
    told = told_of(place.name, stored.network, stored.cameras, labels, points, stored.usable, packed)
    document = SceneDocument(place, stored, packed, told)
    _measure(document)
    return document


def _measure(document: SceneDocument) -> None:
    """Depths of each frame, and the ends of the colours of all of them."""
    together = np.zeros(1 << 16, np.int64)
    scale = document.stored.depth_scale
    for i in range(len(document.stored)):
        within = inside(document.stored, i)
        counts = np.bincount(document.stored_depth(i)[within], minlength=1 << 16)
        document.depths.append(_numbers(counts, scale, int(within.sum())))
        together += counts
    found = _numbers(together, scale, 1)
    document.near, document.far = found.near, found.far


def _numbers(counts: np.ndarray, scale: float, pixels: int) -> DepthNumbers:
    """Of how often each step is there: the depths that 1 %, half and 99 % of the known pixels are no deeper than."""
    known = int(counts[1:].sum())
    if not known:
        return DepthNumbers(0.0, 0.0, 0.0, 0.0)
    upto = np.cumsum(counts[1:])
    near, middle, far = (1 + int(np.searchsorted(upto, max(1.0, share * known))) for share in (EDGE, 0.5, 1 - EDGE))
    return DepthNumbers(near * scale, middle * scale, far * scale, known / max(1, pixels))
