"""Forms: labels and values inline, in columns, spread, one under the other, in boxes, or label right of the value."""

from collections.abc import Callable

from tubelet.train.pages.layouts.fields import Field, ask_field, draw_field, headline
from tubelet.train.pages.sheet import Sheet


def form(sheet: Sheet) -> None:
    """One of the arrangements below, under a title now and then."""
    r = sheet.rng
    y = sheet.margin + sheet.type.em
    if r.random() < 0.3:
        y = headline(sheet, y)
    weighted = ((inline, 3), (columns, 3), (spread, 3), (under, 2), (boxed, 3), (label_right, 1))
    arrange = r.choices([f for f, _ in weighted], [w for _, w in weighted])[0]
    arrange(sheet, y)


def inline(sheet: Sheet, y: float) -> None:
    """Label: value"""
    colon, gap = sheet.rng.choice((":", ":", "", " -")), sheet.type.em * sheet.rng.uniform(0.3, 0.8)

    def row(field: Field, y: float) -> bool:
        label = field.label + colon
        x = sheet.margin + sheet.length(label, sheet.label) + gap
        if not sheet.fits(field.value, sheet.type, x):
            return False
        sheet.write(label, sheet.margin, y, sheet.label)
        ask_field(sheet, field, sheet.write(field.value, x, y, sheet.type))
        return True

    _rows(sheet, y, row)


def columns(sheet: Sheet, y: float) -> None:
    """Labels in one column, values in the next."""
    colon = sheet.rng.choice((":", "", ""))
    middle = sheet.width * sheet.rng.uniform(0.38, 0.52)

    def row(field: Field, y: float) -> bool:
        label = field.label + colon
        if not (
            sheet.fits(label, sheet.label, sheet.margin, middle - 4) and sheet.fits(field.value, sheet.type, middle)
        ):
            return False
        sheet.write(label, sheet.margin, y, sheet.label)
        ask_field(sheet, field, sheet.write(field.value, middle, y, sheet.type))
        return True

    _rows(sheet, y, row)


def spread(sheet: Sheet, y: float) -> None:
    """Labels at the left edge, values at the right."""
    colon = sheet.rng.choice((":", "", ""))
    dots = sheet.rng.random() < 0.15

    def row(field: Field, y: float) -> bool:
        label, right = field.label + colon, sheet.width - sheet.margin
        start = right - sheet.length(field.value, sheet.type)
        end = sheet.margin + sheet.length(label, sheet.label)
        if end + 0.4 * sheet.type.em > start:
            return False
        sheet.write(label, sheet.margin, y, sheet.label)
        if dots:
            sheet.rule(y, end + 4, start - 4, dashed=True)
        ask_field(sheet, field, sheet.write(field.value, right, y, sheet.type, align="right"))
        return True

    _rows(sheet, y, row)


def label_right(sheet: Sheet, y: float) -> None:
    """Value first, its label right of it."""
    middle = sheet.width * sheet.rng.uniform(0.45, 0.6)

    def row(field: Field, y: float) -> bool:
        label = f"({field.label})" if brackets else field.label
        if not (
            sheet.fits(field.value, sheet.type, sheet.margin, middle - 4) and sheet.fits(label, sheet.label, middle)
        ):
            return False
        ask_field(sheet, field, sheet.write(field.value, sheet.margin, y, sheet.type))
        sheet.write(label, middle, y, sheet.label)
        return True

    brackets = sheet.rng.random() < 0.4
    _rows(sheet, y, row)


def under(sheet: Sheet, y: float) -> None:
    """Value under its label, in one column or two."""
    r = sheet.rng
    count = r.choice((1, 2)) if sheet.width >= 9 * sheet.type.em else 1
    wide = (sheet.width - 2 * sheet.margin) / count
    below = sheet.pitch * r.uniform(0.8, 1.0)
    _cells(sheet, y, count, wide, below + sheet.pitch * r.uniform(1.0, 1.25), below, framed=False)


def boxed(sheet: Sheet, y: float) -> None:
    """Boxes in one to three columns, label and value in each."""
    r = sheet.rng
    count = max(1, min(r.choice((1, 2, 2, 3)), round(sheet.width / (6 * sheet.type.em))))
    wide = (sheet.width - 2 * sheet.margin) / count
    below = sheet.pitch * r.uniform(0.85, 1.0)
    _cells(sheet, y - sheet.type.em * 0.4, count, wide, below + sheet.label.em + 10, below, framed=True)


# ---- what they share


def _rows(sheet: Sheet, y: float, row: Callable[[Field, float], bool]) -> None:
    """Rows down to the lower edge; a field that does not fit gives way to another."""
    r, taken = sheet.rng, set[str]()
    ruled, pitch = r.random() < 0.2, sheet.pitch * r.choice((1.0, 1.0, 1.3))
    while y < sheet.height - 0.3 * sheet.type.em:
        for _ in range(8):
            if row(draw_field(sheet, taken), y):
                break
        if ruled:
            sheet.rule(y + 0.32 * sheet.type.em)
        y += pitch


def _cells(sheet: Sheet, y: float, count: int, wide: float, tall: float, below: float, *, framed: bool) -> None:
    """Cells of wide x tall in `count` columns, a label and `below` it the value in each."""
    r, taken, inset = sheet.rng, set[str](), 4 if framed else 0
    fill = sheet.mixed(0.08) if framed and r.random() < 0.3 else None
    while y + tall - sheet.type.em < sheet.height:
        for column in range(count):
            x = sheet.margin + column * wide
            top = y - sheet.label.em
            if framed:
                sheet.frame(x, top - 2, x + wide, min(sheet.height - 2, top - 2 + tall), fill)
            for _ in range(8):
                field = draw_field(sheet, taken)
                right = x + wide - 3
                if sheet.fits(field.label, sheet.label, x + inset, right) and sheet.fits(
                    field.value, sheet.type, x + inset, right
                ):
                    sheet.write(field.label, x + inset, y, sheet.label)
                    ask_field(sheet, field, sheet.write(field.value, x + inset, y + below, sheet.type))
                    break
        y += tall
