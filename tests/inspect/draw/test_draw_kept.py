"""Pictures of what is kept: which pixels are bright, where views lie, what is written, what fits."""

import math

import numpy as np
import pytest
import torch

from tubelet.errors import ShapeError
from tubelet.inspect.draw.cells import HEAT, OUTLINE, ViewLayer, extent, layers_of, overlay, panels_of, resized_view
from tubelet.inspect.draw.frames import FRAME
from tubelet.inspect.draw.kept import draw_kept, warning
from tubelet.inspect.draw.lettering import PAPER, TextLine
from tubelet.packed import Grid, Item, Packed, pack
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reduce.condense import pool_to

WHOLE = Item(Grid(1, 4, 4), (0.0,), 0, (0, 0, 64, 64))
TILES = [Item(Grid(1, 4, 4), (0.0,), 0, (x, y, x + 32, y + 32)) for y in (0, 32) for x in (0, 32)]


def clip(height: int = 64, width: int = 64, frames: int = 1, level: int = 240) -> Clip:
    pixels = np.full((frames, height, width, 3), level, np.uint8)
    return Clip(pixels, tuple(0.5 * i for i in range(frames)), "some.png", is_video=frames > 1)


def rows(item: Item, *, width: int = 1) -> Packed:
    return pack([torch.zeros(item.grid.rows, width)], [item])


def light(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float).mean(axis=-1)


