"""A result as a table by input class and as lists of what is to be looked into, for the terminal and for the page."""

import re
from collections import Counter
from typing import Any

from tools.corpus.judge import OTHER

COLUMNS = ("equal", "different", "refused by both", "refused by us only", "read by us only", "given up")
BEGIN, END = "<!-- made by python -m tools.corpus page: do not edit -->", "<!-- end of what is made -->"
Found = list[dict[str, Any]]  # verdicts as `judge.Verdict.as_dict` gives them


def table(found: Found) -> str:
    """The counts by input class, as a Markdown table."""
    rows = {kind: Counter(f["verdict"] for f in found if f["input_class"] == kind) for kind in _classes(found)}
    rows["all"] = sum(rows.values(), Counter())
    lines = ["| input class | tried | " + " | ".join(COLUMNS) + " |", "|---|" + "--:|" * (len(COLUMNS) + 1)]
    for kind, counts in rows.items():
        lines.append(f"| {kind} | {counts.total():,} | " + " | ".join(f"{counts[c]:,}" for c in COLUMNS) + " |")
    return "\n".join(lines)


def _classes(found: Found) -> list[str]:
    kinds = sorted({f["input_class"] for f in found} - {OTHER})
    return [*kinds, OTHER] if any(f["input_class"] == OTHER for f in found) else kinds


def of_verdict(found: Found, verdict: str) -> Found:
    """Those with a verdict, without formats that are not read at all."""
    return [f for f in found if f["verdict"] == verdict and f["input_class"] != OTHER]


def differences(found: Found) -> list[str]:
    """A line for each thing to look into: differences, refusals of formats that are read, faults."""
    lines = []
    for verdict in ("different", "refused by us only"):
        chosen = of_verdict(found, verdict)
        lines += [f"\n{verdict}: {len(chosen)}", *(f"  {f['file']}: {f['reason']}" for f in chosen)]
    faulty = [f for f in found if f["faults"]]
    lines += [f"\nfaults: {len(faulty)}", *(f"  {f['file']}: {fault}" for f in faulty for fault in f["faults"])]
    return lines


def section(result: dict[str, Any]) -> str:
    """What stands between BEGIN and END of the page: of refusals, one line for each kind of reason."""
    found: Found = result["files"]
    lines = [f"{result['when']}, {result['versions']}. Sources: {', '.join(result['sources'])}.", "", table(found)]
    lines += ["", "Different:", "", *_bullets([(f["reason"], [f["file"]]) for f in of_verdict(found, "different")])]
    lines += ["", "Faults whatever the peer says:", ""]
    lines += _bullets([(fault, [f["file"]]) for f in found for fault in f["faults"]])
    lines += ["", "Refused by us only:", "", *_bullets(_kinds(of_verdict(found, "refused by us only")))]
    lines += ["", "Read by us only:", "", *_bullets(_kinds(of_verdict(found, "read by us only")))]
    return "\n".join(lines)


def _kinds(found: Found) -> list[tuple[str, list[str]]]:
    """Reasons that differ in their numbers alone are one kind; that of its first file stands for it."""
    kinds: dict[str, tuple[str, list[str]]] = {}
    for f in found:
        kinds.setdefault(re.sub(r"\d[\d,.]*", "0", f["reason"]), (f["reason"], []))[1].append(f["file"])
    return sorted(kinds.values(), key=lambda kind: -len(kind[1]))


def _bullets(kinds: list[tuple[str, list[str]]], most: int = 3) -> list[str]:
    out = []
    for reason, files in kinds:
        more = f" and {len(files) - most} more" if len(files) > most else ""
        out.append(f"- {', '.join(f'`{name}`' for name in files[:most])}{more}: {reason}")
    return out or ["- none"]


def into_page(page: str, result: dict[str, Any]) -> str:
    """The page with the result in place of what stood between BEGIN and END. Raises ValueError without those."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the result, from {BEGIN} to {END}")
    return f"{before}{BEGIN}\n\n{section(result)}\n\n{END}{after}"
