"""Fetch other projects' test media, read them with tubelet, compare with Pillow and PyAV.

    python -m tools.corpus fetch FOLDER [--only NAME ...]
    python -m tools.corpus run   FOLDER [--only NAME ...] [--json RESULT] [--seconds 120]

Run from the project's root, with tubelet installed. `fetch` needs pip and, for Debian's sources, apt-get. `run` prints
a table by input class and a list of every difference; it ends with 1 when a file was read otherwise than by its peer,
or showed a fault. A file that takes longer than --seconds (all of its readings together) is given up and listed.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.corpus.fetch import PACKAGES, fetch
from tools.corpus.judge import OTHER
from tools.corpus.worker import Judge

COLUMNS = ("equal", "different", "refused by both", "refused by us only", "read by us only", "given up")


def files_of(folder: Path, names: list[str]) -> Iterator[tuple[Path, str]]:
    """Every file fetched, once where several are the same to the byte, with a name to show."""
    seen: set[bytes] = set()
    for package in names:
        for path in sorted((folder / "files" / package).rglob("*")):
            if path.is_file() and (digest := hashlib.sha256(path.read_bytes()).digest()) not in seen:
                seen.add(digest)
                yield path, path.relative_to(folder / "files").as_posix()


def table(found: list[dict[str, Any]]) -> str:
    """The counts by input class, as a Markdown table."""
    rows = {kind: Counter(f["verdict"] for f in found if f["input_class"] == kind) for kind in _classes(found)}
    rows["all"] = sum(rows.values(), Counter())
    lines = ["| input class | tried | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) + 1)]
    for kind, counts in rows.items():
        lines.append(f"| {kind} | {counts.total()} | " + " | ".join(str(counts[c]) for c in COLUMNS) + " |")
    return "\n".join(lines)


def _classes(found: list[dict[str, Any]]) -> list[str]:
    kinds = sorted({f["input_class"] for f in found} - {OTHER})
    return [*kinds, OTHER] if any(f["input_class"] == OTHER for f in found) else kinds


def differences(found: list[dict[str, Any]]) -> list[str]:
    """A line for each thing to look into: differences, refusals of formats that are read, faults."""
    lines = []
    for title, verdict in (("different", "different"), ("refused by us only", "refused by us only")):
        chosen = [f for f in found if f["verdict"] == verdict and f["input_class"] != OTHER]
        lines += [f"\n{title}: {len(chosen)}", *(f"  {f['file']}: {f['reason']}" for f in chosen)]
    faulty = [f for f in found if f["faults"]]
    lines += [f"\nfaults: {len(faulty)}", *(f"  {f['file']}: {fault}" for f in faulty for fault in f["faults"])]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fetch", "run"))
    parser.add_argument("folder", type=Path)
    every = [package.name for package in PACKAGES]
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    asked = parser.parse_args()
    if asked.what == "fetch":
        for package in PACKAGES:
            if package.name in asked.only:
                print(f"{package.name}: {fetch(package, asked.folder)} files", flush=True)
        return 0
    one = Judge(asked.seconds)
    found = []
    for path, name in files_of(asked.folder, asked.only):
        found.append(one(path, name))
        if len(found) % 100 == 0:
            print(f"{len(found)} files", file=sys.stderr, flush=True)
    one.close()
    if asked.json:
        asked.json.write_text(json.dumps({"files": found}, indent=1), encoding="utf-8")
    print(table(found), *differences(found), sep="\n")
    return 1 if any(f["faults"] or f["verdict"] == "different" for f in found) else 0


if __name__ == "__main__":
    sys.exit(main())
