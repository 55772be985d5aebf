"""`tubelet plan --manifest N --gpus G --price P`: hours, storage and money of encoding very many files."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from tubelet.cli.terminal import UsageError, seconds

if TYPE_CHECKING:
    from tubelet.inspect.budget.values import Plan

PREFIXES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def parse_count(text: str) -> int:
    """Files of "1000000", "1e9", or of a list of names, a line each. Raises UsageError.

    >>> parse_count("1e9"), parse_count("250")
    (1000000000, 250)
    """
    if re.fullmatch(r"[0-9]{1,15}|[0-9](?:\.[0-9]{1,6})?[eE][0-9]{1,2}", text):
        count = int(float(text))
        if 0 < count < 1e15:
            return count
    elif os.path.isfile(text):  # noqa: PTH113  that of Path raises where a name is too long
        with Path(text).open("rb") as file:
            if count := sum(bool(line.strip()) for line in file):
                return count
    raise UsageError(f"--manifest is a number of files from 1, such as 1e9, or a list of them, got {text[:80]!r}")


def fleet(found: "Plan", manifest: str, gpus: int, price: float | None, rate: float | None) -> dict[str, Any]:
    """The cost as plain values, each file being as the planned ones on average. Raises UsageError."""
    from tubelet.inspect.budget.fleet import GPU_FLOP_PER_S, fleet_cost

    config, count = found.config, len(found.items)
    if config is None:
        raise UsageError("--manifest needs a --model, not --patch: time depends on the encoder")
    if gpus < 1 or (price is not None and price < 0):
        raise UsageError(f"--gpus is 1 or more and --price 0 or more, got {gpus} and {price}")
    flop = sum(s.flop for s in found.stages if s.name in ("patch embedding", "encoder layers", "merger"))
    cost = fleet_cost(
        files=parse_count(manifest),
        patches=found.patches / count,
        tokens=found.tokens / count,
        width=config.out * (1 if found.after.averaged else found.after.time * found.after.space**2),
        flop=flop / count,
        gpus=gpus,
        price=price,
        flop_per_s=rate or GPU_FLOP_PER_S,
    )
    return cost.as_dict()


def fleet_table(cost: dict[str, Any]) -> Table:
    """Hours and money, then what each way to store costs."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{cost['files']:,} files on {cost['gpus']:,} GPUs")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("a month", justify="right", no_wrap=True)
    money = "" if cost["dollars"] is None else f", ${cost['dollars']:,.0f}"
    hours = f"{cost['hours']:,.1f} h" if cost["hours"] >= 1 else seconds(cost["hours"] * 3600)
    table.add_row("time, if reading keeps up", f"{hours}, {cost['gpu_hours']:,.1f} GPU hours{money}", "")
    reading = f"{_bytes(cost['read_bytes_per_s'])}/s, {cost['decode_cores']:,.0f} cores"
    table.add_row("reading JPEGs of 2 megapixels", reading, "")
    table.add_row("shards", f"{cost['shards']:,}, ${cost['request_dollars']:,.2f} of requests", "")
    for one in cost["stored"]:
        size = f"{_bytes(one['bytes'])} ({_bytes(one['bytes_per_file'])} a file)"
        table.add_row(f"storing {one['what']}", size, f"${one['dollars_per_month']:,.0f}")
    table.caption, table.caption_justify = cost["advice"], "left"
    return table


def _bytes(size: float) -> str:
    for unit, name in PREFIXES:
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:,.0f} B"
