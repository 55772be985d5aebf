"""Folders of scenes for the inspector's tests: exact, seen by random weights, and what somebody made of one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.geometry.rooms import room

from tubelet.geometry.look import frames_of_clips, look_at
from tubelet.geometry.network import load_network
from tubelet.inspect.draw.scene import save_scene
from tubelet.reading.read import read

HOSTILE = "<img src=x onerror=alert(1)>"


def exact_scene(folder: Path) -> Path:
    """Three frames of 42 x 28 in a room whose every number is known."""
    return save_scene(room(3, (28, 42), "ahead"), folder)


def untrained_scene(folder: Path, clip: Path) -> Path:
    """Two frames of a clip, seen by vggt_tiny."""
    seen = frames_of_clips(read([clip], num_frames=2), fit="square", side=42)
    return save_scene(look_at(load_network("vggt_tiny"), seen, name="vggt_tiny"), folder)


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose cameras.json was changed."""
    shutil.copytree(folder, to)
    told = json.loads((to / "cameras.json").read_text())
    change(told)
    (to / "cameras.json").write_text(json.dumps(told))
    return to


def named_by_a_stranger(folder: Path, to: Path) -> Path:
    """A scene whose every text is markup, in a folder of such a name."""

    def rename(told: dict[str, Any]) -> None:
        told |= {"world": HOSTILE, "network": HOSTILE}
        for frame in told["frames"]:
            frame["source"] = HOSTILE

    return changed(folder, to, rename)