@pytest.mark.parametrize(("level", "left"), [(240, (205, 240)), (100, (45, 75)), (30, (20, 40))])
def test_kept_cells_are_as_they_were_and_the_others_under_a_veil(level: int, left: tuple[int, int]):
    """Light on a page, and at most 55 % darker on a photograph."""
    p = rows(WHOLE)
    layers = layers_of(p, p.keep(torch.tensor([0, 5, 15])), 0)
    drawn = np.asarray(overlay(clip(level=level).frames[0], layers, (128, 128)))
    for r in range(16):
        middle = drawn[32 * (r // 4) + 16, 32 * (r % 4) + 16]
        if r in (0, 5, 15):
            assert tuple(middle) == (level, level, level)
        else:
            assert left[0] <= middle.min() <= middle.max() < left[1]
            assert middle.max() >= 0.45 * level
    assert tuple(drawn[32 + 1, 32 + 16]) == OUTLINE  # the inner edge of cell 5
    assert tuple(drawn[31, 48]) != OUTLINE


def test_dropped_text_can_be_read():
    """Black letters on a white page keep a third of their contrast."""
    page = np.full((64, 64, 3), 255, np.uint8)
    page[::4] = 0
    drawn = np.asarray(overlay(page, layers_of(rows(WHOLE), rows(WHOLE).keep(torch.tensor([0])), 0), (64, 64)))
    assert int(drawn[41, 40].min()) - int(drawn[40, 40].max()) > 80


def test_cells_are_found_where_grids_do_not_divide_the_drawing():
    item = Item(Grid(1, 3, 7), (0.0,), 0, (0, 0, 70, 30))
    p = rows(item)
    drawn = np.asarray(overlay(clip(30, 70).frames[0], layers_of(p, p.keep(torch.tensor([10])), 0), (101, 47)))
    bright = light(drawn) > 239
    y, x = np.nonzero(bright)
    assert y.min() >= 47 / 3 - 1 and y.max() <= 2 * 47 / 3 + 1
    assert x.min() >= 3 * 101 / 7 - 1 and x.max() <= 4 * 101 / 7 + 1


def test_heat_goes_from_dark_to_yellow_and_leaves_out_what_has_no_score():
    p = rows(Item(Grid(1, 1, 4), (0.0,), 0, (0, 0, 64, 16)))
    scores = torch.tensor([-math.inf, 0.0, 5.0, 10.0])
    layers = layers_of(p, p.keep(torch.tensor([3])), 0, scores)
    assert np.isnan(layers[0].heat[0, 0, 0])  # pyright: ignore[reportOptionalSubscript]
    assert layers[0].heat[0, 0].tolist()[1:] == [0.0, 0.5, 1.0]  # pyright: ignore[reportOptionalSubscript]
    assert layers[0].scale == (0.0, 10.0)
    drawn = np.asarray(overlay(clip(16, 64).frames[0], layers, (160, 40), show="heat"))
    none, low, middle, high = (drawn[20, 40 * i + 20].astype(int) for i in range(4))
    assert np.ptp(none) < 25  # the veil
    for found, wanted in ((low, HEAT[0]), (middle, HEAT[2]), (high, HEAT[-1])):
        assert np.abs(found - wanted).max() <= 1  # the colours of the scale, on an even picture


def test_heat_has_a_scale_that_says_both_ends():
    """With it the page is higher by a strip in which all colours of the table stand."""
    p = rows(WHOLE)
    scores = torch.arange(16.0) - 4
    pages = [
        np.asarray(draw_kept(clip(), layers_of(p, p.keep(torch.tensor([3])), 0, s), heat=True)) for s in (None, scores)
    ]
    last = np.rint(HEAT[-1]).astype(int)
    strip = pages[1][-60:].astype(int)
    for colour in (HEAT[0], last):
        assert (np.abs(strip - colour).max(axis=2) <= 2).sum() > 9
    assert not (np.abs(pages[0].astype(int) - last).max(axis=2) <= 2).any()
    moving = clip(32, 48, frames=3)
    item = Item(Grid(3, 2, 3), moving.times_s, 0, (0, 0, 48, 32))
    sheet = draw_kept(moving, layers_of(rows(item), rows(item), 0, torch.arange(18.0)), heat=True)
    assert (np.abs(np.asarray(sheet)[-60:].astype(int) - last).max(axis=2) <= 2).sum() > 9


def test_equal_scores_have_one_colour():
    p = rows(WHOLE)
    layer = layers_of(p, p.keep(torch.tensor([0])), 0, torch.ones(16))[0]
    assert layer.heat is not None
    assert set(layer.heat.flatten().tolist()) == {0.5}
    rounding = layers_of(p, p.keep(torch.tensor([0])), 0, 20 + torch.arange(16.0) * 1e-6)[0]
    assert rounding.heat is not None
    assert set(rounding.heat.flatten().tolist()) == {0.5}


def test_tiles_lie_together_and_the_whole_picture_apart():
    p = pack([torch.zeros(16, 1)] * 5, [WHOLE, *TILES])
    panels = panels_of(layers_of(p, p.keep(torch.tensor([0, 16, 79])), 0))
    assert [len(panel) for panel in panels] == [4, 1]
    assert extent(panels[0]) == extent(panels[1]) == (0, 0, 64, 64)
    drawn = light(np.asarray(overlay(clip().frames[0], panels[0], (256, 256))))
    bright = {(y, x) for y in range(8) for x in range(8) if drawn[32 * y + 16, 32 * x + 16] > 239}
    assert bright == {(0, 0), (7, 7)}  # the first cell of the first tile, the last of the last


def test_a_black_border_is_not_drawn():
    """A picture of 64 x 32 in the middle of a square tile: only its own part, with cells where they belong."""
    item = Item(Grid(1, 4, 4), (0.0,), 0, (0, -16, 64, 48), content=(0, 0, 64, 32))
    p = rows(item)
    layers = layers_of(p, p.keep(torch.tensor([4])), 0)  # the first cell of the second row: the picture's first
    assert extent(layers) == (0, 0, 64, 32)
    drawn = light(np.asarray(overlay(clip(32, 64).frames[0], layers, (128, 64))))
    bright = {(y, x) for y in range(2) for x in range(4) if drawn[32 * y + 16, 32 * x + 16] > 239}
    assert bright == {(0, 0)}


def test_what_lies_beyond_the_picture_is_grey():
    item = Item(Grid(1, 2, 4), (0.0,), 0, (0, 0, 128, 64))  # twice as wide as the picture
    p = rows(item)
    drawn = np.asarray(overlay(clip().frames[0], layers_of(p, p, 0), (256, 128)))
    assert tuple(drawn[32, 32]) == (240, 240, 240)
    assert tuple(drawn[32, 224]) == FRAME


def test_a_pack_with_its_own_grid_is_drawn_as_such():
    p = patchify([clip()], PixelRecipe(8))
    p = p.with_x(p.x.float())
    small = pool_to(p, budget=9)
    layers = layers_of(p, small, 0, torch.zeros(64))
    assert layers[0].kept.shape == (1, 3, 3)
    assert layers[0].heat is None
    drawn = np.asarray(resized_view(clip().frames[0], layers, (120, 120)))
    assert tuple(drawn[20, 20]) == (240, 240, 240)
    assert tuple(drawn[40, 20]) != (240, 240, 240)  # a line of the grid
    noisy = np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8)
    item = Item(Grid(1, 3, 3), (0.0,), 0, (0, 0, 60, 60))
    averaged = np.asarray(resized_view(noisy, [ViewLayer(item, np.ones(item.grid, bool))], (120, 120))).astype(int)
    for row in range(3):
        for column in range(3):
            mean = noisy[20 * row : 20 * row + 20, 20 * column : 20 * column + 20].mean(axis=(0, 1))
            inside = averaged[40 * row + 3 : 40 * row + 37, 40 * column + 3 : 40 * column + 37]
            assert np.abs(inside - mean).max() <= 1  # the average itself, all over the cell
    smaller = np.asarray(resized_view(noisy, layers, (120, 120), pixels=4)).astype(float)
    assert np.abs(np.diff(smaller, axis=1)).mean() > 3  # a smaller picture still shows something inside its cells


@pytest.mark.parametrize(("height", "width"), [(64, 64), (3, 900), (1800, 30), (2, 2), (1000, 1400)])
@pytest.mark.parametrize("heat", [False, True])
def test_pages_fit(height: int, width: int, heat: bool):
    item = Item(Grid(1, 4, 4), (0.0,), 0, (0, 0, width, height))
    p = rows(item)
    layers = layers_of(p, p.keep(torch.tensor([1, 6])), 0, torch.arange(16.0))
    page = draw_kept(
        clip(height, width), layers, [TextLine(("method",)), warning("UNTRAINED")], heat=heat, max_side=700
    )
    assert max(page.size) <= 700
    assert page.mode == "RGB"
    assert page.getpixel((2, 2)) == PAPER


def test_a_clip_is_a_sheet_of_frames():
    frames = clip(32, 48, frames=5)
    item = Item(Grid(5, 2, 3), frames.times_s, 0, (0, 0, 48, 32))
    p = rows(item)
    layers = layers_of(p, p.keep(torch.tensor([0, 1, 13])), 0)
    assert layers[0].counts == [2, 0, 1, 0, 0]
    page = draw_kept(frames, layers, max_side=900)
    assert max(page.size) <= 900
    bright = light(np.asarray(page))
    assert 0.005 < ((bright > 235) & (bright < 243)).mean() < 0.2
    many = clip(8, 8, frames=100)
    long = rows(Item(Grid(100, 1, 1), many.times_s, 0, (0, 0, 8, 8)))
    assert max(draw_kept(many, layers_of(long, long, 0), max_side=900).size) <= 900


def test_every_row_of_a_clips_frame_is_at_its_own_time():
    """With two frames to a row of time, a row shows the first of them."""
    pixels = np.zeros((4, 16, 16, 3), np.uint8)
    pixels[2] = 250
    moving = Clip(pixels, (0.0, 1.0, 2.0, 3.0), "m.mp4", is_video=True)
    p = rows(Item(Grid(2, 1, 1), (0.0, 2.0), 0, (0, 0, 16, 16)))
    page = np.asarray(draw_kept(moving, layers_of(p, p.keep(torch.tensor([1])), 0)))
    assert (page == 250).all(axis=2).sum() > 1000


def test_what_cannot_be_drawn_is_refused():
    p = rows(WHOLE)
    with pytest.raises(ShapeError, match="no picture 3"):
        layers_of(p, p, 3)
    far = rows(Item(Grid(1, 1, 1), (0.0,), 0, (900, 900, 950, 950)))
    with pytest.raises(ShapeError, match="no part of"):
        draw_kept(clip(), layers_of(far, far, 0))
    with pytest.raises(ShapeError, match="at least"):
        draw_kept(clip(), layers_of(p, p, 0), max_side=100)


def test_counts_are_those_of_each_frame():
    mask = np.zeros((2, 2, 2), bool)
    mask[1] = True
    assert ViewLayer(Item.of(2, 2, 2), mask).counts == [0, 4]
