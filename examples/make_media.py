"""Draws the two small files the examples use: `receipt.png` and `walk.mp4`. Both come from code and seeds alone.

    python examples/make_media.py [FOLDER]

receipt.png  600 x 900, a shop receipt on a table, slightly turned: small print, large print, numbers, a bar code.
walk.mp4     480 x 270, H.264, 4.5 s with one cut at 3.0 s: 24 frames a second before it, 12 after it, so that frame
             numbers and times disagree as they do in files from phones.
"""

import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PAPER, INK, TABLE = (250, 248, 242), (38, 36, 40), (121, 86, 60)
GOODS = (
    ("Rye bread 750 g", 3.45),
    ("Oat drink 1 l", 1.99),
    ("Tomatoes 0.624 kg", 2.18),
    ("Eggs, free range x10", 3.79),
    ("Dark chocolate 70 %", 1.49),
    ("Olive oil 0.5 l", 8.95),
    ("Lemons x3", 1.20),
    ("Coffee beans 500 g", 7.40),
    ("Washing powder", 5.25),
    ("Deposit bottle", 0.25),
    ("Deposit returned", -1.50),
)
SIZE, CUT_S, END_S = (480, 270), 3.0, 4.5
SKIN, COAT, TROUSERS, HAIR = (224, 172, 130), (196, 62, 52), (44, 58, 92), (70, 44, 30)


# ---- the receipt


def receipt() -> Image.Image:
    """The picture of receipt.png, 600 x 900 RGB."""
    paper = _paper()
    turned = paper.convert("RGBA").rotate(-1.4, resample=Image.Resampling.BICUBIC, expand=True)
    picture = _table(600, 900)
    left, top = (600 - turned.width) // 2, (900 - turned.height) // 2
    shadow = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    shadow.paste((20, 12, 6, 120), (left + 7, top + 9), turned.getchannel("A"))
    picture.paste(shadow, (0, 0), shadow.filter(ImageFilter.GaussianBlur(6)))
    picture.paste(turned, (left, top), turned)
    return picture


