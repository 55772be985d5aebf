"""Charts whose values are printed: upright bars with values above, level bars with values behind."""

from collections.abc import Callable

from tubelet.train.pages.layouts.fields import headline
from tubelet.train.pages.sheet import Colour, Sheet

SERIES = (
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    ("2019", "2020", "2021", "2022", "2023", "2024", "2025"),
    ("A", "B", "C", "D", "E", "F"),
)


def chart(sheet: Sheet) -> None:
    """A title, and bars one way or the other."""
    y = sheet.margin + sheet.type.em
    if sheet.rng.random() < 0.7:
        y = headline(sheet, y)
    (upright if sheet.rng.random() < 0.55 else level)(sheet, y - sheet.type.em)


def upright(sheet: Sheet, top: float) -> None:
    """Bars that stand on a line with their names, their values above them."""
    r, em = sheet.rng, sheet.type.em
    written = _writer(sheet)
    count = r.randint(2, max(2, min(7, int(sheet.width / (2.4 * em)))))
    names, wide = _names(sheet, count), (sheet.width - 2 * sheet.margin) / count
    floor, colour = sheet.height - sheet.margin * 0.5 - 1.15 * em, _colour(sheet)
    tallest = max(2.0, floor - top - 1.2 * em)
    sheet.rule(floor)
    for i, name in enumerate(names):
        share = r.uniform(0.05, 1.0)
        x = sheet.margin + (i + 0.5) * wide
        bar = wide * 0.32
        sheet.block(x - bar, floor - tallest * share, x + bar, floor - 1, colour)
        value = written(share)
        if sheet.length(name, sheet.type) > wide - 2 or sheet.length(value, sheet.type) > wide - 2:
            continue
        sheet.write(name, x, floor + 0.95 * em, sheet.type, align="middle")
        span = sheet.write(value, x, floor - tallest * share - 0.15 * em, sheet.type, align="middle")
        sheet.ask((name,), span, "chart", "bar")


def level(sheet: Sheet, top: float) -> None:
    """Bars from left to right, their names before them and their values behind."""
    r, em = sheet.rng, sheet.type.em
    written = _writer(sheet)
    count = max(1, int((sheet.height - top - 4) / sheet.pitch))
    names, colour = _names(sheet, count), _colour(sheet)
    left = sheet.margin + max(sheet.length(name, sheet.type) for name in names) + 6
    room = sheet.width - left - sheet.margin - sheet.length(written(1.0), sheet.type) - 8
    for i, name in enumerate(names):
        y = top + (i + 0.8) * sheet.pitch
        share = r.uniform(0.05, 1.0)
        end = left + max(3.0, room * share)
        sheet.block(left, y - 0.65 * em, end, y, colour)
        value = written(share)
        if not sheet.fits(value, sheet.type, end + 4):
            continue
        sheet.write(name, left - 6, y, sheet.type, align="right")
        sheet.ask((name,), sheet.write(value, end + 4, y, sheet.type), "chart", "bar")


def _names(sheet: Sheet, count: int) -> list[str]:
    r = sheet.rng
    if r.random() < 0.5:
        series = r.choice([s for s in SERIES if len(s) >= count] or [SERIES[0]])
        first = r.randint(0, len(series) - count) if len(series) >= count else 0
        return list(series[first : first + count])
    names: dict[str, None] = {}
    while len(names) < count:
        name = sheet.words.invented(1, 2) if r.random() < 0.4 else sheet.words.word()[:5]
        names[name.capitalize()] = None
    return list(names)


def _writer(sheet: Sheet) -> Callable[[float], str]:
    """How this chart's values are printed, from a share of the longest bar."""
    r = sheet.rng
    most = 10 ** r.uniform(1.3, 3.4)
    style = r.choice(("whole", "whole", "tenth", "percent"))

    def written(share: float) -> str:
        if style == "percent":
            return f"{max(1, round(99 * share))}%"
        return f"{most * share:.1f}" if style == "tenth" and most < 300 else str(max(1, round(most * share)))

    return written


def _colour(sheet: Sheet) -> Colour:
    r = sheet.rng
    return (r.randint(40, 220), r.randint(40, 220), r.randint(40, 220)) if r.random() < 0.6 else sheet.mixed(0.4)
