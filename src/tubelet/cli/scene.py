"""`tubelet scene`: cameras, depth and points of a video or of pictures of one place, as a folder."""

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from tubelet.cli.options import Device, Isolate, OutputOptions, StoredDtype, Urls, option
from tubelet.cli.progress import progress
from tubelet.cli.sources import Inputs, inputs_of
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name, megabytes, seconds, visible
from tubelet.errors import InputError, near_names

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from tubelet.geometry.look import SceneFrames
    from tubelet.geometry.scene import Cloud
    from tubelet.geometry.scene import Scene as Seen
    from tubelet.geometry.vggt import VGGT, VGGTConfig
    from tubelet.inspect.budget.memory import Dtype
    from tubelet.weights.locate import Source

STAGES = ("seeing", "points", "choosing", "writing")
MOST_POOL = 64  # frames that are seen to choose from, unless --pool says more
SLOW = 2e12  # FLOPs from which this machine's speed is measured before the work
LONG = 20.0  # seconds that are worth a warning


@dataclass(frozen=True)
class Scene:
    """See a video, or pictures of one place, in 3-D: where the cameras stood, how deep every pixel is, and the points.

    FILE is one video, several pictures, or a folder of them. --out becomes a folder with the frames, cameras.json,
    depth as 16-bit PNG, COLMAP's text model, points.ply, a sheet of all of it, the path of the cameras from above, and
    index.html, which turns the points in a browser and asks no other host. The model is a VGGT in facebook/VGGT-1B's
    layout; vggt_tiny and vggt_1b are random weights, for trying things out. What it costs is said before it starts:
    attention over a scene is quadratic in its frames.

    Example: tubelet scene walk.mp4 --model models/VGGT-1B --out walk
    """

    files: Positional[
        Annotated[
            tuple[str, ...],
            option("a video, pictures, a folder of pictures, a '*.jpg' pattern, or - for stdin", "FILE..."),
        ]
    ]
    model: Annotated[str, option("a folder, file or hub id; or vggt_tiny, vggt_1b: random weights", "MODEL")]
    out: Annotated[str, option("the folder to write", "DIR")]
    frames: Annotated[int, option("frames of the scene, at most 256 (default: 16)", "N")] = 16
    by: Annotated[
        Literal["time", "space", "poses"],
        option("keep frames evenly, by what they see, or by where they stand (default: time)"),
    ] = "time"
    pool: Annotated[
        int | None,
        option("with --by space or poses: frames to choose from (default: 4 times --frames, at most 64)", "N"),
    ] = None
    confidence: Annotated[float, option("share of the points kept, the surest first (default: 0.5)", "SHARE")] = 0.5
    points: Annotated[
        Literal["depth", "head"], option("points from depth and cameras, or from their own head (default: depth)")
    ] = "depth"
    fit: Annotated[
        Literal["crop", "pad", "square"],
        option("frames 518 wide and cut at 518 high, white around them, or black to a square (default: crop)"),
    ] = "crop"
    side: Annotated[int, option("with --fit square: pixels of a side, a multiple of 14 (default: 518)", "N")] = 518
    overwrite: Annotated[bool, option("replace DIR if it is a scene's folder")] = False
    dtype: StoredDtype = "stored"
    device: Device = "auto"
    isolate: Isolate = "auto"
    urls: Urls = False
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        pool = self._checked()
        inputs = inputs_of(self.files, terminal, urls=self.urls, pictures_only=True)
        out = self._place()
        inputs.look()
        from tubelet.encoder.device import device_of
        from tubelet.geometry.look import look_at
        from tubelet.geometry.network import config_for, heads_for
        from tubelet.inspect.draw.scene import save_scene

        device = device_of(self.device)
        source = self._source()
        laps: dict[str, float] = {}
        start = time.perf_counter()
        seen = self._read(inputs, pool)
        laps["read"] = time.perf_counter() - start
        cost = cost_of(config_for(self.model, heads_for(self.points)), seen, self._kind, device)
        terminal.aside(cost_words(cost, seen, device))
        start = time.perf_counter()
        model = self._load(source, device)
        laps["load"] = time.perf_counter() - start
        if model.untrained:
            terminal.say(f"{file_name(self.model)} is UNTRAINED: random weights, the scene means nothing")
        start = time.perf_counter()
        with progress(terminal, len(STAGES)) as tick:

            def stage(name: str) -> None:
                tick(name, STAGES.index(name))

            scene = look_at(
                model, seen, keep=self.frames, by=self.by, points=self.points, name=file_name(self.model), stage=stage
            )
            laps["see"] = time.perf_counter() - start
            stage("writing")
            start = time.perf_counter()
            cloud = scene.cloud(self.confidence)
            save_scene(scene, out, cloud, overwrite=self.overwrite)
            laps["write"] = time.perf_counter() - start
        report = self._report(scene, seen, cloud, laps) | {"cost": cost}
        terminal.show(_table(report, str(out)))
        terminal.document(report)
        return OK

    # ---- what is asked for

    def _checked(self) -> int:
        """How many frames are read. Raises UsageError."""
        from tubelet.geometry.look import MOST_FRAMES

        if not 1 <= self.frames <= MOST_FRAMES:
            raise UsageError(f"--frames must be from 1 to {MOST_FRAMES}, got {self.frames}")
        if not 0 < self.confidence <= 1:
            raise UsageError(f"--confidence must be above 0 and at most 1, got {self.confidence:g}")
        if self.side < 14 or self.side % 14 or (self.side != 518 and self.fit != "square"):
            raise UsageError(f"--side takes a multiple of 14 and goes with --fit square, got {self.side}")
        if self.pool is not None and (self.by == "time" or not self.frames <= self.pool <= MOST_FRAMES):
            raise UsageError(f"--pool goes with --by space or poses, from --frames to {MOST_FRAMES}, got {self.pool}")
        if self.by == "time":
            return self.frames
        return self.pool or max(self.frames, min(4 * self.frames, MOST_POOL))

    def _place(self) -> "Path":
        from tubelet.geometry.scene import scene_place

        if self.out == "-":
            raise InputError("the output is a folder; one that is called - is ./-", source="-")
        return scene_place(self.out, overwrite=self.overwrite)

    def _source(self) -> "Source":
        """A name of random weights, or what is there. Raises UsageError, and what `find_folder` raises."""
        from tubelet.geometry.network import UNTRAINED
        from tubelet.weights.locate import find_folder

        if self.model in UNTRAINED:
            return self.model
        if "/" not in self.model and "\\" not in self.model and not os.path.exists(self.model):  # noqa: PTH110
            near = near_names(self.model, UNTRAINED)
            raise UsageError(f"--model {self.model}: no such folder or file{near}, and not {' or '.join(UNTRAINED)}")
        return find_folder(self.model)

    @property
    def _kind(self) -> "Dtype":
        """The type of the layers; of stored weights the widest that they may have."""
        return "float32" if self.dtype == "stored" else self.dtype

    # ---- what is done

    def _read(self, inputs: Inputs, pool: int) -> "SceneFrames":
        from tubelet.geometry.look import frames_of_clips
        from tubelet.geometry.sampling import uniform_frames
        from tubelet.reading.read import read

        files = list(inputs.sources)
        if len(files) > 1:
            files = [files[i] for i in uniform_frames(len(files), pool)]
        clips = read(files, num_frames=pool, isolate=self.isolate)
        return frames_of_clips(clips, fit=self.fit, side=self.side)

    def _load(self, source: "Source", device: str) -> "VGGT":
        import torch

        from tubelet.geometry.network import load_network

        kind = None if self.dtype == "stored" else getattr(torch, self.dtype)
        return load_network(source, points=self.points, dtype=kind, device=device)

    def _report(self, scene: "Seen", seen: "SceneFrames", cloud: "Cloud", laps: dict[str, float]) -> dict[str, Any]:
        from tubelet.geometry.scene import PICTURES

        bounded = scene.cameras.bounded
        notes = list(seen.notes)
        if bounded is not None and bool(bounded.any()):
            notes.append(f"{int(bounded.sum())} cameras had no field of view that can be; it is bounded")
        if len(scene) < min(self.frames, len(seen)):
            notes.append(f"{len(scene)} frames are kept: the other cameras stand where these do")
        height, width = scene.cameras.size
        frames = [
            {"source": file_name(name), "time_s": None if scene.times_s is None else scene.times_s[i]}
            for i, name in enumerate(scene.names)
        ]
        return {
            "command": "scene",
            "out": file_name(self.out),
            "pictures": list(PICTURES),
            "model": file_name(self.model),
            "untrained": scene.untrained,
            "by": self.by,
            "seen": len(scene) if self.by == "time" else len(seen),
            "frames": frames,
            "width": width,
            "height": height,
            "points": {"kept": len(cloud.points), "usable": cloud.total, "share": cloud.share},
            "depth": dict(zip(("near", "far"), scene.depth_range(), strict=True)),
            "notes": notes,
            "seconds": laps,
        }


