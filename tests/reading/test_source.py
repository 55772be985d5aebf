"""Inputs as they are opened: only local regular files by path, and file objects of every temper."""

import gc
import io
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tubelet.errors import DecodeError, InputError, LimitError, UnsupportedFormat, WorkerDied
from tubelet.reading.limits import Limits
from tubelet.reading.source import open_source

GIF = b"GIF89a" + bytes(100)
LIMITS = Limits()


class Stream(io.RawIOBase):
    """A stream that cannot seek and gives what it is told, as slowly as it is told."""

    def __init__(self, pieces: list[bytes], pause_s: float = 0.0):
        self.pieces, self.pause_s, self.reads = list(pieces), pause_s, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        time.sleep(self.pause_s)
        return self.pieces.pop(0) if self.pieces else b""


def test_the_package_and_the_function_have_names_of_their_own():
    """`tubelet.read` is a function, and every way to import a module of the package works, in any order."""
    code = """
        import tubelet
        assert callable(tubelet.read)
        import tubelet.reading.source as s
        from tubelet.reading import source
        assert s is source is tubelet.reading.source and callable(tubelet.read) and tubelet.reading.clip.Clip
    """
    for first in ("", "import tubelet.reading.source as s\n"):
        subprocess.run([sys.executable, "-W", "error", "-c", first + textwrap.dedent(code)], check=True)
    import tubelet.reading.source as s

    assert s.open_source is open_source


@pytest.fixture
def gif(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"  # the name lies; only bytes count
    path.write_bytes(GIF)
    return path


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_a_path_is_a_local_file(gif: Path, kind: type):
    if kind is os.fsencode:  # bytes are content, never a path
        with pytest.raises(UnsupportedFormat):
            open_source(os.fsencode(gif), LIMITS)
        return
    with open_source(kind(gif), LIMITS) as src:
        assert (src.name, src.size, src.format, src.foreign) == (str(gif), len(GIF), "GIF", False)
        assert src.file.read() == GIF
    assert src.file.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", [GIF, bytearray(GIF), memoryview(GIF), memoryview(GIF + GIF)[: len(GIF)]])
def test_bytes_are_foreign(data: bytes | bytearray | memoryview):
    with open_source(data, LIMITS, "upload 7") as src:
        assert (src.name, src.size, src.format, src.foreign) == ("upload 7", len(GIF), "GIF", True)
        assert src.file.read() == GIF


def test_a_file_object_is_read_from_its_start_and_put_back():
    file = io.BytesIO(GIF)
    file.seek(17)
    with open_source(file, LIMITS) as src:
        assert src.file.read() == GIF
        assert src.foreign
    assert file.tell() == 17
    assert not file.closed


def test_an_open_file_of_the_caller_stays_open(gif: Path):
    with gif.open("rb") as file:
        with open_source(file, LIMITS) as src:
            assert src.name == str(gif)
        assert not file.closed


def test_a_stream_that_cannot_seek_is_read_into_memory():
    with open_source(Stream([GIF[:10], GIF[10:50], GIF[50:]]), LIMITS) as src:
        assert src.file.read() == GIF
        assert src.file.seek(0) == 0


def test_a_pipe_is_read_to_its_end():
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as out:
        out.write(GIF)
    with os.fdopen(reader, "rb") as file, open_source(file, LIMITS) as src:
        assert src.size == len(GIF)


def test_a_slow_stream_meets_the_deadline():
    stream = Stream([b"G"] * 1000, pause_s=0.05)
    started = time.monotonic()
    with pytest.raises(WorkerDied, match="deadline_s") as caught:
        open_source(stream, Limits(deadline_s=0.3), "slow")
    assert time.monotonic() - started < 5
    assert caught.value.limit == 0.3
    assert caught.value.source == "slow"
    before = stream.reads
    time.sleep(0.2)
    assert stream.reads <= before + 1  # the reader has stopped


def test_an_endless_stream_meets_the_byte_limit():
    stream = Stream([bytes(1 << 20)] * 1000)
    with pytest.raises(LimitError, match="max_bytes") as caught:
        open_source(stream, Limits(max_bytes=3 << 20))
    assert caught.value.got == 4 << 20
    assert stream.reads == 4


@pytest.mark.parametrize("error", [OSError("disk /dev/sda1 0x7f"), ValueError("x"), RuntimeError("y"), EOFError()])
def test_a_file_object_that_raises(error: Exception):
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise error

    with pytest.raises(DecodeError, match="could not be read") as caught:
        open_source(Broken(GIF), LIMITS, "upload")
    assert caught.value.__cause__ is error
    assert caught.value.source == "upload"
    assert "0x7f" not in str(caught.value)


def test_a_broken_stream_that_cannot_seek():
    class Broken(Stream):
        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError("peer 10.0.0.1")

    with pytest.raises(DecodeError) as caught:
        open_source(Broken([]), LIMITS)
    assert "10.0.0.1" not in str(caught.value)


def test_text_files_are_refused():
    with pytest.raises(InputError, match="binary"):
        open_source(io.StringIO("GIF89a"), LIMITS)


@pytest.mark.parametrize("thing", [7, None, 3.5, object()])
def test_other_things_are_refused(thing: object):
    with pytest.raises(InputError, match="path, bytes or a binary file"):
        open_source(thing, LIMITS)


def test_the_size_limit_is_checked_before_reading(tmp_path: Path):
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 40)  # a hole: a terabyte that takes no room
    with pytest.raises(LimitError, match="file size") as caught:
        open_source(big, LIMITS)
    assert (caught.value.limit, caught.value.got) == (LIMITS.max_bytes, 1 << 40)
    with pytest.raises(LimitError):
        open_source(GIF, Limits(max_bytes=50))


