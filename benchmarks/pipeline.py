"""Files to tokens, whole: 200 JPEGs and 5 clips through a SigLIP2 and a Qwen2.5-VL tower, from paths to tokens.

    python benchmarks/pipeline.py                       everything, in one go: an hour or so
    python benchmarks/pipeline.py --quick               6 pictures, one clip, toy towers; nothing is written
    python benchmarks/pipeline.py --keep F --case siglip2 --turn tubelet "transformers, batches" --rounds 3
                                                        some ways of one case, kept in the folder F
    python benchmarks/pipeline.py --keep F              the result of what is kept, without measuring

Each way is a process of its own, made and warmed before anything is timed; then they take turns. Wall is from the first
path to the last token, CPU seconds and memory are of the way's process and those it began. Memory is what a run adds at
its peak to what was there before it. "tubelet" reads and encodes pack by pack, each with all cores; "reading ahead"
reads one while the one before is encoded; "reading alone" is what stands before the tower. Before anything is timed,
tokens must be transformers' up to rounding.
`pipeline_ways.py` says what each way is.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from harness import AGAIN, Timing, report, save, show
from media import ClipKind, make_clip, make_mixed
from pipeline_ways import CORES, Case, difference, ways_of
from preprocess import lend_ffmpeg, why_not_torchcodec
from tubelet.inspect.speed.towers import Shape

CASES = {
    "siglip2": Case("SigLIP2 NaFlex", Shape(layers=2)),
    "siglip2, bfloat16": Case("SigLIP2 NaFlex", Shape(layers=2), "bfloat16"),
    "qwen2_5_vl": Case("Qwen2.5-VL", Shape(384, 6, 1536, 2, patch=14)),
    "qwen2_5_vl, bfloat16": Case("Qwen2.5-VL", Shape(384, 6, 1536, 2, patch=14), "bfloat16"),
}
TOYS = {
    "siglip2": Case("SigLIP2 NaFlex", Shape(64, 2, 128, 1)),
    "qwen2_5_vl": Case("Qwen2.5-VL", Shape(64, 2, 128, 1, patch=14)),
}
X264 = (("preset", "veryfast"), ("crf", "23"), ("g", "60"))
CLIPS = tuple(
    ClipKind(f"pipeline_{i}", "libx264", X264, seconds, width, height)
    for i, (seconds, width, height) in enumerate(
        ((6, 640, 360), (8, 854, 480), (6, 1280, 720), (10, 1280, 720), (5, 1920, 1080))
    )
)
TOY_CLIPS = (ClipKind("pipeline_toy", "libx264", X264, 1, 160, 96),)
LOOK_S = 0.1  # between two looks at the memory of a run
ALLOWED = {"float32": 3e-5, "bfloat16": 4e-2}  # relative error of tokens


# ---- one way, in a process of its own


def serve(case: Case, way: str, paths: Sequence[str]) -> None:
    """Makes the way, runs a few files, says so; then a run of all for each line that comes."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(CORES)
    with torch.inference_mode():
        run = ways_of(case)[way]()
        run([*paths[:2], paths[-1]])
        print("ready", flush=True)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), _cpu()
            tokens = run(paths)
            wall, cpu = time.perf_counter() - wall, _cpu() - cpu
            print(json.dumps({"wall_s": wall, "cpu_s": cpu, "tokens": tokens}), flush=True)


def _cpu() -> float:
    return sum(one.ru_utime + one.ru_stime for one in map(resource.getrusage, (0, resource.RUSAGE_CHILDREN)))


