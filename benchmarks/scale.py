"""Engines for many files against a plain loop: CPU seconds, wall, and what a kill at half costs.

    python benchmarks/scale.py                          everything, in one go: half an hour
    python benchmarks/scale.py --quick                  16 files, one round, nothing written
    python benchmarks/scale.py --keep F --turn plain "local 2"      one turn of some methods, kept in the folder F
    python benchmarks/scale.py --keep F --kill "local 2"            one killed at half and begun again, kept there
    python benchmarks/scale.py --keep F                 the result of what is kept, without measuring

One method a process, in turn, several rounds. plain: this library's reader and encoder in one loop, a file of tokens
for each pack. local 1, local 2, ray 2: `tubelet encode --out OUT/`. datasets.map and webdataset with a DataLoader do
the same reading and encoding through those libraries. Wall is of the process that was begun, CPU seconds are of all
that it began, start and end included; the steady rate is of tokens after the first written file, from its time to that
of the last. What a kill costs: shards that were at work then, the only ones that are encoded twice. Methods whose
library is not installed are left out, and the result says so.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from harness import save

METHODS = ("plain", "local 1", "local 2", "ray 2", "datasets.map", "webdataset")
NEEDS = {"ray 2": "ray", "datasets.map": "datasets", "webdataset": "webdataset"}
RESUMED = ("local 2", "ray 2", "datasets.map")  # that are killed at half and begun again
MODEL = "llava_vit_packing_small"
WORKERS = {"local 2": 2, "ray 2": 2}
COUNT, MAX_PIXELS, SHARD_TOKENS = 3_600, 36_000, 8_192
PAUSE_S = 2.0  # between a kill and the same again: what the killed process had started ends by itself, or stays
LOOK_S = 0.25  # between two looks at the processes of a run
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


def write_files(folder: Path, count: int) -> None:
    """JPEGs of 160 to 900 pixels a side, and an archive of the same."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        height, width = draw.integers(160, 900, 2)
        small = draw.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((int(width), int(height))).save(folder / f"{i:05d}.jpg")
    with tarfile.open(folder.parent / "files.tar", "w") as file:
        for path in sorted(folder.glob("*.jpg")):
            file.add(path, path.name)


# ---- the methods, each in a process of its own


def run_tubelet(files: Path, out: Path, *words: str) -> int:
    from tubelet.cli import main

    given = ["--model", MODEL, "--dtype", "float16", "--max-pixels", str(MAX_PIXELS), "--quiet"]
    given += ["--shard-tokens", str(SHARD_TOKENS), "--threads", "1"]
    return main(["encode", str(files), *given, "--out", f"{out}/", *words])


def network() -> tuple[Any, Any]:
    """The encoder in float16 and its pixels."""
    import torch

    from tubelet.cli.options import with_budget
    from tubelet.scale.options import planned_recipe
    from tubelet.weights.load import untrained

    torch.set_num_threads(1)
    return untrained(MODEL).to("cpu", torch.float16), with_budget(planned_recipe(MODEL), MAX_PIXELS)


def plain(files: Path, out: Path) -> int:
    from tubelet.pixels.stream import stream
    from tubelet.scale.encode import encode_pack

    encoder, recipe = network()
    out.mkdir(parents=True)
    paths = sorted(str(p) for p in files.iterdir())
    for i, loaded in enumerate(stream(paths, recipe, max_rows=SHARD_TOKENS, on_error="skip", workers=1)):
        encode_pack(loaded.packed, encoder, "cpu").tokens.save(out / f"{i:06d}.safetensors")
    return 0


def datasets_map(files: Path, out: Path) -> int:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    os.environ["HF_DATASETS_CACHE"] = str(out / "cache")
    given = Dataset.from_dict({"source": sorted(str(p) for p in files.iterdir())})
    out.mkdir(parents=True, exist_ok=True)
    made = given.map(mapped, batched=True, batch_size=32, num_proc=2, cache_file_name=str(out / "cache.arrow"))
    made.save_to_disk(str(out / "tokens"))
    return 0


_NETWORK: list[tuple[Any, Any]] = []  # of this process: datasets calls `mapped` once a batch


