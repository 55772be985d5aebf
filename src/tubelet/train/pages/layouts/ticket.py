"""Tickets: a band, a dashed line to tear along, labels in small type over values. Held out: no training page is one."""

from tubelet.train.pages.layouts.fields import ask_field, draw_field
from tubelet.train.pages.sheet import Sheet


def ticket(sheet: Sheet) -> None:
    """From and to in a band, fields in cells without lines, a code beyond the dashed line."""
    r, em, taken = sheet.rng, sheet.type.em, set[str]()
    sheet.frame(2, 2, sheet.width - 3, sheet.height - 3)
    sheet.block(3, 3, sheet.width - 4, 3 + 1.4 * em, sheet.mixed(0.15))
    x = 8.0
    for _ in range(6):
        title = sheet.words.value("business")
        if sheet.fits(title, sheet.type, x):
            sheet.ask(("carrier", "company"), sheet.write(title, x, 3 + 1.05 * em, sheet.type), "business")
            break
    small, y = sheet.larger(sheet.label, 0.85), 3 + 1.4 * em + small_gap(em)
    tall = small.em + 1.35 * em
    while y + tall < sheet.height:
        count = r.choice((1, 2, 2))
        for column in range(count):
            left = 8 + column * (sheet.width - 12) / count
            right = left + (sheet.width - 12) / count - 6
            for _ in range(8):
                field = draw_field(sheet, taken)
                if sheet.fits(field.label.upper(), small, left, right) and sheet.fits(
                    field.value, sheet.type, left, right
                ):
                    sheet.write(field.label.upper(), left, y + small.em * 0.8, small)
                    ask_field(sheet, field, sheet.write(field.value, left, y + small.em * 0.8 + 1.05 * em, sheet.type))
                    break
        y += tall
        if y + tall < sheet.height and r.random() < 0.4:
            sheet.rule(y, 4, sheet.width - 5, dashed=True)
            y += 4


def small_gap(em: int) -> float:
    """Pixels between the band and the first row."""
    return 0.25 * em
