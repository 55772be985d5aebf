"""What reading costs and how often it fails, on this tree or on an older one. Run from the project's root:

    python -m tests.torture.measure bombs [--src OTHER/src]            CPU seconds and memory of each full bomb
    python -m tests.torture.measure inputs --count 5000 [--src ...]    damaged inputs that were read wrongly

Inputs are made and judged here; what reads them is a process of its own that imports tubelet from --src.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from tubelet import errors
from tubelet.reading.clip import Clip

SECONDS = 60.0
HERE = Path(__file__).parents[2]

READER = """
import contextlib, io, json, os, resource, sys, time
import numpy as np
import tubelet
from tubelet.errors import TubeletError
read = tubelet.read
def said(path, door, options):
    data = open(path, "rb").read() if door == "bytes" else path
    options = {"limits": tubelet.Limits(max_pixels=options.get("max_pixels", 64_000_000))} | options
    options.pop("max_pixels", None)
    try:
        clip = read(data, **options)[0]
    except TubeletError as error:
        return {"error": type(error).__name__, "message": error.message, "source": error.source}, None
    except BaseException as error:
        return {"error": "!" + type(error).__name__, "message": str(error)[:200], "source": None}, None
    answer = {"times_s": list(clip.times_s), "notes": list(clip.notes)}
    names = ("source", "is_video", "duration_s", "complete", "frames_expected")
    return answer | {name: getattr(clip, name) for name in names}, clip.frames
if sys.argv[1] == "one":
    path, door, options, small = sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), sys.argv[5]
    said(small, door, options)
    everyone = lambda: [os.getpid(), *map(int, open(f"/proc/self/task/{os.getpid()}/children").read().split())]
    def peak(pid):  # in bytes; a process started from a large one would keep that one's in getrusage
        return 1024 * int(open(f"/proc/{pid}/status").read().split("VmHWM:")[1].split()[0])
    def cpu(pid):
        ticks = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    before = {}
    for pid in everyone():
        open(f"/proc/{pid}/clear_refs", "w").write("5")
        before[pid] = peak(pid), cpu(pid)
    begun = time.monotonic()
    answer, frames = said(path, door, options)
    answer |= {"wall_s": time.monotonic() - begun, "decoded": 0 if frames is None else frames.nbytes}
    there = [pid for pid in everyone() if pid in before]
    answer["cpu_s"] = sum(cpu(pid) - before[pid][1] for pid in there)
    answer["grown"] = max(peak(pid) - before[pid][0] for pid in there)
    print(json.dumps(answer))
else:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin:
        path, door, options = json.loads(line)
        answer, frames = said(path, door, options)
        body = io.BytesIO()
        if frames is not None:
            np.save(body, frames)
        answer["bytes"] = body.tell()
        out.write(json.dumps(answer).encode() + b"\\n" + body.getvalue())
        out.flush()
