"""A sheet of paper that remembers every letter printed on it: what, where, and what may be asked about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw

from tubelet.train.pages.fonts import Face
from tubelet.train.pages.words import Words

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Type:
    """How text looks. em: pixels; spacing: pixels between letters beside the face's own."""

    face: Face
    em: int
    colour: Colour
    spacing: float = 0.0


class Span(NamedTuple):
    """Letters first .. stop of a sheet, printed as one piece of text."""

    first: int
    stop: int


@dataclass(frozen=True)
class Asking:
    """What may be asked: the text of `span`. names: what it is called, any of which a question may use; kind: of the
    answer; form: of the question."""

    names: tuple[str, ...]
    span: Span
    kind: str
    form: str = "key"


@dataclass
class Sheet:
    """Paper of width x height pixels and the state of one page while it is laid out.

    type, label: how values and labels look. pitch: from baseline to baseline. letters, boxes, middles: everything
    printed, in the order it was; a middle lies half a capital above the line. printed: how often each text stands
    there, in lower case.
    """

    width: int
    height: int
    paper: Colour
    type: Type
    label: Type
    pitch: float
    rng: Random
    words: Words
    letters: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    middles: list[tuple[float, float]] = field(default_factory=list)
    asked: list[Asking] = field(default_factory=list)
    printed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.width, self.height), self.paper)
        self.pen = ImageDraw.Draw(self.image)
        self.margin = self.rng.uniform(4.0, 14.0)

    # ---- text

    def length(self, text: str, how: Type) -> float:
        """Pixels the text takes."""
        return sum(how.face.glyph(how.em, c).advance + how.spacing for c in text)

    def fits(self, text: str, how: Type, x: float, right: float | None = None) -> bool:
        """Whether the text stands between x and `right`, or the margin."""
        return x + self.length(text, how) <= (self.width - 2 if right is None else right)

    def write(self, text: str, x: float, baseline: float, how: Type, *, align: str = "left") -> Span:
        """Print one line with its left end, middle or right end at x. Letters stand on whole pixels."""
        if align != "left":
            x -= self.length(text, how) / (1 if align == "right" else 2)
        first, base = len(self.letters), round(baseline)
        for letter in text:
            mask, left, top, advance = how.face.glyph(how.em, letter)
            at = round(x)
            if mask is not None:
                self.image.paste(how.colour, (at + left, base + top), mask)
            ink = (at, base - 0.7 * how.em, at + advance, base) if mask is None else (
                at + left, base + top, at + left + mask.width, base + top + mask.height
            )  # fmt: skip
            self.letters.append(letter)
            self.boxes.append(ink)
            self.middles.append(((ink[0] + ink[2]) / 2, base - 0.35 * how.em))
            x += advance + how.spacing
        self.printed[text.strip(" :.").lower()] += 1
        return Span(first, len(self.letters))

    def can_print(self, text: str, how: Type) -> bool:
        """Whether the face holds every letter."""
        return not how.face.lacks.intersection(text)

    def ask(self, names: Sequence[str], span: Span, kind: str, form: str = "key") -> None:
        """Note that `span` answers a question about `names`."""
        self.asked.append(Asking(tuple(name.strip(" :") for name in names), span, kind, form))

    # ---- lines and fills

    def rule(self, y: float, x0: float | None = None, x1: float | None = None, *, dashed: bool = False) -> None:
        """A horizontal line across the sheet, or from x0 to x1."""
        left, right = round(self.margin if x0 is None else x0), round(self.width - self.margin if x1 is None else x1)
        step = 6 if dashed else max(1, right - left)
        for x in range(left, right, step):
            self.pen.line((x, round(y), min(right, x + (3 if dashed else step)), round(y)), fill=self.faint)

    def upright(self, x: float, y0: float, y1: float) -> None:
        """A vertical line."""
        self.pen.line((round(x), round(y0), round(x), round(y1)), fill=self.faint)

    def frame(self, x0: float, y0: float, x1: float, y1: float, fill: Colour | None = None) -> None:
        """A box, filled or not, at least one pixel wide and high."""
        self.pen.rectangle(
            (round(x0), round(y0), round(max(x0, x1)), round(max(y0, y1))), outline=self.faint, fill=fill
        )

    def block(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        """A filled box without an outline, at least one pixel wide and high."""
        self.pen.rectangle((round(x0), round(y0), round(max(x0, x1)), round(max(y0, y1))), fill=fill)

    def mixed(self, share: float) -> Colour:
        """Between paper (0) and ink (1)."""
        r, g, b = (round(p + (i - p) * share) for p, i in zip(self.paper, self.type.colour, strict=True))
        return r, g, b

    @property
    def faint(self) -> Colour:
        """The colour of rules and boxes."""
        return self.mixed(0.55)

    def larger(self, how: Type, times: float) -> Type:
        """The same type, larger or smaller."""
        return replace(how, em=max(8, round(how.em * times)))
