"""A plan's counts are those of the code that runs, and what fits is the last that fits."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from tests.inspect.budget.budget_cases import build, rows_of

from tubelet import load_patches, patchify, plan, read
from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.errors import ConfigError, CountedInput, InputError, LimitError, ShapeError
from tubelet.families.onevision import VARIANTS
from tubelet.geometry.vggt import VGGT_1B
from tubelet.inspect.budget.fit import Fitted, fit_budget, largest, scaled
from tubelet.inspect.budget.flops import projector_flop, projector_layers, projector_parameters
from tubelet.inspect.budget.inputs import Input, inputs_of_files
from tubelet.inspect.budget.networks import LANGUAGE
from tubelet.inspect.budget.values import Downstream
from tubelet.packed.grid import Grid
from tubelet.pixels import load, load_one
from tubelet.pixels.recipe import RULES, SIZED, PixelRecipe, Rule
from tubelet.pixels.views import PageCrops, Pyramid, Views, views_of
from tubelet.pixels.views_plan import LAVIDA, Joining, Pool, ViewRule
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reduce.join import join_views, pooled_views

EXAMPLES = Path(__file__).parents[3] / "examples"
QWEN = PixelRecipe(14, temporal=2, merge=2, order="block", rule="smart", min_pixels=293_216, max_pixels=324_576)


def shapes(p: object) -> dict[str, tuple[int | None, ...]]:
    return {s.name: s.shape for s in p.stages}  # pyright: ignore[reportAttributeAccessIssue]


# ---- a known run: 16 frames of 640 x 480, Qwen2.5-VL-3B beside VGGT


VGGT = replace(VGGT_1B, camera=None, depth=None, points=None)


def test_the_known_run_comes_out_exactly():
    p = plan([Input(640, 480, 16)], QWEN, Downstream(space=2, llm=LANGUAGE["qwen2.5-3b"], geometry=VGGT, width=512))
    assert shapes(p) == {
        "frames": (16, 3, 476, 644),
        "patches": (12512, 1176),
        "merged": (3128, 2048),
        "projected": (3128, 2048),
        "geometry patches": (25024, 1024),
        "geometry frame layers": (25104, 1024),
        "geometry scene layers": (25104, 1024),
        "aggregator": (16, 1569, 2048),
        "connector input": (3128, 16384),
        "connector": (3128, 2048),
        "prefill": (3128, 2048),
    }
    assert (p.grids, p.tokens, p.items[0].merged) == ((Grid(8, 34, 46),), 3128, Grid(8, 17, 23))


def test_frames_of_that_size_stay_as_they_are():
    p = plan([(644, 476, 16)], PixelRecipe(14, temporal=2, merge=2, order="block"))
    assert shapes(p) == {"frames": (16, 3, 476, 644), "patches": (12512, 1176)}


@pytest.mark.parametrize(("width", "merged"), [(None, None), (1024, 8192), (2048, 16384)])
def test_features_of_single_frames_merge_to_eight_times_their_width(width: int | None, merged: int | None):
    p = plan([(644, 476, 16)], PixelRecipe(14, merge=2, order="block"), Downstream(space=2, time=2, width=width))
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
    rules: tuple[dict[str, Any], ...] = ({"fps": 2.0}, {"num_frames": 5}, {"times_s": (0.0, 1.5)})
    for rule in rules:
        p = plan(inputs_of_files(files, **rule), recipe)
        real = load_patches(files, recipe, **rule).packed
        assert p.grids == tuple(i.grid for i in real.items)


def test_a_file_that_cannot_be_planned_is_named(tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError) as e:
        inputs_of_files([EXAMPLES / "receipt.png", broken])
    assert (e.value.item, e.value.source) == (1, str(broken))


# ---- what follows the encoder


def test_selection_cache_and_positions():
    after = Downstream(select=100, llm=LANGUAGE["qwen2.5-7b"])
    p = plan([(448, 448), (64, 64, 9)], VARIANTS["llava_vit_packing_small"], after)
    assert [i.tokens for i in p.items] == [100, 100]
    assert p.kv_bytes() == 2 * 28 * 4 * 128 * 200 * 2
    assert [i.extent for i in p.items] == [28, 9]
    assert plan([(64, 64, 9)], PixelRecipe(16), Downstream(step=2.5)).extent == 21  # trunc(8 x 2.5) + 1
    *_, projected, prefill = p.stages
    assert (projected.name, prefill.name, prefill.flop) == (
        "projected",
        "prefill",
        LANGUAGE["qwen2.5-7b"].prefill_flop(200),
    )
    assert projected.shape == prefill.shape == (200, 3584)
    assert projected.flop == projector_flop("mlp2x_gelu", 200, 384, 3584) == 2 * 200 * (384 + 3584) * 3584
    assert p.projector_bytes() == 4 * projector_parameters("mlp2x_gelu", 384, 3584)


def test_a_projector_of_another_kind_is_refused():
    with pytest.raises(ConfigError):
        projector_layers("mlp0x_gelu", 4, 4)
    assert projector_layers("identity", 4, 8) == []


def test_a_merge_that_does_not_divide_is_refused_with_the_item():
    with pytest.raises(ShapeError) as e:
        plan([(28, 28), (28, 42)], PixelRecipe(14), Downstream(space=2))
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
    assert (e.value.limit, e.value.got, e.value.plan.tokens) == (783, 784, 784)
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
    first = e.value.plan.inputs[0]
    assert first == CountedInput(str(file), 640, 320, 1, (1, 20, 40), 800)
    assert e.value.plan.patches == e.value.got == 800 + 2072
    told = e.value.as_dict()["plan"]
    assert json.loads(json.dumps(told))["inputs"][0]["grid"] == [1, 20, 40]
    assert (told["patches"], told["tokens"], len(told["inputs"])) == (2872, None, 2)


def moving(file_format: str) -> bytes:
    """Eight frames of 64 x 48: 12 rows of patch 16 each."""
    made = [Image.fromarray(np.full((48, 64, 3), 30 * i, np.uint8)) for i in range(8)]
    buffer = io.BytesIO()
    made[0].save(buffer, file_format, save_all=True, append_images=made[1:], duration=100)
    return buffer.getvalue()


def inputs_of_every_kind() -> dict[str, tuple[object, int]]:
    """An input and its rows at patch 16: paths, bytes, file objects that seek and that do not, pictures that move."""
    receipt, walk = EXAMPLES / "receipt.png", EXAMPLES / "walk.mp4"
    kinds: dict[str, tuple[object, int]] = {
        "path": (receipt, 2072),
        "clip": (walk, 9 * 480),
        "bytes": (receipt.read_bytes(), 2072),
        "bytes of a clip": (walk.read_bytes(), 9 * 480),
        "file object": (io.BytesIO(walk.read_bytes()), 9 * 480),
        "stream": (Stream(receipt.read_bytes()), 2072),
    }
    return kinds | {f: (moving(f), 8 * 12) for f in ("GIF", "WEBP", "PNG", "AVIF")}


class Stream:
    """A file object that cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1, /) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


