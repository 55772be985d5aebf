"""One input, opened: a local file, bytes, or a file object, with its size and its format known.

This is the only place of the library that turns what a caller names into something readable. A string is a path of a
local regular file and nothing else: no address (`reading.urls` makes a file object of one, for who asks), no protocol,
no directory, pipe or device; and it is never handed on, decoders get the open file.
"""

import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from tubelet.errors import DecodeError, InputError, TubeletError, WorkerDied
from tubelet.reading.limits import Limits
from tubelet.reading.sniff import HEAD_BYTES, PICTURES, VIDEOS, Format, sniff

__all__ = ["PICTURES", "VIDEOS", "BinaryFile", "Format", "Source", "file_errors", "open_source", "sniff"]

_CHUNK = 1 << 20
_OWN = (io.BytesIO, io.FileIO)  # whose methods are Python's own


@runtime_checkable
class BinaryFile(Protocol):
    """What is asked of an open input; Python's own files, BytesIO and most file objects have it."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


@dataclass
class Source:
    """An open input at its first byte. A context manager that closes what `open_source` opened, and nothing else."""

    name: str  # to show
    file: BinaryFile  # seekable, binary, at 0
    size: int  # in bytes, below `max_bytes`
    format: Format
    foreign: bool  # bytes or a file object, whose content may come from a stranger; not a path that the caller named
    _on_close: Callable[[], Any] | None = field(default=None, repr=False)

    def check_file(self) -> None:
        """Raise what the caller's object failed with, also where a decoder took the failure for the end of the data."""
        failure = getattr(self.file, "failure", None)
        if isinstance(failure, BaseException):
            raise failure

    def close(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(source: object, limits: Limits, name: str | None = None) -> Source:
    """The input opened, measured against `max_bytes` and recognised by its first bytes.

    source: str or os.PathLike (a local regular file), bytes, bytearray, memoryview, or a binary file object. A file
    object is read from its start and put back where it stood; one that cannot seek is read into memory, up to
    `max_bytes` and for `deadline_s` at most. name: what to call it in messages and results.
    Cost: one open and one read of 64 bytes; nothing is decoded.
    Raises: InputError (no such file, not a regular file, an address), LimitError, UnsupportedFormat, DecodeError (a
    file object that fails), WorkerDied (a stream that does not end in time).

    >>> with open_source(b"GIF89a" + bytes(64), Limits()) as src:
    ...     src.format, src.size, src.foreign
    ('GIF', 70, True)
    """
    if isinstance(source, (str, os.PathLike)):
        with file_errors("named"):
            path = os.fsdecode(source)
        return _recognised(name or path, lambda: _open_path(path), limits, foreign=False)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = source if isinstance(source, bytes) else bytes(source)
        return _recognised(name or "<bytes>", lambda: (io.BytesIO(data), len(data), None), limits)
    with file_errors("read"):
        readable, called = callable(getattr(source, "read", None)), getattr(source, "name", None)
    if readable:
        file = cast(BinaryFile, source)
        title = name or (called if isinstance(called, str) else "<file>")
        return _recognised(title, lambda: _open_object(file, limits), limits)
    raise InputError(
        f"an input is a path, bytes or a binary file object, not {type(source).__name__}",
        source=name,
        got=type(source).__name__,
    )


def _recognised(
    name: str,
    opener: Callable[[], tuple[BinaryFile, int, Callable[[], Any] | None]],
    limits: Limits,
    *,
    foreign: bool = True,
) -> Source:
    """The opener's file as a Source, named in every error, and closed again when it is refused."""
    on_close = None
    try:
        file, size, on_close = opener()
        limits.check("max_bytes", size, "file size")
        with file_errors("read"):
            file.seek(0)
            head = file.read(HEAD_BYTES)
            file.seek(0)
        return Source(name, file, size, sniff(head), foreign, on_close)
    except TubeletError as error:
        if on_close is not None:
            on_close()
        error.placed(source=name)
        raise


def _open_path(path: str) -> tuple[BinaryFile, int, Callable[[], Any]]:
    """A local regular file, opened without waiting: a pipe or device is refused before and after opening."""
    if not path:
        raise InputError("the path is empty")
    try:
        _regular(Path(path).stat())
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(path, flags)
        try:
            size = _regular(os.fstat(fd))
            file = os.fdopen(fd, "rb")
        except BaseException:
            os.close(fd)
            raise
    except TubeletError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path):
            raise InputError(
                "this is an address or a protocol, and only local files are read; to read http, https, s3 and hf: "
                'urls=True of tubelet.read, --urls of a command, with pip install "tubelet[urls]"'
            ) from error
        raise InputError("there is no such file") from error
    except PermissionError as error:
        raise InputError("the file may not be read") from error
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, an I/O error
        raise InputError("the file cannot be opened") from error
    return file, size, file.close


