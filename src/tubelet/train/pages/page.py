"""Pages to read: page i is a function of the recipe, the fonts and i, and knows where every letter stands.

    recipe, fonts, i -> sheet laid out and printed -> questions -> tilt, blur, grain -> Page

A question's answer is the text as it is printed, every letter of it with its box. A thing that stands twice is not
asked about; one that stands nowhere may be, and has no answer. The same Python, Pillow and FreeType give the same
bytes; other versions of them may differ in a pixel.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from tubelet.errors import InputError, near_names
from tubelet.train.pages.degrade import degraded
from tubelet.train.pages.fonts import Face, Fonts
from tubelet.train.pages.layouts.charts import chart
from tubelet.train.pages.layouts.fields import draw_field
from tubelet.train.pages.layouts.forms import form
from tubelet.train.pages.layouts.lines import lines
from tubelet.train.pages.layouts.nothing import fine, picture
from tubelet.train.pages.layouts.receipts import receipt
from tubelet.train.pages.layouts.tables import invoice, table
from tubelet.train.pages.layouts.ticket import ticket
from tubelet.train.pages.sheet import Asking, Sheet, Span, Type
from tubelet.train.pages.words import MEANINGS, Words

LAYOUTS: dict[str, Callable[[Sheet], None]] = {
    "receipt": receipt,
    "form": form,
    "table": table,
    "invoice": invoice,
    "chart": chart,
    "lines": lines,
    "ticket": ticket,
    "picture": picture,
    "fine": fine,
}
SCOPE_A = (("receipt", 0.3), ("form", 0.4), ("table", 0.3))
ABSENT = "absent"  # kind of a question about what is not on the page
UNIT = 32  # pages are whole numbers of merged tokens
QUESTIONS = {
    "key": ("What is the {}?", "{}?", "{}?", "Give the {}.", "Read the {}.", "What does {} say?", "{}", "{}"),
    "who": ("Who is the {}?", "What is the {} called?", "Name of the {}?", "What is the {}?", "{}?", "{}?"),
    "price": ("How much is {}?", "What does {} cost?", "Price of {}?", "What is the price of {}?", "{}?"),
    "cell": ("What is the {}?", "{}?", "{}?", "Give the {}.", "{}"),
    "bar": ("What is the value of {}?", "{}?", "{}?", "How much is {}?", "What is the number for {}?"),
    "after": ("What follows {}?", "What stands after {}?", "After {}?", "After {}"),
}
BY_KIND = {
    "money": ("How much is the {}?",),
    "date": ("What {} is on it?",),
    "name": ("Who is the {}?",),
    "first": ("Who is the {}?",),
}


@dataclass(frozen=True)
class PageRecipe:
    """What pages are like."""

    seed: int = 0
    sizes: tuple[tuple[int, int], ...] = ((192, 256), (256, 192))  # (height, width), multiples of 32
    em: tuple[int, int] = (20, 24)  # pixels, of values
    mix: tuple[tuple[str, float], ...] = SCOPE_A  # layouts and their shares
    longest: int = 16  # characters of an answer
    questions: int = 8  # of a page, at most; 0: pages to read letters from
    absent: float = 0.0  # share of pages on which something is asked that is not there; above 0, all with nothing else
    held_fonts: bool = False  # print in the held-out families
    held_words: bool = False  # draw from the held-out part of each list
    misspelt: float = 0.0  # share of listed words in which letters are exchanged
    noise: float = 1.0  # strength of tilt, blur, grain

    def __post_init__(self) -> None:
        if any(side % UNIT or side < 3 * UNIT for size in self.sizes for side in size) or not self.sizes:
            raise InputError(f"sides of a page are multiples of {UNIT}, from {3 * UNIT}", expected=UNIT, got=self.sizes)
        for name in ("absent", "misspelt"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise InputError(f"{name} is a share from 0 to 1, got {share}", limit=1, got=share)
        if not 8 <= self.em[0] <= self.em[1]:
            raise InputError("em is a range of pixels from 8", limit=8, got=self.em)
        unknown = [name for name, _ in self.mix if name not in LAYOUTS]
        if unknown:
            near = near_names(unknown[0], LAYOUTS)
            raise InputError(
                f"there is no layout {unknown[0][:40]}{near}; there are {', '.join(LAYOUTS)}",
                expected=tuple(LAYOUTS),
                got=unknown[0],
            )
        if not self.mix or min(share for _, share in self.mix) < 0:
            raise InputError("the mix names layouts and their shares, from 0", expected=tuple(LAYOUTS), got=self.mix)


@dataclass(frozen=True)
class Question:
    """text; answer: as printed, "" for what is not on the page; kind: of the answer; form: of the question.

    where: for each character of the answer its number among the page's letters; box: around them, left, top, right,
    bottom in pixels, None where there are none."""

    text: str
    answer: str
    kind: str
    form: str
    where: tuple[int, ...]
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True, eq=False)
class Page:
    """pixels: (H, W, 3) uint8. letters: everything printed, spaces too; boxes: (n, 4), of their ink, in pixels.

    middles: (n, 2), x and y of each letter's middle on its line. em: of values, pixels; family: of the face."""

    number: int
    layout: str
    pixels: NDArray[np.uint8]
    letters: str
    boxes: NDArray[np.float32]
    middles: NDArray[np.float32]
    questions: tuple[Question, ...]
    em: int
    family: str