class Running:
    """A way that waits to run."""

    def __init__(self, case: str, way: str, folder: Path, *, toys: bool) -> None:
        words = [sys.executable, __file__, "--serve", way, "--case", case, "--keep", str(folder)]
        variables = {**os.environ, "OMP_NUM_THREADS": str(CORES), "MKL_NUM_THREADS": str(CORES)}
        self.name = f"{case}: {way}"
        self.process = subprocess.Popen(
            [*words, *(["--quick"] if toys else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables
        )
        self._line(lambda: None)

    def run(self) -> dict[str, float]:
        """One run. peak_mib: what it added."""
        assert self.process.stdin is not None
        before = highest = _held(self.process.pid)
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

        def look() -> None:
            nonlocal highest
            highest = max(highest, _held(self.process.pid))

        return json.loads(self._line(look)) | {"peak_mib": (highest - before) / 2**20}

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def _line(self, look: Any) -> bytes:
        assert self.process.stdout is not None
        while not select([self.process.stdout], [], [], LOOK_S)[0]:
            look()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return line


def _held(pid: int) -> int:
    """Bytes of a process and those below it, what they share counted once."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) * 1024 if line.startswith("Pss:") else 0
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return total
    return total + sum(_held(int(child)) for child in children)


# ---- several, in turns


class Kept:
    """The files, and what was measured so far, in a folder."""

    def __init__(self, folder: Path, *, toys: bool = False) -> None:
        self.folder, self.toys, self.notes = folder, toys, folder / "measured.json"
        self.cases = TOYS if toys else CASES
        self.paths = self._made()
        self.said: dict[str, Any] = {"difference": {}, "runs": []}
        if self.notes.exists():
            self.said = json.loads(self.notes.read_text())

    def _made(self) -> list[str]:
        """Pictures and, spread among them, clips: as they come."""
        pictures = make_mixed(self.folder / "files", 6 if self.toys else 200)
        clips = [make_clip(self.folder / "files", kind) for kind in (TOY_CLIPS if self.toys else CLIPS)]
        step = len(pictures) // len(clips)
        return [str(path) for i, clip in enumerate(clips) for path in (*pictures[i * step : (i + 1) * step], clip)]

    def turn(self, case: str, ways: Sequence[str], rounds: int) -> None:
        """The ways in turns, ours twice in each round."""
        if case not in self.said["difference"]:
            self.said["difference"][case] = apart(self.cases[case], self.paths)
        with _running(case, ways, self.folder, toys=self.toys) as running:
            order = [*ways, *(way + AGAIN for way in ways[:1])]
            self.said["runs"].append({"case": case, "found": {name: [] for name in order}})
            for i in range(rounds):
                one = {}
                for name in reversed(order) if i % 2 else order:
                    one[name] = running[name.removesuffix(AGAIN)].run()
                    print(f"{case}: {name}", {k: round(v, 2) for k, v in one[name].items()}, flush=True)
                for name, found in one.items():
                    self.said["runs"][-1]["found"][name].append(found)
                self.notes.write_text(json.dumps(self.said, indent=1))  # whole rounds, whatever becomes of the next

    def result(self) -> dict[str, Any]:
        """Of each case the comparison with most rounds, and the seconds of all that was ever tried."""
        out: dict[str, Any] = {"files": len(self.paths), "threads": CORES}
        for case in (c for c in self.cases if any(one["case"] == c for one in self.said["runs"])):
            sittings: dict[tuple[str, ...], dict[str, list[dict[str, float]]]] = {}  # those of the same ways together
            tried: dict[str, list[float]] = {}
            for found in (one["found"] for one in self.said["runs"] if one["case"] == case):
                for name, runs in found.items():
                    sittings.setdefault(tuple(found), {}).setdefault(name, []).extend(runs)
                    tried.setdefault(name, []).extend(one["wall_s"] for one in runs)
            best = max(sittings.values(), key=lambda found: len(next(iter(found.values()))))
            timings = {name: _timing(name, runs) for name, runs in best.items()}
            ours = next(iter(timings))
            show(case, timings, ours=ours)
            shape = self.cases[case].shape
            out[case] = {
                "layers": shape.layers,
                "width": shape.hidden,
                "tokens": int(next(iter(best.values()))[0]["tokens"]),
                "relative_error": self.said["difference"][case],
                "seconds_of_each_way": {n: round(median(s), 2) for n, s in tried.items() if not n.endswith(AGAIN)},
                **report(timings, ours=ours),
            }
        return out


def _timing(name: str, runs: Sequence[dict[str, float]]) -> Timing:
    peak = max(one["peak_mib"] for one in runs)
    return Timing(name, tuple(r["wall_s"] for r in runs), tuple(r["cpu_s"] for r in runs), int(peak * 2**20))


@contextmanager
def _running(case: str, ways: Sequence[str], folder: Path, *, toys: bool) -> Iterator[dict[str, Running]]:
    running: dict[str, Running] = {}
    try:
        for way in ways:
            running[way] = Running(case, way, folder, toys=toys)
        yield running
    finally:
        for one in running.values():
            one.end()


def apart(case: Case, paths: Sequence[str]) -> float:
    """The relative error of tokens of some pictures and a clip. Raises SystemExit where it is more than rounding."""
    import torch

    with torch.inference_mode():
        found = difference(case, [*paths[:4], next(path for path in paths if path.endswith(".mp4"))])
    if not found <= ALLOWED[case.dtype]:
        raise SystemExit(f"{case.peer}: tokens differ by {found:.1e}, nothing is timed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy towers, one round; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="F", help="a folder for what is measured in slices")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--turn", nargs="+", default=[], metavar="WAY", help="ways of --case, ours first")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = TOYS if given.quick else CASES
    if given.serve:
        serve(cases[given.case], given.serve, Kept(given.keep, toys=given.quick).paths)
        return
    if why_not_torchcodec():
        lend_ffmpeg()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        kept = Kept(given.keep, toys=given.quick)
        if given.turn:
            kept.turn(given.case, given.turn, given.rounds)
            return
        print(json.dumps(found := kept.result(), indent=1))
    else:
        with TemporaryDirectory(prefix="tubelet-pipeline-") as folder:
            kept = Kept(Path(folder), toys=given.quick)
            for name, case in cases.items():
                kept.turn(name, list(ways_of(case)), 1 if given.quick else given.rounds)
            print(json.dumps(found := kept.result(), indent=1))
    if not given.quick:
        save("pipeline", found)


if __name__ == "__main__":
    main()
