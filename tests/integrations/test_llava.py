"""The vision tower as LLaVA's code uses it: shapes, selections, sizes, and one forward for any mix."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

import tubelet
from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.encoder.model import Encoder
from tubelet.encoder.outputs import LayerOutputs
from tubelet.errors import ConfigError, ShapeError, WeightsError
from tubelet.integrations import llava
from tubelet.integrations.llava import VisionTower, build_vision_tower, encode_images, state_numbers
from tubelet.language.project.projector import build_projector
from tubelet.packed import Grid, Item, Packed
from tubelet.pixels.patchify import from_pixels, normalise
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.save import save_encoder

PATCH, D = 4, 32
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def random_values(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, so that a forgotten bias or norm shows."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=g) * (0.2 if p.ndim == 1 else 1.2 / p.shape[1] ** 0.5))
    return module.eval()


def make_encoder(layers: int = 12, **changes: object) -> Encoder:
    fields: dict = {
        "hidden": D,
        "layers": layers,
        "heads": 1,
        "mlp": 48,
        "pixels": PixelRecipe(PATCH, size=32),
        **changes,
    }
    encoder = Encoder(EncoderConfig(**fields))
    random_values(encoder)
    return encoder


ENCODER = make_encoder()
SHALLOW = make_encoder(layers=3)


def make_tower(select_feature: str = "patch", select_layer: int = -2, **fields: object) -> VisionTower:
    return VisionTower(ENCODER, select_feature=select_feature, select_layer=select_layer, **fields)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alone(encoder: Encoder, picture: Tensor, states: Sequence[int]) -> Tensor:
    """The slow twin: one item by itself, all hidden states, joined by hand. A clip is [3, T, H, W]."""
    rows = from_pixels(picture.unsqueeze(0), encoder.pixels)
    every = encoder.hidden_states(rows)
    return torch.cat([every[i].x for i in states], dim=1)


# ---- which states

BY_HAND = {
    ("patch", -1): [12],
    ("patch", -2): [11],
    ("patch", 0): [0],
    ("patch", 3): [3],
    ("patch", -13): [0],
    ("cls_patch", -2): [11],
    ("slicefour", -1): [2, 5, 8, 11],
    ("slicefour_patch", -1): [2, 5, 8, 11],
    ("slicefour_patch", -2): [1, 4, 7, 10],
    ("slicefour_cls_patch", -2): [1, 4, 7, 10],
    ("slice_m25811_f6", -2): [11, 8, 5, 2, 6],
    ("slice_m25811_f6_patch", -1): [11, 8, 5, 2, 6],
    ("slice_m25811_f6_cls_patch", -2): [11, 8, 5, 2, 6],
}


@pytest.mark.parametrize(("selection", "states"), BY_HAND.items(), ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_a_selection_is_these_states(selection: tuple[str, int], states: list[int], grad: bool) -> None:
    tower, images = make_tower(*selection), noise(2, 3, 8, 12)
    with torch.set_grad_enabled(grad):
        got = tower(images)
        want = torch.stack([alone(ENCODER, image, states) for image in images])
    assert got.shape == (2, 6, tower.hidden_size) == (2, 6, D * len(states))
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize(
    ("layers", "layer", "states"),
    [
        (24, -1, (5, 11, 17, 23)),
        (24, -2, (4, 10, 16, 22)),
        (27, -2, (5, 12, 19, 26)),
        (32, -2, (6, 14, 22, 30)),
        (40, -2, (8, 18, 28, 38)),
        (40, -1, (9, 19, 29, 39)),
    ],
)
def test_slicefour_in_the_released_depths(layers: int, layer: int, states: tuple[int, ...]) -> None:
    assert state_numbers("slicefour_patch", layer, layers) == states


def test_m25811_f6_joins_a_state_twice_where_two_of_its_numbers_meet() -> None:
    assert state_numbers("slice_m25811_f6_patch", -2, 10) == (9, 6, 3, 0, 6)
    assert state_numbers("slice_m25811_f6_patch", -2, 24) == (23, 20, 17, 14, 6)


@pytest.mark.parametrize(
    ("feature", "layer", "layers", "said"),
    [
        ("slicefour_patch", -1, 6, r"6 layers.*\[0, 1, 2, 3, 4, 5, 6\]"),  # 7 of 6 layers' states
        ("slicefour_patch", -2, 6, r"6 layers.*\[-1, 0, 1, 2, 3, 4, 5, 6\]"),  # 8, and the last one twice
        ("slicefour_patch", -2, 8, r"\[0, 2, 4, 6, 8\]"),
        ("slicefour", -1, 2, "2 layers"),
        ("slicefour", -9, 12, "12 layers"),
        ("slice_m25811_f6_patch", -2, 6, "state -8.*6 layers has 7"),
        ("slice_m25811_f6_patch", -2, 9, "state -11"),
        ("patch", 13, 12, "state 13"),
        ("patch", -14, 12, "state -14"),
        ("cls", -2, 12, "cls_patch"),
        ("slicefour_patch ", -2, 12, "select_feature is one of"),
    ],
)
def test_what_an_encoder_is_too_shallow_for_is_an_error(feature: str, layer: int, layers: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        state_numbers(feature, layer, layers)
    assert caught.value.got is not None


@given(
    st.integers(1, 60),
    st.sampled_from(sorted(llava.FEATURES)),
    st.integers(-62, 62),
)
def test_a_selection_is_whole_or_refused(layers: int, feature: str, layer: int) -> None:
    try:
        states = state_numbers(feature, layer, layers)
    except ConfigError:
        return
    assert len(states) == {"one": 1, "slicefour": 4, "m25811_f6": 5}[llava.FEATURES[feature]]
    assert all(0 <= i <= layers for i in states)


def test_layers_nobody_asked_for_do_not_run() -> None:
    ran: list[int] = []
    encoder = make_encoder()
    hooks = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(encoder.layers, 1)]
    VisionTower(encoder, select_layer=-4)(noise(1, 3, 8, 8))
    assert ran == list(range(1, 10))
    for hook in hooks:
        hook.remove()


# ---- what goes in, what comes out

MIX = [(3, 8, 12), (3, 20, 8), (3, 5, 8, 8), (3, 4, 4), (3, 2, 12, 4), (3, 8, 12)]


def mix(seed: int = 3) -> list[Tensor]:
    return [noise(*shape, seed=seed + i) for i, shape in enumerate(MIX)]


@pytest.mark.parametrize("grad", [False, True])
def test_any_mix_equals_one_by_one(grad: bool) -> None:
    tower, images = make_tower("slicefour_patch"), mix()
    with torch.set_grad_enabled(grad):
        got = tower(images)
        want = [alone(ENCODER, image, (1, 4, 7, 10)) for image in images]
    assert [len(g) for g in got] == [6, 10, 20, 1, 6, 6]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_a_mix_is_one_forward() -> None:
    calls: list[int] = []
    encoder = make_encoder(3)
    encoder.register_forward_hook(lambda *_: calls.append(1))
    runs = encoder.run

    def counted(p: Packed, *rest: object, **more: object) -> LayerOutputs:
        calls.append(len(p))
        return runs(p, *rest, **more)  # type: ignore[arg-type]

    encoder.run = counted  # type: ignore[method-assign]
    VisionTower(encoder)(mix())
    assert calls == [len(MIX)]


@given(st.permutations(range(len(MIX))))
def test_the_order_of_a_list_is_kept(order: list[int]) -> None:
    tower, images = VisionTower(SHALLOW), mix()
    with torch.inference_mode():
        straight, turned = tower(images), tower([images[i] for i in order])
    for got, i in zip(turned, order, strict=True):
        torch.testing.assert_close(got, straight[i], **CLOSE)


def test_a_batch_is_its_list() -> None:
    tower = make_tower()
    for batch in (noise(3, 3, 8, 16), noise(2, 3, 3, 8, 16)):
        stacked, listed = tower(batch), tower(list(batch))
        assert isinstance(listed, list)
        torch.testing.assert_close(stacked, torch.stack(listed), **CLOSE)


def test_a_clip_is_one_item_and_not_its_frames() -> None:
    tower, clip = make_tower(), noise(1, 3, 4, 8, 8)
    frames = clip[0].transpose(0, 1)
    together, apart = tower(clip)[0], tower(frames).flatten(0, 1)
    assert together.shape == apart.shape == (16, D)
    assert (together - apart).abs().max() > 0.05  # frames of a clip see each other


def test_eight_square_pictures_are_eight_pictures() -> None:
    tower, pictures = make_tower(), noise(8, 3, 16, 16)
    want = torch.stack([alone(ENCODER, picture, [11]) for picture in pictures])
    torch.testing.assert_close(tower(pictures), want, **CLOSE)
    torch.testing.assert_close(torch.stack(tower(list(pictures))), want, **CLOSE)


def test_every_item_has_its_own_size() -> None:
    tower = make_tower()
    features, h, w = tower(mix(), return_spatial_dims=True)
    assert (h, w) == ([2, 5, 2, 1, 3, 2], [3, 2, 2, 1, 1, 3])
    frames = [1, 1, 5, 1, 2, 1]
    assert [len(f) for f in features] == [t * a * b for t, a, b in zip(frames, h, w, strict=True)]
    assert [item.grid for item in tower.pack(mix()).items] == [Grid(*g) for g in zip(frames, h, w, strict=True)]
    for batch, size in ((noise(2, 3, 8, 16), (2, 4)), (noise(2, 3, 3, 12, 8), (3, 2))):
        features, h, w = tower(batch, return_spatial_dims=True)
        assert (h, w) == size
        assert features.shape[1] == batch[0, 0].numel() // PATCH**2


def test_pixels_that_fill_no_patch_are_left_out() -> None:
    tower, image = make_tower(), noise(1, 3, 11, 18)
    features, h, w = tower(image, return_spatial_dims=True)
    assert (h, w) == (2, 4)
    assert torch.equal(features, tower(image[..., :8, :16]))


def test_uint8_pixels_and_normalised_floats_are_the_same_pictures() -> None:
    tower = make_tower()
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows = normalise(from_pixels(pixels, ENCODER.pixels), ENCODER.pixels)
    floats = rows.x.view(2, 2, 2, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 8, 8)
    torch.testing.assert_close(tower(pixels), tower(floats), atol=2e-4, rtol=1e-4)


def test_features_have_the_weights_type() -> None:
    half = VisionTower(make_encoder(3).to(torch.bfloat16))
    for image in (noise(1, 3, 8, 8), noise(1, 3, 8, 8).double(), noise(1, 3, 8, 8).bfloat16()):
        assert half(image).dtype == torch.bfloat16
    assert (half.dtype, half.device) == (torch.bfloat16, torch.device("cpu"))
    assert half.dummy_feature.dtype == torch.bfloat16


def test_no_image_gives_no_feature() -> None:
    assert VisionTower(SHALLOW)([]) == []
    assert VisionTower(SHALLOW)([], return_spatial_dims=True) == ([], [], [])


@pytest.mark.parametrize(
    ("images", "item"),
    [
        (torch.zeros(3, 8, 8), None),
        (torch.zeros(0, 3, 8, 8), None),
        (torch.zeros(2, 4, 8, 8), None),
        (torch.zeros(1, 5, 3, 8, 8), None),  # [B, T, C, H, W]
        (torch.zeros(1, 3, 3, 8), None),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), None),
        ([torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)], 1),
        ([torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8)], 1),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 3)], 1),
        ([torch.zeros(3, 8, 8), torch.zeros(8, 8)], 1),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)], 2),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.int32)], 1),
    ],
    ids=lambda v: str(v.shape) if isinstance(v, Tensor) else None,
)
def test_what_is_no_picture_is_an_error_that_names_it(images: Tensor | list[Tensor], item: int | None) -> None:
    with pytest.raises(ShapeError) as caught:
        VisionTower(SHALLOW)(images)
    assert caught.value.item == item


def test_rows_come_in_raster_order_whatever_a_merger_wants() -> None:
    fields = {"post_norm": False, "pool": False, "spans": ("frame",), "span_frames": 2, "layers": 3}
    merging = make_encoder(**fields, pixels=PixelRecipe(PATCH, merge=2, order="block", size=32), merger=Merger(2, 24))
    plain = Encoder(replace(merging.config, pixels=PixelRecipe(PATCH, size=32), merger=None))
    plain.load_state_dict({k: v for k, v in merging.state_dict().items() if not k.startswith("merger.")})
    images = [noise(3, 5, 8, 12), noise(3, 12, 4)]  # an odd grid too: the merger has no part in it
    for a, b in zip(VisionTower(merging)(images), VisionTower(plain.eval())(images), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_features_of_packed_files_keep_their_places() -> None:
    clips = [tubelet.Clip(torch.randint(0, 256, (2, 24, 20, 3), dtype=torch.uint8).numpy(), (0.0, 0.5))]
    tower = VisionTower(SHALLOW)
    p = tubelet.patchify(clips, tower.vision_tower.pixels)
    some = p.keep(torch.arange(0, p.x.shape[0], 3))
    got = tower.features(some)
    assert (got.items, got.lengths) == (some.items, some.lengths)
    assert torch.equal(got.pos, some.pos)
    assert got.items[0].times_s == (0.0, 0.5)
    torch.testing.assert_close(got.x, SHALLOW.hidden_states(some)[-2].x, **CLOSE)


def test_gradients_reach_pixels_and_weights() -> None:
    encoder = make_encoder(3)
    tower, image = VisionTower(encoder), noise(3, 8, 8).requires_grad_()
    assert all(p.requires_grad for p in tower.parameters())  # nothing is frozen unasked
    tower([image, noise(3, 4, 4)])[0].square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().min() > 0
    assert encoder.patch.weight.grad is not None
    tower.requires_grad_(False)
    assert not tower([noise(3, 8, 8)])[0].requires_grad


# ---- what LLaVA asks a tower


def test_properties() -> None:
    tower = make_tower("slice_m25811_f6_patch", merge=2)
    assert (tower.hidden_size, tower.image_size) == (5 * D, 32)
    assert (tower.num_patches_per_side, tower.num_patches) == (4, 16)
    assert torch.equal(tower.dummy_feature, torch.zeros(1, 5 * D))
    config = tower.config
    assert (config.hidden_size, config.image_size, config.patch_size) == (D, 32, PATCH)
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (12, 1, 48)
    assert (config.num_channels, config.layer_norm_eps) == (3, 1e-6)
    assert tower.is_loaded
    assert tower.load_model() is None
    assert tower.vision_tower is ENCODER
    assert set(tower.state_dict()) == {f"vision_tower.{k}" for k in ENCODER.state_dict()}


def test_an_odd_side_counts_whole_blocks() -> None:
    tower = make_tower(image_size=37 * PATCH + 3, merge=2)
    assert (tower.num_patches_per_side, tower.num_patches) == (18, 18**2)


def test_counts_need_a_nominal_size() -> None:
    encoder = make_encoder(3, pixels=PixelRecipe(PATCH))
    tower = VisionTower(encoder)
    assert tower.config.image_size is None
    with pytest.raises(ConfigError, match="image_size="):
        _ = tower.num_patches
    assert VisionTower(encoder, image_size=16).num_patches == 16
    for wrong in ({"image_size": 0}, {"merge": 0}):
        with pytest.raises(ConfigError, match="starts at 1"):
            VisionTower(encoder, **wrong)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return str(save_encoder(make_encoder(3), tmp_path / "a_packing_folder", "standard"))


@pytest.mark.parametrize("form", [dict, lambda **fields: SimpleNamespace(**fields)], ids=["mapping", "object"])
def test_a_tower_from_llavas_configuration(form: type, checkpoint: str) -> None:
    processor = object()
    config = form(
        mm_vision_tower=checkpoint,
        mm_vision_select_layer=-3,
        mm_vision_select_feature="cls_patch",
        mm_projector_type="spatial_merge",
        mm_hidden_size=D,
    )
    tower = build_vision_tower(config, dtype=torch.float64, image_processor=processor)
    assert (tower.select_layer, tower.select_feature, tower.states) == (-3, "cls_patch", (1,))
    assert (tower.merge, tower.num_patches, tower.dtype) == (2, 16, torch.float64)
    assert tower.image_processor is processor
    plain = build_vision_tower(form(vision_tower=checkpoint, mm_vision_select_layer=-1))
    assert (plain.select_feature, plain.merge, plain.num_patches) == ("patch", 1, 64)
    torch.testing.assert_close(plain(noise(1, 3, 8, 8))[0], alone(make_encoder(3), noise(1, 3, 8, 8)[0], [3]), **CLOSE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mm_vision_tower": None}, "mm_vision_tower"),
        ({"mm_vision_select_layer": None}, "mm_vision_select_layer"),
        ({"mm_vision_select_layer": "-2"}, "mm_vision_select_layer"),
        ({"mm_vision_select_feature": "all"}, "select_feature"),
        ({"mm_vision_select_feature": "slicefour_patch"}, "3 layers"),
    ],
    ids=str,
)
def test_a_configuration_that_says_too_little_is_an_error(change: dict, said: str, checkpoint: str) -> None:
    config = {"mm_vision_tower": checkpoint, "mm_vision_select_layer": -2, **change}
    with pytest.raises(ConfigError, match=said):
        build_vision_tower(config)


def test_a_configuration_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        build_vision_tower({"mm_vision_tower": str(tmp_path / "none"), "mm_vision_select_layer": -2})


# ---- the whole of encode_images


def published_projector(x: Tensor, module: nn.Module, height: int, width: int) -> Tensor:
    """A 2 x 2 merge as its published description goes, for one size: the twin for items of one frame."""
    b, _, c = x.shape
    x = module.get_submodule("ln_q")(x).view(b, height // 2, 2, width // 2, 2, c)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(b, height * width // 4, 4 * c)
    return module.get_submodule("mlp")(x)


def make_projector(kind: str, width: int, out: int = 24) -> nn.Module:
    return random_values(build_projector(kind, width, out), seed=7)


@pytest.mark.parametrize("feature", ["patch", "slicefour_patch"])
def test_the_published_flow_for_one_size(feature: str) -> None:
    tower, images = make_tower(feature, merge=2), noise(2, 3, 16, 24)
    projector = make_projector("spatial_merge", tower.hidden_size)
    features, h, w = tower(images, return_spatial_dims=True)
    want = published_projector(features, projector, h, w)
    got = encode_images(tower, projector, images)
    assert got.shape == (2, 6, 24)
    torch.testing.assert_close(got, want, **CLOSE)


EVEN = [(3, 8, 16), (3, 24, 8), (3, 3, 16, 8), (3, 8, 8), (3, 1, 8, 24), (3, 8, 16)]


def test_any_mix_in_one_forward_equals_one_by_one() -> None:
    tower = make_tower(merge=2)
    projector = make_projector("spatial_merge", tower.hidden_size)
    images = [noise(*shape, seed=i) for i, shape in enumerate(EVEN)]
    got = encode_images(tower, projector, images)
    assert [len(g) for g in got] == [2, 3, 6, 1, 3, 2]
    for image, features in zip(images, got, strict=True):
        torch.testing.assert_close(encode_images(tower, projector, image.unsqueeze(0))[0], features, **CLOSE)
        frames, (h, w) = image.shape[1] if image.ndim == 4 else 1, (n // PATCH for n in image.shape[-2:])
        rows = alone(ENCODER, image, [11]).view(frames, h * w, D)
        torch.testing.assert_close(published_projector(rows, projector, h, w).flatten(0, 1), features, **CLOSE)


def test_a_batch_of_clips_through_the_merge() -> None:
    tower, clips = make_tower(), noise(2, 3, 3, 8, 16)
    projector = make_projector("spatial_merge", D)
    got = encode_images(tower, projector, clips)
    assert got.shape == (2, 6, 24)
    torch.testing.assert_close(got, torch.stack(encode_images(tower, projector, list(clips))), **CLOSE)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu", "mlp2x_res1x_gelu"])
def test_projectors_row_by_row_take_any_mix(kind: str) -> None:
    tower = VisionTower(SHALLOW)
    projector = make_projector(kind, D)
    for image, features in zip(mix(), encode_images(tower, projector, mix()), strict=True):
        torch.testing.assert_close(encode_images(tower, projector, image.unsqueeze(0))[0], features, **CLOSE)


def test_an_odd_grid_is_an_error_that_names_the_item() -> None:
    projector = make_projector("spatial_merge", D)
    with pytest.raises(ShapeError) as caught:
        encode_images(VisionTower(SHALLOW), projector, [noise(3, 8, 8), noise(3, 8, 12)])
    assert caught.value.item == 1


def test_gradients_reach_everything_in_encode_images() -> None:
    encoder = make_encoder(3)
    projector = build_projector("spatial_merge", D, 24)
    image = noise(3, 8, 8).requires_grad_()
    sum(
        f.square().sum() for f in encode_images(VisionTower(encoder), projector, [image, noise(3, 2, 8, 16)])
    ).backward()
    assert image.grad is not None
    assert all(p.grad is not None for p in projector.parameters())
    used = [
        p for name, p in encoder.named_parameters() if name.startswith(("patch", "norm_pre", "layers.0", "layers.1"))
    ]
    assert all(p.grad is not None for p in used)


def test_the_core_has_no_flag_that_changes_what_comes_back() -> None:
    """return_spatial_dims lives at this border alone; return_dict is how transformers' generate calls a model."""
    package = Path(llava.__file__).parents[1]
    for file in package.rglob("*.py"):
        if "integrations" in file.relative_to(package).parts:
            continue
        names = {n.arg for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.arg)}
        called = {"return_dict"} if file.name == "causal_lm.py" else set()
        assert not {n for n in names if n.startswith("return_")} - called, file.name


