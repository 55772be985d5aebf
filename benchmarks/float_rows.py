"""Files on disk to float32 `pixel_values`: tubelet against transformers' Qwen2-VL processor, the same files and values.

    python benchmarks/float_rows.py            640 x 480, 1920 x 1080, 4032 x 3024, mixed: results/float_rows.json, each
    python benchmarks/float_rows.py --only vga,hd --rounds 3    some of them, nothing written

Both doors that give such rows, `normalise(load_patches(...))` and `TubeletImageProcessor`, against the torchvision
processor in its best arrangements: torch's threads, and a pool of one-thread workers. Everything gets paths. Before
anything is timed, both doors must give the same bits, and values within 2e-6 of the peer's on equal grids.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import harness
import media
import tubelet
from preprocess import FULL, PICTURES, Pictures
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Files to float32 rows, against transformers' processor.")
    parser.add_argument("--only", help="sets with commas; nothing is written")
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--media", type=Path, default=Path(tempfile.gettempdir()) / "tubelet-bench-media")
    arguments = parser.parse_args()
    chosen = FULL.counts if arguments.only is None else {n: FULL.counts[n] for n in arguments.only.split(",")}
    results: dict[str, Any] = {}
    for name, counts in chosen.items():
        results[name] = run(arguments.media, counts, arguments.rounds, name)
        if arguments.only is None:
            harness.save("float_rows", results)


if __name__ == "__main__":
    main()