def print_page(recipe: PageRecipe, fonts: Fonts, number: int) -> Page:
    """Page `number`. Cost: 3 to 6 ms at 192 x 256. Raises InputError for a number below 0.

    >>> page = print_page(PageRecipe(seed=7), find_fonts(), 12)  # doctest: +SKIP
    >>> page.questions[0].text, page.questions[0].answer  # doctest: +SKIP
    ('What is the total?', '$31.07')
    """
    if number < 0:
        raise InputError(f"pages count from 0, got {number}", limit=0, got=number)
    rng = Random(f"{recipe.seed}/{number}")
    height, width = rng.choice(recipe.sizes)
    layout = rng.choices([name for name, _ in recipe.mix], [share for _, share in recipe.mix])[0]
    sheet = _sheet(recipe, fonts, rng, height, width, layout)
    LAYOUTS[layout](sheet)
    printed = [*sheet.boxes, *((x, y, x, y) for x, y in sheet.middles)]
    pixels, moved = degraded(
        sheet.image, np.array(printed, np.float32).reshape(-1, 4), rng, rng.getrandbits(63), recipe.noise
    )
    letters = "".join(sheet.letters)
    boxes, middles = moved[: len(letters)], moved[len(letters) :, :2]
    questions = _questions(sheet, letters, boxes, recipe)
    return Page(number, layout, pixels, letters, boxes, middles, questions, sheet.type.em, sheet.type.face.family)


# ---- how it looks


def _sheet(recipe: PageRecipe, fonts: Fonts, rng: Random, height: int, width: int, layout: str) -> Sheet:
    families = fonts.families(recipe.held_fonts)
    faces = rng.choice(families)
    face = rng.choice(faces)
    em = rng.randint(*recipe.em)
    paper, ink = _colours(rng)
    spacing = rng.choice((0.0, 0.0, 0.0, rng.uniform(-0.3, 0.8)))
    value = Type(face, em, ink, spacing)
    label = Type(_label_face(rng, faces, families, face), _label_em(rng, em, recipe.em[0]), ink, spacing)
    signs = [sign for sign in "€£" if sign not in face.lacks]
    words = Words(rng, held=recipe.held_words, longest=recipe.longest, signs=signs, misspelt=recipe.misspelt)
    loose = 0.15 if layout == "lines" else rng.choice((0.3, 0.6))
    sheet = Sheet(width, height, paper, value, label, em * (1.15 + rng.uniform(0.0, loose)), rng, words)
    if rng.random() < 0.3:
        sheet.label = Type(label.face, label.em, sheet.mixed(rng.uniform(0.55, 0.9)), spacing)
    return sheet


def _label_face(rng: Random, faces: Sequence[Face], families: Sequence[Sequence[Face]], face: Face) -> Face:
    bold = [f for f in faces if f.bold]
    how = rng.random()
    if how < 0.3 and bold:
        return rng.choice(bold)
    return rng.choice(rng.choice(families)) if how > 0.85 else face