def _table(width: int, height: int) -> Image.Image:
    """Boards with a faint grain: constant along each row, so that the PNG stays small."""
    rng = np.random.default_rng(7)
    y = np.arange(height)
    grain = 5.0 * np.sin(y / 9.0) + np.repeat(rng.normal(0.0, 3.0, height // 3), 3)
    grain -= 34.0 * (y % 150 < 3)
    rows = np.clip(np.array(TABLE) + grain[:, None], 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(rows[:, None], width, axis=1))


def _paper() -> Image.Image:
    paper = Image.new("RGB", (500, 840), PAPER)
    pen = ImageDraw.Draw(paper)
    y = _heading(pen)
    y = _goods(pen, y)
    _closing(pen, y)
    return paper


def _text(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, anchor: str = "la") -> None:
    pen.text((x, y), text, fill=INK, font=ImageFont.load_default(size), anchor=anchor)


def _rule(pen: ImageDraw.ImageDraw, y: float) -> None:
    for x in range(28, 472, 12):
        pen.line((x, y, x + 6, y), fill=INK, width=1)


def _heading(pen: ImageDraw.ImageDraw) -> float:
    _text(pen, 250, 28, "CORNER SHOP", 42, "ma")
    for y, line in ((84, "12 Harbour Lane · open 7 to 22"), (108, "Receipt 004 817     2026-03-14 18:42")):
        _text(pen, 250, y, line, 18, "ma")
    _rule(pen, 144)
    return 160


def _goods(pen: ImageDraw.ImageDraw, y: float) -> float:
    for name, price in GOODS:
        _text(pen, 30, y, name, 22)
        _text(pen, 470, y, f"{price:.2f}", 22, "ra")
        y += 32
    _rule(pen, y + 6)
    return y + 18


def _closing(pen: ImageDraw.ImageDraw, y: float) -> None:
    total = sum(price for _, price in GOODS)
    _text(pen, 30, y, "TOTAL", 36)
    _text(pen, 470, y, f"EUR {total:.2f}", 36, "ra")
    paid = 50.0
    for line, amount in (("Paid in cash", paid), ("Change", paid - total), ("Tax included, 7 %", total * 7 / 107)):
        y += 30 if line != "Paid in cash" else 54
        _text(pen, 30, y, line, 20)
        _text(pen, 470, y, f"{amount:.2f}", 20, "ra")
    _rule(pen, y + 40)
    _bars(pen, y + 58)
    _text(pen, 250, y + 138, "4 017 300 048 176", 18, "ma")
    _text(pen, 250, y + 168, "Thank you. Goods may be returned within 14 days.", 13, "ma")


def _bars(pen: ImageDraw.ImageDraw, top: float) -> None:
    rng = np.random.default_rng(4017300048176)
    x = 90
    while x < 410:
        bar, gap = (int(n) for n in rng.integers(1, 5, size=2))
        pen.rectangle((x, top, x + bar - 1, top + 70), fill=INK)
        x += bar + gap


# ---- the clip


def walk_times() -> tuple[Fraction, ...]:
    """When each frame of walk.mp4 starts, in seconds."""
    cut, end = Fraction(CUT_S), Fraction(END_S)
    before = [Fraction(i, 24) for i in range(int(cut * 24))]
    after = [cut + Fraction(i, 12) for i in range(int((end - cut) * 12))]
    return (*before, *after)


def walk_frame(time_s: float) -> Image.Image:
    """The picture at a time: a walk down a street by day, and after the cut the same person, closer, in the evening."""
    width, height = (2 * n for n in SIZE)  # drawn twice as large, then halved: smooth edges
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    if time_s < CUT_S:
        _street(pen, width, height, time_s, evening=False)
        _walker(pen, 120 + 230 * time_s, height - 66, 190, time_s)
    else:
        _street(pen, width, height, 4.0 * time_s, evening=True)
        _walker(pen, 250 + 250 * (time_s - CUT_S), height - 40, 400, time_s)
    _clock(pen, width, time_s)
    return picture.resize(SIZE, Image.Resampling.BOX)


def walk_frames() -> Iterator[tuple[Fraction, Image.Image]]:
    """Every frame of walk.mp4 with its time."""
    for time_s in walk_times():
        yield time_s, walk_frame(float(time_s))


def _street(pen: ImageDraw.ImageDraw, width: int, height: int, time_s: float, *, evening: bool) -> None:
    """Sky, sun or moon, two rows of houses that pass at different speeds, pavement."""
    high, low = ((24, 26, 62), (214, 118, 84)) if evening else ((112, 176, 226), (222, 238, 246))
    for y in range(0, height, 6):
        share = y / height
        shade = tuple(round(a + (b - a) * share) for a, b in zip(high, low, strict=True))
        pen.rectangle((0, y, width, y + 5), fill=shade)
    pen.ellipse((730, 50, 800, 120), fill=(240, 236, 214) if evening else (255, 222, 110))
    for seed, speed, base, tall, tone in ((3, 18.0, 400, 210, 0.62), (5, 46.0, 440, 150, 1.0)):
        _houses(pen, width, time_s * speed, base, tall, tone * (0.42 if evening else 1.0), seed, lit=evening)
    pen.rectangle((0, 440, width, height), fill=(64, 62, 74) if evening else (150, 150, 148))
    pen.rectangle((0, 440, width, 452), fill=(44, 43, 54) if evening else (112, 112, 112))
    for i in range(-1, 8):
        x = i * 160 - (time_s * 46.0) % 160
        pen.polygon(((x, 500), (x + 70, 500), (x + 60, 510), (x - 10, 510)), fill=(206, 204, 190))


def _houses(
    pen: ImageDraw.ImageDraw, width: int, shift: float, base: int, tall: int, tone: float, seed: int, *, lit: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = -shift
    while x < width:
        wide, high = int(rng.integers(110, 190)), int(rng.integers(tall // 2, tall))
        wall = tuple(int(c * tone) for c in rng.integers(120, 226, size=3))
        pen.rectangle((x, base - high, x + wide, base), fill=wall)
        pen.polygon(
            ((x - 8, base - high), (x + wide + 8, base - high), (x + wide / 2, base - high - 44)),
            fill=tuple(int(c * 0.6) for c in wall),
        )
        for wx in range(18, wide - 30, 42):
            for wy in range(22, high - 34, 48):
                glow = bool(rng.integers(0, 3) == 0) and lit
                pane = (250, 208, 110) if glow else tuple(int(c * 0.45) for c in wall)
                pen.rectangle((x + wx, base - high + wy, x + wx + 22, base - high + wy + 28), fill=pane)
        x += wide + int(rng.integers(6, 40))


def _walker(pen: ImageDraw.ImageDraw, x: float, ground: float, tall: float, time_s: float) -> None:
    """A person of `tall` pixels whose feet touch `ground`; one step takes half a second."""
    unit, phase = tall / 100.0, 2.0 * math.pi * time_s
    hip_y = ground - 47 * unit + 1.5 * unit * math.cos(2 * phase)
    shoulder_y, wide = hip_y - 30 * unit, max(2, round(9 * unit))
    for side, shade in ((math.pi, 0.72), (0.0, 1.0)):
        swing = 0.55 * math.sin(phase + side)
        legs, arms = (tuple(int(c * shade) for c in colour) for colour in (TROUSERS, COAT))
        knee = (x + 24 * unit * math.sin(swing), hip_y + 24 * unit * math.cos(swing))
        bend = swing - 0.5 * max(0.0, math.cos(phase + side))
        foot = (knee[0] + 23 * unit * math.sin(bend), knee[1] + 23 * unit * math.cos(bend))
        pen.line(((x, hip_y), knee, foot), fill=legs, width=wide, joint="curve")
        pen.line((foot, (foot[0] + 8 * unit, foot[1])), fill=(40, 30, 26), width=max(2, round(5 * unit)))
        hand = (x - 24 * unit * math.sin(swing), shoulder_y + 27 * unit * math.cos(swing))
        if shade < 1.0:
            pen.line(((x, shoulder_y + 4 * unit), hand), fill=arms, width=round(6 * unit))
            continue
        pen.rounded_rectangle(
            (x - 9 * unit, shoulder_y - 2 * unit, x + 9 * unit, hip_y + 6 * unit), radius=6 * unit, fill=COAT
        )
        pen.line(((x, shoulder_y + 4 * unit), hand), fill=(164, 44, 40), width=round(6 * unit))
        pen.ellipse(_disc(hand[0], hand[1], 3.5 * unit), fill=SKIN)
    head_y = shoulder_y - 11 * unit
    pen.ellipse(_disc(x - unit, head_y - 2 * unit, 9.5 * unit), fill=HAIR)
    pen.ellipse(_disc(x + 1.5 * unit, head_y, 8 * unit), fill=SKIN)


def _disc(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _clock(pen: ImageDraw.ImageDraw, width: int, time_s: float) -> None:
    """The time in seconds, written in the corner: a person can check what a sampler chose."""
    pen.rectangle((width - 150, 12, width - 16, 56), fill=(20, 20, 24))
    pen.text((width - 83, 34), f"{time_s:.3f}", fill=(240, 240, 240), font=ImageFont.load_default(34), anchor="mm")


# ---- files


def write_receipt(path: Path) -> None:
    """receipt.png, with a palette of 128 colours so that it stays below 100 kB."""
    receipt().quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def write_walk(path: Path) -> None:
    """walk.mp4: H.264 without B-frames, a keyframe at least every two seconds, no date in it."""
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 24)
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "26", "preset": "slow", "g": "48", "bf": "0", "flags": "+bitexact"}
        for time_s, picture in walk_frames():
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = int(time_s * 24), Fraction(1, 24)
            out.mux(stream.encode(frame))
        *packets, last = stream.encode(None)
        last.duration = 2  # of 1/24 s: the encoder cannot know how long the last frame stays
        out.mux([*packets, last])


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_receipt(folder / "receipt.png")
    write_walk(folder / "walk.mp4")
    for name in ("receipt.png", "walk.mp4"):
        print(f"{folder / name}: {(folder / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
