"""What `tubelet compare` says at the end: a table for people, a document for programs."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tubelet.cli.terminal import visible

if TYPE_CHECKING:
    from tubelet.cli.compared import Compared
    from tubelet.inspect.metrics import Estimate

SHOWN = {
    "coverage": "coverage",
    "distance": "distance",
    "coherence": "coherence",
    "rebuilt": "rebuilt",
    "in_boxes": "in boxes",
    "time": "time",
}
WIDE = 176  # letters that a row with every number needs
LEGEND = (
    "coverage: share of 8 x 8 regions with a kept token. distance: cells to the nearest kept one. coherence: kept "
    "tokens beside each other, over chance.",
    "rebuilt: R2 of all tokens out of the kept ones. in boxes: share of the tokens of the boxes. time: encoder and "
    "method, over the encoder.",
)


def cells(rows: "dict[str, dict[str, Estimate]]") -> list[list[str]]:
    """The table as words, the names of its columns first; no number without its interval."""
    columns = [c for c in SHOWN if any(c in numbers for numbers in rows.values())]
    out = [["", *(SHOWN[c] for c in columns)]]
    for name, numbers in rows.items():
        out.append([name, *(f"{numbers[c]:.2f}" if c in numbers else "" for c in columns)])
    return out


def compare_table(result: "Compared", columns: int) -> Group:
    """A row for each method with its numbers over all files; where the pages are.

    columns: letters in a line. Where they are few, each number has a row of its own, so that none loses its interval.
    """
    words = cells(result.rows())
    if columns < WIDE:
        return Group(_listed(words, result), *_last_lines(result))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method")
    table.add_column("tokens", justify="right", no_wrap=True)
    for name in words[0][1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in words[1:]:
        table.add_row(row[0], f"{kept_of(result, row[0]):,}", *row[1:])
    return Group(table, *_last_lines(result))


def kept_of(result: "Compared", name: str) -> int:
    """Tokens that a method keeps of all files."""
    return sum(len(choices[name].kept.x) for choices in result.choices)


def _listed(words: list[list[str]], result: "Compared") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "measure", "value"):
        table.add_column(name, no_wrap=True)
    for row in words[1:]:
        table.add_row(row[0], "tokens", f"{kept_of(result, row[0]):,}")
        for name, value in zip(words[0][1:], row[1:], strict=True):
            table.add_row("", name, value)
    return table


def _last_lines(result: "Compared") -> list[Text]:
    model = result.model
    lines = [Text(line, style="dim") for line in LEGEND]
    lines.append(Text.assemble("\nmodel   ", (visible(model.note), "yellow" if model.untrained else "")))
    return lines + [Text(f"drew    {visible(f['picture'])}") for f in result.files]


def compare_document(result: "Compared") -> dict[str, Any]:
    """The same for programs: every number as value, low, high, n; what is not known is null."""
    from tubelet.reduce.methods import method_of

    wish, rows = result.wish, result.rows()
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
