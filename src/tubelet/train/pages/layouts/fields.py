"""A label and its value: what most pages are made of."""

from typing import NamedTuple

from tubelet.train.pages.sheet import Sheet, Span
from tubelet.train.pages.words import MEANINGS


class Field(NamedTuple):
    """label: as printed, without a colon; names: what it may be asked by."""

    label: str
    value: str
    kind: str
    names: tuple[str, ...]


def draw_field(sheet: Sheet, taken: set[str], *, meaning: str | None = None) -> Field:
    """A field that no name of which is taken yet; its names are taken then. meaning: one that every reader knows."""
    known = _drawn(sheet, meaning)
    for _ in range(20):
        if not taken.intersection(known[2]):
            break
        known = _drawn(sheet, meaning)
    label, kind, names = known
    taken.update(names)
    return Field(label, printable(sheet, kind), kind, names)


def _drawn(sheet: Sheet, meaning: str | None) -> tuple[str, str, tuple[str, ...]]:
    """A label, the kind of its value, and its names."""
    words = sheet.words
    known = meaning or (words.rng.choice(tuple(MEANINGS)) if words.rng.random() < 0.3 else None)
    if known is None:
        label, kind = words.label()
        return label, kind, (label.lower(),)
    kind, labels, names = MEANINGS[known]
    label = words.rng.choice(labels)
    return label, kind, tuple(dict.fromkeys((label.lower(), *names)))


def printable(sheet: Sheet, kind: str) -> str:
    """A value of the kind that the face can print."""
    value = sheet.words.value(kind)
    return value if sheet.can_print(value, sheet.type) else value.translate(str.maketrans("", "", "€£")).strip()


def ask_field(sheet: Sheet, field: Field, span: Span) -> None:
    """The field's value may be asked for, by its label more often than by another name."""
    sheet.ask((field.label, *field.names[1:]), span, field.kind)


def headline(sheet: Sheet, y: float, *, kind: str = "word", names: tuple[str, ...] = ("title",)) -> float:
    """A line of larger type at the top, in the middle or at the left; the baseline behind it, y where none fits."""
    r = sheet.rng
    how = sheet.larger(sheet.type, r.uniform(1.0, 1.35))
    for _ in range(6):
        text = printable(sheet, kind)
        if sheet.fits(text, how, sheet.margin):
            centred = r.random() < 0.5
            x = sheet.width / 2 if centred else sheet.margin
            span = sheet.write(text, x, y + how.em - sheet.type.em, how, align="middle" if centred else "left")
            sheet.ask(names, span, "title" if kind == "word" else kind, "who" if kind == "business" else "key")
            return y + sheet.pitch * max(1.0, how.em / sheet.type.em)
    return y
