"""Pictures: every encoding of the same pixels gives the same pixels, upright and opaque, or an error that says why."""

import io
import re
import struct
import warnings
import zlib
from fractions import Fraction

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from tubelet.errors import DecodeError, LimitError, TubeletError, UnsupportedFormat
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.picture.image import decode_image, probe_image
from tubelet.reading.source import open_source

LIMITS = Limits()


def encode(picture: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes, limits: Limits = LIMITS, **options: object) -> Clip:
    with open_source(data, limits, "it") as src:
        return decode_image(src, limits, **options)


def pixels(data: bytes, **options: object) -> np.ndarray:
    return decode(data, **options).frames[0]


def scene(width: int = 37, height: int = 23, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Different from every side: a slope, a block in one corner, and noise."""
    noise = np.random.default_rng(seed).integers(0, 12, (height, width, channels))
    slope = np.linspace(0, 150, width)[None, :, None] + np.linspace(0, 70, height)[:, None, None]
    picture = noise + slope + 5 * np.arange(channels)
    picture[:4, :6] = 250
    return picture.astype(np.uint8)


SCENE = scene()
PICTURE = Image.fromarray(SCENE)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *chunks: bytes, interlace: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + data + chunk(b"IEND", b"")


def png16(values: np.ndarray, *chunks: bytes) -> bytes:
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, *chunks)


# The same pixels in every encoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("PNG", {"optimize": True}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_lossless_formats_agree(file_format: str, options: dict):
    clip = decode(encode(PICTURE, file_format, **options))
    assert np.array_equal(clip.frames[0], SCENE)
    assert (clip.times_s, clip.source, clip.is_video, clip.complete, clip.notes) == ((0.0,), "it", False, True, ())
    assert clip.frames.flags.c_contiguous
    assert clip.frames.flags.writeable


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": "4:2:0"}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_pillows_jpeg_bit_for_bit(options: dict, mode: str):
    data = encode(PICTURE.convert(mode), "JPEG", quality=83, **options)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "GIF"])
def test_other_formats_are_pillows_bit_for_bit(file_format: str):
    data = encode(PICTURE, file_format)
    assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 99), st.sampled_from(["PNG", "BMP", "WEBP", "TIFF"]))
def test_any_size(width: int, height: int, seed: int, file_format: str):
    image = scene(width, height, seed=seed)
    data = encode(Image.fromarray(image), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    with open_source(data, LIMITS) as src:
        info = probe_image(src, LIMITS)
        assert np.array_equal(decode_image(src, LIMITS).frames[0], image)
    assert (info.width, info.height, info.frames, info.format) == (width, height, 1, file_format)


def test_a_picture_wider_than_pillows_packing_buffer():
    image = scene(20_000, 101)
    assert np.array_equal(pixels(encode(Image.fromarray(image), "BMP")), image)


def test_frames_are_decoded_into_the_memory_that_is_given():
    given_out: list[np.ndarray] = []

    def allocate(shape: tuple[int, int, int, int]) -> np.ndarray:
        given_out.append(np.full(shape, 99, np.uint8))
        return given_out[-1]

    clip = decode(encode(PICTURE, "PNG"), allocate=allocate)
    assert clip.frames is given_out[0]
    assert np.array_equal(clip.frames[0], SCENE)


# Upright --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_that_of_exif_transpose(file_format: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(PICTURE, file_format, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    with open_source(data, LIMITS) as src:
        info = probe_image(src, LIMITS)
        clip = decode_image(src, LIMITS)
    assert np.array_equal(clip.frames[0], expected)
    assert (info.width, info.height) == (clip.width, clip.height) == (expected.shape[1], expected.shape[0])
    assert clip.notes == ()


@pytest.mark.parametrize("value", [0, 9, 65535])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_an_orientation_that_means_nothing_is_as_stored(file_format: str, value: int):
    exif = Image.Exif()
    exif[0x0112] = value
    clip = decode(encode(PICTURE, file_format, exif=exif))
    assert (clip.height, clip.width) == SCENE.shape[:2]
    assert any(str(value) in note for note in clip.notes)


@pytest.mark.parametrize(
    "block",
    [b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0" + b"\xa5" * 90],
)
def test_a_broken_exif_block_changes_nothing_and_warns_nobody(block: bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = decode(encode(PICTURE, "PNG", exif=block))
        jpeg = decode(encode(PICTURE, "JPEG", exif=block))
    assert np.array_equal(clip.frames[0], SCENE)
    assert jpeg.frames.shape == clip.frames.shape
    assert "the EXIF block is damaged; shown as stored" in clip.notes


def test_an_avif_with_a_broken_exif_block_is_read_or_refused_without_a_warning():
    exif = Image.Exif()
    exif[0x010E] = "some words about it"
    data = encode(PICTURE, "AVIF", exif=exif)
    place = data.rindex(b"\x01\x0e" if b"MM\0*" in data else b"\x0e\x01")
    for damage in (b"\xff" * 8, b"\x0e\x01\x02\0\xff\xff\xff\x7f"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert decode(data[:place] + damage + data[place + 8 :]).width == 37
            except DecodeError as error:
                assert error.source == "it"


def test_a_tiff_of_strange_tags_warns_nobody():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[305] = "made by hand"
    tags[34665] = 4_000_000_000  # an EXIF directory far outside the file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(pixels(encode(PICTURE, "TIFF", tiffinfo=tags)), SCENE)


# Opaque ---------------------------------------------------------------------------------------------------------------


def over(colours: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """The slow twin: fractions, rounded to nearest."""
    a, out = alpha.astype(int), np.empty_like(colours)
    for channel in range(3):
        mixed = colours[..., channel].astype(int) * a + background[channel] * (255 - a)
        out[..., channel] = np.vectorize(lambda n: int(Fraction(int(n), 255) + Fraction(1, 2)))(mixed)
    return out


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (12, 200, 77)])
def test_every_way_to_store_transparency_gives_the_same_picture(background: tuple[int, int, int]):
    colours = np.repeat(scene(channels=1), 3, axis=-1)
    alpha = np.random.default_rng(1).choice(np.array([0, 1, 128, 254, 255], np.uint8), colours.shape[:2])
    alpha[0, 0] = 0
    rgba, la = np.dstack([colours, alpha]), np.dstack([colours[..., 0], alpha])
    expected = over(colours, alpha, background)
    sixteen = rgba.astype(np.uint16) * 257
    for data in [
        encode(Image.fromarray(rgba), "PNG"),
        encode(Image.fromarray(la), "PNG"),
        encode(Image.fromarray(rgba), "WEBP", lossless=True, exact=True),
        encode(Image.fromarray(rgba), "TIFF"),
        encode(Image.fromarray(la), "TIFF"),
        png16(sixteen),
        png16(la.astype(np.uint16) * 257),
    ]:
        clip = decode(data, background=background)
        assert np.array_equal(clip.frames[0], expected)
        assert any("composited" in note for note in clip.notes)


def test_one_hidden_colour_in_every_encoding():
    colours = np.array([(9, 9, 9), (1, 2, 3), (200, 200, 200)], np.uint8)[np.arange(63).reshape(7, 9) % 3]
    hidden = (colours == 9).all(axis=-1)
    expected = np.where(hidden[..., None], 255, colours)
    paletted = Image.fromarray(colours).quantize(4)
    index = int(np.asarray(paletted)[hidden][0])
    table = bytes(0 if i == index else 255 for i in range(4))
    key16 = struct.pack(">HHH", *([9 * 257] * 3))
    for data in [
        encode(Image.fromarray(np.dstack([colours, np.where(hidden, 0, 255).astype(np.uint8)])), "PNG"),
        encode(Image.fromarray(colours), "PNG", transparency=(9, 9, 9)),
        encode(paletted, "PNG", transparency=index),
        encode(paletted, "PNG", transparency=table),
        png16(colours.astype(np.uint16) * 257, chunk(b"tRNS", key16)),
        encode(paletted, "GIF", transparency=index),
    ]:
        assert np.array_equal(pixels(data), expected)


def test_a_hidden_grey_is_compared_at_its_own_depth():
    values = np.array([[[9 * 257], [9 * 257 + 1]]], np.uint16)
    assert pixels(png16(values, chunk(b"tRNS", struct.pack(">H", 9 * 257)))).tolist() == [[[255] * 3, [9] * 3]]
    grey = np.array([[9, 10]], np.uint8)
    data = encode(Image.fromarray(grey), "PNG", transparency=9)
    assert pixels(data).tolist() == [[[255] * 3, [10] * 3]]


def test_full_alpha_is_no_news():
    assert (
        decode(encode(Image.fromarray(np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])), "PNG")).notes == ()
    )


# Depth and colour -----------------------------------------------------------------------------------------------------

SIXTEEN = np.random.default_rng(3).integers(0, 65536, (19, 26, 4), dtype=np.uint16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_scaled_by_257_and_rounded(channels: int):
    values = SIXTEEN[..., :channels].copy()
    eight = np.rint(values / 257).astype(np.uint8)
    colours = eight[..., :3] if channels >= 3 else np.repeat(eight[..., :1], 3, axis=-1)
    if channels in (2, 4):
        colours = over(colours, eight[..., -1], (255, 255, 255))
    assert np.array_equal(pixels(png16(values)), colours)


def test_eight_bits_stored_as_sixteen_come_back():
    assert np.array_equal(pixels(png16(SCENE.astype(np.uint16) * 257)), SCENE)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_grey_tiff(order: str):
    values = SIXTEEN[..., 0]
    mode = {"<u2": "I;16", ">u2": "I;16B"}[order]
    image = Image.frombytes(mode, (26, 19), values.astype(order).tobytes())
    expected = np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, axis=-1)
    assert np.array_equal(pixels(encode(image, "TIFF")), expected)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_sixteen_bit_tiff_by_hand(white_is_zero: bool):
    values = np.array([[0, 257, 65535]], "<u2")
    photometric = 0 if white_is_zero else 1
    tags = [(256, 3, 1, 3), (257, 3, 1, 1), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, photometric)]
    tags += [(273, 4, 1, 8 + 2 + 12 * 7 + 4), (279, 4, 1, 6)]
    table = struct.pack("<H", 7) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = b"II*\0\x08\0\0\0" + table + values.tobytes()
    assert pixels(data)[0, :, 0].tolist() == ([255, 254, 0] if white_is_zero else [0, 1, 255])


@pytest.mark.parametrize("value", [0.5, 65535.0, float("nan"), float("inf")])
def test_floats_are_refused(value: float):
    with pytest.raises(UnsupportedFormat, match="no stated range") as caught:
        decode(encode(Image.fromarray(np.full((3, 4), value, np.float32)), "TIFF"))
    assert caught.value.source == "it"


def test_integers_of_32_bits_are_refused():
    with pytest.raises(UnsupportedFormat, match="no stated range"):
        decode(encode(Image.fromarray(np.arange(12, dtype=np.int32).reshape(3, 4)), "TIFF"))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit_and_grey_fill_three_channels(file_format: str):
    grey = scene(channels=1)[..., 0]
    bits = Image.fromarray((grey > 90).astype(np.uint8) * 255).convert("1")
    assert np.array_equal(pixels(encode(bits, file_format)), np.asarray(bits.convert("RGB")))
    assert np.array_equal(pixels(encode(Image.fromarray(grey), file_format)), np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_grey_png(bits: int):
    top = 2**bits - 1
    rows = b"".join(b"\0" + bytes([0b00011011]) for _ in range(3))
    expected = [int(f"{0b00011011:08b}"[i : i + bits], 2) * 255 // top for i in range(0, 8, bits)]
    assert pixels(png(8 // bits, 3, bits, 0, rows))[0, :, 0].tolist() == expected


def test_interlaced_png():
    data = png(1, 1, 8, 2, b"\0\1\2\3", interlace=1)
    assert pixels(data).tolist() == [[[1, 2, 3]]]
    rows = b"".join(b"\0" + bytes((i, 0, 0)) for i in range(4))  # 2 x 2: passes 1, 6 and 7
    data = png(2, 2, 8, 2, b"\0\x0a\0\0" + b"\0\x14\0\0" + b"\0\x1e\0\0\x28\0\0", interlace=1)
    assert pixels(data)[..., 0].tolist() == [[10, 20], [30, 40]]
    assert rows


def test_lab_and_ycbcr_tiff():
    to = ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(PICTURE, ImageCms.createProfile("sRGB"), to, outputMode="LAB")
    off = np.abs(pixels(encode(lab, "TIFF")).astype(int) - SCENE)
    assert off.max() <= 4
    ycc = PICTURE.convert("YCbCr")
    if int(PIL.__version__.split(".")[0]) < 13:  # it writes what it cannot read
        with pytest.raises(DecodeError, match="TIFF data"):
            decode(encode(ycc, "TIFF"))
        return
    assert np.abs(pixels(encode(ycc, "TIFF")).astype(int) - SCENE).max() <= 4


def test_cmyk_is_never_inverted():
    inks = Image.new("CMYK", (4, 4), (0, 0, 0, 0))
    inks.paste((0, 255, 255, 0), (0, 0, 2, 4))
    for data in (encode(inks, "TIFF"), encode(inks, "JPEG", quality=100)):
        clip = decode(data)
        left, right = clip.frames[0, 0, 0].astype(int), clip.frames[0, 0, 3].astype(int)
        assert (np.abs(left - (255, 0, 0)) <= 3).all()
        assert (np.abs(right - (255, 255, 255)) <= 3).all()
        assert "CMYK colours converted without a profile" in clip.notes


def display_p3() -> bytes:
    """A matrix profile with Display P3's primaries and a plain gamma of 2.2, written by hand."""

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in (x, y, z)))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + bytes(79)
    tags = [
        (b"desc", text + bytes(-len(text) % 4)),
        (b"cprt", b"text\0\0\0\0none\0\0\0\0"),
        (b"wtpt", xyz(0.9642, 1.0, 0.8249)),
        (b"rXYZ", xyz(0.5151, 0.2412, -0.0011)),
        (b"gXYZ", xyz(0.2920, 0.6922, 0.0419)),
        (b"bXYZ", xyz(0.1571, 0.0666, 0.7841)),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = bytearray(128)
    head[:4] = struct.pack(">I", place + len(body))
    head[8:12], head[12:24], head[36:40] = b"\2\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    head[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    return bytes(head) + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_embedded_profile_is_applied_as_littlecms_does(file_format: str):
    image = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), -1).reshape(12, 18, 3).astype(np.uint8))
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {})
    clip = decode(encode(image, file_format, icc_profile=display_p3(), **options))
    wide = ImageCms.ImageCmsProfile(io.BytesIO(display_p3()))
    plain = Image.fromarray(pixels(encode(image, file_format, **options)))
    expected = np.asarray(ImageCms.profileToProfile(plain, wide, ImageCms.createProfile("sRGB")))
    assert np.abs(clip.frames[0].astype(int) - expected.astype(int)).max() <= 3
    assert not np.array_equal(clip.frames[0], plain)
    assert "RGB colours converted to sRGB by the embedded profile" in clip.notes


