"""Receipts: a seller, a few things bought, sums that add up."""

from tubelet.train.pages.layouts.fields import Field, ask_field, draw_field, headline, printable
from tubelet.train.pages.sheet import Sheet

PAID = ("Cash", "Paid in cash", "Change", "Card", "Rounding", "Tax included", "Tip", "Voucher", "Points", "Given")


def receipt(sheet: Sheet) -> None:
    """Seller, some facts, items with prices at the right edge, subtotal, tax and total."""
    r = sheet.rng
    taken: set[str] = set()
    lines = int((sheet.height - sheet.margin - sheet.type.em) / sheet.pitch) + 1
    y = sheet.margin + sheet.type.em
    if r.random() < 0.85:
        y = headline(sheet, y, kind="business", names=("seller", "shop", "store"))
        lines -= 1
    tail = r.choice((("total",), ("tax", "total"), ("subtotal", "tax", "total"), ("subtotal", "total")))
    tail = tail[-max(1, min(len(tail), lines - 2)) :]
    facts = min(r.choice((0, 1, 1, 2)), max(0, lines - len(tail) - 1))
    room = max(1, lines - len(tail) - facts)
    items = room if r.random() < 0.7 else min(room, r.randint(1, 5))
    for known in r.sample(("date", "time", "number", "cashier", "phone", "payment"), facts):
        y = _fact(sheet, draw_field(sheet, taken, meaning=known), y)
    y = _rule(sheet, y)
    total = 0
    for _ in range(items):
        cents = sheet.words.amount(4.3)
        total += cents if _item(sheet, cents, y, taken) else 0
        y += sheet.pitch
    y = _rule(sheet, y)
    tax = round(total * r.choice((0.05, 0.07, 0.1, 0.19, 0.2)))
    sums = {"subtotal": total, "tax": tax, "total": total + (tax if "tax" in tail else 0)}
    for known in tail:
        field = draw_field(sheet, taken, meaning=known)
        money = sheet.words.money(sums[known])
        money = money if sheet.can_print(money, sheet.type) else money.strip("€£ ")
        y = _sum(sheet, field._replace(value=money), y, large=known == "total" and r.random() < 0.3)
    _foot(sheet, y, taken)


def _rule(sheet: Sheet, y: float) -> float:
    if sheet.rng.random() < 0.4:
        sheet.rule(y - 0.75 * sheet.type.em, dashed=sheet.rng.random() < 0.5)
        y += 2
    return y


def _fact(sheet: Sheet, field: Field, y: float) -> float:
    """A fact with its label, or a date or time alone, which needs none."""
    r = sheet.rng
    bare = field.kind in ("date", "time") and r.random() < 0.4
    label = "" if bare else field.label + r.choice((":", "", ":"))
    x = sheet.margin + (sheet.length(label, sheet.label) + 0.4 * sheet.type.em if label else 0)
    if not sheet.fits(field.value, sheet.type, x):
        return y
    if label:
        sheet.write(label, sheet.margin, y, sheet.label)
    span = sheet.write(field.value, x, y, sheet.type)
    if bare:
        sheet.ask((field.kind,), span, field.kind)
    else:
        ask_field(sheet, field, span)
    return y + sheet.pitch


def _item(sheet: Sheet, cents: int, y: float, taken: set[str]) -> bool:
    """One thing with its price; how many stands before it at times. Whether it was printed."""
    r = sheet.rng
    price = sheet.words.money(cents)
    if not sheet.can_print(price, sheet.type):
        price = price.strip("€£ ")
    right = sheet.width - sheet.margin
    room = right - sheet.length(price, sheet.type) - 0.5 * sheet.type.em
    count = f"{r.randint(1, 9)} {r.choice(('x ', ''))}" if r.random() < 0.25 else ""
    x = sheet.margin + sheet.length(count, sheet.type)
    for _ in range(8):
        name = sheet.words.thing()
        if name.lower() not in taken and sheet.fits(name, sheet.type, x, room):
            taken.add(name.lower())
            if count:
                sheet.write(count.strip(), sheet.margin, y, sheet.type)
            sheet.write(name, x, y, sheet.type)
            sheet.ask((name,), sheet.write(price, right, y, sheet.type, align="right"), "money", "price")
            return True
    return False


def _foot(sheet: Sheet, y: float, taken: set[str]) -> None:
    """What stands below the total: how it was paid, thanks, bars."""
    r = sheet.rng
    for label in r.sample(PAID, r.choice((0, 0, 1, 2))):
        if label.lower() not in taken and y < sheet.height - 0.3 * sheet.type.em:
            taken.add(label.lower())
            y = _sum(sheet, Field(label, printable(sheet, "money"), "money", (label.lower(),)), y)
    if y < sheet.height and r.random() < 0.5:
        thanks = r.choice(("Thank you", "Come again", "Goodbye", "* * *"))
        sheet.write(thanks, sheet.width / 2, y, sheet.label, align="middle")
        y += 0.5 * sheet.pitch
    if r.random() < 0.2:
        x = 0.25 * sheet.width
        while x < 0.75 * sheet.width and y < sheet.height:
            wide = r.choice((1, 1, 2, 3))
            sheet.block(x, y, x + wide - 1, y + sheet.pitch, sheet.type.colour)
            x += wide + r.choice((1, 2, 3))


def _sum(sheet: Sheet, field: Field, y: float, *, large: bool = False) -> float:
    bold = sheet.label if sheet.rng.random() < 0.5 else sheet.type
    if large:
        bold = sheet.larger(bold, sheet.rng.uniform(1.2, 1.7))
        y += bold.em - sheet.type.em
    if y > sheet.height - 2:
        return y
    right = sheet.width - sheet.margin
    if sheet.margin + sheet.length(field.label, bold) + 4 > right - sheet.length(field.value, bold):
        return y
    sheet.write(field.label, sheet.margin, y, bold)
    ask_field(sheet, field, sheet.write(field.value, right, y, bold, align="right"))
    return y + sheet.pitch