"""


def environment(src: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(src), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


# --- bombs


def bombs(src: Path, only: str) -> list[str]:
    from tests.torture.torture_bombs import BOMBS

    lines = ["| bomb | bytes | by path, here | by bytes, isolated |", "|---|--:|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name, bomb in BOMBS.items():
            if not re.search(only, name):
                continue
            full, small = Path(folder) / "full", Path(folder) / "small"
            full.write_bytes(bomb.make(True))
            small.write_bytes(bomb.make(False))
            cells = [
                _measured(src, full, small, door, bomb.options | {"isolate": isolate})
                for door, isolate in (("path", "never"), ("bytes", "always"))
            ]
            lines.append(f"| {name} | {full.stat().st_size:,} | {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _measured(src: Path, full: Path, small: Path, door: str, options: dict[str, Any]) -> str:
    command = [sys.executable, "-c", READER, "one", str(full), door, json.dumps(options), str(small)]
    try:
        done = subprocess.run(command, env=environment(src), capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"more than {SECONDS:g} s"
    if done.returncode:
        return f"the process ended with {done.returncode}"
    found = json.loads(done.stdout.splitlines()[-1])
    what = found.get("error") or ("clip" if found["complete"] else "clip, incomplete")
    grown, decoded = found["grown"], found["decoded"]
    memory = f"{grown / decoded:.1f} x decoded" if decoded > 1 << 20 else f"{grown >> 20} MiB"
    return f"{what}, {found['cpu_s']:.2f} s, {memory}"


# --- damaged inputs


class Reader:
    """A process that reads one input after another with the tubelet of some source tree."""

    def __init__(self, src: Path) -> None:
        self.src = src
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, "many"],
            env=environment(self.src),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __call__(self, path: Path, **options: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        late = threading.Timer(20.0, self.process.kill)
        late.start()
        try:
            self.process.stdin.write(json.dumps([str(path), "path", options]).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            answer = json.loads(line)
            body = self.process.stdout.read(answer.pop("bytes"))
        except (OSError, ValueError):
            self.process.wait()
            self._start()
            return RuntimeError("died, or took more than 20 s")
        finally:
            late.cancel()
        return _outcome(answer, body)


def _outcome(answer: dict[str, Any], body: bytes) -> Any:
    if "error" not in answer:
        answer["times_s"], answer["notes"] = tuple(answer["times_s"]), tuple(answer["notes"])
        return Clip(np.load(BytesIO(body)), **answer)
    kind = getattr(errors, answer["error"], None)
    if kind is None:
        return RuntimeError(answer["error"])
    return kind(answer["message"], source=answer["source"])


def wrong_with(kind: str, seed: int, made: Any, whole: Any) -> str | None:
    from tests.torture import torture_claims
    from tests.torture.test_videos import silent
    from tests.torture.torture_harness import judge

    found = judge(made, whole)
    if found is None and kind.startswith(("vcut_", "vtail_")):
        return next(iter(silent(lambda _: whole, [(kind, seed)])), None)
    if found is None and isinstance(whole, Clip) and kind in torture_claims.KINDS:
        return torture_claims.what_is_wrong_with(kind, whole)
    return found


def inputs(src: Path, count: int) -> tuple[Counter[str], Counter[str], list[str]]:
    from tests.torture import torture_claims, torture_images, torture_videos
    from tests.torture.torture_harness import spread

    modules = {kind: m for m in (torture_images, torture_claims, torture_videos) for kind in m.KINDS}
    tried, failed, lines = Counter[str](), Counter[str](), []
    reader = Reader(src)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        for kind, seed in spread(list(modules), count):
            made = modules[kind].make(kind, seed)
            path.write_bytes(made.data)
            options = {"isolate": "never", "workers": 1, "max_pixels": 4_000_000}
            options |= {"num_frames": 8_000} if kind.startswith("v") else {}
            wrong = wrong_with(kind, seed, made, reader(path, **options))
            if wrong is None and kind.startswith("vkeys"):
                few = reader(path, **options | {"num_frames": 7})
                wrong = torture_claims.what_is_wrong_with_few(kind, few) if isinstance(few, Clip) else str(few)
            group = kind.split("_")[0]
            tried[group] += 1
            failed[group] += wrong is not None
            if wrong is not None:
                lines.append(f"{kind}, {seed}: {wrong}"[:300])
    reader.process.kill()
    return tried, failed, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("bombs", "inputs"))
    parser.add_argument("--src", type=Path, default=HERE / "src")
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--only", default="", help="bombs whose names match")
    asked = parser.parse_args()
    if asked.what == "bombs":
        print("\n".join(bombs(asked.src, asked.only)))
        return
    tried, failed, lines = inputs(asked.src, asked.count)
    print("| input class | tried | failed |", "|---|--:|--:|", sep="\n")
    for group, count in tried.items():
        print(f"| {group} | {count:,} | {failed[group]:,} |")
    print(f"| all | {tried.total():,} | {failed.total():,} |", "", *lines, sep="\n")


if __name__ == "__main__":
    main()