def test_only_regular_files_are_opened(tmp_path: Path):
    fifo, sock, loop = tmp_path / "fifo", tmp_path / "sock", tmp_path / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(sock))
        for path, words in [
            (tmp_path, "directory"),
            (fifo, "pipe"),
            (sock, "socket"),
            (Path("/dev/zero"), "device"),
            (Path("/dev/null"), "device"),
            (loop, "cannot be opened"),
            (tmp_path / "none", "no such file"),
            (tmp_path / "fifo" / "below", "no such file"),
            (tmp_path / ("x" * 5000), "cannot be opened"),
            (str(tmp_path) + "/a\0b", "cannot be opened"),
            ("", "path is empty"),
        ]:
            with pytest.raises(InputError, match=words) as caught:
                open_source(path, LIMITS)
            assert caught.value.source == str(path)


def test_links_to_regular_files_are_followed(gif: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(gif)
    with open_source(link, LIMITS) as src:
        assert src.size == len(GIF)


def test_a_file_that_may_not_be_read(gif: Path):
    gif.chmod(0)
    if os.access(gif, os.R_OK):  # the superuser may read everything
        with open_source(gif, LIMITS) as src:
            assert src.format == "GIF"
        return
    with pytest.raises(InputError, match="may not be read"):
        open_source(gif, LIMITS)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the requests it has had."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", seen
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_addresses_and_protocols_open_nothing(server: tuple[str, list[str]], gif: Path):
    address, seen = server
    for name in [
        f"{address}/a.jpg",
        f"file://{gif}",
        f"file:{gif}",
        f"concat:{gif}|{gif}",
        f"subfile,,start,0,end,9,,:{gif}",
        "pipe:0",
        "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
    ]:
        with pytest.raises(InputError) as caught:
            open_source(name, LIMITS)
        assert caught.value.source == name
    for script in [
        f"#EXTM3U\n#EXTINF:1,\n{address}/seg.ts\n#EXTINF:1,\n{gif}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{gif}'\n",
        f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{address}/</BaseURL></MPD>',
        f'<?xml version="1.0"?><!DOCTYPE x SYSTEM "{address}/x.dtd"><svg><image href="{address}/y"/></svg>',
    ]:
        with pytest.raises(UnsupportedFormat):
            open_source(script.encode(), LIMITS)
        path = gif.with_name("script.mp4")
        path.write_text(script)
        with pytest.raises(UnsupportedFormat):
            open_source(path, LIMITS)
    assert seen == []


def test_nothing_stays_open_after_a_refusal(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"text, no picture")
    open_files = Path("/dev/fd")
    gc.collect()
    before = len(list(open_files.iterdir()))
    for _ in range(20):
        with pytest.raises(UnsupportedFormat):
            open_source(path, LIMITS)
        with pytest.raises(LimitError):
            open_source(path, Limits(max_bytes=3))
    gc.collect()
    assert len(list(open_files.iterdir())) == before
