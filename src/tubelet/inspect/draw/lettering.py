"""Text on paper: Pillow's built-in font, drawn so that it looks the same everywhere and no name can break it."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAPER: Colour = (250, 249, 246)
INK: Colour = (32, 33, 36)
MUTED: Colour = (112, 112, 118)
FINE = 4  # text is drawn this many times larger and then reduced


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font, laid out letter by letter so that no text library changes the result."""
    font = ImageFont.load_default(size=size)
    if isinstance(font, ImageFont.FreeTypeFont):
        return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return font


def _ink(letter: str) -> bytes:
    spot = Image.new("L", (32, 32))
    ImageDraw.Draw(spot).text((2, 2), letter, font=_font(24), fill=255)
    return spot.tobytes()


@lru_cache(maxsize=4096)
def _has_glyph(letter: str) -> bool:
    try:
        return letter == " " or _ink(letter) not in (bytes(32 * 32), _ink("\U0010fffe"))
    except UnicodeError:  # half of a surrogate pair; and what a Pillow without FreeType cannot encode
        return False


def drawable(text: str) -> str:
    """`text` in letters that the built-in font has: accents are dropped where needed, anything else becomes "?"."""
    out: list[str] = []
    for letter in text:
        if _has_glyph(letter):
            out.append(letter)
        elif not unicodedata.combining(letter):
            plain = unicodedata.normalize("NFKD", letter)[0]
            out.append(plain if _has_glyph(plain) else "?")
    return "".join(out)


def length(text: str, size: int) -> float:
    """Width in pixels of `words(text, size)`."""
    return _font(size * FINE).getlength(text) / FINE


def words(text: str, size: int, colour: Colour, *, bold: bool = False) -> Image.Image:
    """One line of text on paper, drawn larger and reduced: letters then need not stand on whole pixels."""
    width, height = math.ceil(length(text, size)) or 1, round(size * 1.3)
    large = Image.new("RGB", (width * FINE, height * FINE), PAPER)
    stroke = max(1, size * FINE // 48) if bold else 0
    ImageDraw.Draw(large).text((0, 0), text, font=_font(size * FINE), fill=colour, stroke_width=stroke)
    return large.reduce(FINE)


def arrow(size: int, colour: Colour, *, up: bool) -> Image.Image:
    """An arrow as high as text of that size, which the built-in font has not."""
    width, height = round(size * 0.75), round(size * 1.3)
    large = Image.new("RGB", (width * FINE, height * FINE), PAPER)
    pen, middle = ImageDraw.Draw(large), width * FINE // 2
    tip, end = (size * FINE * 3 // 10, size * FINE) if up else (size * FINE, size * FINE * 3 // 10)
    wing = size * FINE // 4
    back = tip + wing if up else tip - wing
    pen.line((middle, tip, middle, end), fill=colour, width=FINE + 1)
    pen.line([(middle - wing, back), (middle, tip), (middle + wing, back)], fill=colour, width=FINE + 1, joint="curve")
    return large.reduce(FINE)


def time_text(seconds: float) -> str:
    """A time a person reads at once: "0.00 s", "59.96 s", "1:02.4", "2:03:04.0"."""
    sign, hundredths = ("-" if seconds < 0 else ""), round(abs(seconds) * 100)
    if hundredths < 6000:
        return f"{sign}{hundredths / 100:.2f} s"
    tenths = round(abs(seconds) * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    if hours:
        return f"{sign}{hours}:{minutes:02d}:{rest / 10:04.1f}"
    return f"{sign}{minutes}:{rest / 10:04.1f}"


@dataclass(frozen=True)
class TextLine:
    """One line of a caption. Its parts are joined by a dot and go to the next line together with what follows them."""

    parts: tuple[str, ...]
    size: int = 14
    colour: Colour = MUTED


def shorten(text: str, size: int, width: int) -> str:
    """`text`, with its middle replaced by "..." where it is wider than `width` pixels."""
    if length(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the most letters that still fit
        keep = (low + high + 1) // 2
        cut = text[: (keep + 1) // 2] + "..." + text[len(text) - keep // 2 :]
        low, high = (keep, high) if length(cut, size) <= width else (low, keep - 1)
    return text[: (low + 1) // 2] + "..." + text[len(text) - low // 2 :]


def _wrap(line: TextLine, width: int) -> list[str]:
    rows: list[str] = []
    for part in (drawable(p) for p in line.parts):
        joined = f"{rows[-1]}  \N{MIDDLE DOT}  {part}" if rows else part
        if rows and length(joined, line.size) <= width:
            rows[-1] = joined
        else:
            rows.append(shorten(part, line.size, width))
    return rows


def caption(width: int, lines: Sequence[TextLine]) -> Image.Image:
    """A strip of text `width` pixels wide and as high as its lines need; long lines wrap, long words are shortened."""
    rows = [(text, line) for line in lines for text in _wrap(line, width)]
    strip, y = Image.new("RGB", (width, sum(round(line.size * 1.45) for _, line in rows) or 1), PAPER), 0
    for text, line in rows:
        strip.paste(words(text, line.size, line.colour), (0, y))
        y += round(line.size * 1.45)
    return strip
