"""Where results are stored: results/NAME.json beside this file, with the machine, the command and the commit.

How contenders are timed is in `inspect.speed.turns`, which `tubelet bench` uses too; its names are here as well.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tubelet.inspect.speed.turns import AGAIN, Timing, machine, measure, ratio, report, show

__all__ = ["AGAIN", "RESULTS", "Timing", "compare", "machine", "measure", "ratio", "report", "save", "show"]

RESULTS = Path(__file__).parent / "results"


def compare(
    title: str, turns: Mapping[str, Callable[[], object]], *, rounds: int, ours: str = "tubelet", unit: str = "run"
) -> dict[str, Any]:
    """Time the contenders in turns, `ours` twice, print the table, and give the report."""
    timings = measure(turns, rounds=rounds, warmup=1, control=ours)
    show(title, timings, ours=ours, unit=unit)
    return report(timings, ours=ours)


def save(name: str, results: Mapping[str, Any], *, settings: Any = None, folder: Path = RESULTS) -> Path:
    """Write results/NAME.json: the results, the machine after the run, the command and the commit. Returns its path."""
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]  # no folders of this machine
    payload = {
        "name": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments]),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "settings": asdict(settings) if hasattr(settings, "__dataclass_fields__") else settings,
        "results": dict(results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(payload, indent=1, sort_keys=False) + "\n")
    return path


def _git(arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _commit() -> str | None:
    """The short commit the numbers were made at, with a plus sign when tracked files of the library differ from it."""
    head = _git(["rev-parse", "--short=12", "HEAD"])
    changed = _git(["status", "--porcelain", "--untracked-files=no", "--", "../src"])
    return head if head is None or not changed else head + "+"
