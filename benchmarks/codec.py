"""A clip as a few thousand chosen patches: tubelet.read_sparse against PyPI's lmms-video-utils 0.1.0, the same file.

    python benchmarks/codec.py                    clips made from a seed; writes results/codec.json
    python benchmarks/codec.py --quick            a short clip, three rounds, written as codec_quick.json
    python benchmarks/codec.py --clip FILE        this clip as well (an MP4)

The peer is not a dependency: `pip install --no-deps lmms-video-utils==0.1.0`, here or on PYTHONPATH. It decodes the
whole clip to RGB and lays 2 x 2 patches of 14 pixels on 8 canvases: `framediff`, its default, chooses by differences
between 64 frames, `mvwarp` with `bitcost` by motion vectors and packet sizes. tubelet takes the same 64 moments and as
many rows as the peer's canvases have patches, merge blocks of 2 x 2 too: by differences, and by vectors and the error
they leave. Each is compared with its like. `blocks` is what tubelet does where a codec tells no vectors.

Every run is a process of its own, since freed memory would hide peaks; contenders take turns. Before anything is timed
both must give the same number of patches, from places inside the picture, none twice. Peak memory is what a run adds to
the process after all imports; with them, `peak_with_imports_mib`. tubelet alone runs on longer clips: its memory stays.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import torch

import harness
import media
import tubelet
from tubelet.pixels.sparse import read_sparse

RECIPE = tubelet.PixelRecipe(patch=14, rule="smart", merge=2, order="block", max_pixels=150_000)  # the peer's canvas
CANVASES = 8
OURS = {"tubelet, vectors": "auto", "tubelet, difference": "difference", "tubelet, blocks": "blocks"}
PEERS: dict[str, dict[str, Any]] = {
    "lmms-video-utils, mvwarp + bitcost": {"score_mode": "mvwarp", "gop_mode": "bitcost"},
    "lmms-video-utils, framediff": {"score_mode": "framediff"},
}
PAIRS = {"motion vectors": (*OURS,)[:1] + (*PEERS,)[:1], "frame differences": (*OURS,)[1:2] + (*PEERS,)[1:]}
MIB = 2**20
ENCODER = (("preset", "veryfast"), ("crf", "23"), ("x264-params", "keyint=250:bframes=3"))


@dataclass(frozen=True)
class Settings:
    seconds: int
    longer: tuple[int, ...]
    rounds: int


FULL = Settings(seconds=25, longer=(100,), rounds=3)
QUICK = Settings(seconds=8, longer=(24,), rounds=3)


def clip_of(folder: Path, seconds: int) -> Path:
    return media.make_clip(folder, media.ClipKind("h264_360p_b3", "libx264", ENCODER, seconds, 640, 360))


# ---- one run, in a process of its own


def frames_of(path: Path) -> tuple[int, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sum(1 for p in container.demux(stream) if p.size), float(stream.average_rate or 30)


def moments(path: Path) -> tuple[float, ...]:
    """The middles of the 64 frames that the peer takes."""
    count, rate = frames_of(path)
    picked = {round(i * (count - 1) / 63) for i in range(64)}
    return tuple((i + 0.5) / rate for i in sorted(picked))


def contender(name: str, path: Path, rows: int) -> Callable[[], Any]:
    """The work to measure, with everything it needs imported."""
    if name in OURS:
        times_s = moments(path)
        patient = tubelet.Limits(deadline_s=600)  # searching a long clip takes more than the minute that is the default
        return lambda: read_sparse(path, RECIPE, budget=rows, times_s=times_s, signal=OURS[name], limits=patient)
    from lmms_video_utils import fetch_codec_video

    return lambda: fetch_codec_video(str(path), target_canvas=CANVASES, backend="pyav", device="cpu", **PEERS[name])


def places(name: str, result: Any) -> torch.Tensor:
    """(t, h, w) of every patch that was chosen; the peer's canvases may have empty places, marked -1."""
    found = result.packed.pos.long() if name in OURS else result.patch_positions
    return found[found[:, 0] >= 0]