def mapped(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    from tubelet import load_patches
    from tubelet.scale.encode import encode_pack

    if not _NETWORK:
        _NETWORK.append(network())
    encoder, recipe = _NETWORK[0]
    loaded = load_patches(batch["source"], recipe, on_error="skip", workers=1)
    tokens = encode_pack(loaded.packed, encoder, "cpu").tokens
    rows: list[Any] = [None] * len(batch["source"])
    for item, x in zip(tokens.items, tokens.unpack(), strict=True):
        rows[item.picture] = x.numpy()
    return {"x": rows}


def web_dataset(files: Path, out: Path) -> int:
    import webdataset
    from torch.utils.data import DataLoader

    from tubelet.scale.encode import encode_pack

    encoder, recipe = network()
    out.mkdir(parents=True)
    given = webdataset.WebDataset(str(files.parent / "files.tar"), shardshuffle=False).to_tuple("__key__", "jpg")
    decode = partial(decoded, recipe)
    for i, packed in enumerate(DataLoader(given, batch_size=32, num_workers=1, collate_fn=decode)):
        encode_pack(packed, encoder, "cpu").tokens.save(out / f"{i:06d}.safetensors")
    return 0


def decoded(recipe: Any, batch: list[tuple[str, bytes]]) -> Any:
    """In the process of the loader, while the one before is encoded."""
    from tubelet import load_patches

    return load_patches([data for _, data in batch], recipe, on_error="skip", workers=1, isolate="never").packed


RUN: dict[str, Callable[[Path, Path], int]] = {
    "plain": plain,
    "local 1": run_tubelet,
    "local 2": lambda files, out: run_tubelet(files, out, "--workers", "2"),
    "ray 2": lambda files, out: run_tubelet(files, out, "--engine", "ray", "--workers", "2"),
    "datasets.map": datasets_map,
    "webdataset": web_dataset,
}


# ---- measuring


def begun(method: str, files: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, __file__, "--method", method, "--files", str(files), "--out", str(out)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL)


def below() -> dict[tuple[int, int], float]:
    """The CPU seconds of every process that comes from this one, by number and start. Ended ones are not among them."""
    parents: dict[int, int] = {}
    used: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], used[pid] = int(fields[1]), (int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS)

    def ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return {(pid, start): cpu for pid, (start, cpu) in used.items() if pid != os.getpid() and ours(pid)}


def timed(method: str, files: Path, out: Path) -> dict[str, float]:
    """Wall and CPU seconds of a whole run, and its rate once something is written."""
    start, at = time.perf_counter(), time.time()
    process = begun(method, files, out)
    cpu: dict[tuple[int, int], float] = {}
    while process.poll() is None:  # processes of other parents are not in our children's times, so they are looked at
        cpu |= below()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_S)
    found, end = {"wall_s": time.perf_counter() - start}, time.time()
    if process.returncode:
        raise SystemExit(f"{method} ended with {process.returncode}")
    found["cpu_s"] = sum((cpu | below()).values())
    cleared()
    written = sorted((p.stat().st_mtime, rows_of(p)) for p in out.rglob("*.safetensors"))
    if len(written) > 2:
        found |= {"first_written_s": written[0][0] - at, "after_last_written_s": end - written[-1][0]}
        found["steady_tokens_per_s"] = sum(rows for _, rows in written[1:]) / (written[-1][0] - written[0][0])
    return found


def rows_of(path: Path) -> int:
    with path.open("rb") as file:
        return int(json.loads(file.read(int.from_bytes(file.read(8), "little")))["x"]["shape"][0])


def cleared() -> None:
    """End what a run has left of itself, so that it does not disturb the next."""
    while there := below():
        for pid, _ in there:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.05)