@pytest.mark.parametrize("isolate", ["auto", "never"])
@pytest.mark.parametrize("kind", inputs_of_every_kind())
def test_every_kind_of_input_is_counted_before_a_pixel_is_decoded(
    kind: str, isolate: str, monkeypatch: pytest.MonkeyPatch
):
    """No decoder of this process is called, and the child is asked for headers alone."""
    source, rows = inputs_of_every_kind()[kind]
    how: dict[str, Any] = {"animation": True, "isolate": isolate} | ({"fps": 2.0} if rows == 9 * 480 else {})
    called: list[str] = []

    def noting(name: str) -> object:
        def call(*args: object, **options: object) -> None:
            called.append(name)
            raise AssertionError(name)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", noting("picture"))
        patch.setattr(load_one, "isolated_read", noting("child"))
        patch.setattr(load_one, "decode_video", noting("clip"))
        patch.setattr(load, "empty_rows", noting("rows"))
        with pytest.raises(LimitError) as e:
            load_patches([source], PixelRecipe(16), limits=Limits(max_tokens=rows - 1), **how)
    assert (called, e.value.got, e.value.limit) == ([], rows, rows - 1)
    again = inputs_of_every_kind()[kind][0]
    assert len(load_patches([again], PixelRecipe(16), limits=Limits(max_tokens=rows), **how).packed.x) == rows


