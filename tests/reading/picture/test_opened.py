"""A Pillow picture in hand is read as its file is, however it was opened, and stays what it was."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tubelet
from tubelet.reading.limits import Limits
from tubelet.reading.picture.opened import size_opened

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def written(folder: Path, kind: str, turned: bool) -> Path:
    """A picture of 30 x 20 pixels, or one that its file says is to be turned."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    exif = Image.Exif()
    if turned:
        exif[274] = 6
    path = folder / f"picture.{kind.lower()}"
    options = {} if kind in ("BMP", "GIF") else {"exif": exif}
    Image.fromarray(pixels).save(path, kind, **options)
    return path


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_only_opened_by_its_path_is_read_as_its_file_and_not_loaded(tmp_path: Path, kind: str, turned: bool):
    path = written(tmp_path, kind, turned)
    [expected] = tubelet.read(path)
    with Image.open(path) as opened:
        before = list(opened.tile)
        assert size_opened(opened, Limits()) == (expected.width, expected.height)
        for _ in range(2):
            [clip] = tubelet.read(opened)
            assert np.array_equal(clip.frames, expected.frames)
            assert (clip.notes, clip.complete) == (expected.notes, expected.complete)
        assert list(opened.tile) == before
        assert np.asarray(opened.convert("RGB")).shape == (20, 30, 3) or kind == "TIFF"


def test_a_png_that_says_behind_its_pixels_how_it_is_turned_is_turned(tmp_path: Path):
    data = written(tmp_path, "PNG", True).read_bytes()
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    late = tmp_path / "late.png"
    late.write_bytes(data.replace(chunk, b"").replace(data[-12:], chunk + data[-12:]))
    [expected] = tubelet.read(late)
    assert (expected.width, expected.height) == (20, 30)
    [clip] = tubelet.read(Image.open(late))
    assert np.array_equal(clip.frames, expected.frames)
