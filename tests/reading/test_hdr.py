"""HLG and PQ become SDR by the stated curve, in pictures and clips; nothing else changes."""

import io
from itertools import pairwise
from typing import Any, cast

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.reading.hdr_cases import (
    BT709,
    BT2020,
    FULL,
    HLG,
    LIMITED,
    P3,
    PQ,
    chunk,
    hdr_clip,
    hdr_png,
    patches,
    sdr_levels,
    signal_of,
    told_by_container,
)

import tubelet
from tubelet.errors import InputError, LimitError
from tubelet.pixels.load import load_patches
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reading.codec.decode import codec_signals
from tubelet.reading.hdr import Hdr, full_span, hdr_of, to_sdr
from tubelet.reading.limits import Limits
from tubelet.reading.picture.heif import primary_item
from tubelet.reading.video import frames as video_frames

CURVES = {PQ: "PQ", HLG: "HLG"}
EXACT = 0.6  # levels: 0.5 are the rounding to 8 bits
# bframes: with PyAV 19 a single frame has a decode time at random else
X265 = {"x265-params": "lossless=1:log-level=none:keyint=4:bframes=0"}


def one(source: Any, **options: Any) -> Clip:
    return tubelet.read(source, isolate=options.pop("isolate", "never"), **options)[0]


def mapped(codes: np.ndarray, curve: int, primaries: int = BT2020, bits: int = 16) -> np.ndarray:
    hdr = hdr_of(curve, primaries)
    assert hdr is not None
    red, green, blue = (np.atleast_2d(codes[..., i]) for i in range(3))
    return to_sdr(red, green, blue, hdr, full_span(bits), np.empty((*red.shape, 3), np.uint8))


def noise(seed: int, *shape: int, bits: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, shape).astype(np.uint8 if bits == 8 else np.uint16)


# The curve ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primaries", [BT2020, P3, BT709])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("curve", [PQ, HLG])
def test_the_curve_is_that_of_the_recommendations(curve: int, bits: int, primaries: int):
    codes = noise(bits, 200, 300, 3, bits=bits)
    codes[:100] //= 2  # half of them in the range of paper and skin
    off = np.abs(mapped(codes, curve, primaries, bits) - sdr_levels(codes / ((1 << bits) - 1), curve, primaries))
    assert off.max() <= EXACT


@pytest.mark.parametrize("curve", [PQ, HLG])
def test_grey_stays_grey_and_never_falls(curve: int):
    grey = np.arange(1 << 16, dtype=np.uint16)[:, None].repeat(3, axis=1)
    levels = mapped(grey, curve)[0].astype(int)
    assert (levels == levels[:, :1]).all()
    assert (np.diff(levels[:, 0]) >= 0).all() and levels[0, 0] == 0 and levels[-1, 0] == 255
    assert np.abs(levels - sdr_levels(grey / 65535, curve)).max() <= EXACT


def test_stated_anchors():
    """Reference white, 203 nits, is 58 % in PQ and 75 % in HLG (BT.2408 table 1); 1,000 nits and more are white."""
    for curve, signal in ((PQ, 0.5807), (HLG, 0.75)):
        white = np.full((1, 1, 3), round(65535 * signal), np.uint16)
        assert mapped(white, curve).tolist() == [[[229, 229, 229]]]
    peak = np.array([[[0.7518] * 3, [0.9] * 3, [1.0] * 3]])
    assert (mapped((peak * 65535).round().astype(np.uint16), PQ) == 255).all()


def test_the_brightest_channel_never_falls_as_light_is_added():
    for curve in CURVES:
        ramp = np.linspace(0, 65535, 4096).astype(np.uint16)
        for tint in ((1.0, 0.2, 0.1), (0.1, 1.0, 0.4), (0.3, 0.2, 1.0)):
            levels = mapped(np.stack([(ramp * t).astype(np.uint16) for t in tint], -1), curve)[0].astype(int)
            assert (np.diff(levels.max(axis=1)) >= 0).all()


def test_every_shape_and_stride_gives_the_same_levels():
    codes = noise(1, 40, 2500, 3)
    whole = mapped(codes, HLG)
    assert np.array_equal(whole[:, ::-1], mapped(codes[:, ::-1], HLG))
    assert np.array_equal(whole[:, :7], mapped(np.ascontiguousarray(codes[:, :7]), HLG))


# Clips ----------------------------------------------------------------------------------------------------------------

