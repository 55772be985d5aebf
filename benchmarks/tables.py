"""results/*.json -> docs/record/numbers.md, and the short table in README.md. No number there is typed by hand.

python benchmarks/tables.py            write both
python benchmarks/tables.py --check    exit 1 when either is not what the results say
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
BEGIN, END = "<!-- numbers: made by benchmarks/tables.py -->", "<!-- end of numbers -->"
AGAIN = " (again)"
COLUMNS = "columns"  # of a curve: lists of one length by their heading
HEAD = """# Numbers

Made by `python benchmarks/tables.py` from `benchmarks/results/*.json`; do not edit. Each result is one run of the
command above its tables, in which the contenders took turns, so that what the machine did meanwhile hit all of them.
Times are medians. "Faster" is the median over the rounds of the peer's time / ours: above 1, we are faster. Outputs
were compared before anything was timed. A run in which a contender differed from itself by more than 5 % (the A/A
control) is marked noisy: only its ratios of CPU time say something.
"""


@dataclass(frozen=True)
class Report:
    """One comparison out of a results file: `ours` and its peers, as benchmarks/harness.py stores them."""

    path: tuple[str, ...]  # headings that lead to it
    times: Mapping[str, Mapping[str, Any]]
    ratios: Mapping[str, Mapping[str, float]]
    control: Mapping[str, Mapping[str, float]]
    noisy: bool

    @property
    def ours(self) -> str:
        return next(name for name in self.times if name not in self.ratios and not name.endswith(AGAIN))


def reports(node: object, path: tuple[str, ...] = ()) -> Iterator[Report]:
    """Every comparison in a results tree, however deep."""
    if isinstance(node, Mapping):
        if "times" in node and "ratios" in node:
            yield Report(path, node["times"], node["ratios"], node.get("control", {}), bool(node.get("noisy")))
            return
        for key, value in node.items():
            yield from reports(value, (*path, str(key)))


# ---- docs/record/numbers.md


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/record/numbers.md for the parsed results files, by name."""
    parts = [HEAD]
    if not results:
        parts.append("No result is stored yet.\n")
    for name in sorted(results):
        run = results[name]
        parts.append(f"## {name}\n\n{_machine(run)}\n")
        parts += _section(run["results"], 3)
    return "\n".join(parts)


def _machine(run: Mapping[str, Any]) -> str:
    m = run["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in m.get("versions", {}).items() if k != "tubelet")
    return (
        f"    {run['command']}\n\n"
        f"{run['date']}, commit {run.get('commit') or 'unknown'}. {m['cpu']}, {m['cores']} cores, "
        f"{m['memory_gib']} GiB, {m['system']}, Python {m['python']}; {versions}. "
        f"Torch threads: {m['torch_threads']}."
    )


def _section(node: Mapping[str, Any], level: int) -> list[str]:
    """Plain values first, as a list; then tables and, one heading deeper, what lies below."""
    parts: list[str] = []
    plain = {k: v for k, v in node.items() if not _has_table(v)}
    if plain:
        parts.append("".join(f"- {_words(k)}: {_value(v)}\n" for k, v in plain.items()))
    for key, value in node.items():
        if not _has_table(value):
            continue
        parts.append(f"{'#' * min(level, 6)} {_words(key)}\n")
        if COLUMNS in value:
            parts.append(_columns(value[COLUMNS]))
        elif "times" in value:
            extra = {k: v for k, v in value.items() if k not in ("times", "ratios", "control", "noisy")}
            parts += _section(extra, level + 1) if extra else []
            parts.append(_table(next(reports(value))))
        else:
            parts += _section(value, level + 1)
    return parts


def _has_table(node: object) -> bool:
    if not isinstance(node, Mapping):
        return False
    return COLUMNS in node or {"times", "ratios"} <= node.keys() or any(map(_has_table, node.values()))


def _columns(columns: Mapping[str, Sequence[object]]) -> str:
    """A curve's numbers: a line for each point, "" where there is none."""
    points = zip(*columns.values(), strict=True)
    told = [["" if value is None else _value(value) for value in point] for point in points]
    lines = [f"| {' | '.join(line)} |" for line in ([_words(name) for name in columns], *told)]
    return "\n".join([lines[0], "|" + "--:|" * len(columns), *lines[1:]]) + "\n"


def _table(report: Report) -> str:
    lines = [
        f"| | median | best | quartiles apart | CPU time | peak memory | {report.ours} is faster by | in CPU time by |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, t in report.times.items():
        peak = "" if t.get("peak_extra_mib") is None else f"{t['peak_extra_mib']:,.0f} MiB"
        ratio = report.ratios.get(name) or report.control.get(name.removesuffix(AGAIN) if AGAIN in name else "", {})
        faster = f"{ratio['wall']:.2f} x | {ratio['cpu']:.2f} x" if ratio else " | "
        shown = f"**{name}**" if name == report.ours else name
        times = " | ".join(_seconds(t[k]) for k in ("wall_s", "best_s", "iqr_s", "cpu_s"))
        lines.append(f"| {shown} | {times} | {peak} | {faster} |")
    if report.noisy:
        lines += ["", "This run was noisy: a contender differed from itself by more than 5 %."]
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 10 else f"{value * 1e3:,.4g} ms"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(k))} {_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


# ---- README.md


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each script and peer: between which factors we are faster, over all its cases."""
    rows: dict[tuple[str, str], list[tuple[float, bool]]] = {}
    for name in sorted(results):
        for report in reports(results[name]["results"]):
            for peer, ratio in report.ratios.items():
                if peer.startswith(("tubelet", "floor")):  # ourselves in another form, or a bound: not a peer
                    continue
                figure = ratio["cpu"] if report.noisy else ratio["wall"]
                rows.setdefault((name, peer), []).append((figure, report.noisy))
    if not rows:
        return "No result is stored yet.\n"
    lines = ["| benchmark | against | faster by | cases |", "|---|---|--:|--:|"]
    for (name, peer), found in rows.items():
        low, high = min(f for f, _ in found), max(f for f, _ in found)
        spread = f"{low:.2f} x" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} x"
        noisy = sum(n for _, n in found)
        lines.append(f"| {name} | {peer} | {spread} | {len(found)}{f' ({noisy} by CPU time)' if noisy else ''} |")
    return "\n".join(lines) + "\n"


def with_summary(readme: str, table: str) -> str:
    """README.md's text with the table between its two marks."""
    before, mark, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise SystemExit(f"README.md needs the two lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    check = parser.parse_args().check
    results = {f.stem: json.loads(f.read_text(encoding="utf-8")) for f in sorted(RESULTS.glob("*.json"))}
    readme = ROOT / "README.md"
    wanted = {
        ROOT / "docs" / "record" / "numbers.md": page(results),
        readme: with_summary(readme.read_text(encoding="utf-8"), summary(results)),
    }
    stale = [f for f, text in wanted.items() if not f.exists() or f.read_text(encoding="utf-8") != text]
    for file in stale:
        if not check:
            file.write_text(wanted[file], encoding="utf-8")
        print(f"{file.relative_to(ROOT)}: {'out of date' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