# ---- what it costs


def cost_of(config: "VGGTConfig", seen: "SceneFrames", dtype: "Dtype", device: str) -> dict[str, Any]:
    """Multiply-adds by part, bytes, and, where it may take a while, seconds at the speed this device multiplies
    matrices: a lower bound."""
    from tubelet.geometry.cost import vggt_macs
    from tubelet.inspect.budget.geometry_memory import vggt_memory
    from tubelet.inspect.speed.rate import gemm_rate
    from tubelet.packed.grid import Grid

    height, width = seen.frames.shape[1:3]
    macs = vggt_macs(config, len(seen), height, width)
    flop = 2 * sum(macs.values())
    patch = config.pixels.patch
    grid = Grid(len(seen), height // patch, width // patch)
    on: Literal["cpu", "cuda"] = "cuda" if device.startswith("cuda") else "cpu"
    memory = vggt_memory(config, [grid], dtype=dtype, device=on, keep=(), heads=config.heads)
    slow = flop > SLOW
    rate = gemm_rate(1024, dtype=dtype, device=device, rounds=2) if slow else None
    return {
        "frames": len(seen),
        "macs": macs,
        "flop": flop,
        "weights_bytes": memory.weights_bytes,
        "memory_bytes": memory.total_bytes,
        "seconds_at_least": None if rate is None else flop / rate,
    }


def cost_words(cost: dict[str, Any], seen: "SceneFrames", device: str) -> str:
    """What is said before the work."""
    height, width = seen.frames.shape[1:3]
    share = round(100 * cost["macs"]["scene"] / max(1, sum(cost["macs"].values())))
    least = cost["seconds_at_least"]
    long = least is not None and least > LONG
    takes = "" if least is None else f", {seconds(least)} or more on {device}"
    lines = [
        f"{cost['frames']} frames of {width} x {height}: {cost['flop'] / 1e12:,.3g} TFLOP, {share} % of it where "
        f"layers see the whole scene; about {megabytes(cost['memory_bytes'])}{takes}"
    ]
    if long:
        lines.append("twice the frames cost up to four times that: their attention is quadratic; --frames takes fewer")
    return "\n".join(lines)


def _table(report: dict[str, Any], out: str) -> "RenderableType":
    """What was made, for a person."""
    from rich import box
    from rich.table import Table

    from tubelet.inspect.draw.shades import ends

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    points, laps = report["points"], report["seconds"]
    near, far = ends(report["depth"]["near"], report["depth"]["far"])
    state = "UNTRAINED: random weights, this scene means nothing" if report["untrained"] else "trained weights"
    chosen = "" if report["by"] == "time" else f", by {report['by']} of {report['seen']}"
    rows = {
        "scene": f"{visible(out)}  (index.html turns it)",
        "network": f"{visible(report['model'])} ({state})",
        "frames": f"{len(report['frames'])} of {report['width']} x {report['height']}{chosen}",
        "depth": f"{near} to {far} in the unit of the scene",
        "points": f"{points['kept']:,} of {points['usable']:,}",
        "seconds": f"{seconds(laps['read'])} to read, {seconds(laps['load'])} to load, {seconds(laps['see'])} to see, "
        f"{seconds(laps['write'])} to write",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    for note in report["notes"]:
        table.add_row("note", note)
    return table
