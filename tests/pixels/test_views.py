"""Views as pixels: upstream's own, a slow twin with Pillow, and laws of tiles, boxes and blank cells."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pixels.pillow_views import views_by_pillow

import tubelet
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Packed, concat
from tubelet.pixels.patchify import patchify, unpatchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views import LAVIDA, PageCrops, Pyramid, View, ViewRule, Views, views_of
from tubelet.reading.clip import Clip
from tubelet.reduce.blank import blank_rows

SMALL = ViewRule(16, ((16, 32), (32, 16), (32, 32), (48, 16), (16, 48)))
RULES: tuple[Views, ...] = (
    SMALL,
    Pyramid(((32, 16), (32, 32))),
    Pyramid(((16, 16), (48, 16)), shape="squash"),
    PageCrops(16),
    PageCrops(16, overlap=0.4, most=5),
    PageCrops(16, overlap=0.25, most=2, whole=False),
)
LAWS = settings(deadline=None, max_examples=60)
sides = st.integers(1, 120)


def noise(height: int, width: int, frames: int = 1, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(pixels, tuple(i / 2 for i in range(frames)), source=f"noise {seed}", is_video=frames > 1)


def pictures(p: Packed, recipe: PixelRecipe) -> list[np.ndarray]:
    return [frames[0].numpy() for frames in unpatchify(p, recipe)]


# ---- pixels


@LAWS
@given(sides, sides)
def test_any_resolution_equals_pillow_step_by_step(height: int, width: int):
    recipe = PixelRecipe(4, resampler="pillow")
    clip = noise(height, width)
    got = pictures(patchify([clip], recipe, views=SMALL), recipe)
    expected, _ = views_by_pillow(clip.frames[0], 16, SMALL.pinpoints)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_every_view_is_its_rectangle_of_a_canvas_drawn_whole(rule: Views):
    recipe = PixelRecipe(4)
    clip = noise(53, 31)
    for view, got in zip(rule.views(53, 31), pictures(patchify([clip], recipe, views=rule), recipe), strict=True):
        pad = view.pad
        planes = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        small = torch.nn.functional.interpolate(planes, (pad.resize_h, pad.resize_w), mode="bicubic", antialias=True)
        canvas = np.zeros((pad.height, pad.width, 3), np.uint8)
        canvas[pad.top : pad.top + pad.resize_h, pad.left : pad.left + pad.resize_w] = small[0].permute(1, 2, 0).numpy()
        assert np.array_equal(got, canvas[view.top : view.top + view.height, view.left : view.left + view.width])


# ---- laws


def tiles(rule: Views, height: int, width: int) -> list[list[View]]:
    """Views that together make one canvas, canvas by canvas."""
    by_canvas: dict[tuple[object, int], list[View]] = {}
    for view in rule.views(height, width):
        by_canvas.setdefault((view.pad, view.width), []).append(view)
    return list(by_canvas.values())


@LAWS
@given(sides, sides, st.sampled_from(RULES))
def test_tiles_cover_their_canvas_once_and_crops_at_least_once(height: int, width: int, rule: Views):
    for views in tiles(rule, height, width):
        pad = views[0].pad
        count = np.zeros((pad.height, pad.width), int)
        for v in views:
            assert v.top + v.height <= pad.height and v.left + v.width <= pad.width
            count[v.top : v.top + v.height, v.left : v.left + v.width] += 1
        if isinstance(rule, PageCrops):
            assert count.min() >= 1
        else:
            assert count.min() == count.max() == 1


@LAWS
@given(sides, sides, st.sampled_from(RULES))
def test_cells_that_show_none_of_the_picture_are_blank_and_no_others(height: int, width: int, rule: Views):
    recipe = PixelRecipe(4)
    clip = Clip(np.full((1, height, width, 3), 255, np.uint8), (0.0,))
    p = patchify([clip], recipe, views=rule).check()
    # a white picture on black: a cell shows some of it exactly where it is not black
    assert torch.equal(blank_rows(p), (p.x == 0).all(dim=1))
    for item in p.items:
        assert item.content == (0, 0, width, height) and item.picture == 0


@LAWS
@given(sides, sides, st.sampled_from(RULES))
def test_a_box_says_where_in_the_picture_a_view_lies(height: int, width: int, rule: Views):
    """Drawn on a ramp, each cell shows the values that lie at its place in the picture."""
    recipe = PixelRecipe(4, interpolation="bilinear")
    x, y = np.linspace(20, 220, width), np.linspace(20, 220, height)
    ramp = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 200.0), axis=-1).round().astype(np.uint8)
    p = patchify([Clip(ramp[None], (0.0,))], recipe, views=rule)
    for item, pixels in zip(p.items, pictures(p, recipe), strict=True):
        left, top, right, bottom = item.box
        n_h, n_w = pixels.shape[:2]
        px = left + (np.arange(n_w) + 0.5) * (right - left) / n_w
        py = top + (np.arange(n_h) + 0.5) * (bottom - top) / n_h
        inside = ((py >= 0) & (py < height))[:, None] & ((px >= 0) & (px < width))[None, :]
        inside &= pixels[..., 2] > 190  # at the border a half pixel is black
        step_x, step_y = 200 / max(1, width - 1), 200 / max(1, height - 1)
        want_x = np.clip(20 + (px - 0.5) * step_x, 20, 220)
        want_y = np.clip(20 + (py - 0.5) * step_y, 20, 220)
        if width > 1:
            assert np.abs(pixels[..., 0] - want_x[None, :])[inside].max(initial=0) < 0.5 * step_x + 6
        if height > 1:
            assert np.abs(pixels[..., 1] - want_y[:, None])[inside].max(initial=0) < 0.5 * step_y + 6


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("recipe", [PixelRecipe(4), PixelRecipe(4, temporal=2, merge=2, order="block")])
def test_packed_views_equal_one_picture_at_a_time(rule: Views, recipe: PixelRecipe):
    clips = [noise(40, 30, seed=1), noise(9, 70, seed=2), noise(24, 24, frames=3, seed=3), noise(16, 16, seed=4)]
    together = patchify(clips, recipe, views=rule)
    alone = [patchify([clip], recipe, views=rule) for clip in clips]
    assert together.equal(concat(alone))
    assert [i.picture for i in together.items] == [n for n, p in enumerate(alone) for _ in p.items]


@pytest.mark.parametrize("rule", RULES)
def test_a_clip_has_one_view_of_each_frame(rule: Views):
    p = patchify([noise(20, 40, frames=3)], PixelRecipe(4), views=rule)
    assert len(p) == 1 and p.items[0].grid.t == 3 and p.items[0].times_s == (0.0, 0.5, 1.0)
    [view] = views_of(20, 40, 3, rule)
    assert view == rule.glance(20, 40)


@LAWS
@given(sides, sides, st.integers(8, 24), st.floats(0, 0.9), st.integers(1, 8))
def test_crops_overlap_enough_run_to_the_end_and_are_not_too_many(h: int, w: int, tile: int, overlap: float, most: int):
    rule = PageCrops(tile, overlap, most)
    views = [v for v in rule.views(h, w) if v.name.startswith("crop")]
    starts = [max(v.top, v.left) for v in views]
    assert 1 <= len(views) <= most
    assert starts[0] == 0 and starts[-1] + tile == max(views[0].pad.height, views[0].pad.width)
    for a, b in pairwise(starts):
        assert 0 < b - a <= max(1, int(tile * (1 - overlap)))
    whole = [v for v in rule.views(h, w) if not v.name.startswith("crop")]
    assert len(whole) == (len(views) > 1)


def test_a_pyramid_of_four_tiles_and_a_whole_view():
    rule = Pyramid(((672, 336), (672, 672)))
    p = patchify([noise(60, 80)], PixelRecipe(14), views=rule)
    assert p.lengths == (576, 576, 576, 576, 2304) and sum(p.lengths) == 4608
    assert [v.name for v in rule.views(60, 80)] == [
        *("672 tile 0,0", "672 tile 0,1", "672 tile 1,0", "672 tile 1,1", "672")
    ]
    assert len({tuple(x.flatten().tolist()) for x in p.x.split(p.lengths)[:4]}) == 4  # no two tiles are the same


# ---- the recorded run upstream, and the door


def test_recorded_sizes_of_views_are_upstreams():
    path = Path(__file__).parents[1] / "golden" / "shirg" / "lavida_best_resolution.json"
    pinpoints = json.loads(path.read_text(encoding="utf-8"))["params"]["grid_pinpoints"]
    assert sorted((h, w) for w, h in pinpoints) == sorted(LAVIDA.pinpoints)


def test_the_door_takes_what_read_gives(tmp_path: Path):
    Image.fromarray(noise(30, 50).frames[0]).save(tmp_path / "a.png")
    p = tubelet.patchify(tubelet.read([tmp_path / "a.png"]), PixelRecipe(14), views=tubelet.pixels.views.LAVIDA)
    assert p.lengths == (729,) * len(LAVIDA.views(30, 50))
    file = tmp_path / "views.safetensors"
    p.save(file)
    assert Packed.load(file).equal(p)


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Pyramid(()),
        lambda: Pyramid(((672, 300),)),
        lambda: Pyramid(((16, 32),)),
        lambda: Pyramid(((16, 16),), shape="stretch"),  # pyright: ignore[reportArgumentType]
        lambda: PageCrops(0),
        lambda: PageCrops(16, overlap=1.0),
        lambda: PageCrops(16, overlap=-0.1),
        lambda: PageCrops(16, most=0),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_a_view_smaller_than_a_unit_names_its_picture():
    with pytest.raises(ShapeError) as caught:
        patchify([noise(8, 8), noise(8, 8)], PixelRecipe(14, merge=2), views=SMALL)
    assert caught.value.item == 0 and caught.value.limit == 28
    for rule in RULES:
        with pytest.raises(ShapeError):
            rule.views(0, 5)
        with pytest.raises(ShapeError):
            rule.glance(5, 0)