def test_items_of_the_result_are_the_merged_ones() -> None:
    tower = VisionTower(SHALLOW)
    projector = make_projector("spatial_merge", D)
    p = projector(tower.features(tower.pack([noise(3, 8, 16), noise(3, 3, 8, 8)])))
    assert [i.grid for i in p.items] == [Grid(1, 1, 2), Grid(3, 1, 1)]
    assert [i.picture for i in p.items] == [0, 1]
    assert isinstance(p.items[0], Item)


# ---- an encoder with a class token, against transformers' own


def clip_pair(tmp_path: Path, layers: int = 5) -> tuple[Any, Encoder]:
    config = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
                              image_size=28, patch_size=14)  # fmt: skip
    torch.manual_seed(4)
    model = CLIPVisionModel(config).eval()
    model.save_pretrained(tmp_path)
    return model, tubelet.load_encoder(tmp_path)


CLASS = [
    ("patch", -2, (-2,)),
    ("cls_patch", -2, (-2,)),
    ("cls_patch", 1, (1,)),
    ("slicefour_cls_patch", -1, (0, 1, 2, 3)),
]


@pytest.mark.parametrize(("feature", "layer", "states"), CLASS, ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["in place", "with gradients"])
def test_a_class_token_stands_where_llava_s_own_tower_keeps_it(
    feature: str, layer: int, states: tuple[int, ...], grad: bool, tmp_path: Path
) -> None:
    """hidden_states[select_layer] as it is for cls_patch, without its first token for patch."""
    model, encoder = clip_pair(tmp_path, layers=3 if feature.startswith("slice") else 5)
    tower, images = VisionTower(encoder, select_layer=layer, select_feature=feature), noise(3, 3, 28, 28)
    with torch.set_grad_enabled(grad):
        every = model(images, output_hidden_states=True).hidden_states
        want = torch.cat([every[i] for i in states], dim=-1)
        want = want if "cls" in feature else want[:, 1:]
        got, h, w = tower(images, return_spatial_dims=True)
        listed = tower(list(images))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert (h, w) == (2, 2)
    assert isinstance(listed, list)
    torch.testing.assert_close(torch.stack(listed), want, atol=1e-5, rtol=1e-5)


def test_frames_of_a_clip_have_a_class_token_each(tmp_path: Path) -> None:
    _, encoder = clip_pair(tmp_path)
    tower, clip = VisionTower(encoder, select_feature="cls_patch"), noise(1, 3, 3, 28, 28)
    frames = tower(clip[0].transpose(0, 1))
    torch.testing.assert_close(tower(clip)[0], frames.flatten(0, 1), **CLOSE)
    mixed = tower([clip[0], clip[0, :, 0], clip[0, :, 1]])
    assert [len(one) for one in mixed] == [15, 5, 5]
    torch.testing.assert_close(mixed[2], frames[1], **CLOSE)


def test_a_class_token_has_no_place_in_a_pack(tmp_path: Path) -> None:
    _, encoder = clip_pair(tmp_path)
    tower = VisionTower(encoder, select_feature="cls_patch")
    with pytest.raises(ConfigError, match="class token"):
        tower.features(tower.pack(noise(1, 3, 28, 28)))
    with pytest.raises(ConfigError, match="class token"):
        encode_images(tower, build_projector("linear", tower.hidden_size, 16), noise(1, 3, 28, 28))