def test_an_avif_sampled_by_time_is_decoded_only_when_the_rest_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its frame count stands in its frames: it counts as one before, and is refused as soon as it is known."""
    sources = [moving("AVIF"), EXAMPLES / "receipt.png"]
    decoded: list[str] = []
    real = load_one.decode_source
    monkeypatch.setattr(load_one, "decode_source", lambda *args: decoded.append("once") or real(*args))
    for most, count in ((2072 + 11, 0), (2072 + 12 + 11, 1)):
        with pytest.raises(LimitError):
            load_patches(
                sources, PixelRecipe(16), fps=5.0, animation=True, isolate="never", limits=Limits(max_tokens=most)
            )
        assert len(decoded) == count
    with pytest.raises(InputError, match="AVIF"):
        path = tmp_path / "moving.avif"
        path.write_bytes(moving("AVIF"))
        inputs_of_files([path], fps=5.0, animation=True)


def test_animations_are_planned_as_they_are_read(tmp_path: Path):
    for file_format in ("GIF", "WEBP", "PNG"):
        path = tmp_path / f"moving.{file_format}"
        path.write_bytes(moving(file_format))
        rules: tuple[dict[str, Any], ...] = ({}, {"fps": 3.0}, {"num_frames": 2})
        for rule in rules:
            [one] = inputs_of_files([path], animation=True, **rule)
            assert one.frames == len(read(path, animation=True, **rule)[0])


# ---- views


def test_views_of_a_picture():
    after = Downstream(llm=LANGUAGE["llada-8b"])
    p = plan([(1000, 600), (768, 768)], PixelRecipe(14), after, LAVIDA)
    assert p.grids == (Grid(1, 27, 27),) * 10
    assert [i.tokens for i in p.items] == [660, 1008]
    assert p.items[0].views[1] == ("tile 0,0", 112)
    assert shapes(p) == {
        "frames": (10, 3, 378, 378),
        "patches": (7290, 588),
        "projected": (7290, 4096),
        "joined": (1668, 4096),
        "prefill": (1668, 4096),
    }
    assert p.extent == p.tokens == 1668
    assert p.as_dict()["items"][0]["patches"] == 3645


def test_all_tokens_of_five_views_and_a_selection_out_of_them():
    whole = replace(LAVIDA, pool=None, join="flat")
    assert plan((768, 768), PixelRecipe(14), views=whole).tokens == 5 * 729 == 3645
    p = plan((768, 768), PixelRecipe(14), Downstream(select=980, llm_width=4096), whole)
    assert (p.tokens, p.patches, p.stages[-1].shape) == (980, 3645, (980, 4096))
    for wrong in (Downstream(select=980), Downstream(geometry=VGGT)):
        with pytest.raises(ConfigError):
            plan((768, 768), PixelRecipe(14), wrong, LAVIDA)


def test_a_clip_has_the_global_view_of_its_frames():
    p = plan((640, 360, 8), PixelRecipe(14), views=LAVIDA)
    assert (p.patches, p.tokens, p.items[0].views) == (8 * 729, 8 * 196 + 1, (("global", 8 * 196 + 1),))


@given(
    width=st.integers(1, 2500),
    height=st.integers(1, 2500),
    frames=st.sampled_from((1, 1, 1, 3)),
    pool=st.sampled_from((None, "bilinear", "average", "max")),
    join=st.sampled_from(("flat", "spatial", "unpad")),
    recipe=st.sampled_from((PixelRecipe(14), PixelRecipe(16, rule="square", size=224), PixelRecipe(14, temporal=2))),
)
@settings(max_examples=40, deadline=None)
def test_views_are_planned_as_they_are_cut_and_joined(
    width: int, height: int, frames: int, pool: Pool | None, join: Joining, recipe: PixelRecipe
):
    rule = ViewRule(56, tuple((h * 56, w * 56) for h, w in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))), pool, join)
    p = plan((width, height, frames), recipe, views=rule)
    clip = Clip(np.zeros((frames, height, width, 3), np.uint8), tuple(map(float, range(frames))))
    cut = patchify([clip], recipe, views=rule)
    assert p.grids == tuple(item.grid for item in cut.items)
    assert [name for name, _ in p.items[0].views] == [v.name for v in views_of(height, width, frames, rule)]
    rows = pooled_views(cut.with_x(torch.zeros(len(cut.x), 2)), rule)
    made = join_views(rows, rule, torch.ones(2))
    assert p.tokens == sum(n for _, n in p.items[0].views) == len(made.x)
    if join == "flat":
        assert tuple(n for _, n in p.items[0].views) == made.lengths


@given(
    width=st.integers(1, 1500),
    height=st.integers(1, 1500),
    frames=st.sampled_from((1, 1, 3)),
    rule=st.sampled_from(
        (Pyramid(((112, 56), (112, 112))), Pyramid(((56, 56), (168, 56)), "squash"), PageCrops(56, 0.25, most=5))
    ),
    recipe=st.sampled_from((PixelRecipe(14), PixelRecipe(16, merge=2, order="block"), PixelRecipe(14, temporal=2))),
)
@settings(max_examples=40, deadline=None)
def test_other_rules_are_planned_as_they_are_cut(
    width: int, height: int, frames: int, rule: Views, recipe: PixelRecipe
):
    p = plan((width, height, frames), recipe, Downstream(space=recipe.merge), views=rule)
    clip = Clip(np.zeros((frames, height, width, 3), np.uint8), tuple(map(float, range(frames))))
    cut = patchify([clip], recipe, views=rule)
    assert p.grids == tuple(item.grid for item in cut.items) and p.patches == len(cut.x)
    assert [name for name, _ in p.items[0].views] == [v.name for v in views_of(height, width, frames, rule)]
    assert [n for _, n in p.items[0].views] == [n // recipe.merge**2 for n in cut.lengths]
    assert p.tokens == len(cut.x) // recipe.merge**2
    assert p.stages[1].shape == tuple(cut.x.shape)


def test_the_encoder_sees_views_as_items():
    config = EncoderConfig(64, 1, 2, 96, PixelRecipe(14))
    p = plan((1000, 600), config, Downstream(llm_width=80), LAVIDA)
    assert p.flop == plan([(384, 384)] * 5, config, Downstream(llm_width=80)).flop
    assert p.memory().total_bytes == plan([(384, 384)] * 5, config, Downstream(llm_width=80)).memory().total_bytes
    assert fit_budget(Input(1000, 600, 8), config, views=LAVIDA, max_tokens=1000).size is None
    assert fit_budget(Input(1000, 600, 8), config, views=LAVIDA, max_tokens=1000).frames == 5


# ---- the inverse


@given(
    width=st.integers(20, 2000),
    height=st.integers(20, 2000),
    merge=st.sampled_from((1, 2)),
    budget=st.integers(1, 5000),
)
@settings(max_examples=40, deadline=None)
def test_what_fits_in_tokens_fits_and_one_more_does_not(width: int, height: int, merge: int, budget: int):
    recipe, after = PixelRecipe(14, temporal=2, merge=merge, order="block"), Downstream(space=merge)
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
    small = VARIANTS["llava_vit_packing_small"]
    config = replace(small, pixels=small.pixels.budgeted(None))
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