def test_a_profile_with_alpha_keeps_the_alpha():
    rgba = Image.fromarray(np.dstack([SCENE, np.full(SCENE.shape[:2], 0, np.uint8)]))
    assert (pixels(encode(rgba, "PNG", icc_profile=display_p3())) == 255).all()


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clip = decode(encode(PICTURE, "PNG", icc_profile=profile))
    assert np.array_equal(clip.frames[0], SCENE)
    assert clip.notes == ()


@pytest.mark.parametrize("profile", [b"no profile at all", display_p3()[:200], display_p3().replace(b"RGB ", b"CMYK")])
def test_a_broken_or_foreign_profile_is_ignored_and_said(profile: bytes):
    clip = decode(encode(PICTURE, "PNG", icc_profile=profile))
    assert np.array_equal(clip.frames[0], SCENE)
    assert any("profile" in note and "ignored" in note for note in clip.notes)


# Damage ---------------------------------------------------------------------------------------------------------------

CUTS = {
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "WEBP lossless": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "AVIF": {},
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_anywhere_is_an_error_or_the_whole_picture(name: str):
    data = encode(Image.fromarray(scene(16, 11)), name.split()[0], **CUTS[name])
    whole, read = pixels(data), []
    for end in range(1, len(data)):
        try:
            clip = decode(data[:end])
        except (DecodeError, LimitError, UnsupportedFormat):
            continue
        read.append(end)
        assert clip.complete and np.array_equal(clip.frames[0], whole), end
        assert any("ends" in note or "cut off" in note for note in clip.notes), (end, clip.notes)
    assert all(end >= len(data) - 24 for end in read)  # IEND, and what checksums and ends of streams take


@pytest.mark.parametrize("place", [-13, -20])
def test_png_checksums_count(place: int):
    data = bytearray(encode(PICTURE, "PNG"))
    data[place] ^= 0x10
    with pytest.raises(DecodeError, match="checksum of a PNG IDAT chunk"):
        decode(bytes(data))


def test_foreign_words_stay_in_the_cause():
    with pytest.raises(DecodeError) as caught:
        decode(encode(PICTURE, "BMP")[:-50])
    assert isinstance(caught.value.__cause__, OSError)
    assert "truncated" not in str(caught.value)
    assert caught.value.source == "it"


@pytest.mark.parametrize(
    ("header", "kind"),
    [((0, 10), LimitError), ((10, 0), LimitError), ((2**31 - 1,) * 2, LimitError), ((8001, 8001), LimitError)],
)
def test_a_size_in_the_header_is_judged_before_anything_is_decoded(header: tuple[int, int], kind: type[TubeletError]):
    data = png(*header, 8, 2, bytes(10))
    with open_source(data, LIMITS) as src:
        with pytest.raises(kind):
            probe_image(src, LIMITS)
        with pytest.raises(kind):
            decode_image(src, LIMITS)


def test_limits_say_both_numbers():
    narrow = Limits(max_ratio=200)
    with pytest.raises(LimitError, match=r"1 x 201 .* 201.0.* 200") as caught:
        decode(encode(Image.new("L", (1, 201)), "PNG"), narrow)
    assert (caught.value.limit, caught.value.got, caught.value.source) == (200.0, 201.0, "it")
    assert decode(encode(Image.new("L", (1, 200)), "PNG"), narrow).height == 200
    for size in ((256, 1), (1, 65_535), (65_535, 1)):
        assert decode(encode(Image.new("L", size), "PNG")).frames.shape == (1, size[1], size[0], 3)
    with pytest.raises(LimitError, match="max_pixels"):
        decode(encode(PICTURE, "PNG"), Limits(max_pixels=SCENE.shape[0] * SCENE.shape[1] - 1))
    assert decode(encode(PICTURE, "PNG"), Limits(max_pixels=SCENE.shape[0] * SCENE.shape[1])).width == 37


def test_pictures_above_pillows_own_limit_make_no_warning():
    data = encode(Image.new("1", (10_000, 9_000)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = decode(data, Limits(max_pixels=10**8))
    assert (clip.width, clip.height) == (10_000, 9_000)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_text_that_inflates_without_end_is_refused(kind: bytes):
    head = {b"zTXt": b"k\0\0", b"iCCP": b"p\0\0", b"iTXt": b"k\0\1\0\0\0"}[kind]
    data = png(1, 1, 8, 2, b"\0\1\2\3", chunk(kind, head + zlib.compress(bytes(50 << 20), 9)))
    with pytest.raises(LimitError, match="max_metadata_bytes") as caught:
        decode(data)
    assert caught.value.limit == LIMITS.max_metadata_bytes
    assert decode(png(1, 1, 8, 2, b"\0\1\2\3", chunk(kind, head + zlib.compress(b"short")))).width == 1


def test_pages_of_a_tiff():
    pages = [Image.fromarray(scene(seed=i)) for i in range(3)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    clip = decode(data)
    assert np.array_equal(clip.frames[0], scene(seed=0))
    assert clip.notes == ("the first of 3 pages",)
    with open_source(data, LIMITS) as src:
        assert probe_image(src, LIMITS).frames == 3
    with pytest.raises(LimitError, match="max_frames"):
        decode(data, Limits(max_frames=2))


def test_directories_in_a_circle_end():
    data = bytearray(encode(PICTURE, "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    assert np.array_equal(pixels(bytes(data)), SCENE)


def test_a_jpeg_with_a_second_picture_behind_it_is_the_first():
    first, second = encode(PICTURE, "JPEG"), encode(Image.new("RGB", (5, 5)), "JPEG")
    assert np.array_equal(pixels(first + second), pixels(first))


def test_a_jpeg_of_too_many_scans_is_refused():
    data = encode(Image.fromarray(scene(64, 64)), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")  # of a kind that may come again and changes nothing
    behind = re.search(rb"\xff[^\0\xff]", data[first + 2 :])
    assert behind is not None
    end = first + 2 + behind.start()
    many = data[:end] + data[first:end] * 600 + data[end:]
    with pytest.raises(LimitError, match="scans"):
        decode(many, Limits(max_pixels=64 * 64))
    assert np.array_equal(pixels(many), pixels(data))


def test_the_file_may_be_decoded_again():
    with open_source(encode(PICTURE, "JPEG"), LIMITS) as src:
        assert np.array_equal(decode_image(src, LIMITS).frames, decode_image(src, LIMITS).frames)
