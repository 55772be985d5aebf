"""Files on disk to float32 `pixel_values`: tubelet against transformers' Qwen2-VL processor, the same files and values.

    python benchmarks/float_rows.py            640 x 480, 1920 x 1080, 4032 x 3024, mixed, on one core and on all:
                                               results/float_rows.json
    python benchmarks/float_rows.py --cores 2  a part of it, in two minutes
    python benchmarks/float_rows.py --only vga,hd --rounds 3    some of them, nothing written

Both doors that give such rows, `normalise(load_patches(...))` and `TubeletImageProcessor`, against the torchvision
processor in its best arrangements: torch's threads, and a pool of one-thread workers. Everything gets paths. Each
number of cores is a process of its own that may run on no more (Linux). Before anything is timed, both doors must give
the same bits, and values within 2e-6 of the peer's on equal grids.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import harness
import media
import tubelet
from preprocess import CORES, FULL, PICTURES, Pictures
from tubelet.integrations.transformers.model import TubeletImageProcessor
from tubelet.pixels.patchify import normalise

OURS = "tubelet, float32"
PEERS = ("transformers torchvision", "transformers torchvision, pool")


def equal(pictures: Pictures, processor: TubeletImageProcessor) -> float:
    """The largest difference to the peer's values. Raises SystemExit where it is more than rounding."""
    paths: Any = pictures.paths
    rows = normalise(tubelet.load_patches(paths, PICTURES).packed, PICTURES)
    ours, theirs = (each(paths, return_tensors="pt") for each in (processor, pictures.torchvision))
    apart = float((ours["pixel_values"] - theirs["pixel_values"]).abs().max())
    same = torch.equal(rows.x, ours["pixel_values"]) and torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    if not same or not apart <= 2e-6:
        raise SystemExit(f"values differ by {apart:.1e}, grids or doors differ: {not same}; nothing is timed")
    return apart


def run(folder: Path, counts: dict[str, int], rounds: int, title: str) -> dict[str, Any]:
    """One set of files, its contenders in turns."""
    made = media.make_pictures(folder, counts)
    pictures = Pictures([path for group in made.values() for path in group])
    paths: Any = pictures.paths
    processor, threads = TubeletImageProcessor.of(PICTURES), torch.get_num_threads()
    apart = equal(pictures, processor)
    every = pictures.contenders()
    turns = {
        OURS: every[OURS],
        "tubelet, TubeletImageProcessor": lambda: processor(paths),
        **{name: every[name] for name in PEERS},
    }
    timings = harness.measure(turns, rounds=rounds, control=OURS, before=lambda _: torch.set_num_threads(threads))
    pictures.pool.shutdown()
    harness.show(title, timings, ours=OURS, per=len(pictures.paths), unit="file")
    return harness.report(timings, ours=OURS) | {"files": len(pictures.paths), "largest_difference": apart}


def on_cores(count: int, words: list[str]) -> dict[str, Any]:
    """The results of a process that has so many cores, and a thread for each."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    variables = {**os.environ, "OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, __file__, "--out", str(out), *words]
        subprocess.run(command, env=variables, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
        return json.loads(out.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="Files to float32 rows, against transformers' processor.")
    parser.add_argument("--only", help="sets with commas; nothing is written")
    parser.add_argument("--cores", type=int, nargs="+", help="these alone; nothing is written")
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--media", type=Path, default=Path(tempfile.gettempdir()) / "tubelet-bench-media")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.out is not None:
        chosen = FULL.counts if given.only is None else {n: FULL.counts[n] for n in given.only.split(",")}
        title = f"on {CORES} core" + "s" * (CORES > 1)
        results = {name: run(given.media, counts, given.rounds, f"{name}, {title}") for name, counts in chosen.items()}
        given.out.write_text(json.dumps({title: results}))
        return
    if given.cores is not None and not all(1 <= count <= CORES for count in given.cores):
        parser.error(f"--cores counts from 1 to the {CORES} there are, got {given.cores}")
    found: dict[str, Any] = {}
    for count in given.cores or sorted({1, CORES}):
        found |= on_cores(count, sys.argv[1:])
        if given.only is None and given.cores is None:  # a file tells one command, of all that stands in it
            harness.save("float_rows", found)


if __name__ == "__main__":
    main()