def reap() -> None:
    """Forget the processes that have ended, whose CPU seconds would be counted again."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def resumed(method: str, files: Path, out: Path, wall_s: float) -> dict[str, float]:
    """A SIGKILL of the process that was begun, at half of its time; then the same again: seconds, shards done twice."""
    first = begun(method, files, out)
    time.sleep(wall_s / 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    at_work = len(list(out.glob("attempts/*")))
    time.sleep(PAUSE_S)
    reap()
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = timed(method, files, out)
    for name in ("first_written_s", "steady_tokens_per_s"):  # both count what was there before
        again.pop(name, None)
    there = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    written_again = sum(there.get(path) != at for path, at in kept.items())
    shards = {"shards_kept": len(kept), "shards": len(there), "at_work": at_work, "written_again": written_again}
    return {"killed_after_s": wall_s / 2, **(shards if there else {}), **again}


# ---- several turns, in one go or in slices


class Kept:
    """The files, and what was measured so far, in a folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.files, self.notes = folder, folder / "files", folder / "measured.json"
        self.said: dict[str, Any] = {"files": count, "runs": {}, "resume": {}}
        if self.notes.exists():
            self.said = json.loads(self.notes.read_text())
        else:
            write_files(self.files, count)

    def turn(self, methods: Sequence[str]) -> None:
        """Each of the methods once."""
        for method in methods:
            with TemporaryDirectory(prefix="out-", dir=self.folder) as out:
                found = timed(method, self.files, Path(out, "out"))
            self.said["runs"].setdefault(method, []).append(found)
            self._note(method, found)

    def kill(self, methods: Sequence[str]) -> None:
        """Each of the methods once, killed at half and begun again. It has had a turn."""
        for method in methods:
            wall = median(one["wall_s"] for one in self.said["runs"][method])
            with TemporaryDirectory(prefix="out-", dir=self.folder) as out:
                found = resumed(method, self.files, Path(out, "out"), wall)
            self.said["resume"][method] = found | {"wall_of_a_whole_run": found["wall_s"] / wall}
            self._note(f"{method}, begun again", found)

    def _note(self, what: str, found: Mapping[str, float]) -> None:
        print(what, {name: round(value, 2) for name, value in found.items()}, flush=True)
        self.notes.write_text(json.dumps(self.said, indent=1))

    def result(self) -> dict[str, Any]:
        """Medians, and each method against the plain loop."""
        runs = self.said["runs"]
        methods: dict[str, dict[str, float]] = {}
        for method in (m for m in METHODS if m in runs):
            of = runs[method]
            found = {name: median(one[name] for one in of) for name in of[0]}
            methods[method] = {**found, "wall_best_s": min(one["wall_s"] for one in of), "turns": len(of)}
        for method, found in methods.items():
            found["times_as_fast_as_plain"] = methods["plain"]["wall_s"] / found["wall_s"]
            found["cpu_of_plain"] = found["cpu_s"] / methods["plain"]["cpu_s"]
            if "steady_tokens_per_s" in found:
                alone = found["steady_tokens_per_s"] / WORKERS.get(method, 1)
                found["steady_of_plain_per_worker"] = alone / methods["plain"]["steady_tokens_per_s"]
        missing = [method for method in METHODS if method not in methods]
        versions = {name: version(name) for name in NEEDS.values() if find_spec(name) is not None}
        said = {"files": self.said["files"], "libraries": versions, "left_out": missing}
        return {**said, "methods": columns(methods), "killed at half and begun again": columns(self.said["resume"])}


def columns(of: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A line for each method, None where one has no such number."""
    names = dict.fromkeys(name for found in of.values() for name in found)
    return {"columns": {"method": list(of), **{name: [found.get(name) for found in of.values()] for name in names}}}


def measure(folder: Path, count: int, rounds: int) -> Kept:
    """Every method in turn, `rounds` times, and resumption once."""
    there = [m for m in METHODS if m not in NEEDS or find_spec(NEEDS[m]) is not None]
    kept = Kept(folder, count)
    for r in range(rounds):
        kept.turn([there[(i + r) % len(there)] for i in range(len(there))])
    kept.kill([m for m in RESUMED if m in there])
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 files, one round; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=COUNT, help=f"files (default: {COUNT:,})")
    parser.add_argument("--keep", type=Path, metavar="F", help="a folder for what is measured in slices")
    parser.add_argument("--turn", nargs="+", choices=METHODS, default=[], metavar="METHOD")
    parser.add_argument("--kill", nargs="+", choices=RESUMED, default=[], metavar="METHOD")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        raise SystemExit(RUN[given.method](given.files, given.out))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of a run are ours, too
    if given.keep is None:
        with TemporaryDirectory(prefix="tubelet-scale-") as folder:
            kept = measure(Path(folder), 16 if given.quick else given.count, 1 if given.quick else given.rounds)
    else:
        given.keep.mkdir(parents=True, exist_ok=True)
        kept = Kept(given.keep, given.count)
        kept.turn(given.turn)
        kept.kill(given.kill)
    if given.turn or given.kill:
        return
    found = kept.result()
    print(json.dumps(found, indent=1))
    if not given.quick:
        save("scale", found, settings={"model": MODEL, "max_pixels": MAX_PIXELS, "shard_tokens": SHARD_TOKENS})


if __name__ == "__main__":
    main()
