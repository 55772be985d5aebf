"""Whatever a caller's file object raises, and whenever: an error of ours with it as its cause, by every door."""

import http.client
import io
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.reading.video.video_clips import clip

from tubelet.errors import InputError
from tubelet.pixels.load import load_patches
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.codec.decode import codec_signals
from tubelet.reading.read import probe, read


class Ours(Exception):
    """An exception of a caller's own."""


ERRORS: list[Exception] = [
    zipfile.BadZipFile("bad checksum"),
    zlib.error("incorrect data"),
    KeyError("object 7"),
    http.client.IncompleteRead(b"abc"),
    Ours("gone"),
    OSError("no route to 10.0.0.1"),
    EOFError(),
    IndexError(),
    StopIteration(),
    MemoryError(),
]
PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP")
VIDEOS = ("h264_fast", "h264_mkv", "mpeg4_avi", "vp8")


@cache
def content(kind: str) -> bytes:
    if kind in VIDEOS:
        return clip(kind, 20)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


class Breaking:
    """A file object that raises at its n-th call of a method."""

    def __init__(self, data: bytes, method: str, call: int, error: BaseException, *, seekable: bool = True) -> None:
        self._file, self._method, self._left, self._error = io.BytesIO(data), method, call, error
        self._seekable = seekable
        self.raised = False

    def _count(self, method: str) -> None:
        if method == self._method:
            self._left -= 1
            if self._left < 0:
                self.raised = True
                raise self._error

    def read(self, size: int = -1, /) -> bytes:
        self._count("read")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._count("seek")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        self._count("tell")
        return self._file.tell()

    def seekable(self) -> bool:
        self._count("seekable")
        return self._seekable


DOORS: dict[str, Callable[[Any], Any]] = {
    "read": lambda file: read(file, num_frames=3, isolate="never"),
    "animation": lambda file: read(file, num_frames=3, isolate="never", animation=True),
    "isolated": lambda file: read(file, num_frames=3, isolate="always"),
    "probe": probe,
    "rows": lambda file: load_patches([file], PixelRecipe(patch=16), num_frames=3, isolate="never"),
}


@pytest.mark.parametrize("kind", [*PICTURES, *VIDEOS])
@pytest.mark.parametrize("door", DOORS)
def test_what_a_file_object_raises_is_an_input_error(kind: str, door: str):
    places = (("seekable", 0), ("tell", 0), ("seek", 1), ("seek", 4), *(("read", n) for n in range(6)))
    for (method, call), error in zip(places, ERRORS, strict=True):
        file = Breaking(content(kind), method, call, error)
        try:
            DOORS[door](file)
        except InputError as caught:
            assert file.raised, caught
            assert caught.__cause__ is error, (method, call, repr(caught.__cause__))
            assert "10.0.0.1" not in str(caught)
        else:
            assert not file.raised, (method, call, error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("seekable", [True, False])
def test_a_stream_that_breaks_has_not_ended(error: Exception, seekable: bool):
    for kind in ("JPEG", "h264_mkv"):
        for call in (0, 1):
            file = Breaking(content(kind) + bytes(3 << 20), "read", call, error, seekable=seekable)
            with pytest.raises(InputError) as caught:
                read(file, isolate="never")
            assert caught.value.__cause__ is error
    with pytest.raises(InputError) as caught:
        codec_signals(Breaking(content("h264_mkv"), "read", int(seekable), error, seekable=seekable))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("seekable", [True, False])
def test_what_asks_a_program_to_end_passes(error: BaseException, seekable: bool):
    for kind in ("JPEG", "h264_mkv"):
        for call in (0, 1, 2, 3) if seekable and kind != "JPEG" else (0, 1) if seekable else (0,):
            with pytest.raises(type(error)):
                read(Breaking(content(kind), "read", call, error, seekable=seekable), isolate="never")


def test_objects_that_give_what_is_no_answer():
    class Odd(io.BytesIO):
        answer: Any = None

        def read(self, size: int | None = -1, /) -> bytes:
            return self.answer

    class More(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(-1 if size is None or size < 0 else size + 100_000)

    for answer in (None, "text", 7, [1]):
        Odd.answer = answer
        with pytest.raises(InputError):
            read(Odd(content("PNG")), isolate="never")
    assert probe(More(content("h264_fast"))).width == 64  # what was not asked for is not written anywhere

    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            raise Ours

    with pytest.raises(InputError) as caught:
        read(io.BufferedReader(Raw()), isolate="never")
    assert isinstance(caught.value.__cause__, Ours)

    class Path:
        def __fspath__(self) -> str:
            raise Ours

    with pytest.raises(InputError):
        read(Path())
