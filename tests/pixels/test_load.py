"""Loading: bit for bit what reading and patchifying gives, over every arrangement of threads, errors and sources."""

import io
import threading
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import tubelet
from tubelet.errors import DecodeError, InputError, LimitError, UnsupportedFormat
from tubelet.pixels.load import load_patches
from tubelet.pixels.load_one import STAGES
from tubelet.pixels.patchify import normalise, patchify
from tubelet.pixels.recipe import PixelRecipe, Resampler
from tubelet.reading.limits import Limits
from tubelet.reading.picture.canvas import Canvas
from tubelet.reading.picture.image import decode_image, decode_pixels
from tubelet.reading.source import open_source

RECIPE = PixelRecipe(patch=14, rule="smart", temporal=2, merge=2, order="block", max_pixels=200_000)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def clip_file(path: Path, frames: int = 24, width: int = 96, height: int = 64) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=12, options={"g": "6", "bf": "2", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(smooth(width, height, seed=i // 3)), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A mix: JPEG of three kinds, turned by EXIF, with alpha, grey, tiny, and two clips."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / name for name in ("a.jpg", "b.jpg", "turned.jpg", "alpha.png", "grey.jpg", "tiny.png", "big.jpg")]
    smooth(300, 200, 1).save(paths[0], quality=90)
    smooth(123, 457, 2).save(paths[1], quality=80, progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(200, 90, 3).save(paths[2], exif=exif)
    smooth(64, 80, 4).convert("RGBA").save(paths[3])
    smooth(90, 90, 5).convert("L").save(paths[4])
    smooth(3, 5, 6).save(paths[5])
    smooth(1600, 1200, 7).save(paths[6], quality=85)
    return [*paths, clip_file(folder / "one.mp4"), clip_file(folder / "two.mkv", frames=7, width=60, height=90)]


def same(sources: list, recipe: PixelRecipe = RECIPE, **options) -> tubelet.Packed:
    loaded = load_patches(sources, recipe, **options)
    assert loaded.errors == []
    options.pop("progress", None)
    assert loaded.packed.equal(patchify(tubelet.read(sources, **options), recipe))
    loaded.packed.check()
    return loaded.packed


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("rule", ["smart", "native_floor", "smart_compat", "square", "shortest_crop"])
def test_equals_reading_and_patchifying(files: list[Path], workers: int, rule: str) -> None:
    recipe = PixelRecipe(patch=14, rule=rule, temporal=2, merge=2, order="block", size=84)
    same(files, recipe, workers=workers, num_frames=5)


@pytest.mark.parametrize("resampler", ["torch", "pillow"])
@pytest.mark.parametrize(
    "recipe",
    [
        PixelRecipe(patch=14, rule="shortest_crop", size=84, shortest=96, interpolation="bilinear"),
        PixelRecipe(patch=7, rule="naflex", max_pixels=9000, interpolation="bilinear"),
        PixelRecipe(patch=8, rule="longest_side", size=64, merge=2, order="block"),
        PixelRecipe(patch=3, rule="native_crop", temporal=2),
    ],
    ids=lambda recipe: recipe.rule,
)
def test_equals_under_every_other_rule(files: list[Path], recipe: PixelRecipe, resampler: Resampler) -> None:
    same(files, replace(recipe, resampler=resampler), num_frames=4)


@pytest.mark.parametrize("temporal", [1, 2, 3, 4])
@pytest.mark.parametrize("order", ["raster", "block"])
def test_equals_for_every_tubelet_and_order(files: list[Path], temporal: int, order: str) -> None:
    recipe = PixelRecipe(patch=7, temporal=temporal, merge=3, order=order, resampler="pillow")
    same(files, recipe, fps=3.0)


def test_one_clip_by_many_threads(files: list[Path]) -> None:
    p = same([files[-2]], workers=4, times_s=(0.0, 0.5, 0.5, 1.9))
    assert p.items[0].times_s[0] == 0.0


@pytest.mark.parametrize("isolate", ["auto", "always", "never"])
def test_bytes_files_and_file_objects(files: list[Path], isolate: str) -> None:
    data = files[0].read_bytes()
    shared = io.BytesIO(data)
    sources = [data, shared, shared, str(files[3]), files[-1].read_bytes()]
    loaded = load_patches(sources, RECIPE, isolate=isolate, num_frames=3)
    expected = patchify(tubelet.read([data, data, data, files[3], files[-1]], num_frames=3, isolate="never"), RECIPE)
    assert loaded.packed.equal(expected)


def test_one_source_needs_no_list(files: list[Path]) -> None:
    assert load_patches(files[0], RECIPE).packed.equal(load_patches([files[0]], RECIPE).packed)
    with pytest.raises(UnsupportedFormat) as caught:
        load_patches(b"GARBAGE" * 30, RECIPE)
    assert caught.value.item is None


def test_animations_are_clips_on_request(tmp_path: Path) -> None:
    frames = [smooth(40, 30, i) for i in range(5)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
    assert same([path], animation=True).items[0].grid.t == 3
    first = load_patches([path], RECIPE)
    assert first.packed.items[0].grid.t == 1
    assert any("first of 5" in note for note in first.sources[0].notes)


def test_nothing_in_nothing_out() -> None:
    loaded = load_patches([], RECIPE)
    assert loaded.packed.x.shape == (0, RECIPE.width)
    assert loaded.sources == loaded.errors == []


# ---- the report


def test_the_report_says_what_happened(files: list[Path]) -> None:
    told: list[tuple[int, int, str]] = []
    main = threading.current_thread()

    def progress(done: int, total: int, name: str) -> None:
        assert threading.current_thread() is main
        told.append((done, total, name))

    loaded = load_patches(files, RECIPE, num_frames=4, progress=progress)
    assert [t[0] for t in told] == list(range(1, len(files) + 1))
    assert {t[1] for t in told} == {len(files)}
    assert sorted(t[2] for t in told) == sorted(str(f) for f in files)
    for i, (report, path) in enumerate(zip(loaded.sources, files, strict=True)):
        assert report.name == str(path)
        assert report.item == i
        assert report.grid == loaded.packed.items[i].grid
        assert report.complete
        assert set(report.seconds) == set(STAGES)
        assert min(report.seconds.values()) >= 0
        assert report.seconds["decode"] > 0
        assert report.seconds["pack"] > 0
    assert (loaded.sources[2].width, loaded.sources[2].height) == (90, 200)
    assert loaded.sources[-2].frames == 4
    assert "enlarged" in loaded.sources[5].notes[-1]
    assert any("composited" in n for n in loaded.sources[3].notes) == (loaded.sources[3].notes != ())


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (27, 27), (13, 40)])
def test_tiny_pictures_become_one_unit_and_say_so(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "tiny.png"
    smooth(*size).save(path)
    loaded = load_patches([path], RECIPE)
    grid = loaded.packed.items[0].grid
    assert grid.h // RECIPE.merge >= 1
    assert grid.w // RECIPE.merge >= 1
    assert str(size[0]) in loaded.sources[0].notes[0]


# ---- what goes wrong


def damaged(files: list[Path], folder: Path) -> list[Path]:
    """good, not a picture, good, cut JPEG, BMP whose header says more rows, clip, side above the limit, good."""
    text, cut, lying, long = (folder / n for n in ("text.jpg", "cut.jpg", "lying.bmp", "long.png"))
    text.write_text("hello " * 50)
    cut.write_bytes(files[6].read_bytes()[:20_000])
    smooth(64, 80, 8).save(lying)
    data = bytearray(lying.read_bytes())
    data[22:26] = (900).to_bytes(4, "little")
    lying.write_bytes(data)
    smooth(1, 70_000).save(long)
    return [files[0], text, files[1], cut, lying, files[-1], long, files[4]]


@pytest.mark.parametrize("workers", [1, 3])
def test_skip_leaves_the_others_as_they_are(files: list[Path], tmp_path: Path, workers: int) -> None:
    sources = damaged(files, tmp_path)
    told: list[int] = []
    loaded = load_patches(
        sources,
        RECIPE,
        on_error="skip",
        num_frames=3,
        workers=workers,
        progress=lambda done, total, name: told.append(done),
    )
    assert told == list(range(1, 9))
    good = [0, 2, 5, 7]
    assert [i.picture for i in loaded.packed.items] == good
    assert [type(e) for e in loaded.errors] == [UnsupportedFormat, DecodeError, DecodeError, LimitError]
    assert [e.item for e in loaded.errors] == [1, 3, 4, 6]
    assert [s.item for s in loaded.sources] == [0, None, 1, None, None, 2, None, 3]
    assert all((s.error is None) == (s.grid is not None) for s in loaded.sources)
    alone = load_patches([sources[i] for i in good], RECIPE, num_frames=3).packed
    assert torch.equal(loaded.packed.x, alone.x)
    assert torch.equal(loaded.packed.pos, alone.pos)
    loaded.packed.check()


def test_everything_skipped_is_an_empty_pack(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"")
    loaded = load_patches([path, path], RECIPE, on_error="skip")
    assert len(loaded.packed) == 0
    assert len(loaded.errors) == 2


def test_raise_names_the_item(files: list[Path], tmp_path: Path) -> None:
    sources = damaged(files, tmp_path)
    with pytest.raises(DecodeError) as caught:
        load_patches([sources[0], sources[3]], RECIPE)
    assert caught.value.item == 1
    assert caught.value.source == str(sources[3])


def test_a_clip_that_breaks_off_is_incomplete(files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    data = files[-1].read_bytes()
    for keep in range(len(data) - 200, len(data) // 3, -(len(data) // 23)):
        path.write_bytes(data[:keep])
        loaded = load_patches([path], RECIPE, times_s=None, fps=12.0, on_error="skip")
        read = tubelet.read([path], fps=12.0, on_error="skip")
        if loaded.errors:
            assert type(read[0]) is type(loaded.errors[0])
            continue
        assert loaded.packed.equal(patchify(read, RECIPE))
        assert loaded.sources[0].complete == read[0].complete
        assert loaded.sources[0].frames == len(read[0])


def test_damaged_frames_close_the_gap(monkeypatch: pytest.MonkeyPatch, files: list[Path]) -> None:
    """A decoder that finds two of seven frames damaged: the rest moves together, in whole tubelets."""
    from tubelet.pixels import load_one as fill
    from tubelet.reading.video.video import VideoResult

    real = fill.decode_video

    def losing(src, plan, limits, *, workers, on_frame) -> VideoResult:
        result = real(src, plan, limits, workers=workers, on_frame=on_frame)
        slots = tuple(s for s in result.slots if s not in (1, 4))
        times = tuple(plan.times_s[s] for s in slots)
        return VideoResult(times, False, 7, result.duration_s, (*result.notes, "2 damaged frames left out"), slots)

    monkeypatch.setattr(fill, "decode_video", losing)
    loaded = load_patches([files[0], files[-1], files[1]], RECIPE, num_frames=7)
    [clip] = tubelet.read([files[-1]], num_frames=7)
    left = [0, 2, 3, 5, 6]
    kept = tubelet.Clip(clip.frames[left], tuple(clip.times_s[i] for i in left), is_video=True)
    expected = patchify([tubelet.read([files[0]])[0], kept, tubelet.read([files[1]])[0]], RECIPE)
    assert loaded.packed.equal(expected)
    assert not loaded.sources[1].complete
    assert loaded.sources[1].frames == 5
    assert loaded.sources[1].grid == expected.items[1].grid


def test_counts_above_max_tokens_end_before_decoding(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from tubelet.pixels import load

    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(load, "decode_into", never)
    with pytest.raises(LimitError) as caught:
        load_patches(files, RECIPE, limits=Limits(max_tokens=1000))
    assert caught.value.limit == 1000
    assert caught.value.got > 1000


@pytest.mark.parametrize("options", [{"workers": 0}, {"isolate": "sometimes"}, {"on_error": "ignore"}, {"fps": -1.0}])
def test_options_that_mean_nothing_are_refused(options: dict) -> None:
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(InputError):
            load_patches([], RECIPE, **options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_torch_keeps_its_threads(files: list[Path]) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    load_patches(files[:3], RECIPE)
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before
    assert seen == [before]


# ---- the canvas


def test_a_canvas_gives_the_pixels_of_decode_image(files: list[Path], tmp_path: Path) -> None:
    canvas = Canvas()
    limits = Limits()
    channels = []
    lying = tmp_path / "lying.jpg"  # its header says more rows than it has: the decoder makes them up
    data = bytearray(files[0].read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = (900).to_bytes(2, "big")
    lying.write_bytes(data)
    for path in [files[6], *files[:7], lying, files[6]]:  # large, small ones of every kind, large again
        with open_source(path, limits) as src:
            pixels, notes, complete = decode_pixels(src, limits, (255, 255, 255), canvas)
        with open_source(path, limits) as src:
            clip = decode_image(src, limits)
        assert np.array_equal(pixels[..., :3], clip.frames[0])
        assert (notes, complete) == (clip.notes, clip.complete)
        channels.append(pixels.shape[2])
    assert channels == [4, 4, 4, 3, 3, 3, 3, 4, 4, 4]  # upright RGB JPEGs were decoded in place


def test_rows_are_the_pixel_values_elsewhere(files: list[Path]) -> None:
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl")
    recipe = PixelRecipe(
        patch=14, rule="smart_compat", temporal=2, merge=2, order="block", min_pixels=3136, max_pixels=1280 * 784
    )
    paths = [files[0], files[1], files[6]]
    pixels = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in paths]
    out = module.Qwen2VLImageProcessor()(pixels, return_tensors="pt")
    packed = load_patches(paths, recipe).packed
    assert packed.grid_thw.tolist() == out["image_grid_thw"].tolist()
    torch.testing.assert_close(normalise(packed, recipe).x, out["pixel_values"], atol=2e-6, rtol=0)
