"""Fetch other projects' test media, read them with tubelet, compare with Pillow and PyAV.

    python -m tools.corpus fetch FOLDER [--only NAME ...]
    python -m tools.corpus run   FOLDER [--only NAME ...] [--seconds 120]
    python -m tools.corpus page  FOLDER

Run from the project's root, with tubelet installed. `fetch` needs pip and, for Debian's sources, apt-get. `run` prints
a table by input class and a list of every difference, and writes FOLDER/result.json; it ends with 1 when a file was
read otherwise than by its peer, or showed a fault. A file that takes longer than --seconds (all of its readings
together) is given up and listed. `page` puts the result into docs/record/corpora.md.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.corpus.fetch import PACKAGES, fetch, sources
from tools.corpus.report import differences, into_page, table
from tools.corpus.worker import Judge

PAGE = Path(__file__).parents[2] / "docs" / "record" / "corpora.md"


def files_of(folder: Path, names: list[str]) -> Iterator[tuple[Path, str]]:
    """Every file fetched, once where several are the same to the byte, with a name to show."""
    seen: set[bytes] = set()
    for package in names:
        for path in sorted((folder / "files" / package).rglob("*")):
            if path.is_file() and (digest := hashlib.sha256(path.read_bytes()).digest()) not in seen:
                seen.add(digest)
                yield path, path.relative_to(folder / "files").as_posix()


def run(folder: Path, names: list[str], seconds: float) -> dict[str, Any]:
    """The verdict on every file, and what it was made with."""
    one, found = Judge(seconds), []
    for path, name in files_of(folder, names):
        found.append(one(path, name))
        if len(found) % 100 == 0:
            print(f"{len(found)} files", file=sys.stderr, flush=True)
    one.close()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PAGE.parent, capture_output=True, text=True, check=False
    )
    made_with = (f"tubelet at {commit.stdout.strip() or 'no commit'}", *(f"{n} {version(n)}" for n in ("pillow", "av")))
    return {
        "when": datetime.now(UTC).date().isoformat(),
        "versions": ", ".join((f"Python {platform.python_version()}", *made_with)),
        "sources": [archive.name for name in names for archive in sources(folder / "archives" / name)],
        "files": found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fetch", "run", "page"))
    parser.add_argument("folder", type=Path)
    every = [package.name for package in PACKAGES]
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=120.0)
    asked = parser.parse_args()
    stored = asked.folder / "result.json"
    if asked.what == "page":
        result = json.loads(stored.read_text(encoding="utf-8"))
        PAGE.write_text(into_page(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")
        return 0
    if asked.what == "fetch":
        for package in PACKAGES:
            if package.name in asked.only:
                print(f"{package.name}: {fetch(package, asked.folder)} files", flush=True)
        return 0
    result = run(asked.folder, asked.only, asked.seconds)
    stored.write_text(json.dumps(result, indent=1), encoding="utf-8")
    found = result["files"]
    print(table(found), *differences(found), sep="\n")
    return 1 if any(f["faults"] or f["verdict"] == "different" for f in found) else 0


if __name__ == "__main__":
    sys.exit(main())
