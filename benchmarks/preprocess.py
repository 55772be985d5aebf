"""Files on disk to packed rows: tubelet against transformers' Qwen2-VL processors, the same files and the same grids.

    python benchmarks/preprocess.py                    all sets and clips; writes results/preprocess.json
    python benchmarks/preprocess.py --quick            fewer pictures, one clip, three rounds
    python benchmarks/preprocess.py --only pictures    or clips

Pictures: JPEG files of 640 x 480, 1920 x 1080, 4032 x 3024 and a mix of them, to the rows of Qwen2-VL's default size
rule. The peers get paths, each in its best arrangement: the Pillow processor; the torchvision processor with torch's
threads, and in a pool of one-thread workers. Clips: a minute of 1080p, 16 and 64 frames at the same moments; the peers
are transformers' PyAV loader and its torchcodec loader, each followed by its video processor.

Before anything is timed, pixels must be within one grey level of the peer with the same resampler. tubelet's rows are
uint8, the peers' float32; "tubelet, float32" adds the conversion to exactly their values.

torchcodec needs FFmpeg libraries. Where there are none, those inside PyAV's wheel are lent to it (Linux). Where it
cannot be used at all, the results say why.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.video_utils import load_video

import harness
import media
import tubelet
from tubelet.pixels.patchify import normalise
from tubelet.reading.limits import Limits
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.image import decode_pixels
from tubelet.reading.source import open_source

PICTURES = tubelet.PixelRecipe(
    patch=14, rule="smart_compat", temporal=2, merge=2, order="block", min_pixels=56 * 56, max_pixels=28 * 28 * 1280
)
CLIPS = replace(PICTURES, min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)
MEAN = np.repeat(np.array(PICTURES.mean, np.float32), 392)
STD = np.repeat(np.array(PICTURES.std, np.float32), 392)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LENT = "TUBELET_BENCH_FFMPEG_LENT"


@dataclass(frozen=True)
class Settings:
    counts: dict[str, dict[str, int]]
    clips: tuple[str, ...]
    frames: tuple[int, ...]
    rounds: int
    clip_rounds: int


FULL = Settings(
    counts={"vga": {"vga": 8}, "hd": {"hd": 8}, "12mp": {"12mp": 4}, "mix": {"vga": 4, "hd": 4, "12mp": 4}},
    clips=tuple(kind.name for kind in media.CLIPS),
    frames=(16, 64),
    rounds=9,
    clip_rounds=5,
)
QUICK = Settings(
    counts={"mix": {"vga": 2, "hd": 2, "12mp": 2}}, clips=("h264_gop60",), frames=(16,), rounds=3, clip_rounds=3
)


# ---- equality, before speed


def grey_levels(values: torch.Tensor) -> np.ndarray:
    """Normalised float rows as the 0..255 levels they were made of, rounded away from float noise of 1e-3."""
    return np.round((values.numpy() * STD + MEAN) * 255, 2)


def gate(what: str, ours: tubelet.Packed, values: torch.Tensor, grid: Any, limit: float) -> dict[str, float]:
    """The difference in grey levels, which must be within `limit`, on equal grids."""
    if ours.grid_thw.tolist() != torch.as_tensor(grid).tolist():
        raise SystemExit(f"{what}: grids differ: {ours.grid_thw.tolist()} and {torch.as_tensor(grid).tolist()}")
    apart = np.abs(ours.x.numpy() - grey_levels(values))
    found = {"max": round(float(apart.max()), 3), "mean": round(float(apart.mean()), 5)}
    if found["max"] > limit:
        raise SystemExit(f"{what}: pixels differ by {found} grey levels, more than {limit}")
    return found


# ---- pictures


class Pictures:
    """The contenders on one list of files."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = [str(p) for p in paths]
        self.pillow = Qwen2VLImageProcessorPil()
        self.torchvision = Qwen2VLImageProcessor()
        self.pool = ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,))
        self.canvases = [Canvas() for _ in range(CORES)]

    def contenders(self) -> dict[str, Callable[[], object]]:
        return {
            "tubelet": lambda: tubelet.load_patches(self.paths, PICTURES).packed,
            "tubelet, float32": lambda: normalise(tubelet.load_patches(self.paths, PICTURES).packed, PICTURES),
            "transformers Pillow": lambda: self.pillow(self.paths, return_tensors="pt"),
            "transformers torchvision": lambda: self.torchvision(self.paths, return_tensors="pt"),
            "transformers torchvision, pool": self.pooled,
            "floor: decode only": self.decode_only,
        }

    def pooled(self) -> torch.Tensor:
        parts = self.pool.map(lambda p: self.torchvision([p], return_tensors="pt")["pixel_values"], self.paths)
        return torch.cat(list(parts))

    def decode_only(self) -> None:
        """Every file decoded on all cores into memory that is used again, and nothing else."""

        def some(k: int) -> None:
            for path in self.paths[k::CORES]:
                with open_source(path, Limits()) as src:
                    decode_pixels(src, Limits(), (255, 255, 255), self.canvases[k])

        list(self.pool.map(some, range(CORES)))

    def equality(self) -> dict[str, Any]:
        ours = tubelet.load_patches(self.paths, PICTURES).packed
        ours_pillow = tubelet.load_patches(self.paths, replace(PICTURES, resampler="pillow")).packed
        tv = self.torchvision(self.paths, return_tensors="pt")
        pil = self.pillow(self.paths, return_tensors="pt")
        return {
            "torch resampler, torchvision processor": gate(
                "torchvision", ours, tv["pixel_values"], tv["image_grid_thw"], 1.0
            ),
            "pillow resampler, Pillow processor": gate(
                "Pillow", ours_pillow, torch.as_tensor(pil["pixel_values"]), pil["image_grid_thw"], 1.0
            ),
            "torch resampler, Pillow processor": gate(
                "resamplers", ours, torch.as_tensor(pil["pixel_values"]), pil["image_grid_thw"], 255
            ),
        }


