"""Boxes on frames: where an answer was read."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from tubelet.inspect.draw.frames import GAP, MARGIN, contact_sheet, draw_grid, frame_at
from tubelet.inspect.draw.lettering import INK, PAPER, TextLine, caption
from tubelet.language.vlm.answer_places import Place
from tubelet.language.vlm.chat import Question
from tubelet.reading.clip import Clip

MARK, HALO = (214, 39, 40), (255, 255, 255)


def draw_question(asked: Question, places: Sequence[Place] = (), said: Sequence[str] = ()) -> Image.Image:
    """Every picture with the grid of the tokens the model saw and every clip's frames with it, under one another.

    places: boxes to draw on them; said: lines below, the question and its answer. Cost: two resizes of each picture.
    """
    pages = []
    for item, side in zip(asked.rows.tokens.items, asked.sides, strict=True):
        mine = [place for place in places if place.picture == item.picture]
        clip = outlined(asked.clips[item.picture], mine, item.times_s)
        pages.append((contact_sheet if clip.is_video else draw_grid)(clip, item, side))
    width = max(page.width for page in pages)
    if said:
        lines = caption(width - 2 * MARGIN, [TextLine((line,), 22, INK) for line in said])
        words = Image.new("RGB", (width, lines.height + 2 * MARGIN), PAPER)
        words.paste(lines, (MARGIN, MARGIN))
        pages.append(words)
    whole = Image.new("RGB", (width, sum(page.height for page in pages) + GAP * (len(pages) - 1)), PAPER)
    y = 0
    for page in pages:
        whole.paste(page, (0, y))
        y += page.height + GAP
    return whole


def outlined(clip: Clip, places: Sequence[Place], times_s: Sequence[float]) -> Clip:
    """The clip with a line around each box on the frame next to its row of time; itself where there is none."""
    if not places:
        return clip
    frames = clip.frames.copy()
    thick = max(2, round(min(clip.height, clip.width) / 120))
    for place in places:
        n = frame_at(clip, times_s[place.frame])
        picture = Image.fromarray(frames[n])
        pen = ImageDraw.Draw(picture)
        left, top, right, bottom = place.box
        right, bottom = min(right, clip.width) - 1, min(bottom, clip.height) - 1
        for grown, colour in ((1, HALO), (0, MARK)):
            sides = (left - grown, top - grown, right + grown, bottom + grown)
            pen.rectangle(sides, outline=colour, width=thick + 2 * grown)
        frames[n] = np.asarray(picture)
    return replace(clip, frames=frames)