KINDS = {
    "hevc": ("libx265", "mp4", "yuv420p10le", X265),
    "av1": ("libsvtav1", "mp4", "yuv420p10le", {"preset": "12", "crf": "1", "svtav1-params": "lp=1"}),
    "av1_mkv": ("libsvtav1", "matroska", "yuv420p10le", {"preset": "12", "crf": "1", "svtav1-params": "lp=1"}),
    "vp9_8bit": ("libvpx-vp9", "webm", "yuv420p", {"lossless": "1", "cpu-used": "8"}),
    "h264": ("libx264", "mp4", "yuv420p10le", {"qp": "0"}),
}


def decoded(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data), "r") as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("curve", [PQ, HLG])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_clips_are_tone_mapped(kind: str, curve: int, colour_range: int):
    codec, container, form, options = KINDS[kind]
    bits = 10 if "10" in form else 8
    planes = [patches(seed, bits) for seed in range(3)]
    data = hdr_clip(codec, container, form, planes, curve=curve, colour_range=colour_range, options=options)
    clip = one(data, fps=10)
    assert len(clip) == 3 and any(f"({CURVES[curve]}) tone-mapped to SDR: peak 1000" in note for note in clip.notes)
    for frame, shown in zip(decoded(data), clip.frames, strict=True):
        y, cb, cr = (
            part.astype(np.float64) for part in np.split(frame.to_ndarray().ravel(), (64 * 64, 64 * 64 * 5 // 4))
        )
        y = y.reshape(64, 64)[8::16, 8::16]  # the middle of each patch, where no neighbour's chroma reaches
        cb, cr = (part.reshape(32, 32)[4::8, 4::8] for part in (cb, cr))
        expected = sdr_levels(signal_of(y, cb, cr, bits, colour_range), curve)
        assert np.abs(shown[8::16, 8::16] - expected).max() <= 0.7


@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("curve", [PQ, HLG])
def test_every_pixel_of_a_clip_without_loss(curve: int, colour_range: int):
    planes = [noise(n, 50, 70, bits=10) // (1 if n else 2) for n in range(3)]
    data = hdr_clip("ffv1", "matroska", "yuv444p10le", [planes], curve=curve, colour_range=colour_range)
    y, cb, cr = (plane.astype(float) for plane in planes)
    expected = sdr_levels(signal_of(y, cb, cr, 10, colour_range), curve)
    assert np.abs(one(data).frames[0] - expected).max() <= 0.8


def test_clips_stored_as_rgb_are_tone_mapped():
    planes = [noise(n, 50, 70, bits=10) for n in range(3)]
    data = hdr_clip("ffv1", "matroska", "gbrp10le", [planes], curve=PQ, colour_range=FULL)
    signal = np.stack([planes[2], planes[0], planes[1]], -1) / 1023
    assert np.abs(one(data).frames[0] - sdr_levels(signal, PQ)).max() <= 1.0


def test_clips_that_are_not_hdr_are_untouched_bit_for_bit():
    planes = [patches(seed, 10) for seed in range(3)]
    for curve in (1, 13, 14):
        data = hdr_clip("libx265", "mp4", "yuv420p10le", planes, curve=curve, options=X265)
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded(data)])
        for hdr in ("tonemap", "clip"):
            clip = one(data, fps=10, hdr=hdr)
            assert np.array_equal(clip.frames, expected) and not clip.notes


def test_clip_shows_the_code_values_as_before_and_says_so():
    data = hdr_clip("libx265", "mp4", "yuv420p10le", [patches(0, 10)], options=X265)
    clip = one(data, hdr="clip")
    assert np.array_equal(clip.frames[0], decoded(data)[0].to_ndarray(format="rgb24"))
    assert clip.notes == ("high dynamic range (HLG), shown without tone mapping",)


def test_what_only_the_container_says_counts():
    planes = [patches(seed, 10) for seed in range(3)]
    silent = hdr_clip("libx265", "mp4", "yuv420p10le", planes, options=X265, said=False)
    said = hdr_clip("libx265", "mp4", "yuv420p10le", planes, options=X265)
    told = told_by_container(silent, HLG)
    assert not one(silent).notes
    assert np.array_equal(one(told, fps=10).frames, one(said, fps=10).frames)
    assert one(told).notes == one(said).notes != ()


def test_workers_processes_and_doors_give_the_same_bytes(tmp_path):
    data = hdr_clip("libx265", "mp4", "yuv420p10le", [patches(seed, 10) for seed in range(12)], options=X265)
    (tmp_path / "clip.mp4").write_bytes(data)
    for hdr in ("tonemap", "clip"):
        first = one(data, fps=10, hdr=hdr, workers=1)
        assert len(first) == 12 and first.notes == (Hdr("HLG").note(hdr),)
        for other in (
            one(data, fps=10, hdr=hdr, workers=3),
            one(data, fps=10, hdr=hdr, isolate="always"),
            one(tmp_path / "clip.mp4", fps=10, hdr=hdr, isolate="auto"),
        ):
            assert np.array_equal(first.frames, other.frames) and first.notes == other.notes
        recipe = PixelRecipe(patch=16)
        rows = patchify([first], recipe)
        loaded = load_patches(tmp_path / "clip.mp4", recipe, fps=10, hdr=hdr)
        assert np.array_equal(loaded.packed.x, rows.x) and loaded.sources[0].notes == first.notes
        for isolate in ("never", "always"):
            sparse = tubelet.read_sparse(data, recipe, budget=len(rows.x), fps=10, hdr=hdr, isolate=isolate)
            assert np.array_equal(sparse.packed.x, rows.x) and first.notes[0] in sparse.signals.notes


def test_only_frames_that_are_taken_are_tone_mapped(monkeypatch: pytest.MonkeyPatch):
    data = hdr_clip("libx265", "mp4", "yuv420p10le", [patches(seed, 10) for seed in range(12)], options=X265)
    real, calls = video_frames.to_sdr, []
    monkeypatch.setattr(video_frames, "to_sdr", lambda *args: calls.append("once") or real(*args))
    assert len(one(data, num_frames=3)) == 3 == len(calls)
    codec_signals(data, num_frames=3, isolate="never")
    assert len(calls) == 3


def test_other_words_are_refused(as_in_production: None):
    with pytest.raises(InputError, match="hdr is tonemap or clip, not 'map'"):
        tubelet.read(hdr_png(noise(0, 2, 2, 3), PQ), hdr=cast(Any, "map"))


# PNG ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primaries", [BT2020, P3])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("curve", [PQ, HLG])
def test_png(curve: int, bits: int, primaries: int):
    values = noise(3, 20, 30, 3, bits=bits)
    clip = one(hdr_png(values, curve, primaries=primaries))
    assert np.abs(clip.frames[0] - sdr_levels(values / ((1 << bits) - 1), curve, primaries)).max() <= EXACT
    assert clip.notes == (Hdr("PQ" if curve == PQ else "HLG").note("tonemap"),)


@pytest.mark.parametrize("bits", [8, 16])
def test_png_of_narrow_range(bits: int):
    values = noise(4, 20, 30, 3, bits=bits)
    step = 1 << (bits - 8)
    signal = (values - 16.0 * step) / (219 * step)
    assert np.abs(one(hdr_png(values, HLG, full=False)).frames[0] - sdr_levels(signal, HLG)).max() <= EXACT


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_png(bits: int):
    values = noise(5, 20, 30, 1, bits=bits)
    expected = sdr_levels(np.repeat(values, 3, -1) / ((1 << bits) - 1), PQ)
    assert np.abs(one(hdr_png(values, PQ)).frames[0] - expected).max() <= EXACT


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_lies_on_what_was_tone_mapped(bits: int, channels: int):
    values = noise(6, 20, 30, channels, bits=bits)
    top = (1 << bits) - 1
    colours = sdr_levels(np.broadcast_to(values[..., :-1], (20, 30, 3)) / top, PQ)
    alpha = values[..., -1:] / top
    clip = one(hdr_png(values, PQ), background=(10, 200, 90))
    assert np.abs(clip.frames[0] - (colours * alpha + (1 - alpha) * np.array((10, 200, 90)))).max() <= 1.6
    assert [note.split()[0] for note in clip.notes] == ["high", "transparent"]


def test_a_png_shown_as_it_is():
    values = noise(7, 20, 30, 3, bits=8)
    clip = one(hdr_png(values, PQ), hdr="clip")
    assert np.array_equal(clip.frames[0], values) and clip.notes == (Hdr("PQ").note("clip"),)


def test_cicp_of_sdr_changes_nothing():
    values = noise(8, 20, 30, 3, bits=8)
    clip = one(hdr_png(values, 13, primaries=BT709))
    assert np.array_equal(clip.frames[0], values) and not clip.notes


def test_pictures_that_move_are_tone_mapped_frame_by_frame():
    frames = [Image.fromarray(noise(seed, 20, 30, 3, bits=8)) for seed in range(3)]
    frames[0].save(file := io.BytesIO(), "PNG", save_all=True, append_images=frames[1:], duration=100)
    data = file.getvalue()
    data = data[:33] + chunk(b"cICP", bytes((BT2020, HLG, 0, 1))) + data[33:]
    clip = one(data, animation=True)
    assert clip.notes == (Hdr("HLG").note("tonemap"),)
    for frame, shown in zip(frames, clip.frames, strict=True):
        assert np.abs(shown - sdr_levels(np.asarray(frame) / 255, HLG)).max() <= EXACT
    assert np.array_equal(one(data, animation=True, hdr="clip").frames, np.stack([np.asarray(f) for f in frames]))
    assert np.array_equal(one(data).frames[0], clip.frames[0])


# AVIF -----------------------------------------------------------------------------------------------------------------


def avif(curve: int, *, form: str = "yuv420p10le", colour_range: int = FULL) -> bytes:
    options = {"preset": "12", "crf": "1", "svtav1-params": "lp=1"}
    bits = 10 if "10" in form else 8
    return hdr_clip(
        "libsvtav1", "avif", form, [patches(2, bits)], curve=curve, colour_range=colour_range, options=options
    )


@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
@pytest.mark.parametrize("curve", [PQ, HLG])
def test_avif_with_all_of_its_bits(curve: int, colour_range: int):
    data = avif(curve, colour_range=colour_range)
    clip = one(data)
    with av.open(io.BytesIO(data), "r", format="mov") as container:
        coded = next(container.decode(video=0)).to_ndarray().ravel().astype(float)
    y, cb, cr = np.split(coded, (64 * 64, 64 * 64 * 5 // 4))
    y, cb, cr = y.reshape(64, 64)[8::16, 8::16], *(c.reshape(32, 32)[4::8, 4::8] for c in (cb, cr))
    expected = sdr_levels(signal_of(y, cb, cr, 10, colour_range), curve)
    assert np.abs(clip.frames[0, 8::16, 8::16] - expected).max() <= 0.7
    assert clip.notes == (Hdr("PQ" if curve == PQ else "HLG").note("tonemap"),)
    there = one(data, isolate="always")
    assert np.array_equal(there.frames, clip.frames) and there.notes == clip.notes


def relabelled(data: bytes, curve: int) -> bytes:
    place = data.find(b"colrnclx")
    assert place > 0
    return data[: place + 8] + bytes((0, BT2020, 0, curve)) + data[place + 12 :]


@pytest.mark.parametrize("curve", [PQ, HLG])
def test_avif_of_eight_bits_alpha_and_motion(curve: int):
    name = "PQ" if curve == PQ else "HLG"
    rgb = noise(9, 32, 32, 3, bits=8) // 8 + 100
    for picture in (Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, noise(1, 32, 32, bits=8)]))):
        picture.save(file := io.BytesIO(), "AVIF", quality=90)
        shown = np.asarray(Image.open(io.BytesIO(file.getvalue())))
        clip = one(relabelled(file.getvalue(), curve))
        expected = sdr_levels(shown[..., :3] / 255, curve)
        if shown.shape[2] == 4:
            alpha = shown[..., 3:] / 255
            expected = expected * alpha + 255 * (1 - alpha)
        assert np.abs(clip.frames[0] - expected).max() <= 1.6 and Hdr(name).note("tonemap") in clip.notes
        plain = one(relabelled(file.getvalue(), curve), hdr="clip")
        assert np.array_equal(plain.frames, one(file.getvalue()).frames) and Hdr(name).note("clip") in plain.notes


