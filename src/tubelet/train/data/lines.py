"""JSON files with a sample each line, or one list of samples, by number: an index of offsets, nothing kept in memory.

    [{"id": ..}, {"id": ..}]      offsets 1, 13      LLaVA's blip_laion_cc_sbu_558k.json
    {"id": ..}\\n{"id": ..}\\n      offsets 0, 12      JSON lines

A broken line is one bad sample. A list that breaks off is an error of the whole file, since nothing behind the break
can be told apart.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tubelet.errors import DecodeError, InputError
from tubelet.packed.header import open_regular
from tubelet.shapes import Int64
from tubelet.train.data.record import parse_json, sample_of
from tubelet.train.data.root import Root
from tubelet.train.data.sample import MAX_RECORD_BYTES, Kind, Media, Sample, placed

_CHUNK = 1 << 20
_SPACE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Records:
    """The samples of one JSON file; make it with `open_records`."""

    file: str
    root: Root  # where its pictures and clips are
    starts: Int64[np.ndarray, " n"]  # byte offsets of the records
    lengths: Int64[np.ndarray, " n"]  # and their bytes
    lines: Int64[np.ndarray, " n"]  # line each begins on, from 1
    fingerprint: str

    @property
    def name(self) -> str:
        return self.file

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Cost: one open and one read. Raises InputError and UnsafePath telling file and line."""
        data, where = self.raw(index)
        return sample_of(parse_json(data, where), where, partial(self._media, where), index)

    def raw(self, index: int) -> tuple[bytes, str]:
        """The bytes of a record, and where it stands. Raises InputError."""
        number = placed(index, len(self), self.file)
        start, length = int(self.starts[number]), int(self.lengths[number])
        try:
            with open_regular(Path(self.file), InputError) as f:
                f.seek(start)
                data = f.read(min(length, MAX_RECORD_BYTES + 1))
        except OSError as e:
            raise InputError("the file cannot be read any more", source=self.file) from e
        where = f"{self.file}:{int(self.lines[number])}"
        if length > MAX_RECORD_BYTES:
            text = f"{length:,} bytes of one sample are above {MAX_RECORD_BYTES:,}"
            raise InputError(text, source=where, limit=MAX_RECORD_BYTES, got=length)
        if len(data) != length:
            raise InputError("the file has become shorter", source=where, expected=length, got=len(data))
        return data, where

    def _media(self, where: str, name: object, kind: Kind) -> Media:
        return Media(kind, self.root.path(name, where))


def open_records(file: str | os.PathLike[str], root: Root) -> Records:
    """The index of a JSON list or of JSON lines, told apart by the first letter. Cost: one pass over the file.

    Raises InputError for a file that cannot be read, is empty, is neither; DecodeError for a list that breaks off.

        >>> Path("two.jsonl").write_text('{"id": 1}\\n\\n{"id": 2}\\n')
        21
        >>> open_records("two.jsonl", Root(".")).starts.tolist()
        [0, 11]
    """
    name = os.fsdecode(file)
    try:
        with open_regular(Path(name), InputError) as f:
            status = os.fstat(f.fileno())
            begin = len(_BOM) if f.read(len(_BOM)) == _BOM else 0
            first = _first(f, begin, name)
            spans = _elements(f, first, name) if _at(f, first) == b"[" else _lines(f, begin, name)
    except OSError as e:
        raise InputError(f"the file cannot be read: {e.strerror or type(e).__name__}", source=name) from e
    table = np.frombuffer(spans, np.int64).reshape(-1, 3) if spans else np.zeros((0, 3), np.int64)
    said = f"{name} {status.st_size} {status.st_mtime_ns} {root.folder}"
    digest = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
    return Records(name, root, table[:, 0], table[:, 1], table[:, 2], digest)


def _at(f: BinaryIO, place: int) -> bytes:
    f.seek(place)
    return f.read(1)


