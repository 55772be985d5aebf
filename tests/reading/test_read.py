"""`tubelet.read`: many inputs, in order, each a Clip or an error that says which one it is."""

import gc
import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tubelet
from tubelet import Clip, Limits, read
from tubelet.errors import DecodeError, InputError, LimitError, TubeletError, UnsupportedFormat
from tubelet.reading.isolated import pool as isolate
from tubelet.reading.picture.image import PictureInfo
from tubelet.reading.read import probe


def encode(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def grey(level: int, width: int = 6, height: int = 4) -> bytes:
    return encode(Image.new("L", (width, height), level))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{level}.png" for level in range(0, 240, 10)]
    for level, path in zip(range(0, 240, 10), paths, strict=True):
        path.write_bytes(grey(level))
    return paths


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the inputs that were decoded in a child process."""
    seen: list[str] = []
    really = isolate.isolated_read

    def noting(src: object, job: object) -> Clip:
        seen.append(src.name)  # type: ignore[attr-defined]
        return really(src, job)  # type: ignore[arg-type]

    monkeypatch.setattr(isolate, "isolated_read", noting)
    return seen


def test_one_input_is_a_list_of_one(files: list[Path]):
    for source in (files[3], str(files[3]), files[3].read_bytes(), io.BytesIO(files[3].read_bytes())):
        clips = read(source)
        assert len(clips) == 1
        assert (clips[0].frames == 30).all()
    assert read(files[3])[0].source == str(files[3])


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_many_inputs_keep_their_order(files: list[Path], workers: int | None, kind: type):
    clips = read(kind(files), workers=workers)
    assert [int(clip.frames[0, 0, 0, 0]) for clip in clips] == list(range(0, 240, 10))
    assert [clip.source for clip in clips] == [str(path) for path in files]


def test_nothing_gives_nothing():
    assert read([]) == []


def test_encodings_and_ways_in_agree(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    sources: list[object] = []
    for file_format, options in [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]:
        data = encode(Image.fromarray(image), file_format, **options)
        path = tmp_path / f"x.{file_format}"
        path.write_bytes(data)
        sources += [path, data, bytearray(data), memoryview(data), io.BytesIO(data)]
    for how in ("auto", "always", "never"):
        for clip in read(sources, isolate=how):
            assert np.array_equal(clip.frames[0], image)


def test_foreign_inputs_are_isolated_by_default(files: list[Path], isolated: list[str]):
    read([files[0], grey(1), io.BytesIO(grey(2))], workers=1)
    assert isolated == ["<bytes>", "<file>"]
    read([files[0], grey(1)], isolate="never")
    assert len(isolated) == 2
    read([files[0], grey(1)], isolate="always", workers=1)
    assert isolated[2:] == [str(files[0]), "<bytes>"]


def test_without_child_processes_auto_decodes_here_and_always_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolate, "SUPPORTED", False)
    assert read(grey(9))[0].width == 6
    with pytest.raises(TubeletError, match="not available"):
        read(grey(9), isolate="always")


def test_the_first_error_says_which_input(files: list[Path]):
    broken = files[5].read_bytes()[:-30]
    for workers in (1, 4):
        with pytest.raises(DecodeError) as caught:
            read([files[0], files[1], broken, b"text and text", files[2]], workers=workers)
        assert (caught.value.item, caught.value.source) == (2, "<bytes>")
        assert str(caught.value).startswith("item 2, <bytes>: ")
    with pytest.raises(InputError) as caught:
        read(files[0].with_name("none.png"))
    assert caught.value.item is None


def test_skip_puts_errors_in_their_places(files: list[Path]):
    sources = [
        files[0],
        b"%PDF-1.7",
        files[1],
        files[0].parent,
        grey(3)[:-30],
        grey(4),
        encode(Image.new("L", (1, 70_000))),
    ]
    answers = read(sources, on_error="skip")
    kinds = [Clip, UnsupportedFormat, Clip, InputError, DecodeError, Clip, LimitError]
    assert [type(answer) for answer in answers] == kinds
    assert [answer.item for answer in answers if isinstance(answer, TubeletError)] == [1, 3, 4, 6]
    assert answers[1].as_dict()["got"] == "a PDF document"  # type: ignore[union-attr]


def test_limits_reach_every_decoder(files: list[Path]):
    for how in ("never", "always"):
        with pytest.raises(LimitError):
            read(files[0], limits=Limits(max_pixels=23), isolate=how)
        assert read(files[0], limits=Limits(max_pixels=24), isolate=how)


def test_background_and_animation_reach_the_decoder():
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    for how in ("never", "always"):
        assert (read(encode(clear), isolate=how)[0].frames == 255).all()
        assert read(encode(clear), background=(1, 2, 3), isolate=how)[0].frames[0, 0, 0].tolist() == [1, 2, 3]
        moving = encode(
            Image.new("L", (3, 3), 9), "GIF", save_all=True, append_images=[Image.new("L", (3, 3), 99)], duration=500
        )
        assert len(read(moving, isolate=how)[0]) == 1
        assert read(moving, animation=True, isolate=how)[0].times_s == (0.0, 0.5)
        assert read(moving, animation=True, times_s=[0.7], isolate=how)[0].times_s == (0.5,)
        assert read(moving, animation=True, num_frames=np.int64(2), isolate=how)[0].times_s == (0.0, 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"isolate": "sometimes"},
        {"on_error": "ignore"},
        {"workers": 0},
        {"fps": -1.0},
        {"fps": 1.0, "num_frames": 3},
        {"times_s": [2.0, 1.0]},
        {"background": (0, 0, 300)},
    ],
)
def test_wrong_options_are_errors(options: dict):
    with pytest.raises(InputError):
        tubelet.read(grey(1), **options)


@pytest.mark.parametrize("source", [None, 3, object()])
def test_wrong_inputs_are_errors(source: object):
    with pytest.raises(InputError):
        read(source)
    answers = read([source, grey(1)], on_error="skip")
    assert isinstance(answers[0], InputError)
    assert isinstance(answers[1], Clip)


def test_other_exceptions_are_not_swallowed():
    class Mine(KeyboardInterrupt):
        pass

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise Mine

    with pytest.raises(Mine):
        read([Broken(grey(1)), grey(2)], on_error="skip")


def test_many_more_files_than_threads_do_not_stay_open(files: list[Path]):
    open_files = Path("/dev/fd")
    read(files)
    gc.collect()  # what earlier tests left to be closed
    before = len(list(open_files.iterdir()))
    for _ in range(5):
        read(files * 4, workers=3)
        read([*files, b"no"], on_error="skip")
    gc.collect()
    assert len(list(open_files.iterdir())) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tubelet-read_")]


def test_probe_reads_the_header(files: list[Path]):
    assert probe(files[0]) == PictureInfo(6, 4, 1, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 8
    assert probe(encode(Image.new("L", (30, 20)), "JPEG", exif=exif)) == PictureInfo(20, 30, 1, "JPEG")
    with pytest.raises(LimitError):
        probe(files[0], limits=Limits(max_side=5))
    with pytest.raises(UnsupportedFormat):
        probe(b"text, only text")


def test_importing_is_light():
    code = "import tubelet, sys; print([m for m in ('torch', 'PIL', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
