"""One picture by every door: path, bytes, file object, Pillow picture (opened, loaded), array, tensor."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tubelet.errors import DecodeError, LimitError, TubeletError, UnsupportedFormat
from tubelet.pixels.inputs import clip_of
from tubelet.pixels.load import load_patches
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits
from tubelet.reading.read import probe, read

TURNS = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
TURNS |= {7: "TRANSVERSE", 8: "ROTATE_90"}
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {},
    "AVIF": {"quality": 90, "speed": 10},
    "GIF": {},
    "BMP": {},
}
MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "RGB", "RGBA", "CMYK"),
    "AVIF": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "RGB"),
}
CARRIERS = {
    "JPEG": ("exif", "xmp", "xmp element"),
    "PNG": ("exif", "xmp", "xmp element", "raw", "raw APP1"),
    "WEBP": ("exif", "xmp", "xmp element"),
    "TIFF": ("exif", "xmp"),
    "AVIF": ("exif", "xmp"),
    "GIF": (),
    "BMP": (),
}
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


def scene(width: int = 37, height: int = 23) -> Image.Image:
    """A picture that looks different from every side."""
    slope = np.linspace(0, 160, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    pixels = (slope + np.arange(3) * 17).astype(np.uint8)
    pixels[: height // 3, : width // 4] = (250, 10, 90)
    return Image.fromarray(pixels)


def in_mode(mode: str) -> Image.Image:
    picture = scene()
    if mode in ("LA", "RGBA"):
        alpha = Image.fromarray(np.linspace(0, 255, picture.width * picture.height).astype(np.uint8).reshape(23, 37))
        picture = picture.convert(mode)
        picture.putalpha(alpha)
        return picture
    return picture.quantize(64) if mode == "P" else picture.convert(mode)


def exif_block(orientation: int, kind: int = 3, order: str = "<") -> bytes:
    """An EXIF block by hand, its orientation of the given TIFF type."""
    value = struct.pack(order + INTEGERS[kind], orientation).ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "HHHI", 1, 0x0112, kind, 1) + value + bytes(4)


def xmp_packet(orientation: int, form: str = "xmp") -> bytes:
    said = (
        f' tiff:Orientation="{orientation}"/>'
        if form == "xmp"
        else f"><tiff:Orientation>{orientation}</tiff:Orientation>"
    )
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description{said}</rdf:RDF></x:xmpmeta>'.encode()


def png_with(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:33] + chunk + data[33:]


def encoded(picture: Image.Image, name: str, carrier: str | None = None, orientation: int = 1, kind: int = 3) -> bytes:
    """A file of the picture that says its orientation in the given way."""
    options = dict(FORMATS[name])
    block = exif_block(orientation, kind)
    if carrier == "exif" and name == "TIFF":
        return tiff_tag(file_of(picture, name, **options), orientation, kind)
    if carrier == "exif":
        options["exif"] = b"Exif\0\0" + block
    elif carrier is not None and carrier.startswith("xmp") and name not in ("PNG", "TIFF"):
        options["xmp"] = xmp_packet(orientation, carrier)
    elif carrier == "xmp" and name == "TIFF":
        options["tiffinfo"] = {700: xmp_packet(orientation)}
    data = file_of(picture, name, **options)
    if name == "PNG" and carrier is not None and carrier.startswith("xmp"):
        data = png_with(data, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_packet(orientation, carrier))
    elif carrier is not None and carrier.startswith("raw"):
        digits = (b"Exif\0\0" + block).hex()
        text = f"\nexif\n{len(digits) // 2:8}\n{digits}\n".encode()
        name_of = b"Raw profile type " + (b"exif" if carrier == "raw" else b"APP1")
        data = png_with(data, b"zTXt", name_of + b"\0\0" + zlib.compress(text))
    return data


def tiff_tag(data: bytes, orientation: int, kind: int) -> bytes:
    """A little-endian TIFF with one more entry in its only directory, which moves to the end."""
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    entries = [data[first + 2 + 12 * i :][:12] for i in range(count)]
    value = struct.pack("<" + INTEGERS[kind], orientation).ljust(4, b"\0")
    entries.append(struct.pack("<HHI", 0x0112, kind, 1) + value)
    table = (
        struct.pack("<H", count + 1) + b"".join(sorted(entries, key=lambda e: struct.unpack_from("<H", e))) + bytes(4)
    )
    data += bytes(len(data) % 2)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + table


def file_of(picture: Image.Image, name: str, **options: Any) -> bytes:
    picture.save(buffer := io.BytesIO(), name, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def loaded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def read_here(source: Any) -> Clip:
    return read(source, isolate="never")


def outcome(door: Callable[[], Any]) -> Any:
    try:
        got = door()
    except TubeletError as error:
        return type(error)
    return (got[0] if isinstance(got, list) else got).frames


@given(
    st.sampled_from([(name, mode) for name, modes in MODES.items() for mode in modes]),
    st.integers(0, 4),
    st.integers(1, 8),
    st.sampled_from(sorted(INTEGERS)),
)
def test_every_door_gives_the_same_upright_picture(kind: tuple[str, str], choice: int, orientation: int, integer: int):
    name, mode = kind
    carriers = CARRIERS[name]
    carrier = carriers[choice % len(carriers)] if carriers else None
    picture = in_mode(mode)
    integer = 3 if name == "AVIF" and integer == 1 else integer  # Pillow's writer takes no other type of bytes
    data = encoded(picture, name, carrier, orientation, integer)
    plain = clip_of(encoded(picture, name)).frames[0]
    turn = TURNS[orientation] if carrier else None
    upright = Image.fromarray(plain)
    upright = np.asarray(upright if turn is None else upright.transpose(Image.Transpose[turn]))
    clips = [read_here(data)[0], read_here(io.BytesIO(data))[0], clip_of(opened(data)), clip_of(loaded(data))]
    for clip in clips:
        assert np.array_equal(clip.frames[0], upright), (name, mode, carrier, orientation, integer)
        assert clip.complete
    info = probe(data)
    assert (info.width, info.height) == (upright.shape[1], upright.shape[0])
    assert np.array_equal(clip_of(upright.copy()).frames[0], upright)
    assert np.array_equal(clip_of(torch.tensor(upright).permute(2, 0, 1)).frames[0], upright)


def test_paths_and_the_decoding_process_too(tmp_path: Path):
    for name in FORMATS:
        data = encoded(in_mode(MODES[name][-1]), name, *(CARRIERS[name][:1] or (None,)), 6)
        (path := tmp_path / name).write_bytes(data)
        first = clip_of(opened(data)).frames
        with Image.open(path) as picture:
            clips = [clip_of(picture), clip_of(data), read(path)[0], read(path, isolate="always")[0]]
        for clip in clips:
            assert np.array_equal(clip.frames, first), name


def test_a_turn_that_exif_says_is_not_made_again_for_xmp():
    for name in ("JPEG", "PNG", "WEBP", "AVIF"):
        options: dict[str, Any] = {"exif": b"Exif\0\0" + exif_block(3)} | FORMATS[name]
        if name != "PNG":
            options["xmp"] = xmp_packet(6)
        data = file_of(scene(), name, **options)
        if name == "PNG":
            data = png_with(data, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_packet(6))
        for clip in (clip_of(data), clip_of(opened(data)), clip_of(loaded(data))):
            assert (clip.width, clip.height) == (37, 23)


def test_what_was_changed_in_memory_counts():
    picture = opened(encoded(scene(), "JPEG", "exif", 6))
    picture.getexif()[0x0112] = 1
    assert (clip_of(picture).width, clip_of(picture).height) == (37, 23)
    del picture.getexif()[0x0112]
    assert clip_of(picture).width == 37
    small = opened(encoded(scene(320, 200), "JPEG"))
    small.draft("RGB", (80, 50))
    assert clip_of(small).width == small.width < 320


def test_a_second_frame_is_the_frame_that_the_picture_shows():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    picture = opened(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    picture.seek(1)
    assert clip_of(picture).frames[0, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_the_same_errors_by_every_door(cut: float):
    for name in FORMATS:
        data = encoded(in_mode(MODES[name][-1]), name)
        data = data[: int(len(data) * cut)]
        file = outcome(lambda data=data: clip_of(data))
        assert file is DecodeError, name
        try:
            picture = opened(data)
        except (OSError, SyntaxError, ValueError):  # Pillow's own door is shut
            continue
        assert outcome(lambda picture=picture: clip_of(picture)) is DecodeError, name
        with pytest.raises(DecodeError) as caught:
            load_patches([scene(), opened(data)], PixelRecipe(patch=14))
        assert (caught.value.item, caught.value.source) == (1, "<picture>")


def test_the_same_limits_by_every_door(tmp_path: Path):
    limits = Limits(max_pixels=37 * 23 - 1)
    data = encoded(scene(), "PNG")
    (path := tmp_path / "it").write_bytes(data)
    pixels = np.asarray(scene())
    doors = (path, data, io.BytesIO(data), opened(data), loaded(data), pixels, torch.tensor(pixels))
    for door in doors:
        with pytest.raises(LimitError, match="max_pixels") as caught:
            clip_of(door, limits=limits)
        assert caught.value.source
    with pytest.raises(LimitError, match="max_frames"):
        clip_of(np.zeros((3, 4, 4, 3), np.uint8), limits=Limits(max_frames=2))


def test_closed_and_unreadable_pillow_pictures_are_named():
    closed = opened(encoded(scene(), "JPEG"))
    closed.close()
    with pytest.raises(DecodeError) as caught:
        load_patches([scene(), closed], PixelRecipe(patch=14))
    assert caught.value.item == 1
    for mode in ("F", "I"):
        with pytest.raises(UnsupportedFormat):
            clip_of(Image.new(mode, (4, 4)))
    with pytest.raises(LimitError):
        clip_of(Image.new("RGB", (0, 4)))
    for block in (b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\xff\xff\0\0"):
        data = file_of(scene(), "JPEG", exif=block, quality=95)
        with warnings.catch_warnings():  # of Pillow, while it opens
            warnings.simplefilter("ignore")
            picture = loaded(data)
        assert np.array_equal(clip_of(picture).frames, clip_of(data).frames)


def test_sixteen_bits_of_a_picture_that_was_only_opened():
    values = np.random.default_rng(0).integers(0, 65_536, (9, 7, 3), dtype=np.uint16)
    head = struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert np.array_equal(clip_of(opened(data)).frames[0], np.rint(values / 257).astype(np.uint8))


def ink_file(*, marker: bool) -> bytes:
    """A CMYK JPEG as Adobe writes it (inverted, as all known ones are), with or without its marker."""
    data = file_of(Image.new("CMYK", (16, 16), (10, 200, 90, 30)), "JPEG", quality=100)
    place = data.index(b"\xff\xee")
    return data if marker else data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") :]


@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_is_inverted_by_every_door_as_browsers_do(marker: bool):
    data = ink_file(marker=marker)
    expected = np.asarray(Image.new("CMYK", (1, 1), (10, 200, 90, 30)).convert("RGB"))[0, 0].astype(int)
    for clip in (clip_of(data), clip_of(opened(data)), clip_of(loaded(data))):
        assert np.abs(clip.frames[0].astype(int) - expected).max() <= 3
    assert np.array_equal(clip_of(data).frames[0], np.asarray(opened(data).convert("RGB")))


def grey_profile() -> bytes:
    """A grey profile of gamma 1, by hand."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256) + b"\0\0"
    tags = [(b"desc", b"desc\0\0\0\0" + struct.pack(">I", 2) + b"g\0" + bytes(78)), (b"cprt", b"text\0\0\0\0none")]
    tags += [(b"wtpt", white), (b"kTRC", curve)]
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = bytearray(128)
    head[:4] = struct.pack(">I", place + len(body))
    head[8:12], head[12:24], head[36:40] = b"\2\x10\0\0", b"mntrGRAYXYZ ", b"acsp"
    head[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    return bytes(head) + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("alpha", [False, True])
def test_a_grey_profile_of_a_picture_that_its_decoder_gives_as_rgb(alpha: bool):
    ImageCms.ImageCmsProfile(io.BytesIO(grey_profile()))
    grey = scene().convert("L")
    if alpha:
        grey.putalpha(200)
    png = clip_of(file_of(grey, "PNG", icc_profile=grey_profile()))
    assert any("converted to sRGB" in note for note in png.notes)
    assert not np.array_equal(png.frames, clip_of(file_of(grey, "PNG")).frames)
    avif = file_of(grey, "AVIF", quality=100, speed=10, icc_profile=grey_profile())
    webp = file_of(grey, "WEBP", lossless=True, exact=True, icc_profile=grey_profile())
    for data, within in ((avif, 3), (webp, 0)):
        for clip in (clip_of(data), clip_of(opened(data)), clip_of(loaded(data))):
            assert np.abs(clip.frames.astype(int) - png.frames.astype(int)).max() <= within
