"""Numbers as colours: tables whose lightness goes one way, so that equal steps look equal, and a bar that says so."""

import math

import numpy as np
from PIL import Image

from tubelet.inspect.draw.lettering import INK, MUTED, PAPER, length, words
from tubelet.shapes import Float, UInt8

Table = Float[np.ndarray, "n 3"]

# Nine of viridis' colours (matplotlib, CC0) from dark blue to yellow, with straight lines between them
VIRIDIS = np.array(
    [
        *((68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)),
        *((39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)),
    ],
    np.float64,
)
GREYS = np.array([(24, 24, 26), (246, 245, 242)], np.float64)
UNKNOWN = (150, 60, 60)  # of what is no number
BAR = 180  # pixels of a bar


def shades(table: Table, at: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 3"]:
    """The colour of each number, 0 the table's first and 1 its last; what is outside has the colour of the end."""
    place = np.clip(np.nan_to_num(at), 0.0, 1.0) * (len(table) - 1)
    low = np.clip(np.floor(place).astype(int), 0, len(table) - 2)
    return table[low] + (table[low + 1] - table[low]) * (place - low)[..., None]


def shaded(
    values: Float[np.ndarray, "H W"], low: float, high: float, table: Table = VIRIDIS
) -> UInt8[np.ndarray, "H W 3"]:
    """A map as a picture: `low` the table's first colour, `high` its last; `low` may be the greater. Where all values
    are one, its middle. NaN and infinity have a colour of their own.

        >>> shaded(np.array([[0.0, 1.0]]), 0.0, 1.0)[0].tolist()
        [[68, 1, 84], [253, 231, 37]]
    """
    known = np.isfinite(values)
    at = np.full(values.shape, 0.5) if high == low else (np.where(known, values, low) - low) / (high - low)
    return np.where(known[..., None], np.rint(shades(table, at)), UNKNOWN).astype(np.uint8)


def ends(low: float, high: float) -> tuple[str, str]:
    """Both numbers with as many digits as tell them apart.

    >>> ends(0.99931, 0.99994), ends(1.0, 250.0)
    (('0.99931', '0.99994'), ('1', '250'))
    """
    apart = abs(high - low) or abs(high) or 1.0
    digits = min(9, max(0, 1 - math.floor(math.log10(apart))))
    return f"{low:,.{digits}f}", f"{high:,.{digits}f}"


def legend(name: str, first: str, last: str, table: Table = VIRIDIS) -> Image.Image:
    """A bar of the table's colours with what its two ends mean: name [first ---- last]."""
    parts = [words(name, 13, INK), words(first, 13, MUTED), words(last, 13, MUTED)]
    bar = np.rint(shades(table, np.linspace(0, 1, BAR)[None].repeat(12, 0))).astype(np.uint8)
    spaces = [math.ceil(length(text, 13)) for text in (name, first, last)]
    page = Image.new("RGB", (sum(spaces) + BAR + 30, 20), PAPER)
    x = 0
    for picture, wide in ((parts[0], spaces[0]), (parts[1], spaces[1])):
        page.paste(picture, (x, 1))
        x += wide + 10
    page.paste(Image.fromarray(bar), (x, 4))
    page.paste(parts[2], (x + BAR + 10, 1))
    return page