def test_a_turned_avif_is_turned_after_tone_mapping():
    data = avif(PQ)
    straight = one(data).frames[0]
    quarter = Image.fromarray(straight).transpose(Image.Transpose.ROTATE_90)
    assert straight.shape == np.asarray(quarter).shape
    turned = with_property(data, b"irot", b"\1")
    assert np.array_equal(one(turned).frames[0], np.asarray(quarter))


def with_property(data: bytes, kind: bytes, body: bytes) -> bytes:
    """An AVIF of one item with one more property, everything behind it moved."""
    box = (len(body) + 8).to_bytes(4, "big") + kind + body
    ipco, ipma, iloc = data.find(b"ipco"), data.find(b"ipma"), data.find(b"iloc")
    count = data[ipma + 14]  # version and flags, entries, item, associations
    number = data[ipma + 15 : ipma + 15 + count]
    made = bytearray(data)
    made[ipma + 14] = count + 1
    made[ipma + 15 + count : ipma + 15 + count] = bytes((max(n & 0x7F for n in number) + 1 | 0x80,))
    size = int.from_bytes(made[ipco - 4 : ipco], "big")
    made[ipco - 4 + size : ipco - 4 + size] = box
    added = len(box) + 1
    for place, more in ((ipma - 4 + len(box), 1), (ipco - 4, len(box)), (data.find(b"iprp") - 4, added)):
        made[place : place + 4] = (int.from_bytes(made[place : place + 4], "big") + more).to_bytes(4, "big")
    place = data.find(b"meta") - 4
    made[place : place + 4] = (int.from_bytes(made[place : place + 4], "big") + added).to_bytes(4, "big")
    old = int.from_bytes(data[iloc + 18 : iloc + 22], "big")
    assert data[old - 4 : old] == b"mdat"
    made[iloc + 18 : iloc + 22] = (old + added).to_bytes(4, "big")
    return bytes(made)