def one(name: str, path: Path, rows: int) -> dict[str, Any]:
    run = contender(name, path, rows)
    kept: list[Any] = []
    timing = harness.measure({name: lambda: kept.append(run())}, rounds=1, warmup=0)[name]
    status = Path("/proc/self/status")
    peak = (
        [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if status.exists()
        else []
    )
    found = places(name, kept[0])
    return {
        "wall": timing.wall,
        "cpu": timing.cpu,
        "extra": timing.peak_extra_bytes,
        "total": int(peak[0]) * 1024 if peak else None,
        "patches": len(found),
        "twice": len(found) - len(found.unique(dim=0)),
        "frames": len(found[:, 0].unique()),
    }


def run_alone(name: str, path: Path, rows: int) -> dict[str, Any]:
    arguments = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--clip", str(path), "--rows", str(rows)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} on {path.name} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---- the comparison


def compare(path: Path, settings: Settings) -> dict[str, Any]:
    first = {name: run_alone(name, path, 0) for name in PEERS}
    rows = first[(*PEERS,)[1]]["patches"]
    results: dict[str, Any] = {"file": media.gops(path), "patches": rows}
    for title, (ours, peer) in PAIRS.items():
        wanted = first[peer]["patches"] // RECIPE.merge**2 * RECIPE.merge**2
        check = run_alone(ours, path, wanted)
        if check["patches"] != wanted or check["twice"] or first[peer]["twice"]:
            raise SystemExit(f"{title}: {check} and {first[peer]} are not comparable")
        names = [ours, peer, ours + harness.AGAIN]
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for i in range(settings.rounds):
            for name in names if i % 2 == 0 else names[::-1]:
                rounds[name].append(run_alone(name.removesuffix(harness.AGAIN), path, wanted))
        timings = {name: timing(name, runs) for name, runs in rounds.items()}
        harness.show(f"{path.name}: {title}, {wanted} patches", timings, ours=ours, unit="clip")
        found = harness.report(timings, ours=ours)
        found["patches"] = {ours: check["patches"], peer: first[peer]["patches"]}
        found["frames_with_patches"] = {ours: check["frames"], peer: first[peer]["frames"]}
        found["peak_with_imports_mib"] = {
            n: round(max(r["total"] or 0 for r in runs) / MIB) for n, runs in rounds.items() if n in (ours, peer)
        }
        peaks = {n: timings[n].peak_extra_bytes or 0 for n in (ours, peer)}
        found["times_less_memory"] = round(peaks[peer] / max(1, peaks[ours]), 1)
        print(f"  peak memory: {found['times_less_memory']} times less; {found['peak_with_imports_mib']}")
        results[title] = found
    return results


def timing(name: str, runs: list[dict[str, Any]]) -> harness.Timing:
    peaks = [r["extra"] for r in runs if r["extra"] is not None]
    return harness.Timing(
        name, tuple(r["wall"] for r in runs), tuple(r["cpu"] for r in runs), max(peaks) if peaks else None
    )


def alone(paths: dict[int, Path], rows: int) -> dict[str, Any]:
    """tubelet by clip length: seconds of work for a second of clip, and the memory of the run."""
    results: dict[str, Any] = {}
    for seconds, path in paths.items():
        for name in OURS:
            runs = [run_alone(name, path, rows)]
            results.setdefault(name, {})[f"{seconds} s"] = {
                "work_s": round(statistics.median(r["cpu"] for r in runs), 3),
                "peak_extra_mib": round(max(r["extra"] or 0 for r in runs) / MIB, 1),
            }
            print(f"  {name}, {seconds} s: {results[name][f'{seconds} s']}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="Chosen patches of a clip, against lmms-video-utils.")
    parser.add_argument("--quick", action="store_true", help="a short run, written as codec_quick.json")
    parser.add_argument("--clip", type=Path, help="a clip to compare on as well")
    parser.add_argument("--media", type=Path, default=Path(tempfile.gettempdir()) / "tubelet-bench-media")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.clip, arguments.rows)))
        return
    if importlib.util.find_spec("lmms_video_utils") is None:
        raise SystemExit("lmms-video-utils is not there: pip install --no-deps lmms-video-utils==0.1.0")
    settings = QUICK if arguments.quick else FULL
    clips = {s: clip_of(arguments.media, s) for s in (settings.seconds, *settings.longer)}
    results: dict[str, Any] = {"generated clip": compare(clips[settings.seconds], settings)}
    if arguments.clip:
        results["given clip"] = compare(arguments.clip, settings)
    rows = results["generated clip"]["patches"]
    results["tubelet_by_length_of_the_clip"] = alone(clips, rows)
    name = "codec_quick" if arguments.quick else "codec"
    print(f"\nwritten: {harness.save(name, results, settings=settings).name}")


if __name__ == "__main__":
    main()
