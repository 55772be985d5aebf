"""Engines for many files against a plain loop: CPU seconds, wall, and what a kill at half costs.

    python benchmarks/scale.py                   600 files for each, minutes a method
    python benchmarks/scale.py --quick           16 files, one round, nothing written

One method a process, in turn, several rounds. plain: this library's reader and encoder in one loop, a file of tokens
for each pack. local 1, local 2, ray 2: `tubelet encode --out OUT/`. datasets.map and webdataset with a DataLoader do
the same reading and encoding through those libraries. CPU seconds are of all processes of a method, its start
included. Methods whose library is not installed are left out, and the result says so.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from harness import save

METHODS = ("plain", "local 1", "local 2", "ray 2", "datasets.map", "webdataset")
NEEDS = {"ray 2": "ray", "datasets.map": "datasets", "webdataset": "webdataset"}
RESUMED = ("local 2", "ray 2", "datasets.map")  # that are killed at half and begun again
MODEL = "llava_vit_packing_small"
MAX_PIXELS, SHARD_TOKENS = 36_000, 8_192


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

    from tubelet import load_patches
    from tubelet.scale.encode import encode_pack

    encoder, recipe = network()
    out.mkdir(parents=True)
    given = webdataset.WebDataset(str(files.parent / "files.tar"), shardshuffle=False).to_tuple("__key__", "jpg")
    for i, batch in enumerate(DataLoader(given, batch_size=32, num_workers=1, collate_fn=list)):
        loaded = load_patches([data for _, data in batch], recipe, on_error="skip", workers=1, isolate="never")
        encode_pack(loaded.packed, encoder, "cpu").tokens.save(out / f"{i:06d}.safetensors")
    return 0


RUN: dict[str, Callable[[Path, Path], int]] = {
    "plain": plain,
    "local 1": run_tubelet,
    "local 2": lambda files, out: run_tubelet(files, out, "--workers", "2"),
    "ray 2": lambda files, out: run_tubelet(files, out, "--engine", "ray", "--workers", "2"),
    "datasets.map": datasets_map,
    "webdataset": web_dataset,
}


# ---- measuring


def spent() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def begun(method: str, files: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, __file__, "--method", method, "--files", str(files), "--out", str(out)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL)


def timed(method: str, files: Path, out: Path) -> dict[str, float]:
    """Wall and CPU seconds of a whole run."""
    cpu, start = spent(), time.perf_counter()
    code = begun(method, files, out).wait()
    if code:
        raise SystemExit(f"{method} ended with {code}")
    found = {"wall_s": time.perf_counter() - start, "cpu_s": spent() - cpu}
    shards = sorted(p.stat().st_mtime for p in (out / "shards").rglob("*.safetensors")) if out.is_dir() else []
    if len(shards) > 2:  # from the first shard to the last
        found["steady_s_per_shard"] = (shards[-1] - shards[0]) / (len(shards) - 1)
    return found


def resumed(method: str, files: Path, out: Path, wall_s: float) -> dict[str, float]:
    """A SIGKILL of the process that was begun, at half of its time; then the same again: seconds, shards done twice."""
    first = begun(method, files, out)
    time.sleep(wall_s / 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(2.0)
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    again = timed(method, files, out)
    there = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    written_again = sum(there.get(path) != at for path, at in kept.items())
    return {"kept": len(kept), "of": len(there), "written_again": written_again, **again}


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Every method in turn, `rounds` times, and resumption once."""
    there = [m for m in METHODS if m not in NEEDS or find_spec(NEEDS[m]) is not None]
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in there}
    resumes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tubelet-scale-") as folder:
        files = Path(folder, "files")
        write_files(files, count)
        for r in range(rounds):
            for i in range(len(there)):
                method = there[(i + r) % len(there)]
                runs[method].append(timed(method, files, Path(folder, f"{method}-{r}")))
        for method in (m for m in RESUMED if m in there):
            wall = median(one["wall_s"] for one in runs[method])
            resumes[method] = resumed(method, files, Path(folder, f"{method}-killed"), wall)
    result = {
        method: {name: median(one[name] for one in of if name in one) for name in of[0]} for method, of in runs.items()
    }
    for found in result.values():
        found["wall_of_plain"] = result["plain"]["wall_s"] / found["wall_s"]
        found["cpu_of_plain"] = result["plain"]["cpu_s"] / found["cpu_s"]
    missing = [method for method in METHODS if method not in there]
    return {"files": count, "rounds": rounds, "methods": result, "resume": resumes, "not_installed": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 files, one round; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        raise SystemExit(RUN[given.method](given.files, given.out))
    found = measure(16 if given.quick else 600, 1 if given.quick else given.rounds)
    print(json.dumps(found, indent=1))
    if not given.quick:
        save("scale", found, settings={"model": MODEL, "max_pixels": MAX_PIXELS, "shard_tokens": SHARD_TOKENS})


if __name__ == "__main__":
    main()
