"""A plan's counts are those of the code that runs, and what fits is the last that fits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from budget_cases import build, rows_of
from tubelet import load_patches, patchify, plan
from tubelet.budget import LANGUAGE, VGGT, After, Input, inputs_of, projector_bytes
from tubelet.budget_fit import Fitted, fit_budget, largest, scaled
from tubelet.budget_flops import projector_flop, projector_layers, projector_parameters
from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.errors import ConfigError, InputError, LimitError, ShapeError
from tubelet.families.onevision import VARIANTS
from tubelet.grid import Grid
from tubelet.limits import Limits
from tubelet.pixels.recipe import RULES, SIZED, PixelRecipe, Rule
from tubelet.read.clip import Clip

EXAMPLES = Path(__file__).parents[1] / "examples"
QWEN = PixelRecipe(14, temporal=2, merge=2, order="block", rule="smart", min_pixels=293_216, max_pixels=324_576)


def shapes(p: object) -> dict[str, tuple[int | None, ...]]:
    return {s.name: s.shape for s in p.stages}  # pyright: ignore[reportAttributeAccessIssue]


# ---- a known run: 16 frames of 640 x 480, Qwen2.5-VL-3B beside VGGT


def test_the_known_run_comes_out_exactly():
    p = plan([Input(640, 480, 16)], QWEN, After(space=2, llm=LANGUAGE["qwen2.5-3b"], aggregator=VGGT, width=512))
    assert shapes(p) == {
        "frames": (16, 3, 476, 644),
        "patches": (12512, 1176),
        "merged": (3128, 2048),
        "projected": (3128, 2048),
        "aggregator": (16, 1569, 2048),
        "connector input": (3128, 16384),
    }
    assert (p.grids, p.tokens, p.items[0].merged) == ((Grid(8, 34, 46),), 3128, Grid(8, 17, 23))


def test_frames_of_that_size_stay_as_they_are():
    p = plan([(644, 476, 16)], PixelRecipe(14, temporal=2, merge=2, order="block"))
    assert shapes(p) == {"frames": (16, 3, 476, 644), "patches": (12512, 1176)}


@pytest.mark.parametrize(("width", "merged"), [(None, None), (1024, 8192), (2048, 16384)])
def test_features_of_single_frames_merge_to_eight_times_their_width(width: int | None, merged: int | None):
    p = plan([(644, 476, 16)], PixelRecipe(14, merge=2, order="block"), After(space=2, time=2, width=width))
    assert p.stages[-1].shape == (3128, merged)
    assert p.stages[-1].shape_text == ("3,128 x 8 D" if merged is None else f"3,128 x {merged:,}")


# ---- counts against the code


@st.composite
def recipes(draw: st.DrawFn) -> PixelRecipe:
    rule: Rule = draw(st.sampled_from(RULES))
    patch, merge = draw(st.sampled_from((4, 7, 8))), draw(st.sampled_from((1, 2)))
    low, high = draw(st.sampled_from(((None, None), (500, 4000), (None, 2500))))
    if rule in ("smart_compat", "smart_clip_compat", "naflex"):
        low, high = 500, 4000
    clip = draw(st.sampled_from((9000,) if rule == "smart_clip_compat" else (None, 9000)))
    return PixelRecipe(
        patch,
        rule,
        temporal=draw(st.sampled_from((1, 2, 3))),
        merge=merge,
        order=draw(st.sampled_from(("raster", "block"))),
        size=draw(st.sampled_from((32, 45))) if rule in SIZED else None,
        min_pixels=low,
        max_pixels=high,
        max_video_pixels=clip,
    )


@given(
    recipe=recipes(),
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90), st.integers(1, 5)), min_size=1, max_size=3),
)
@settings(max_examples=80, deadline=None)
def test_predicted_patches_are_the_real_ones(recipe: PixelRecipe, sizes: list[tuple[int, int, int]]):
    clips = [Clip(np.zeros((f, h, w, 3), np.uint8), tuple(map(float, range(f)))) for w, h, f in sizes]
    try:
        packed = patchify(clips, recipe)
    except InputError as e:
        with pytest.raises(type(e)) as refused:
            plan(sizes, recipe)
        assert refused.value.item == e.item
        return
    p = plan(sizes, recipe)
    assert p.grids == tuple(i.grid for i in packed.items)
    assert (p.patches, recipe.width) == tuple(packed.x.shape) == shapes(p)["patches"]


@pytest.mark.parametrize("space", [1, 2])
def test_predicted_tokens_are_those_of_the_encoder(space: int):
    recipe = PixelRecipe(8, temporal=2, merge=2, order="block")
    merger = Merger(2, 48) if space == 2 else None
    config = EncoderConfig(64, 1, 2, 96, recipe, merger=merger)
    p = plan([(70, 50, 3), (33, 90)], config)
    tokens = build(config)(rows_of(config, list(p.grids)))
    assert (p.tokens, config.out) == tuple(tokens.x.shape) == p.stages[-1].shape
    assert tuple(i.merged for i in p.items) == tuple(i.grid for i in tokens.items)


def test_files_are_planned_by_their_headers_as_they_are_read():
    files = [EXAMPLES / "receipt.png", EXAMPLES / "walk.mp4"]
    recipe = VARIANTS["llava_vit_packing_small"].pixels
    for rule in ({"fps": 2.0}, {"num_frames": 5}, {"times_s": (0.0, 1.5)}):
        p = plan(inputs_of(files, **rule), recipe)
        real = load_patches(files, recipe, **rule).packed
        assert p.grids == tuple(i.grid for i in real.items)


def test_a_file_that_cannot_be_planned_is_named(tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError) as e:
        inputs_of([EXAMPLES / "receipt.png", broken])
    assert (e.value.item, e.value.source) == (1, str(broken))


# ---- what follows the encoder


def test_selection_cache_and_positions():
    after = After(select=100, llm=LANGUAGE["qwen2.5-7b"])
    p = plan([(448, 448), (64, 64, 9)], VARIANTS["llava_vit_packing_small"], after)
    assert [i.tokens for i in p.items] == [100, 100]
    assert p.kv_bytes() == 2 * 28 * 4 * 128 * 200 * 2
    assert [i.extent for i in p.items] == [28, 9]
    assert plan([(64, 64, 9)], PixelRecipe(16), After(step=2.5)).extent == 21  # trunc(8 x 2.5) + 1
    assert p.stages[-1].shape == (200, 3584)
    assert p.stages[-1].flop == projector_flop("mlp2x_gelu", 200, 384, 3584) == 2 * 200 * (384 + 3584) * 3584
    assert projector_bytes(p) == 4 * projector_parameters("mlp2x_gelu", 384, 3584)


def test_a_projector_of_another_kind_is_refused():
    with pytest.raises(ConfigError):
        projector_layers("mlp0x_gelu", 4, 4)
    assert projector_layers("identity", 4, 8) == []


def test_a_merge_that_does_not_divide_is_refused_with_the_item():
    with pytest.raises(ShapeError) as e:
        plan([(28, 28), (28, 42)], PixelRecipe(14), After(space=2))
    assert e.value.item == 1


def test_cache_sizes_are_those_of_the_models_configurations():
    """Two tensors (keys and values) of one row of heads a token in each layer."""
    for shape in LANGUAGE.values():
        one = torch.zeros(1, shape.kv_heads, 10, shape.head_dim, dtype=torch.bfloat16)
        assert shape.kv_bytes(10) == 2 * shape.layers * one.numel() * one.element_size()


# ---- refusal


def test_a_plan_over_a_ceiling_is_refused_with_itself():
    p = plan([(448, 448)], VARIANTS["llava_vit_packing_small"])
    assert p.check(max_tokens=784, max_memory_bytes=p.memory().total_bytes) is p
    with pytest.raises(LimitError) as e:
        p.check(max_tokens=783)
    assert (e.value.limit, e.value.got, e.value.plan["tokens"]) == (783, 784, 784)
    with pytest.raises(LimitError, match="max_memory_bytes"):
        p.check(max_memory_bytes=p.memory().total_bytes - 1)


def test_a_read_over_the_budget_is_refused_before_rows_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "wide.png"
    Image.new("RGB", (640, 320)).save(file)

    def never(*args: object) -> None:
        raise AssertionError("rows were allocated")

    monkeypatch.setattr("tubelet.pixels.load.empty_rows", never)
    with pytest.raises(LimitError) as e:
        load_patches([file, EXAMPLES / "receipt.png"], PixelRecipe(16), limits=Limits(max_tokens=1000))
    assert "640 x 320 -> 1 x 20 x 40 = 800 rows" in e.value.message
    assert (e.value.plan[0]["grid"], e.value.plan[0]["patches"]) == ([1, 20, 40], 800)
    assert e.value.as_dict()["plan"] == e.value.plan


# ---- the inverse


@given(
    width=st.integers(20, 2000),
    height=st.integers(20, 2000),
    merge=st.sampled_from((1, 2)),
    budget=st.integers(1, 5000),
)
@settings(max_examples=40, deadline=None)
def test_what_fits_in_tokens_fits_and_one_more_does_not(width: int, height: int, merge: int, budget: int):
    recipe, after = PixelRecipe(14, temporal=2, merge=merge, order="block"), After(space=merge)
    one = Input(width, height, 4, duration_s=2.0)
    found = fit_budget(one, recipe, after, max_tokens=budget)
    if found.size is not None:
        w, h = found.size
        assert plan(Input(w, h, 4), recipe, after).tokens <= budget
        units = max(w, h) // (recipe.unit * after.space)
        assert scaled(one, recipe, after, units) == Input(w, h, 4, duration_s=2.0)
        assert plan(scaled(one, recipe, after, units + 1), recipe, after).tokens > budget
    if found.frames is not None:
        assert found.fps == found.frames / 2.0
        assert plan(Input(width, height, found.frames), recipe, after).tokens <= budget
        assert plan(Input(width, height, found.frames + 2), recipe, after).tokens > budget
    else:
        assert plan(Input(width, height, 2), recipe, after).tokens > budget


def test_what_fits_in_memory_fits_and_one_more_does_not():
    config = VARIANTS["llava_vit_packing_small"]
    one, budget = Input(640, 480), 400 * 2**20
    found = fit_budget(one, config, max_memory_bytes=budget)
    assert found.size is not None and found.frames is not None
    for size, frames, fits in (
        (found.size, 1, True),
        ((640, 480), found.frames, True),
        ((640, 480), found.frames + 1, False),
    ):
        assert (plan(Input(*size, frames), config).memory().total_bytes <= budget) is fits


def test_what_never_fits_is_said():
    assert fit_budget(Input(640, 480), PixelRecipe(14, "square", size=448), max_tokens=10) == Fitted(
        Input(640, 480), None, None, None
    )
    with pytest.raises(ConfigError):
        fit_budget(Input(640, 480), PixelRecipe(14))
    assert largest(lambda n: True, 37) == 37
