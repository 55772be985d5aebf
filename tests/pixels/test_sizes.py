"""Size rules against the real transformers, the recorded upstream tables, and what the corrected rules promise."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tubelet.errors import ConfigError, InputError, LimitError, ShapeError
from tubelet.packed import Grid
from tubelet.pixels.fit import Fit, box_of, fit, grid_of
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.sizes import (
    anyres,
    best_pinpoint,
    frame_budget_compat,
    longest_side,
    naflex,
    native_floor,
    native_round,
    ov2_smart_resize,
    shortest_side,
    smart_resize,
    smart_resize_compat,
)

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "onevision" / "open"
QWEN = PixelRecipe(patch=14, rule="smart_compat", temporal=2, merge=2, order="block")


def random_sides(rng: random.Random) -> tuple[int, int]:
    """Sides of every kind: tiny, usual, long, next to multiples of the units in use."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randint(1, 60), rng.randint(1, 60)
    if kind == 1:
        return rng.randint(1, 6000), rng.randint(1, 6000)
    if kind == 2:
        short = rng.randint(1, 90)
        return short, min(65_535, short * rng.randint(1, 210) + rng.randint(0, 5))
    return 28 * rng.randint(1, 150) + rng.randint(-1, 1), 14 * rng.randint(1, 300) + rng.choice([-1, 0, 1, 7])


def test_compat_equals_transformers_on_thousands_of_sizes() -> None:
    upstream = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    rng = random.Random(5)
    refused = above = 0
    for _ in range(6000):
        height, width = random_sides(rng)
        if rng.random() < 0.5:
            height, width = width, height
        factor = rng.choice([14, 16, 28, 32, 42])
        low = rng.choice([0, 1, 784, 3136, 100_352, 1_000_000])
        high = rng.choice([784, 15_680, 100_352, 1_003_520, 12_845_056])
        try:
            expected = upstream(height, width, factor, low, high)
        except ValueError:
            refused += 1
            with pytest.raises(LimitError) as caught:
                smart_resize_compat(height, width, factor, low, high)
            assert caught.value.limit == 200
            assert caught.value.got > 200
            continue
        assert smart_resize_compat(height, width, factor, low, high) == expected, (height, width, factor, low, high)
        above += expected[0] * expected[1] > high
    assert refused > 50
    assert above > 50  # the lapse is copied


def test_compat_has_transformers_defaults() -> None:
    upstream = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    for height, width in [(1, 1), (480, 640), (3024, 4032), (9000, 9000), (27, 27), (31, 639)]:
        assert smart_resize_compat(height, width) == upstream(height, width)
        assert (fit(height, width, QWEN).height, fit(height, width, QWEN).width) == upstream(height, width)


@pytest.mark.parametrize("sides", [(0, 10), (10, 0), (-3, 5)])
def test_a_picture_without_pixels_is_a_shape_error(sides: tuple[int, int]) -> None:
    for rule in (smart_resize_compat, lambda h, w: smart_resize(h, w, 28), lambda h, w: native_floor(h, w, 14)):
        with pytest.raises(ShapeError):
            rule(*sides)
    with pytest.raises(ShapeError):
        fit(*sides, QWEN)


def test_compat_zero_side_is_copied_by_the_function_and_refused_by_fit() -> None:
    assert smart_resize_compat(10, 1500, 28, 0, 10**7) == (0, 1512)
    with pytest.raises(ShapeError, match="size of 1512 x 0"):
        fit(10, 1500, PixelRecipe(patch=14, rule="smart_compat", merge=2, min_pixels=0))


# ---- clips