def run_pictures(folder: Path, settings: Settings) -> dict[str, Any]:
    results: dict[str, Any] = {}
    threads = torch.get_num_threads()
    for name, counts in settings.counts.items():
        made = media.make_pictures(folder, counts)
        paths = [path for group in made.values() for path in group]
        pictures = Pictures(paths)
        equality = pictures.equality()
        timings = harness.measure(
            pictures.contenders(),
            rounds=settings.rounds,
            control="transformers torchvision",
            before=lambda _: torch.set_num_threads(threads),
        )
        pictures.pool.shutdown()
        harness.show(f"pictures: {name} ({len(paths)} files)", timings, ours="tubelet", per=len(paths), unit="file")
        report = harness.report(timings, ours="tubelet")
        report["files"] = [media.describe(p) for p in paths]
        report["equality_grey_levels"] = equality
        report["pictures_per_s"] = {n: round(len(paths) / t.wall, 1) for n, t in timings.items()}
        report["seconds_by_stage"] = stages(str(p) for p in paths)
        results[name] = report
    return results


def stages(paths: Any) -> dict[str, float]:
    """tubelet's seconds in each stage over all files, one thread."""
    reports = tubelet.load_patches(list(paths), PICTURES, workers=1).sources
    return {stage: round(sum(r.seconds[stage] for r in reports), 5) for stage in reports[0].seconds}


# ---- clips


class Video:
    """The contenders on one clip and one number of frames."""

    def __init__(self, path: Path, frames: int, total: int) -> None:
        self.path, self.indices = str(path), np.linspace(0, total - 1, frames).round().astype(int)
        self.times_s = tuple((i + 0.5) / 30 for i in self.indices.tolist())  # the middle of each of those frames
        self.processor = Qwen2VLVideoProcessor(cap_pixels_per_frame=False)

    def ours(self) -> tubelet.Packed:
        return tubelet.load_patches(self.path, CLIPS, times_s=self.times_s).packed

    def theirs(self, backend: str) -> Any:
        clip, _ = load_video(self.path, backend=backend, sample_indices_fn=lambda metadata, **_: self.indices)
        return self.processor(clip, return_tensors="pt")


