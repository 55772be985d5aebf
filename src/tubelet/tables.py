"""Tables for notebooks: plain HTML that takes the colours of the page it stands on, everything in it escaped."""

from collections.abc import Iterable, Sequence
from html import escape

_CELL = "padding:2px 10px"


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", foot: Sequence[str] = ()) -> str:
    """An HTML table: the first column to the left, the others, mostly numbers, to the right. foot: a last row, bold.

    >>> html_table(["file", "tokens"], [["<a>.png", "24"]])[:7], "&lt;a&gt;.png" in html_table(["f"], [["<a>.png"]])
    ('<table>', True)
    """
    title = f'<caption style="text-align:left">{escape(caption)}</caption>' if caption else ""
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    last = f"<tfoot><tr>{_cells(foot, 'th')}</tr></tfoot>" if foot else ""
    return f"<table>{title}<thead><tr>{_cells(head, 'th')}</tr></thead><tbody>{body}</tbody>{last}</table>"


def _cells(row: Sequence[str], tag: str) -> str:
    sides = ["left", *["right"] * (len(row) - 1)]
    return "".join(
        f'<{tag} style="text-align:{side};{_CELL}">{escape(cell)}</{tag}>'
        for side, cell in zip(sides, row, strict=True)
    )
