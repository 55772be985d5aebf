"""Dense lines of words, numbers and codes: the most letters a page can teach."""

from tubelet.train.pages.layouts.fields import printable
from tubelet.train.pages.sheet import Sheet, Span

KINDS = ("word", "word", "word", "number", "code", "money", "date", "name", "percent", "measure", "time", "phone")


def lines(sheet: Sheet) -> None:
    """Lines from edge to edge. The word that follows another may be asked for."""
    r = sheet.rng
    sheet.margin = r.uniform(2.0, 8.0)
    y = sheet.margin + sheet.type.em * 0.9
    while y < sheet.height - 2:
        x, before = sheet.margin + (r.uniform(0, 40) if r.random() < 0.3 else 0), ""
        for _ in range(12):
            piece = printable(sheet, r.choice(KINDS))
            if not sheet.fits(piece, sheet.type, x, sheet.width - 1):
                continue
            first, _ = sheet.write(f"{piece} ", x, y, sheet.type)
            if before:  # up to the next space: where a piece ends beyond it cannot be seen
                sheet.ask((before,), Span(first, first + len(piece.split()[0])), "line", "after")
            before = piece
            x += sheet.length(f"{piece} ", sheet.type)
        y += sheet.pitch