def test_frame_budget_equals_transformers_video_processor() -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.video_processing_qwen2_vl")
    rng = random.Random(7)
    for _ in range(40):
        height, width, frames = rng.randint(30, 400), rng.randint(30, 400), rng.randint(1, 40)
        tokens = rng.choice([60, 400, 3000])
        low, high = rng.choice([(3136, 50_176), (784, 602_112), (12_544, 100_352)])
        processor = module.Qwen2VLVideoProcessor(
            size={"shortest_edge": low, "longest_edge": high}, cap_pixels_per_frame=True, max_video_tokens=tokens
        )
        clip = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
        grid = processor(clip, return_tensors="pt")["video_grid_thw"][0].tolist()
        recipe = PixelRecipe(
            patch=14,
            rule="smart_compat",
            temporal=2,
            merge=2,
            min_pixels=low,
            max_pixels=high,
            max_video_pixels=int(tokens * 28 * 28 * 0.9),
        )
        assert list(grid_of(height, width, frames, recipe)) == grid


def test_without_a_clip_budget_frames_do_not_count() -> None:
    one, many = fit(720, 1280, QWEN, 1), fit(720, 1280, QWEN, 500)
    assert one == many
    assert frame_budget_compat(10, 2, 10**9, 100, 5000) == 5000


