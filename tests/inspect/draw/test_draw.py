"""draw.py and lettering.py: what is drawn where, what is written, and that no name and no size breaks it."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tubelet import Clip
from tubelet.errors import ShapeError
from tubelet.inspect.draw.frames import (
    ALARM,
    FRAME,
    contact_sheet,
    draw_grid,
    item_pixels,
)
from tubelet.inspect.draw.grid_lines import MIN_PITCH, draw_lines, line_step
from tubelet.inspect.draw.lettering import INK, PAPER, TextLine, caption, drawable, length, shorten, time_text, words
from tubelet.packed.grid import Grid, Item
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reduce.merge import Odd, merge


def a_clip(frames: int = 1, height: int = 60, width: int = 90, value: int = 200, **fields: object) -> Clip:
    pixels = np.full((frames, height, width, 3), value, dtype=np.uint8)
    fields = {"source": "wall.png", "is_video": frames > 1, **fields}
    return Clip(pixels, tuple(0.5 * i for i in range(frames)), **fields)  # pyright: ignore[reportArgumentType]


def whole(clip: Clip, t: int, h: int, w: int) -> Item:
    return Item(Grid(t, h, w), tuple(0.5 * i for i in range(t)), 0, (0.0, 0.0, float(clip.width), float(clip.height)))


# ---- lines


def test_lines_lie_on_patch_borders_with_a_halo_and_nowhere_else():
    pixels = np.full((64, 96, 3), 120, dtype=np.uint8)
    drawn = draw_lines(pixels, Grid(1, 4, 6)).astype(int)
    rows, columns = np.zeros(64, dtype=bool), np.zeros(96, dtype=bool)
    rows[[16, 32, 48]] = True
    columns[[16, 32, 48, 64, 80]] = True
    line = rows[:, None] | columns[None]
    near = (rows | np.roll(rows, 1) | np.roll(rows, -1))[:, None] | (
        columns | np.roll(columns, 1) | np.roll(columns, -1)
    )
    assert (drawn[line] == drawn[16, 5]).all()  # one colour
    assert drawn[16, 5, 2] > 120 > drawn[16, 5, 0]  # which is blue
    assert (drawn[near & ~line] == drawn[17, 5]).all()
    assert drawn[17, 5].min() > 130  # lighter than the picture
    assert (drawn[~near] == 120).all()


@pytest.mark.parametrize("value", [0, 60, 128, 184, 186, 200, 255])
def test_lines_stand_out_on_any_grey(value: int):
    """The line or its halo, whatever the picture, and the line is the same kind of blue everywhere."""
    drawn = draw_lines(np.full((64, 64, 3), value, dtype=np.uint8), Grid(1, 2, 2))[:, 10].astype(int)
    assert max(np.abs(drawn[32] - value).max(), np.abs(drawn[34] - value).max()) >= 60
    assert drawn[32, 2] > drawn[32, 0] + 80


def test_lines_do_not_flip_where_light_meets_dark():
    pixels = np.full((64, 64, 3), 250, dtype=np.uint8)
    pixels[:, 32:] = 10
    line = draw_lines(pixels, Grid(1, 2, 1))[32].astype(int)
    assert (line[:, 2] > line[:, 0] + 50).all()


def test_lines_leave_their_input_alone():
    pixels = np.full((32, 32, 3), 9, dtype=np.uint8)
    draw_lines(pixels, Grid(1, 2, 2))
    assert (pixels == 9).all()


def test_one_patch_has_no_line():
    pixels = np.full((16, 16, 3), 9, dtype=np.uint8)
    assert np.array_equal(draw_lines(pixels, Grid(1, 1, 1)), pixels)


@settings(deadline=None)
@given(st.floats(min_value=1e-3, max_value=1e3))
def test_line_step_keeps_lines_apart(pitch: float):
    step = line_step(pitch)
    assert step >= 1
    assert step * pitch >= MIN_PITCH * (1 - 1e-9)
    assert step == 1 or pitch < MIN_PITCH


# ---- an item's pixels


def test_item_pixels_cuts_the_box_and_resizes_to_whole_patches():
    frame = np.zeros((40, 60, 3), dtype=np.uint8)
    frame[10:30, 20:40] = 255
    cut = item_pixels(frame, Item(Grid(1, 2, 3), (0.0,), 0, (20.0, 10.0, 40.0, 30.0)), patch=7)
    assert cut.shape == (14, 21, 3)
    assert cut.min() >= 240  # black beyond the box may only tint the edge


@pytest.mark.parametrize(("box", "seen"), [
    ((0.0, 0.0, 75.0, 50.0), (slice(0, 56), slice(0, 84))),  # right and bottom, as merge with odd="pad_edge" leaves it
    ((-15.0, -10.0, 60.0, 40.0), (slice(14, 70), slice(21, 105))),
])  # fmt: skip
def test_item_pixels_are_grey_beyond_the_frame(box: tuple[float, ...], seen: tuple[slice, slice]):
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    item = Item(Grid(1, 5, 5), (0.0,), 0, box)  # pyright: ignore[reportArgumentType]
    # a box of 75 x 50 on 105 x 70 pixels: 1.4 pixels for one, so that the 60 x 40 of the frame are 84 x 56
    cut = item_pixels(frame, replace(item, grid=Grid(1, 10, 15)), patch=7)
    alone = item_pixels(frame, Item(Grid(1, 8, 12), (0.0,), 0, (0.0, 0.0, 60.0, 40.0)), patch=7)
    assert cut.shape == (70, 105, 3)
    assert np.array_equal(cut[seen], alone)
    beyond = np.ones((70, 105), dtype=bool)
    beyond[seen] = False
    assert (cut[beyond] == FRAME).all()


def test_a_sliver_of_the_frame_is_still_drawn():
    frame = np.full((40, 60, 3), 255, dtype=np.uint8)
    cut = item_pixels(frame, Item(Grid(1, 2, 2), (0.0,), 0, (59.9, 0.0, 1e6, 40.0)), patch=2)
    assert (cut[:, 0] == 255).all()
    assert (cut[:, 1:] == FRAME).all()


@pytest.mark.parametrize("odd", ["pad_edge", "crop"])
def test_merged_items_of_odd_sides_are_drawn(odd: Odd, monkeypatch: pytest.MonkeyPatch):
    clip = a_clip(2, 70, 42)
    p = patchify([clip], PixelRecipe(patch=14))
    item = merge(p.with_x(p.x.float()), space=2, odd=odd).items[0]
    texts = written(monkeypatch, functools.partial(draw_grid, clip, item, 28))
    assert ("padded to 56 x 84" if odd == "pad_edge" else "cut to 28 x 56") in texts
    assert contact_sheet(clip, item, 28).mode == "RGB"


# ---- the two pictures


def test_draw_grid_shows_the_frame_of_the_asked_time_row():
    clip = a_clip(4, source="walk.mp4")
    for i in range(4):
        clip.frames[i] = 40 * i
    item = Item(Grid(2, 4, 6), (0.0, 1.0), 0, (0.0, 0.0, 90.0, 60.0))
    centre = [np.asarray(draw_grid(clip, item, 14, row=row))[60, 60] for row in (0, 1)]
    assert [int(c.min()) for c in centre] == [0, 80]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 3), st.sampled_from([444, 700, 1600]), st.integers(1, 32)
)
def test_draw_grid_keeps_within_its_side(h: int, w: int, frames: int, max_side: int, patch: int):
    clip = a_clip(
        frames, 20, 30, duration_s=frames * 0.5, notes=("a note that is long enough to need more lines " * 3,)
    )
    drawn = draw_grid(clip, whole(clip, frames, h, w), min(patch, max(1, 600 // max(h, w))), max_side=max_side)
    assert max(drawn.size) <= max_side
    assert drawn.mode == "RGB"


def test_a_line_every_few_patches_is_said_in_the_caption(monkeypatch: pytest.MonkeyPatch):
    clip = a_clip(height=200, width=200)
    said = written(monkeypatch, lambda: draw_grid(clip, whole(clip, 1, 400, 400), 2, max_side=700))
    assert "a line every 8 patches" in said.rpartition("wall.png")[2]
    said = written(monkeypatch, lambda: draw_grid(clip, whole(clip, 1, 10, 10), 20))
    assert "a line every" not in said.rpartition("wall.png")[2]  # what is measured before comes first


def test_caption_names_file_sizes_grid_and_tokens(monkeypatch: pytest.MonkeyPatch):
    clip = a_clip(height=61, width=95, notes=("composited on white",))
    said = written(monkeypatch, lambda: draw_grid(clip, whole(clip, 1, 4, 6), 14))
    for part in ("wall.png", "95 x 61, resized to 84 x 56", "grid 1 x 4 x 6 patches of 14 px", "24 tokens"):
        assert part in said
    assert "composited on white" in said
    elsewhere = a_clip(source="/in/a/folder/x.png")
    assert "/in/a" not in written(monkeypatch, lambda: draw_grid(elsewhere, whole(elsewhere, 1, 4, 6), 14))
    view = Item(Grid(1, 2, 2), (0.0,), 0, (10.0, 5.0, 40.0, 35.0))
    assert "95 x 61, cut to 30 x 30 at 10, 5" in written(monkeypatch, lambda: draw_grid(clip, view, 14))


def test_contact_sheet_writes_every_true_time_and_index(monkeypatch: pytest.MonkeyPatch):
    clip = Clip(np.zeros((3, 9, 16, 3), np.uint8), (0.0, 2.625, 62.4), "a.mp4", is_video=True, duration_s=70.0)
    said = written(monkeypatch, lambda: contact_sheet(clip))
    for part in ("0.00 s", "2.62 s", "1:02.4", "3 frames of 1:10.0"):
        assert part in said
    assert {"0", "1", "2"} <= set(said.split("\n"))
    assert "INCOMPLETE" not in said


def test_an_incomplete_clip_is_marked_and_lost_frames_are_empty_cells(monkeypatch: pytest.MonkeyPatch):
    clip = a_clip(3, complete=False, frames_expected=5)
    said = written(monkeypatch, lambda: contact_sheet(clip))
    assert "INCOMPLETE: 3 of 5 frames" in said
    assert said.split("\n").count("missing") == 2
    red = (np.asarray(contact_sheet(clip)) == ALARM).all(axis=2).sum()
    assert red > (np.asarray(contact_sheet(a_clip(3))) == ALARM).all(axis=2).sum() == 0


def test_many_frames_are_thinned_evenly_and_the_title_says_so(monkeypatch: pytest.MonkeyPatch):
    clip = a_clip(500, 4, 6)
    said = written(monkeypatch, lambda: contact_sheet(clip, max_frames=10)).split("\n")
    assert any("10 of 500 frames" in line for line in said)
    assert {"0", "499"} <= set(said)
    assert sum(line.isdigit() for line in said) == 10


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 120),
    st.integers(1, 120),
    st.sampled_from([444, 900, 1600]),
    st.sampled_from([0, 3, 500]),
)
def test_contact_sheet_keeps_within_its_side(frames: int, height: int, width: int, max_side: int, lost: int):
    clip = a_clip(frames, height, width, complete=lost == 0, frames_expected=frames + lost)
    assert max(contact_sheet(clip, max_side=max_side).size) <= max_side


def test_thumbnails_keep_their_aspect_and_carry_the_grid():
    clip = a_clip(2, 180, 320, value=255)
    sheet = np.asarray(contact_sheet(clip, whole(clip, 2, 9, 16), 20))
    white = (sheet == 255).all(axis=2)
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    height = rows[-1] - rows[0] + 1  # two thumbnails side by side
    width = (columns[-1] - columns[0] + 1 - 14) / 2
    assert abs(width / height - 16 / 9) < 0.02
    blue = (sheet[..., 2].astype(int) - sheet[..., 0] > 30).any(axis=1)
    assert blue.sum() > 8


def test_a_sheet_says_when_its_grid_is_thinned(monkeypatch: pytest.MonkeyPatch):
    for frames, h, w, said in ((30, 90, 160, "a line every 5 patches"), (2, 9, 16, None)):
        clip = a_clip(frames, 180, 320)
        item = whole(clip, frames, h, w)
        texts = written(monkeypatch, functools.partial(contact_sheet, clip, item, 2))
        title = texts.rpartition("wall.png")[2]  # what is measured before comes first
        assert said in title if said else "a line every" not in title


def test_what_does_not_fit_is_refused():
    clip = a_clip()
    outside = Item(Grid(1, 2, 2), (0.0,), 0, (90.0, 0.0, 120.0, 60.0))
    with pytest.raises(ShapeError, match="no part of 90 x 60"):
        draw_grid(clip, outside, 14)
    with pytest.raises(ShapeError, match="no part of"):
        contact_sheet(clip, outside, 14)
    with pytest.raises(ShapeError, match="patch size"):
        contact_sheet(clip, whole(clip, 1, 2, 2))
    with pytest.raises(ShapeError, match="time row 1 of 1"):
        draw_grid(clip, whole(clip, 1, 2, 2), 14, row=1)
    with pytest.raises(ShapeError, match="at least 444"):
        draw_grid(clip, whole(clip, 1, 2, 2), 14, max_side=100)


# ---- text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (59.994, "59.99 s"),
        (59.996, "1:00.0"),
        (62.4, "1:02.4"),
        (119.97, "2:00.0"),
        (3599.99, "1:00:00.0"),
        (7384.0, "2:03:04.0"),
        (-0.5, "-0.50 s"),
    ],
)
def test_time_text(seconds: float, text: str):
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "cafe.png"),
        ("cafe\N{COMBINING ACUTE ACCENT}.png", "cafe.png"),
        ("\N{CJK UNIFIED IDEOGRAPH-4E2D}.png", "?.png"),
        ("a\nb\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}c", "a?b?[31m?c"),
        ("\ud800\udcff.jpg", "??.jpg"),
        ("\N{GRINNING FACE}", "?"),
    ],
)
def test_letters_the_font_lacks_are_replaced(name: str, shown: str):
    assert drawable(name) == shown


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.integers(60, 500))
def test_any_name_is_drawn_within_its_width(name: str, width: int):
    strip = caption(width, [TextLine((name,), 17, INK), TextLine(("1 x 2", name, "3 tokens"))])
    assert strip.width == width
    text = shorten(drawable(name), 17, width)
    assert length(text, 17) <= width


def test_a_long_name_keeps_its_two_ends():
    text = shorten("a" * 400 + ".mp4", 17, 200)
    assert text.startswith("aaa")
    assert text.endswith(".mp4")
    assert "..." in text


def test_captions_wrap_at_their_parts():
    wide, narrow = (
        caption(w, [TextLine(("one part of some length", "another part of some length"))]) for w in (600, 200)
    )
    assert narrow.height == 2 * wide.height


def test_words_are_ink_on_paper():
    seen = np.asarray(words("Hamburg", 17, INK)).reshape(-1, 3)
    assert tuple(seen.max(axis=0)) == PAPER
    assert seen.min() < 90


def written(monkeypatch: pytest.MonkeyPatch, draw: object) -> str:
    """All texts that a drawing writes, one a line."""
    import tubelet.inspect.draw.frames
    import tubelet.inspect.draw.lettering

    texts: list[str] = []

    def listening(text: str, size: int, colour: tuple[int, int, int]) -> Image.Image:
        texts.append(text)
        return words(text, size, colour)

    with monkeypatch.context() as m:
        m.setattr(tubelet.inspect.draw.lettering, "words", listening)
        m.setattr(tubelet.inspect.draw.frames, "words", listening)
        draw()  # pyright: ignore[reportCallIssue]
    return "\n".join(texts)
