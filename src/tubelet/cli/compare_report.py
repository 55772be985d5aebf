"""What `tubelet compare` says at the end: a table for people, a document for programs."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tubelet.cli.terminal import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from tubelet.cli.compared import Compared
    from tubelet.inspect.metrics.comparison import Comparison, Measure


def compare_table(result: "Compared", columns: int, *, arrows: bool = True) -> Group:
    """A row for each method with its numbers over all files, the best bold; what they mean; where the pages are.

    columns: letters in a line. Where they are few, an interval stands under its number; where they are too few for
    that, each number has a row of its own. arrows: stdout can write them.
    """
    numbers = result.numbers()
    endless = Console(width=5_000)  # wider than any table
    for form in (numbers.cell, lambda name, key: f"{numbers.number(name, key)}\n{numbers.interval(name, key)}".strip()):
        table = _columns(result, numbers, form, arrows)
        if Measurement.get(endless, endless.options, table).maximum <= columns:
            return Group(table, *_last_lines(result, numbers, arrows))
    return Group(_listed(result, numbers, arrows), *_last_lines(result, numbers, arrows))


def _columns(result: "Compared", numbers: "Comparison", form: "Callable[[str, str], str]", arrows: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method")
    table.add_column("tokens", justify="right", no_wrap=True)
    for measure in numbers.measures:
        table.add_column(_head(measure, arrows), justify="right", no_wrap=True)
    for name in numbers.rows:
        cells = (Text(form(name, m.key), _style(name, m, numbers)) for m in numbers.measures)
        table.add_row(name, f"{kept_of(result, name):,}", *cells)
    return table


def _head(measure: "Measure", arrows: bool) -> str:
    if measure.better is None:
        return measure.name
    up = measure.better == "higher"
    mark = ("\N{UPWARDS ARROW}" if up else "\N{DOWNWARDS ARROW}") if arrows else ("^" if up else "v")
    return f"{measure.name} {mark}"


def _style(name: str, measure: "Measure", numbers: "Comparison") -> str:
    return "bold" if name in numbers.best(measure.key) else ""


def kept_of(result: "Compared", name: str) -> int:
    """Tokens that a method keeps of all files."""
    return sum(len(choices[name].kept.x) for choices in result.choices)


def _listed(result: "Compared", numbers: "Comparison", arrows: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "measure", "value"):
        table.add_column(name, no_wrap=True)
    for name in numbers.rows:
        table.add_row(name, "tokens", f"{kept_of(result, name):,}")
        for m in numbers.measures:
            table.add_row("", _head(m, arrows), Text(numbers.cell(name, m.key), _style(name, m, numbers)))
    return table


def _last_lines(result: "Compared", numbers: "Comparison", arrows: bool) -> list[Text]:
    model = result.model
    marks = "\N{UPWARDS ARROW}\N{DOWNWARDS ARROW}" if arrows else "^ v"
    lines = [Text(line, style="dim") for line in (*numbers.legend, f"{marks}: which way is better; bold: the best")]
    lines += [Text(line, style="dim") for line in numbers.footnotes]
    lines.append(Text.assemble("\nmodel   ", (visible(model.note), "yellow" if model.untrained else "")))
    return lines + [Text(f"drew    {visible(f['picture'])}") for f in result.files]


def compare_document(result: "Compared") -> dict[str, Any]:
    """The same for programs: every number as value, low, high, n; what is not known is null."""
    from tubelet.reduce.methods import method_of

    wish, rows = result.wish, result.numbers().rows
    return {
        "command": "compare",
        "budget": wish.budget.plain,
        "text": wish.text,
        "model": result.model.as_dict(),
        "untrained": result.model.untrained,
        "runs": result.runs,
        "files": result.files,
        "methods": [
            {
                "name": name,
                "about": method_of(name).about,
                "kind": method_of(name).kind,
                "tokens": kept_of(result, name),
                "metrics": {key: estimate.as_dict() for key, estimate in numbers.items()},
            }
            for name, numbers in rows.items()
        ],
    }
