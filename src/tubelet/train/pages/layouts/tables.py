"""Tables of one to three columns of values, with a grid, stripes, rules or nothing; and invoices, which hold one."""

from tubelet.train.pages.layouts.fields import ask_field, draw_field, headline, printable
from tubelet.train.pages.sheet import Sheet

COLUMNS = (
    ("Price", "money"), ("Cost", "money"), ("Amount", "money"), ("Qty", "count"), ("Units", "number"),
    ("Stock", "count"), ("Size", "measure"), ("Weight", "measure"), ("Code", "code"), ("ID", "code"),
    ("Date", "date"), ("Time", "time"), ("Rate", "percent"), ("Share", "percent"), ("Score", "number"),
    ("Owner", "first"), ("City", "city"), ("Colour", "colour"), ("State", "state"), ("Q1", "number"),
    ("Q2", "number"), ("2024", "number"), ("2025", "number"), ("Men", "number"), ("Women", "number"),
    ("Max", "number"), ("Min", "number"), ("Name", "first"), ("Type", "word"),
)  # fmt: skip
LONG = ("date", "code", "city", "word", "measure")  # kinds that need a wide column
ROWS = ("thing", "thing", "first", "city", "word", "month")


def table(sheet: Sheet) -> None:
    """A heading row, rows with a name each, and values."""
    y = sheet.margin + sheet.type.em
    if sheet.rng.random() < 0.2:
        y = headline(sheet, y)
    _grid(sheet, y, sheet.height)


def invoice(sheet: Sheet) -> None:
    """Seller, facts, a small table, total at the right."""
    r, taken = sheet.rng, set[str]()
    y = headline(sheet, sheet.margin + sheet.type.em, kind="business", names=("seller", "supplier"))
    bottom = sheet.height - 1.3 * sheet.pitch
    facts = min(r.randint(1, 3), max(0, int((bottom - y) / sheet.pitch) - 1))
    for known in r.sample(("number", "date", "due", "buyer"), facts):
        field = draw_field(sheet, taken, meaning=known)
        x = sheet.margin + sheet.length(field.label + ":", sheet.label) + 0.4 * sheet.type.em
        if sheet.fits(field.value, sheet.type, x):
            sheet.write(field.label + ":", sheet.margin, y, sheet.label)
            ask_field(sheet, field, sheet.write(field.value, x, y, sheet.type))
            y += sheet.pitch
    if bottom - y > 2.2 * sheet.pitch:
        y = _grid(sheet, y + 0.2 * sheet.pitch, bottom) + 0.2 * sheet.pitch
    field = draw_field(sheet, taken, meaning="total")
    right, y = sheet.width - sheet.margin, min(y, sheet.height - 0.4 * sheet.type.em)
    start = right - sheet.length(field.value, sheet.type)
    if start - 0.5 * sheet.type.em - sheet.length(field.label, sheet.label) > 2:
        sheet.write(field.label, start - 0.5 * sheet.type.em, y, sheet.label, align="right")
        ask_field(sheet, field, sheet.write(field.value, start, y, sheet.type))


def _grid(sheet: Sheet, y: float, bottom: float) -> float:
    """The table between y and `bottom`; the baseline behind it."""
    r, em = sheet.rng, sheet.type.em
    left, right = sheet.margin, sheet.width - sheet.margin
    most = max(1, min(3, int((right - left) / (3.4 * em)) - 1))
    count = r.randint(max(1, most - 1), most)
    first = (right - left) / (count + 1) * r.uniform(0.95, 1.2)
    edges = [left + first + (right - left - first) * i / count for i in range(count + 1)]
    wide = edges[1] - edges[0] - 6
    known = [c for c in COLUMNS if sheet.length(c[0], sheet.label) < wide and (c[1] not in LONG or wide > 5 * em)]
    picked = r.sample(known, min(count, len(known)))
    heads = [(name, kind, edges[i], edges[i + 1]) for i, (name, kind) in enumerate(picked)]
    pitch, style, flush = (
        sheet.pitch * r.uniform(1.0, 1.25),
        r.choice(("grid", "rules", "stripes", "plain")),
        r.random() < 0.5,
    )
    top, taken, number = y - 0.95 * em, set[str](), 0
    if r.random() < 0.3:
        sheet.block(left, top, right, top + pitch - 2, sheet.mixed(0.12))
    for name, _, x0, x1 in heads:
        sheet.write(name, x1 - 4 if flush else x0 + 4, y, sheet.label, align="right" if flush else "left")
    y += pitch
    row_kind = r.choice(ROWS)
    while y < bottom - 0.2 * em:
        if style == "stripes" and number % 2:
            sheet.block(left, y - 0.95 * em, right, y - 0.95 * em + pitch - 1, sheet.mixed(0.09))
        if style in ("grid", "rules"):
            sheet.rule(y - 1.0 * em, left, right)
        _row(sheet, y, heads, row_kind, edges[0], flush, taken)
        y, number = y + pitch, number + 1
    if style == "grid":
        for x in (left, *edges):
            sheet.upright(x, top, y - em)
        sheet.rule(top, left, right)
        sheet.rule(y - em, left, right)
    return y


def _row(
    sheet: Sheet,
    y: float,
    heads: list[tuple[str, str, float, float]],
    row_kind: str,
    middle: float,
    flush: bool,
    taken: set[str],
) -> None:
    """One row: its name, and under each heading a value that fits."""
    names = [_row_name(sheet, row_kind) for _ in range(12)]
    name = next(
        (n for n in names if n.lower() not in taken and sheet.fits(n, sheet.type, sheet.margin + 3, middle - 2)), ""
    )
    if not name:
        return
    taken.add(name.lower())
    sheet.write(name, sheet.margin + 3, y, sheet.type)
    for head, kind, x0, x1 in heads:
        value = next(
            (v for v in (_cell(sheet, kind) for _ in range(8)) if sheet.fits(v, sheet.type, x0 + 4, x1 - 4)), ""
        )
        if value:
            span = sheet.write(value, x1 - 4 if flush else x0 + 4, y, sheet.type, align="right" if flush else "left")
            sheet.ask((f"{head} of {name}", f"{name} {head}"), span, kind, "cell")


def _row_name(sheet: Sheet, kind: str) -> str:
    words = sheet.words
    if kind == "month":
        return words.rng.choice(("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"))
    if kind == "thing":
        return words.thing()
    return words.value(kind)


def _cell(sheet: Sheet, kind: str) -> str:
    return str(sheet.rng.randint(2, 999)) if kind == "count" else printable(sheet, kind)