def test_a_clip_budget_is_never_passed_by_smart() -> None:
    rng = random.Random(3)
    for rule in ("smart", "native_floor"):
        for _ in range(1000):
            height, width = random_sides(rng)
            frames, temporal = rng.randint(1, 300), rng.choice([1, 2, 3])
            recipe = PixelRecipe(
                patch=14, rule=rule, temporal=temporal, merge=2, max_pixels=10**6, max_video_pixels=3 * 10**5
            )
            size = fit(height, width, recipe, frames)
            assert -(-frames // temporal) * size.height * size.width <= 3 * 10**5
            assert size.height * size.width <= 10**6


def test_a_clip_too_long_for_its_budget_is_refused_with_numbers() -> None:
    recipe = PixelRecipe(patch=14, rule="smart", merge=2, max_video_pixels=10_000)
    with pytest.raises(LimitError, match="13 rows of time") as caught:
        fit(100, 100, recipe, 13)
    assert caught.value.limit == 10_000
    assert caught.value.got == 13 * 784


# ---- the corrected rules


def test_smart_equals_compat_inside_the_budget() -> None:
    rng = random.Random(11)
    same = 0
    for _ in range(3000):
        height, width = random_sides(rng)
        rounded = round(height / 28) * round(width / 28) * 784
        if 3136 <= rounded <= 1_003_520 and max(height, width) <= 200 * min(height, width):
            compat = smart_resize_compat(height, width, 28, 3136, 1_003_520)
            assert smart_resize(height, width, 28, 3136, 1_003_520) == compat
            same += 1
    assert same > 500


@pytest.mark.parametrize(("sides", "high"), [((31, 639), 20 * 784), ((639, 31), 20 * 784), ((1, 65_535), 100_000)])
def test_smart_keeps_its_promise_where_others_break(sides: tuple[int, int], high: int) -> None:
    height, width = smart_resize(*sides, 28, 0, high)
    assert height >= 28
    assert width >= 28
    assert height * width <= high


def test_smart_prefers_the_ratio_among_neighbouring_multiples() -> None:
    # 3:2 at 100 units: exact sides 12.25 x 8.16; (12, 8) is exactly 3:2
    assert smart_resize(3000, 2000, 28, None, 100 * 784) == (12 * 28, 8 * 28)
    # growing to 7 units at 2:1: exact 3.74 x 1.87; only 4 x 2 is above 7
    assert smart_resize(56, 28, 28, 7 * 784, None) == (4 * 28, 2 * 28)


def test_a_budget_below_one_unit_is_refused() -> None:
    with pytest.raises(LimitError):
        smart_resize(100, 100, 28, None, 783)
    with pytest.raises(ConfigError):
        PixelRecipe(patch=14, rule="smart", min_pixels=10, max_pixels=9)
    with pytest.raises(ConfigError):
        PixelRecipe(patch=14, rule="square", size=13)


@pytest.mark.parametrize("rule", ["native_floor", "smart", "smart_compat"])
@pytest.mark.parametrize("side", [1, 2, 13, 14, 27])
def test_tiny_pictures_get_at_least_one_merged_patch(rule: str, side: int) -> None:
    recipe = PixelRecipe(patch=14, rule=rule, merge=2)
    grid = grid_of(side, side, 1, recipe)
    assert grid.h >= 2
    assert grid.w >= 2
    assert grid.h % 2 == grid.w % 2 == 0


# ---- fixed sizes


def test_shortest_crop_takes_the_middle() -> None:
    recipe = PixelRecipe(patch=14, rule="shortest_crop", size=56)
    assert fit(50, 75, recipe) == Fit(56, 84, (14, 0, 70, 56), 56, 56)
    assert fit(75, 50, recipe) == Fit(84, 56, (0, 14, 56, 70), 56, 56)
    assert fit(64, 64, recipe) == Fit(56, 56, None, 56, 56)
    assert box_of(50, 75, fit(50, 75, recipe)) == pytest.approx((12.5, 0, 62.5, 50))


def test_pixels_that_do_not_fill_a_unit_are_left_out() -> None:
    assert fit(400, 300, PixelRecipe(patch=14, rule="square", size=384)) == Fit(384, 384, (0, 0, 378, 378), 378, 378)
    crop = fit(384, 484, PixelRecipe(patch=14, rule="shortest_crop", size=384))
    assert crop == Fit(384, 484, (50, 0, 428, 378), 378, 378)
    assert box_of(384, 484, crop) == (50.0, 0.0, 428.0, 378.0)


def test_shortest_side_equals_transformers() -> None:
    upstream = pytest.importorskip("transformers.image_transforms").get_resize_output_image_size
    rng = random.Random(2)
    for _ in range(500):
        height, width = random_sides(rng)
        size = rng.choice([56, 224, 336, 448])
        picture = np.broadcast_to(np.uint8(0), (height, width, 3))  # no memory behind it
        expected = upstream(picture, size, default_to_square=False, input_data_format="channels_last")
        assert shortest_side(height, width, size) == expected


def test_a_crop_may_be_cut_from_a_larger_side() -> None:
    recipe = PixelRecipe(patch=14, rule="shortest_crop", size=224, shortest=256)
    assert fit(480, 640, recipe) == Fit(256, 341, (58, 16, 282, 240), 224, 224)
    assert fit(300, 300, recipe) == Fit(256, 256, (16, 16, 240, 240), 224, 224)
    with pytest.raises(ConfigError, match="shortest"):
        PixelRecipe(patch=14, rule="shortest_crop", size=224, shortest=223)
    with pytest.raises(ConfigError, match="shortest"):
        PixelRecipe(patch=14, rule="square", size=224, shortest=256)


def test_longest_side_equals_transformers_on_thousands_of_sizes() -> None:
    module = pytest.importorskip("transformers.models.pixtral.image_processing_pixtral")
    rng = random.Random(13)
    vanished = 0
    for _ in range(3000):
        height, width = random_sides(rng)
        size, unit = rng.choice([1024, 1540, 100, 64]), rng.choice([14, 16, 28, 32])
        picture = np.broadcast_to(np.uint8(0), (height, width, 3))
        expected = module.get_resize_output_image_size(picture, size, unit, input_data_format="channels_last")
        got = longest_side(height, width, unit, size)
        assert max(got) <= math.ceil(size / unit) * unit
        if 0 in expected:  # upstream's resize fails there
            expected = (max(unit, expected[0]), max(unit, expected[1]))
            vanished += 1
        assert got == expected, (height, width, size, unit)
    assert vanished > 5
    assert fit(33, 40, PixelRecipe(patch=16, rule="longest_side", size=1024)) == Fit(48, 48, None, 48, 48)


def test_naflex_equals_transformers_on_thousands_of_sizes() -> None:
    module = pytest.importorskip("transformers.models.siglip2.image_processing_siglip2")
    rng = random.Random(17)
    for _ in range(3000):
        height, width = random_sides(rng)
        patch, most = rng.choice([14, 16, 32]), rng.choice([1, 2, 64, 256, 576, 1024])
        expected = module.get_image_size_for_max_num_patches(height, width, patch, most)
        assert naflex(height, width, patch, most * patch * patch) == expected, (height, width, patch, most)
        assert expected[0] * expected[1] <= most * patch * patch


def test_native_crop_leaves_pixels_as_they_are() -> None:
    recipe = PixelRecipe(patch=14, rule="native_crop")
    assert fit(50, 75, recipe) == Fit(50, 75, (0, 0, 70, 42), 42, 70)
    assert fit(42, 70, recipe) == Fit(42, 70, None, 42, 70)
    assert box_of(50, 75, fit(50, 75, recipe)) == (0.0, 0.0, 70.0, 42.0)
    with pytest.raises(ShapeError, match="does not fill one unit"):
        fit(13, 500, recipe)


def test_naflex_fills_its_budget_and_needs_one() -> None:
    recipe = PixelRecipe(patch=16, rule="naflex", max_pixels=256 * 16 * 16 + 255)
    assert grid_of(480, 640, 3, recipe) == Grid(3, 14, 18)
    assert grid_of(30, 40, 1, recipe) == Grid(1, 14, 18)  # small pictures grow
    assert grid_of(1, 1, 1, recipe) == Grid(1, 7, 7)  # but not more than a hundred times
    with pytest.raises(ConfigError, match="max_pixels"):
        PixelRecipe(patch=16, rule="naflex")
    with pytest.raises(LimitError):
        naflex(10, 10, 16, 255)


# ---- the recorded tables of other rules


def golden(name: str) -> dict[str, torch.Tensor]:
    path = GOLDEN / f"{name}.safetensors"
    if not path.exists():
        pytest.skip("the golden cases are not beside this checkout")
    assert json.loads(path.with_suffix(".json").read_text())["case"] == name
    return load_file(str(path))


def test_ov2_sizes_equal_the_recorded_table() -> None:
    for h, w, align, low, high, h2, w2 in golden("ov2_tables")["output.smart_resize"].tolist():
        assert ov2_smart_resize(h, w, align, low or None, high or None) == (h2, w2)


def test_native_round_lifts_a_side_before_it_counts() -> None:
    assert native_round(50, 75, 14) == (56, 70)  # as recorded in preprocess_clip_llava
    assert native_round(64, 64, 14) == (70, 70)
    assert native_round(3, 400, 14) == (14, 406)
    assert native_round(3000, 3000, 14) == (1596, 1596)
    with pytest.raises(LimitError):
        native_round(1, 201, 14)


def test_best_pinpoint_shows_most_and_wastes_least() -> None:
    pinpoints = [(56, 112), (112, 56), (112, 112)]
    assert best_pinpoint(50, 75, pinpoints) == (56, 112)
    assert best_pinpoint(64, 64, pinpoints) == (112, 112)
    assert best_pinpoint(10, 10, pinpoints) == (56, 112)  # all show it whole: the least waste, then the first
    with pytest.raises(InputError):
        best_pinpoint(10, 10, [])


def test_anyres_centres_the_picture() -> None:
    pad = anyres(50, 75, [(56, 112), (112, 56), (112, 112)])
    assert pad == (56, 85, 0, 13, 56, 112)  # 75 x 1.12 is 84.00000000000001, rounded up: upstream's own arithmetic


def test_grid_counts_missing_frames() -> None:
    recipe = PixelRecipe(patch=16, temporal=4)
    assert grid_of(64, 48, 9, recipe) == Grid(3, 4, 3)
    assert all(grid_of(64, 48, f, recipe).t == math.ceil(f / 4) for f in range(1, 30))
    with pytest.raises(ShapeError):
        grid_of(64, 48, 0, recipe)