def run_clips(folder: Path, settings: Settings) -> dict[str, Any]:
    reason = why_not_torchcodec()
    backends = {"transformers PyAV": "pyav"} | ({} if reason else {"transformers torchcodec": "torchcodec"})
    results: dict[str, Any] = {"torchcodec": reason or "used"}
    threads = torch.get_num_threads()
    for kind in media.CLIPS:
        if kind.name not in settings.clips:
            continue
        path = media.make_clip(folder, kind)
        about = media.gops(path)
        for frames in settings.frames:
            video = Video(path, frames, int(str(about["frames"])))
            equality = {}
            for name, backend in backends.items():
                out = video.theirs(backend)
                equality[name] = gate(name, video.ours(), out["pixel_values_videos"], out["video_grid_thw"], 1.0)
                del out
            timings = harness.measure(
                {"tubelet": video.ours} | {n: partial(video.theirs, b) for n, b in backends.items()},
                rounds=settings.clip_rounds,
                control="tubelet",
                before=lambda _: torch.set_num_threads(threads),
            )
            title = f"{kind.name}, {frames} frames"
            harness.show(f"clip: {title}", timings, ours="tubelet", unit="clip")
            results[title] = harness.report(timings, ours="tubelet") | {"file": about, "equality_grey_levels": equality}
    return results


def why_not_torchcodec() -> str | None:
    """None where transformers can decode clips with torchcodec, else the reason."""
    try:
        import torchcodec
    except (ImportError, OSError, RuntimeError) as error:
        return f"it cannot be imported: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    if torchcodec.ffmpeg_major_version is None:
        return "it found no FFmpeg libraries that it supports, and those inside PyAV's wheel could not be lent to it"
    return None


def lend_ffmpeg() -> None:
    """Start again with PyAV's own FFmpeg libraries on the search path, under the names torchcodec looks for."""
    import av

    bundled = Path(av.__file__).parent.parent / "av.libs"
    if LENT in os.environ or not bundled.is_dir() or not sys.platform.startswith("linux"):
        return
    links = Path(tempfile.mkdtemp(prefix="ffmpeg-"))
    for library in [*bundled.glob("libav*.so*"), *bundled.glob("libsw*.so*")]:
        stem, version = library.name.split("-")[0], library.name.split(".so.")[1].split(".")[0]
        (links / f"{stem}.so.{version}").symlink_to(library)
    search = ":".join(filter(None, [str(links), str(bundled), os.environ.get("LD_LIBRARY_PATH")]))
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {LENT: "1", "LD_LIBRARY_PATH": search})


def main() -> None:
    parser = argparse.ArgumentParser(description="Files to packed rows, against transformers' processors.")
    parser.add_argument("--quick", action="store_true", help="a short run, written as preprocess_quick.json")
    parser.add_argument("--only", choices=("pictures", "clips"), help="half of it, merged into the results there are")
    parser.add_argument("--media", type=Path, default=Path(tempfile.gettempdir()) / "tubelet-bench-media")
    arguments = parser.parse_args()
    if why_not_torchcodec():
        lend_ffmpeg()
    settings = QUICK if arguments.quick else FULL
    name = "preprocess_quick" if arguments.quick else "preprocess"
    results = earlier(name) if arguments.only else {}
    if arguments.only != "clips":
        results["pictures"] = run_pictures(arguments.media, settings)
    if arguments.only != "pictures":
        results["clips"] = run_clips(arguments.media, settings)
    print(f"\nwritten: {harness.save(name, results, settings=settings).name}")


def earlier(name: str) -> dict[str, Any]:
    path = harness.RESULTS / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


if __name__ == "__main__":
    main()
