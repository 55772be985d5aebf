"""Uncompressed tar archives by an index of offsets: members are read where they lie, nothing is extracted.

Links and devices are not followed, names that lead out are refused, sizes are bounded.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tubelet.errors import InputError, LimitError, UnsafePath
from tubelet.packed.header import open_regular
from tubelet.reading.limits import Limits
from tubelet.reading.names import check_name

BLOCK = 512
MAX_MEMBERS = 50_000_000
_MAX_EXTRA = 1 << 20  # bytes of a long name or of a PAX header
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Piece:
    """A file inside an uncompressed archive, by where its bytes lie. Nothing is extracted."""

    archive: str
    name: str  # as the archive calls it
    offset: int
    size: int

    @contextmanager
    def open(self) -> Iterator[io.BufferedIOBase]:
        """The bytes as a seekable file without a descriptor of its own. Raises InputError."""
        try:
            file = open_regular(Path(self.archive), InputError)
        except OSError as e:
            raise InputError("the archive cannot be opened", source=self.archive) from e
        with file, io.BufferedReader(_Window(file, self.offset, self.size)) as window:
            yield window

    def read(self) -> bytes:
        """All bytes. Raises InputError where the archive has become shorter."""
        with self.open() as file:
            content = file.read()
        if len(content) != self.size:
            text = f"{self.name}: {len(content):,} bytes where the index says {self.size:,}; the archive has changed"
            raise InputError(text, source=self.archive, expected=self.size, got=len(content))
        return content


class MemberFile:
    """A member as a file object that is opened when it is read, for its header."""

    def __init__(self, piece: Piece) -> None:
        self._piece, self._place = piece, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._piece.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        with self._piece.open() as file:
            file.seek(self._place)
            data = file.read(size)
        self._place += len(data)
        return data


class _Window(io.RawIOBase):
    """`size` bytes of an open file from `start` on."""

    def __init__(self, file: Any, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence] + offset
        if place < 0:
            raise OSError("a place before the start of the file")
        self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        self._file.seek(self._start + self._place)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def members(f: BinaryIO, name: str, size: int, limits: Limits) -> Iterator[Piece]:
    """Every regular member of an open tar file of `size` bytes: ustar, GNU's long names, PAX headers.

    Raises InputError, UnsafePath, LimitError.
    """
    place, count, long, pax = 0, 0, None, {}
    while True:
        f.seek(place)
        block = f.read(BLOCK)
        if not block.strip(b"\0"):
            if not count and not block:
                raise InputError("the archive is empty", source=name, got=size)
            return
        try:
            head = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as e:
            raise InputError(f"no tar header at byte {place:,}; a compressed archive is not read", source=name) from e
        start = place + BLOCK
        title = long or pax.get("path") or head.name
        length = int(pax["size"]) if pax.get("size", "").isdigit() and len(pax["size"]) < 19 else head.size
        if length < 0 or start + length > size:
            text = f"{title[:200]!r} has {length:,} bytes at byte {start:,} of {size:,}: the archive breaks off"
            raise InputError(text, source=name, limit=size, got=start + length)
        place = start + -(-length // BLOCK) * BLOCK
        count += 1
        if count > MAX_MEMBERS:
            raise LimitError(f"more than {MAX_MEMBERS:,} members", source=name, limit=MAX_MEMBERS, got=count)
        if head.type == tarfile.GNUTYPE_LONGNAME:
            long = _extra(f, length, name, title).rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif head.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            pax = _pax(_extra(f, length, name, title))
        else:
            if head.type in _REGULAR and not title.endswith("/") and not any(k.startswith("GNU.sparse") for k in pax):
                _check(title, length, name, limits)
                yield Piece(name, title.removeprefix("./"), start, length)
            long, pax = None, {}


def _check(title: str, length: int, name: str, limits: Limits) -> None:
    if title.startswith(("/", "\\")):
        raise UnsafePath(f"a member is called {title[:200]!r}", source=name, got=title[:200])
    check_name(title, name)
    if length > limits.max_bytes:
        text = f"{title[:200]!r} has {length:,} bytes, above max_bytes = {limits.max_bytes:,}"
        raise LimitError(text, source=name, limit=limits.max_bytes, got=length)


def _extra(f: BinaryIO, length: int, name: str, title: str) -> bytes:
    """What a header says beside its block."""
    if length > _MAX_EXTRA:
        raise LimitError(f"a header of {length:,} bytes", source=name, limit=_MAX_EXTRA, got=length)
    return f.read(length)


def _pax(data: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of a PAX header; what does not follow that form ends them."""
    found: dict[str, str] = {}
    while match := re.match(rb"(\d{1,7}) ([^=]+)=", data):
        length = int(match[1])
        if not match.end() < length <= len(data):
            break
        found[match[2].decode("utf-8", "replace")] = data[match.end() : length - 1].decode("utf-8", "surrogateescape")
        data = data[length:]
    return found
