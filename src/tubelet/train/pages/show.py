"""A contact sheet of pages with the boxes of what is asked, for a person to look at."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from tubelet.train.pages.page import Page

COLOURS = ((220, 30, 30), (20, 120, 220), (20, 150, 60), (200, 120, 0), (140, 40, 180), (0, 150, 150), (120, 90, 20))


def contact_sheet(pages: Sequence[Page], *, columns: int = 4, boxes: bool = True, scale: int = 1) -> Image.Image:
    """Pages beside each other, each answer in a box of its own colour and its question with it beneath."""
    columns = max(1, min(columns, len(pages)))
    wide = max(p.pixels.shape[1] for p in pages) * scale + 8
    text = 12 * max(len(p.questions) for p in pages) + 4 if boxes else 0
    tall = max(p.pixels.shape[0] for p in pages) * scale + 8 + text
    out = Image.new("RGB", (wide * columns, tall * -(-len(pages) // columns)), (255, 255, 255))
    pen = ImageDraw.Draw(out)
    for n, page in enumerate(pages):
        x, y = n % columns * wide + 4, n // columns * tall + 4
        picture = Image.fromarray(page.pixels)
        out.paste(picture.resize((picture.width * scale, picture.height * scale)), (x, y))
        for k, question in enumerate(page.questions if boxes else ()):
            colour = COLOURS[k % len(COLOURS)]
            if question.box is not None:
                left, top, right, bottom = (side * scale for side in question.box)
                pen.rectangle((x + left - 2, y + top - 2, x + right + 1, y + bottom + 1), outline=colour)
            said = f"{question.text}  {question.answer or '(not there)'}"
            pen.text(
                (x, y + picture.height * scale + 2 + 12 * k),
                said.encode("latin-1", "replace").decode("latin-1"),
                fill=colour,
            )
    return out
