"""Pages on which nothing can be read: pictures without a letter, and print too small for a reader of these pages."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from tubelet.train.pages.layouts.fields import printable
from tubelet.train.pages.layouts.lines import KINDS
from tubelet.train.pages.sheet import Colour, Sheet

SMALL = (6, 10)  # pixels to the em


def picture(sheet: Sheet) -> None:
    """Soft fields of colour, shapes over them, out of focus at times."""
    r = sheet.rng
    noise = np.random.default_rng(r.getrandbits(63))
    cells = r.randint(2, 12)
    field = noise.normal(128, r.uniform(20, 70), (cells, cells, 3)).clip(0, 255).astype(np.uint8)
    sheet.image.paste(Image.fromarray(field).resize(sheet.image.size, Image.Resampling.BICUBIC))
    for _ in range(r.randint(0, 14)):
        x, y = r.uniform(-20, sheet.width), r.uniform(-20, sheet.height)
        wide, tall = r.uniform(4, 0.7 * sheet.width), r.uniform(4, 0.7 * sheet.height)
        draw = r.choice((sheet.pen.ellipse, sheet.pen.rectangle, sheet.pen.line))
        draw((x, y, x + wide, y + tall), fill=_colour(sheet))
    if r.random() < 0.6:
        sheet.image.paste(sheet.image.filter(ImageFilter.GaussianBlur(r.uniform(0.5, 5.0))))


def fine(sheet: Sheet) -> None:
    """Lines of print of 6 to 10 pixels to the em; no letter of it is noted, for none can be told."""
    r = sheet.rng
    how = replace(sheet.type, em=r.randint(*SMALL))
    before = len(sheet.letters)
    y = sheet.margin + how.em
    while y < sheet.height - 2:
        x = sheet.margin
        while x < sheet.width - sheet.margin:
            piece = printable(sheet, r.choice(KINDS)) + " "
            if not sheet.fits(piece, how, x):
                break
            sheet.write(piece, x, y, how)
            x += sheet.length(piece, how)
        y += how.em * r.uniform(1.2, 1.5) if r.random() < 0.9 else 3 * how.em
    for noted in (sheet.letters, sheet.boxes, sheet.middles):
        del noted[before:]


def _colour(sheet: Sheet) -> Colour:
    r = sheet.rng
    return r.randint(0, 255), r.randint(0, 255), r.randint(0, 255)
