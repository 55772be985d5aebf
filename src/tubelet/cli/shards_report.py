"""What `tubelet encode --out OUT/` says of a run: how far it is, as it comes and when it is asked."""

import json
import time
from typing import TYPE_CHECKING

from rich.text import Text

from tubelet.cli.terminal import FAILED, OK, Terminal, file_name, seconds, visible

if TYPE_CHECKING:
    from tubelet.scale.plan import Plan
    from tubelet.scale.status import Status
    from tubelet.scale.store import Store
    from tubelet.scale.words import Report

MOST_BAD = 3  # bad files that are named; bad.jsonl lists all


class Tally:
    """What has come in so far."""

    def __init__(self, plan: "Plan", before: "Status", began_s: float) -> None:
        self.plan, self.began_s = plan, began_s
        self.done, self.bad, self.tokens = before.done, before.bad or 0, 0
        self.rows, self.left = 0, before.rows - before.rows_done

    def add(self, report: "Report") -> None:
        self.done = min(self.done + 1, self.plan.shards)
        rows = self.plan.size_of(report.shard)[1]
        self.left -= rows
        if report.state == "done":
            self.bad, self.tokens, self.rows = (
                self.bad + report.bad_files,
                self.tokens + report.tokens,
                self.rows + rows,
            )

    @property
    def rate(self) -> float:
        return self.tokens / max(time.monotonic() - self.began_s, 1e-9)

    @property
    def text(self) -> str:
        """For the line of progress."""
        spent = time.monotonic() - self.began_s
        left = seconds(self.left * spent / self.rows) if self.rows else "?"
        return f"encoding, {self.rate:,.0f} tokens/s, {self.bad:,} bad, {left} left"


def tell_status(plan: "Plan", store: "Store", terminal: Terminal) -> int:
    """How far a run is; the exit code."""
    from tubelet.scale.status import status

    tell(plan, store, status(plan, store), terminal)
    return OK


def tell_verified(plan: "Plan", store: "Store", terminal: Terminal) -> int:
    """What is wrong with a run; the exit code."""
    from tubelet.scale.status import verify

    wrong = verify(plan, store)
    for line in wrong:
        terminal.say(line)
    if not wrong:
        terminal.show(Text(f"right   {counted(plan.shards, 'shard')}, {counted(plan.files, 'file')}, each once"))
    terminal.document({"command": "encode", "out": store.place, "right": not wrong, "wrong": wrong})
    return FAILED if wrong else OK


def tell(
    plan: "Plan",
    store: "Store",
    found: "Status",
    terminal: Terminal,
    spent_s: float | None = None,
    made: int | None = None,
) -> None:
    """Shards, files, tokens and what is left, as lines or as the last JSON object.

    spent_s, made: seconds and tokens of this run; no tokens where every shard was there.
    """
    untrained = plan.options.weights.startswith("untrained")
    tokens = "" if found.tokens is None else f", {found.tokens:,} tokens"
    random = " (UNTRAINED: random weights, the tokens mean nothing)" if untrained else ""
    lines = [
        f"out     {visible(file_name(store.place))}",
        f"model   {visible(file_name(plan.options.model))}{random}",
        f"shards  {found.done:,} of {found.shards:,}{tokens}, {found.bytes / 1e6:,.1f} MB",
        f"files   {found.files_done:,} of {found.files:,}",
    ]
    if found.bad:
        lines += [f"bad     {counted(found.bad, 'file')} could not be encoded", *_first_bad(store, found)]
    if found.pending and found.rows_per_s is not None and found.left_s is not None:
        lines.append(f"rate    {found.rows_per_s:,.0f} patches/s, {seconds(found.left_s)} left")
    if spent_s is not None:
        rate = "; every shard was there" if made is None else f", {made / max(spent_s, 1e-9):,.0f} tokens/s"
        lines.append(f"time    {seconds(spent_s)}{rate}")
    terminal.show(Text("\n".join(lines)))
    said = {"command": "encode", "out": store.place, "untrained": untrained, **found.as_dict(), "seconds": spent_s}
    terminal.document(said)


def counted(number: int, what: str) -> str:
    """
    >>> counted(1, "file"), counted(2_000, "shard")
    ('1 file', '2,000 shards')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _first_bad(store: "Store", found: "Status") -> list[str]:
    """The first of the bad files with what is wrong, where the run is done and they are listed."""
    from tubelet.scale.status import BAD

    if found.pending or not store.exists(BAD):
        return ["        bad.jsonl lists them when the run is done"]
    said = [json.loads(line) for line in store.read(BAD).splitlines()]
    lines = [f"        {visible(one['source'])}: {one['error']}: {visible(one['message'])}" for one in said[:MOST_BAD]]
    if len(said) > MOST_BAD:
        lines.append(f"        ... and {len(said) - MOST_BAD:,} more, which bad.jsonl lists")
    return lines