def _label_em(rng: Random, em: int, least: int) -> int:
    return em if rng.random() < 0.6 else max(round(0.8 * least), round(em * rng.uniform(0.8, 1.0)))


def _colours(rng: Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Paper and ink: mostly dark on light and grey, now and then tinted, 8 in 100 light on dark."""
    light = rng.randint(225, 255) if rng.random() < 0.8 else rng.randint(190, 255)
    dark = rng.randint(0, 50) if rng.random() < 0.8 else rng.randint(0, 90)
    tint = rng.randint(0, 30) if rng.random() < 0.35 else 0

    def near(level: int) -> tuple[int, int, int]:
        r, g, b = (min(255, max(0, level + rng.randint(-tint, tint))) for _ in range(3))
        return r, g, b

    paper, ink = near(light), near(dark)
    return (ink, paper) if rng.random() < 0.08 else (paper, ink)


# ---- what is asked


def _questions(sheet: Sheet, letters: str, boxes: NDArray[np.float32], recipe: PageRecipe) -> tuple[Question, ...]:
    """Up to `recipe.questions` of what may be asked, none about a thing that stands twice or leaves the page."""
    named = Counter(name for asking in sheet.asked for name in {n.lower() for n in asking.names})
    text = "\n".join(letters[a.span.first : a.span.stop] for a in sheet.asked).lower()
    out: list[Question] = []
    if not recipe.questions:
        return ()
    for asking in sheet.asked:
        answer = letters[asking.span.first : asking.span.stop]
        if any(named[n.lower()] > 1 or sheet.printed[n.lower()] > 1 for n in asking.names):
            continue
        if asking.form == "after" and text.count(asking.names[0].lower()) > 1:
            continue
        around = boxes[asking.span.first : asking.span.stop]
        left, top = around[:, :2].min(0)
        right, bottom = around[:, 2:].max(0)
        inside = left >= 0 and top >= 0 and right <= sheet.width and bottom <= sheet.height
        if not answer.strip() or len(answer) > recipe.longest or not inside:
            continue
        box = (float(left), float(top), float(right), float(bottom))
        where = tuple(range(*asking.span))
        out.append(Question(_worded(asking, sheet.rng), answer, asking.kind, asking.form, where, box))
    if len(out) > recipe.questions:
        out = sheet.rng.sample(out, recipe.questions)
    if recipe.absent and (not out or sheet.rng.random() < recipe.absent):
        for question in _absent(sheet, {*named, *sheet.printed}, 1 if out else min(3, recipe.questions)):
            out.insert(sheet.rng.randint(0, len(out)), question)
        out = out[: recipe.questions]
    return tuple(out)


def _absent(sheet: Sheet, there: set[str], count: int) -> list[Question]:
    """Questions about things of which no name is `there`: fields, and things that cost something."""
    for _, labels, names in MEANINGS.values():
        known = {name.lower() for name in (*labels, *names)}
        if known & there:
            there |= known
    out: list[Question] = []
    for _ in range(4 * count):
        if sheet.rng.random() < 0.75:
            field = draw_field(sheet, set(there))
            asking = Asking((field.label, *field.names[1:]), Span(0, 0), field.kind)
        else:
            asking = Asking((sheet.words.thing(),), Span(0, 0), "money", "price")
        if len(out) < count and not there.intersection(name.lower() for name in asking.names):
            out.append(Question(_worded(asking, sheet.rng), "", ABSENT, asking.form, (), None))
    return out


def _worded(asking: Asking, rng: Random) -> str:
    """The question in words: by the printed label or by another name, in its case or in lower case."""
    name = asking.names[0] if rng.random() < 0.6 else rng.choice(asking.names)
    if asking.form != "after" and rng.random() < 0.6:
        name = name.lower()
    forms = QUESTIONS[asking.form]
    if asking.form == "key":
        forms += BY_KIND.get(asking.kind, ())
    said = rng.choice(forms).format(name)
    return said[0].upper() + said[1:] if rng.random() < 0.8 and asking.form != "after" else said