def _regular(status: os.stat_result) -> int:
    """The size in bytes of a regular file; anything else is refused by its kind."""
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    what = next((words for test, words in kinds if test(status.st_mode)), "something else")
    raise InputError(f"this is {what}, and only regular files are read by path", got=what)


def _open_object(file: BinaryFile, limits: Limits) -> tuple[BinaryFile, int, Callable[[], Any] | None]:
    """A seekable object as it is, with its place remembered; any other read into memory."""
    with file_errors("read"):
        seekable = getattr(file, "seekable", None)
        if not (seekable() if callable(seekable) else hasattr(file, "seek")):
            data = read_all(file, limits)
            return io.BytesIO(data), len(data), None
        place = file.tell()
        size = file.seek(0, os.SEEK_END)
        if size is None:  # objects that only promise `seek`
            size = file.tell()
        given = file if is_own(file) else CallersFile(file)
        return given, int(size), lambda: _put_back(file, place)


def is_own(file: object) -> bool:
    """Whether reading it runs no code but Python's own."""
    return type(file) in _OWN or (type(file) is io.BufferedReader and type(file.raw) is io.FileIO)


class CallersFile:
    """A caller's file object, of which nothing is expected: what it raises is an error of ours, once and for all, and
    it gives bytes, never more than it was asked for."""

    def __init__(self, file: BinaryFile) -> None:
        self._file = file
        self.failure: TubeletError | None = None

    def read(self, size: int = -1, /) -> bytes:
        with self._kept("read"):
            data = as_bytes(self._file.read(size))
        return data if size < 0 else data[:size]

    def seek(self, offset: int, whence: int = 0, /) -> int:
        with self._kept("sought"):
            place = self._file.seek(offset, whence)
            return int(self._file.tell() if place is None else place)

    def tell(self) -> int:
        with self._kept("sought"):
            return int(self._file.tell())

    @contextmanager
    def _kept(self, what: str) -> Iterator[None]:
        try:
            with file_errors(what):
                yield
        except TubeletError as error:
            self.failure = self.failure or error
            raise


def as_bytes(data: object) -> bytes:
    """What a file object gave. Raises: InputError for what are no bytes."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError("the file object gives text or nothing; open it in binary mode", got=type(data).__name__)
    return bytes(data)


def _put_back(file: BinaryFile, place: int) -> None:
    with file_errors("sought"):
        if not getattr(file, "closed", False):
            file.seek(place)


def read_all(file: BinaryFile, limits: Limits) -> bytes:
    """Everything that a file object still gives, up to `max_bytes` and within `deadline_s`.

    The reading is done by a thread of its own, because a read that blocks cannot be given up otherwise. Raises:
    LimitError, DecodeError (the object failed), WorkerDied (the deadline passed), InputError (it gives text).
    """
    chunks: list[bytes] = []
    failures: list[BaseException] = []
    total, stop = 0, threading.Event()

    def pull() -> None:
        nonlocal total
        try:
            while not stop.is_set():
                chunk = as_bytes(file.read(_CHUNK))
                if not chunk:
                    return
                total += len(chunk)
                limits.check("max_bytes", total, "stream length so far")
                chunks.append(chunk)
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
            failures.append(error)

    reader = threading.Thread(target=pull, name="tubelet-read-stream", daemon=True)
    started = time.monotonic()
    reader.start()
    reader.join(limits.deadline_s)
    stop.set()
    if reader.is_alive():
        waited = time.monotonic() - started
        raise WorkerDied(
            f"the stream gave {total:,} bytes and did not end within deadline_s = {limits.deadline_s:g}",
            limit=limits.deadline_s,
            got=round(waited, 3),
        )
    if failures:
        with file_errors("read"):
            raise failures[0]
    return b"".join(chunks)


@contextmanager
def file_errors(what: str) -> Iterator[None]:
    """Turns whatever a caller's object raises into a DecodeError of ours; its own text stays in `__cause__`.

    What asks a program to end (KeyboardInterrupt, SystemExit and their kind) passes.
    """
    try:
        yield
    except TubeletError:
        raise
    except Exception as error:
        raise DecodeError(f"the file object could not be {what}: {type(error).__name__}") from error
