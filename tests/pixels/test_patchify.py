"""Rows by example: the recorded upstream cases, transformers' processors, shapes, and what is refused."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tubelet.errors import LimitError, ShapeError
from tubelet.packed import Grid, Packed
from tubelet.pixels.patchify import from_pixels, normalise, pad_time, patchify, unpatchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import pad_frames, resize_frames
from tubelet.pixels.sizes import Pad, anyres, native_round
from tubelet.reading.clip import Clip

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden" / "onevision" / "open"


def clip_of(frames: int, height: int, width: int, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(pixels, tuple(i / 2 for i in range(frames)), source=f"clip {seed}", is_video=frames > 1)


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    path = GOLDEN / f"{name}.safetensors"
    if not path.exists():
        pytest.skip("the golden cases are not beside this checkout")
    return load_file(str(path)), json.loads(path.with_suffix(".json").read_text())


def picture(tensor: torch.Tensor) -> Clip:
    return Clip(tensor.numpy()[None], (0.0,))


def test_packing_input_equals_upstream() -> None:
    tensors, case = golden("preprocess_packing_input")
    recipe = PixelRecipe(patch=case["config"]["patch_size"], resampler="pillow")
    for i in (0, 1):
        p = patchify([picture(tensors[f"input.image{i}"])], recipe)
        assert torch.equal(p.grid_thw, tensors[f"output.pack{i}.grid_thw"])
        expected = tensors[f"output.pack{i}.hidden_states"]
        torch.testing.assert_close(normalise(p, recipe).x, expected, atol=case["tolerance"]["atol"], rtol=0)


def pixel_values(frames: torch.Tensor, recipe: PixelRecipe) -> torch.Tensor:
    """(1, 3, h, w) normalised floats of one picture that has its size."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (recipe.mean, recipe.std))
    return (frames.permute(0, 3, 1, 2).float() / 255 - mean) / std