@settings(max_examples=200)
@given(st.data())
def test_damaged_boxes_are_for_the_decoder_to_judge(data: st.DataObject):
    made = bytearray(avif_once())
    for _ in range(data.draw(st.integers(1, 8))):
        made[data.draw(st.integers(0, min(400, len(made)) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(bytes(made[: data.draw(st.integers(0, len(made)))]))
    try:
        item = primary_item(file, Limits())
    except LimitError:
        return
    assert file.tell() == 0 and (item.colours is None or len(item.colours) == 4)


_made: dict[str, bytes] = {}


def avif_once() -> bytes:
    return _made.setdefault("avif", avif(PQ))


# Gain maps ------------------------------------------------------------------------------------------------------------


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2, "big") + data


def test_gain_maps_are_noted_and_change_no_pixel():
    values = noise(10, 24, 32, 3, bits=8)
    picture = Image.fromarray(values)
    picture.save(file := io.BytesIO(), "JPEG")
    plain = file.getvalue()
    picture.resize((8, 6)).save(small := io.BytesIO(), "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>"
    ultra = segment(0xE1, xmp + b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"')
    apple = segment(0xE1, xmp + b'xmlns:HDRGainMap="http://ns.apple.com/HDRGainMap/1.0/"')
    mpf = segment(0xE2, b"MPF\0II*\0" + bytes(40))
    iso = segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4))
    second = small.getvalue()[:2] + apple + small.getvalue()[2:]
    cases = {
        "ultra": (plain, plain[:2] + ultra + plain[2:] + small.getvalue()),
        "iso": (plain, plain[:2] + iso + plain[2:] + small.getvalue()),
        "apple": (plain, plain[:2] + mpf + plain[2:] + second),
        "png": (hdr_png(values, 13), hdr_png(values, 13, chunk(b"gmAP", bytes(20)))),
    }
    for name, (without, with_map) in cases.items():
        clip = one(with_map)
        assert np.array_equal(clip.frames, one(without).frames), name
        assert clip.notes == ("a gain map to high dynamic range is in the file, and was not applied",), name
        assert not one(without).notes
    further = plain[:2] + mpf + plain[2:] + small.getvalue()  # a second picture that is none
    assert not one(further).notes


def test_gain_maps_of_avif():
    data = avif_once()
    assert not primary_item(io.BytesIO(data), Limits()).gain_map
    for mark in (b"tmap", b"urn:com:apple:photo:2020:aux:hdrgainmap", b"urn:iso:std:iso:ts:21496:-1"):
        place = 20 if mark == b"tmap" else data.find(b"meta") + 8
        file = io.BytesIO(data[:place] + mark + data[place + len(mark) :])
        assert primary_item(file, Limits()).gain_map


def test_levels_of_light_are_where_the_text_says():
    """The knee lies at 88 nits: below it light is only scaled by 1 / 203."""
    ramp = np.linspace(0, 0.49, 500)
    got = sdr_levels(np.repeat(ramp[:, None], 3, 1), PQ)[:, 0]
    assert all(a <= b for a, b in pairwise(got))
