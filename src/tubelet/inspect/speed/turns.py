"""Fair comparisons on a noisy machine: contenders take turns, and medians and ratios are kept.

    timings = measure({"tubelet": ours, "peer": theirs}, rounds=9, control="peer")
    report(timings, ours="tubelet")["ratios"]["peer"]["wall"]        above 1: ours is faster

One process, one run. Round by round the order turns around (A B C, C B A, A B C ...), so slow drift of the machine hits
everyone alike. `control` runs one contender a second time under another name: how far its ratio to itself is from 1 is
what a difference has to exceed to mean anything. Check that the contenders give the same result before timing them.
"""

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tubelet.inspect.metrics.latency import in_turns

AGAIN = " (again)"
QUIET = (0.95, 1.05)  # an A/A ratio outside of this marks a run as noisy


@dataclass(frozen=True)
class Timing:
    """A contender's rounds: wall and CPU seconds (all threads of this process), and the memory it added at its peak."""

    name: str
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    peak_extra_bytes: int | None  # highest resident size during a round, less the size before it; None: unknown here

    @property
    def wall(self) -> float:
        return statistics.median(self.wall_s)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_s)

    def as_dict(self) -> dict[str, Any]:
        """Rounded for a JSON file: median, best, quartile distance, median CPU time, peak memory, rounds."""
        quarters = statistics.quantiles(self.wall_s, n=4) if len(self.wall_s) > 1 else [self.wall] * 3
        return {
            "wall_s": _rounded(self.wall),
            "best_s": _rounded(min(self.wall_s)),
            "iqr_s": _rounded(quarters[2] - quarters[0]),
            "cpu_s": _rounded(self.cpu),
            "peak_extra_mib": None if self.peak_extra_bytes is None else round(self.peak_extra_bytes / 2**20, 1),
            "rounds": len(self.wall_s),
        }


@dataclass
class _Rounds:
    run: Callable[[], object]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)


def measure(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    warmup: int = 1,
    control: str | None = None,
    before: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Run each contender `rounds` times in turns and return its timings by name.

    warmup: unmeasured turns first. control: this contender runs twice, the second time as "NAME (again)". before: is
    called with the name ahead of each turn, outside the measured time (to set a thread count, say).
    """
    table = {name: _Rounds(run) for name, run in contenders.items()}
    if control is not None:
        table[control + AGAIN] = _Rounds(contenders[control])
    for name, counts in in_turns(table, rounds, warmup):
        if before is not None:
            before(name.removesuffix(AGAIN))
        _turn(table[name], keep=counts)
    return {
        name: Timing(name, tuple(r.wall), tuple(r.cpu), max(r.peak) if r.peak else None) for name, r in table.items()
    }


def _turn(rounds: _Rounds, *, keep: bool) -> None:
    gc.collect()
    base = _reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = rounds.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del result
    peak = _memory("VmHWM")
    if keep:
        rounds.wall.append(wall)
        rounds.cpu.append(cpu)
        if base is not None and peak is not None:
            rounds.peak.append(peak - base)


def ratio(timings: Mapping[str, Timing], ours: str, peer: str) -> dict[str, float]:
    """How many times faster `ours` is than `peer`: the median over rounds of the two times of one round, by the wall
    and by CPU time, and the quotient of the medians. Above 1 is faster."""
    a, b = timings[ours], timings[peer]
    return {
        "wall": _rounded(statistics.median(y / x for x, y in zip(a.wall_s, b.wall_s, strict=True))),
        "cpu": _rounded(statistics.median(y / x for x, y in zip(a.cpu_s, b.cpu_s, strict=True))),
        "of_medians": _rounded(b.wall / a.wall),
    }


def report(timings: Mapping[str, Timing], *, ours: str) -> dict[str, Any]:
    """Everything about one comparison as JSON data: each contender's times, `ours` against each peer, the A/A control
    and whether that control calls the run noisy (then only CPU ratios say something)."""
    peers = [name for name in timings if name != ours and not name.endswith(AGAIN)]
    twice = [name for name in timings if name + AGAIN in timings]
    control = {name: ratio(timings, name, name + AGAIN) for name in twice}
    return {
        "times": {name: t.as_dict() for name, t in timings.items()},
        "ratios": {peer: ratio(timings, ours, peer) for peer in peers},
        "control": control,
        "noisy": any(not QUIET[0] <= c["wall"] <= QUIET[1] for c in control.values()),
    }


def show(title: str, timings: Mapping[str, Timing], *, ours: str, per: int = 1, unit: str = "run") -> None:
    """Print one comparison as a table; `per` divides the times (the number of pictures in a run, say)."""
    print(f"\n{title}")
    width = max(len(name) for name in timings)
    for name, t in timings.items():
        peak = "" if t.peak_extra_bytes is None else f"{t.peak_extra_bytes / 2**20:9.0f} MiB"
        line = f"  {name:<{width}} {t.wall / per * 1e3:9.2f} ms/{unit} wall {t.cpu / per * 1e3:9.2f} cpu{peak}"
        against = name.removesuffix(AGAIN) if name.endswith(AGAIN) else ours
        r = ratio(timings, against, name)
        print(f"{line}   x{r['wall']:.2f} wall, x{r['cpu']:.2f} cpu of {against}")


# ---- the machine


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, cores, memory, system, thread settings, load, versions of the packages."""
    names = ["torch", "torchvision", "transformers", "timm", "numpy", "pillow", "av", "torchcodec", "tubelet"]
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(_total_memory() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {n: v for n in names if (v := _version(n)) is not None},
        "torch_threads": _torch_threads(),
        "environment": {
            k: v for k, v in sorted(os.environ.items()) if k.startswith(("OMP_", "MKL_", "THP_", "MALLOC_"))
        },
        "transparent_hugepages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _rounded(x: float, digits: int = 4) -> float:
    return float(f"{x:.{digits}g}")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _memory(field_name: str) -> int | None:
    """VmRSS or VmHWM of this process in bytes, where the system tells."""
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    return None


def _reset_peak() -> int | None:
    """Let VmHWM start again from now; the resident size now, or None where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _memory("VmRSS")


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch_threads() -> int | None:
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()