def test_clip_native_and_anyres_equal_upstream() -> None:
    tensors, case = golden("preprocess_clip_llava")
    atol = case["tolerance"]["atol"]
    recipe = PixelRecipe(patch=14, rule="shortest_crop", size=case["config"]["size"], resampler="pillow")
    for i in (0, 1):
        clip = picture(tensors[f"input.image{i}"])
        frames = torch.from_numpy(clip.frames)
        square = unpatchify(patchify([clip], recipe), recipe)[0]
        torch.testing.assert_close(pixel_values(square, recipe), tensors[f"output.clip{i}"], atol=atol, rtol=0)

        h, w = native_round(clip.height, clip.width, 14)
        native = resize_frames(frames, Pad(h, w, 0, 0, h, w), resampler="pillow")
        torch.testing.assert_close(pixel_values(native, recipe), tensors[f"output.native{i}"], atol=atol, rtol=0)

        pad = anyres(clip.height, clip.width, [(112, 56), (56, 112), (112, 112)])
        canvas = pad_frames(frames, pad, resampler="pillow")
        torch.testing.assert_close(pixel_values(canvas, recipe), tensors[f"output.anyres{i}"], atol=atol, rtol=0)
        assert tensors[f"output.anyres{i}.grid"].tolist() == [1, pad.height // 14, pad.width // 14]


QWEN = PixelRecipe(
    patch=14, rule="smart_compat", temporal=2, merge=2, order="block", min_pixels=3136, max_pixels=28 * 28 * 1280
)


@pytest.mark.parametrize("size", [(480, 640), (50, 75), (28, 28), (13, 300), (1000, 900)])
def test_pictures_equal_transformers_torchvision_processor(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    clip = clip_of(1, *size, seed=size[0])
    out = module.Qwen2VLImageProcessor()(torch.from_numpy(clip.frames[0]).permute(2, 0, 1), return_tensors="pt")
    p = patchify([clip], QWEN)
    assert p.grid_thw.tolist() == out["image_grid_thw"].tolist()
    torch.testing.assert_close(normalise(p, QWEN).x, out["pixel_values"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(480, 640), (50, 75), (13, 300)])
def test_pictures_equal_transformers_pillow_processor(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    clip = clip_of(1, *size, seed=size[1])
    out = module.Qwen2VLImageProcessorPil()(clip.frames[0], return_tensors="pt")
    recipe = PixelRecipe(**{**QWEN.__dict__, "resampler": "pillow"})
    p = patchify([clip], recipe)
    assert p.grid_thw.tolist() == out["image_grid_thw"].tolist()
    torch.testing.assert_close(normalise(p, recipe).x, torch.as_tensor(out["pixel_values"]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("temporal", [1, 2, 4])
def test_clips_equal_transformers_video_processor(frames: int, temporal: int) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.video_processing_qwen2_vl")
    low, high = 3136, 28 * 28 * 40
    processor = module.Qwen2VLVideoProcessor(
        size={"shortest_edge": low, "longest_edge": high}, temporal_patch_size=temporal, cap_pixels_per_frame=False
    )
    clip = clip_of(frames, 90, 130, seed=frames)
    out = processor(torch.from_numpy(clip.frames).permute(0, 3, 1, 2), return_tensors="pt")
    recipe = PixelRecipe(**{**QWEN.__dict__, "temporal": temporal, "max_pixels": high})
    p = patchify([clip], recipe)
    assert p.grid_thw.tolist() == out["video_grid_thw"].tolist()
    torch.testing.assert_close(normalise(p, recipe).x, out["pixel_values_videos"], atol=2e-6, rtol=0)


# ---- items


def test_items_say_where_rows_came_from() -> None:
    recipe = PixelRecipe(patch=14, rule="shortest_crop", size=56, temporal=2)
    p = patchify([clip_of(1, 50, 75), clip_of(3, 60, 60, seed=1)], recipe).check()
    assert [i.grid for i in p.items] == [Grid(1, 4, 4), Grid(2, 4, 4)]
    assert [i.picture for i in p.items] == [0, 1]
    assert p.items[0].box == pytest.approx((12.5, 0, 62.5, 50))
    assert p.items[1].times_s == (0.0, 1.0)
    assert p.x.dtype == torch.uint8
    assert p.x.shape == (48, 3 * 2 * 14 * 14)


def test_nothing_in_nothing_out() -> None:
    p = patchify([], PixelRecipe(patch=14))
    assert len(p) == 0
    assert p.x.shape == (0, 588)


def test_the_clip_that_cannot_be_fitted_is_named() -> None:
    with pytest.raises(LimitError) as caught:
        patchify([clip_of(1, 20, 20), clip_of(1, 2, 500, seed=9)], PixelRecipe(patch=14, rule="smart_compat"))
    assert caught.value.item == 1
    assert caught.value.source == "clip 9"


def test_frames_that_may_not_be_written_to_are_read() -> None:
    clip = clip_of(2, 28, 28)
    frozen = clip.frames.copy()
    frozen.flags.writeable = False
    recipe = PixelRecipe(patch=14)
    assert patchify([Clip(frozen, clip.times_s)], recipe).equal(patchify([clip], recipe))


def test_pad_time_repeats_the_last_frame_and_its_time() -> None:
    clip = clip_of(5, 8, 8)
    padded = pad_time(clip, 4)
    assert len(padded) == 8
    assert padded.times_s == (0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0)
    assert all(np.array_equal(f, clip.frames[-1]) for f in padded.frames[4:])
    assert pad_time(padded, 4) is padded


@pytest.mark.parametrize("frames", range(1, 18))
@pytest.mark.parametrize("temporal", [1, 2, 3, 4, 8])
def test_missing_frames_repeat_the_last(frames: int, temporal: int) -> None:
    clip = clip_of(frames, 16, 16, seed=frames)
    recipe = PixelRecipe(patch=8, temporal=temporal)
    p = patchify([clip], recipe)
    shown = unpatchify(p, recipe)[0].numpy()
    assert len(shown) == frames + -frames % temporal
    assert np.array_equal(shown, pad_time(clip, temporal).frames)
    assert p.items[0].times_s == pad_time(clip, temporal).times_s[::temporal]


# ---- tensors that have their size


def test_from_pixels_equals_patchify() -> None:
    clips = [clip_of(3, 28, 42, seed=i) for i in range(2)]
    recipe = PixelRecipe(patch=7, temporal=2, merge=2, order="block")
    stacked = torch.stack([torch.from_numpy(c.frames).permute(3, 0, 1, 2) for c in clips])
    a, b = from_pixels(stacked, recipe), patchify(clips, recipe)
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.pos, b.pos)
    assert a.grid_thw.tolist() == b.grid_thw.tolist()
    assert [i.picture for i in a.items] == [0, 1]


def test_from_pixels_leaves_out_what_does_not_fill_a_unit_and_keeps_gradients() -> None:
    x = torch.randn(2, 3, 37, 45, requires_grad=True)
    p = from_pixels(x, PixelRecipe(patch=8))
    assert p.grid_thw.tolist() == [[1, 4, 5]] * 2
    p.x.sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == 2 * 3 * 32 * 40
    assert float(x.grad[:, :, 32:].abs().sum() + x.grad[..., 40:].abs().sum()) == 0
    conv = torch.nn.functional.conv2d(x, torch.eye(192).view(192, 3, 8, 8), stride=8)
    assert torch.equal(conv.flatten(2).transpose(1, 2).reshape(-1, 192), p.x)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 7, 8), (1, 3, 0, 8, 8)])
def test_from_pixels_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        from_pixels(torch.zeros(shape), PixelRecipe(patch=8))


# ---- back


def test_unpatchify_takes_rows_in_any_order_and_fills_gaps() -> None:
    recipe = PixelRecipe(patch=7, temporal=2)
    p = patchify([clip_of(2, 21, 28), clip_of(3, 14, 14, seed=1)], recipe)
    first, second = unpatchify(p, recipe)
    shuffled = torch.cat([torch.randperm(12), 12 + torch.randperm(8)])
    again = unpatchify(p.keep(shuffled), recipe)
    assert torch.equal(again[0], first)
    assert torch.equal(again[1], second)
    half = unpatchify(p.keep(torch.arange(0, 12, 2)), recipe, fill=9)
    assert torch.equal(half[0][:, :7, :7], first[:, :7, :7])
    assert bool((half[0][:, :7, 7:14] == 9).all())
    assert bool((half[1] == 9).all())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_float_rows_are_the_formula_bit_for_bit_and_no_copy_more(threads: int) -> None:
    recipe = PixelRecipe(patch=14, temporal=2, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.7))
    p = patchify([clip_of(3, 280, 322), clip_of(1, 14, 28, seed=1)], recipe)
    mean, std = (torch.tensor(each).view(1, 3, 1) for each in (recipe.mean, recipe.std))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for some in (p, p.keep(torch.arange(0, len(p.x), 3)), p[:0]):
            want = (some.x.float().view(len(some.x), 3, 392) / 255 - mean) / std
            assert torch.equal(normalise(some, recipe).x, want.view(-1, recipe.width))
        tracemalloc.start()
        out = normalise(p, recipe).x
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        torch.set_num_threads(before)
    assert out.nbytes <= peak < 1.02 * out.nbytes + 100_000


def test_rows_of_another_width_are_refused() -> None:
    p = patchify([clip_of(1, 14, 14)], PixelRecipe(patch=7))
    other = PixelRecipe(patch=14)
    with pytest.raises(ShapeError):
        unpatchify(p, other)
    with pytest.raises(ShapeError):
        normalise(p, other)
    with pytest.raises(ShapeError):
        normalise(Packed(p.x.float(), p.pos, p.items, p.lengths), PixelRecipe(patch=7))