def _first(f: BinaryIO, begin: int, name: str) -> int:
    """Where the first letter that is no space stands."""
    f.seek(begin)
    place = begin
    while chunk := f.read(_CHUNK):
        stripped = chunk.lstrip(_SPACE)
        if stripped:
            place += len(chunk) - len(stripped)
            if stripped[:1] not in (b"[", b"{"):
                raise InputError(
                    "this is neither a JSON list nor JSON lines", source=name, got=stripped[:20].decode("latin-1")
                )
            return place
        place += len(chunk)
    raise InputError("the file is empty", source=name, got=place)


def _lines(f: BinaryIO, begin: int, name: str) -> "array[int]":
    """Offset, length and number of every line that is not blank."""
    f.seek(begin)
    spans = array("q")
    place, line = begin, 0
    while chunk := f.readline(_CHUNK):
        start, blank = place, True
        while chunk:  # a long line comes piece by piece
            blank = blank and not chunk.strip(_SPACE)
            place += len(chunk)
            chunk = b"" if chunk.endswith(b"\n") else f.readline(_CHUNK)
        line += 1
        if not blank:
            spans.extend((start, place - start, line))
    return spans


def _elements(f: BinaryIO, first: int, name: str) -> "array[int]":
    """Offset, length and line of every element of a JSON list, found by Python's own decoder piece by piece.

    Read as Latin-1, in which a letter is a byte: structure is ASCII, and what the strings say is not looked at here.
    """
    decode = json.JSONDecoder(parse_constant=lambda _: None).raw_decode
    text = _Ahead(f, first)
    text.skip_space()
    text.drop(1)
    spans = array("q")
    separated = True  # nothing or a comma stands before
    while True:
        letter = text.skip_space()
        if letter == "]":
            if spans and separated:
                raise _broken(text, name, "a comma before the end of the list")
            text.drop(1)
            if text.skip_space():
                raise _broken(text, name, "more behind the end of the list")
            return spans
        if not letter:
            raise _broken(text, name, "the list breaks off")
        if letter == "," and not separated:
            text.drop(1)
            separated = True
            continue
        if not separated:
            raise _broken(text, name, "no comma between two samples")
        if letter != "{":
            raise _broken(text, name, f"a sample is a JSON object, and this begins with {letter!r}")
        length = _object(decode, text, name)
        spans.extend((text.place, length, text.line))
        text.drop(length)
        separated = False


class _Ahead:
    """A window on a file: `text` from the byte `place` on, read further as needed."""

    def __init__(self, f: BinaryIO, place: int) -> None:
        self.f, self.place, self.text, self.at, self.ended = f, place, "", 0, False
        f.seek(0)
        self.line = 1 + f.read(place).count(b"\n")

    def more(self, least: int = 0) -> None:
        """Read on, and forget what was dropped."""
        size = max(least, _CHUNK)
        chunk = self.f.read(size)
        self.ended = len(chunk) < size
        self.text, self.at = self.text[self.at :] + chunk.decode("latin-1"), 0

    def drop(self, count: int) -> None:
        """Go on behind the next `count` letters, which are there."""
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count
        self.place += count

    def skip_space(self) -> str:
        """The next letter that is no space, "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.drop(1)
            if self.ended:
                return ""
            self.more()


def _object(decode: Callable[[str, int], tuple[Any, int]], text: _Ahead, name: str) -> int:
    """How long the object at the window's start is. Raises DecodeError for a broken or too large one."""
    while True:
        try:
            return decode(text.text, text.at)[1] - text.at
        except RecursionError as e:
            raise _broken(text, name, "nested too deeply") from e
        except ValueError as e:
            have = len(text.text) - text.at
            if text.ended or have > MAX_RECORD_BYTES:
                size = have > MAX_RECORD_BYTES
                what = (
                    f"broken or above {MAX_RECORD_BYTES:,} bytes" if size else getattr(e, "msg", "broken JSON").lower()
                )
                raise _broken(text, name, what) from e
            text.more(have)  # twice as much each time, so that nothing is read more than twice


def _broken(text: _Ahead, name: str, what: str) -> DecodeError:
    shown = text.text[text.at : text.at + 60]
    return DecodeError(
        f"broken JSON: {what}, in what begins at byte {text.place:,}", source=f"{name}:{text.line}", got=shown
    )
