"""What a run is to read, in an order that depends on names alone: folders, patterns, manifests and archives."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tubelet.errors import InputError
from tubelet.packed.header import open_regular, read_small, strict_json
from tubelet.reading.files import content_of, expand
from tubelet.reading.limits import Limits
from tubelet.reading.names import kind_of
from tubelet.reading.sniff import PICTURES, VIDEOS
from tubelet.reading.tar import Piece, members

MEDIA = PICTURES | VIDEOS
MANIFESTS = (".txt", ".jsonl", ".list")
MAX_MANIFEST_BYTES = 16 << 30
KEYS = ("source", "file", "path", "image", "video")  # that name the file in a line of JSON


@dataclass
class Listing:
    """Names in byte order; an archive stands for its members."""

    names: list[str] = field(default_factory=list)
    manifests: dict[str, str] = field(default_factory=dict)  # name -> sha256 of its content
    left_out: int = 0  # files of folders that are no picture, clip or archive

    def __len__(self) -> int:
        return len(self.names)


def list_sources(given: Sequence[str], *, without: str = "") -> Listing:
    """Everything that the given names mean.

    A folder means all pictures, clips and .tar archives in it and in the folders below, hidden ones and links to
    folders left out; files are taken by their suffix, those with another one by their first bytes. .txt and .list hold
    a name a line, .jsonl an object a line; - is such a list from stdin. Names in lists are as if typed. without: a
    folder that is not looked into. Cost: one listing; a read of 64 bytes for each file without a known suffix.
    Raises InputError for nothing, for a name that stands twice, and for a list that is none.
    """
    found = Listing()
    for name in given:
        if is_manifest(name):
            found.names += _manifest(_content(name), name, found)
        elif os.path.isdir(name):  # noqa: PTH112  that of Path raises where a name is too long
            found.names += _walked(name, Path(without) if without else None, found)
        else:
            found.names += expand([name]).files
    found.names.sort(key=os.fsencode)
    for one, other in pairwise(found.names):
        if one == other:
            raise InputError("the name stands twice among the files to encode", source=one)
    if not found.names:
        raise InputError(f"no picture, clip or archive is in {', '.join(given)[:200] or 'what was named'}")
    return found


def is_manifest(name: str) -> bool:
    """Whether a name is that of a list of names.

    >>> is_manifest("-"), is_manifest("photos.jsonl"), is_manifest("photos")
    (True, True, False)
    """
    return name == "-" or (name.lower().endswith(MANIFESTS) and not os.path.isdir(name))  # noqa: PTH112


def manifest_digests(given: Sequence[str]) -> dict[str, str]:
    """The sha256 of every list among the given names. Raises InputError for one that cannot be read."""
    return {name: hashlib.sha256(_content(name)).hexdigest() for name in given if is_manifest(name)}


def is_archive(name: str) -> bool:
    """Whether a name is that of an archive, whose members are read.

    >>> is_archive("000.tar"), is_archive("000.tar.gz")
    (True, False)
    """
    return name.lower().endswith(".tar")


def members_of(archive: str, limits: Limits) -> list[Piece]:
    """The pictures and clips of an archive, by their suffixes, in its order.

    Raises InputError for no plain tar file and a name that stands twice, UnsafePath for a name that leads out of it.
    """
    try:
        with open_regular(Path(archive), InputError) as file:
            size = os.fstat(file.fileno()).st_size
            found = [piece for piece in members(file, archive, size, limits) if kind_of(piece.name) is not None]
    except OSError as e:
        raise InputError(f"the archive cannot be read: {e.strerror or type(e).__name__}", source=archive) from e
    names: set[str] = set()
    for piece in found:
        if piece.name in names:
            raise InputError(f"two members are called {piece.name[:200]!r}", source=archive, got=piece.name[:200])
        names.add(piece.name)
    return found


def _walked(folder: str, without: Path | None, found: Listing) -> Iterator[str]:
    def refused(error: OSError) -> None:
        raise InputError(f"a folder may not be read: {error.strerror}", source=error.filename) from error

    for where, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [f for f in folders if not f.startswith(".") and not _is(without, where, f)]
        for file in files:
            if file.startswith("."):
                continue
            path = os.path.join(where, file)  # noqa: PTH118  it is text
            if kind_of(file) is not None or is_archive(file) or content_of(path) in MEDIA:
                yield path
            else:
                found.left_out += 1


def _is(without: Path | None, where: str, folder: str) -> bool:
    return without is not None and folder == without.name and Path(where, folder).resolve() == without


def _content(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else read_small(Path(name), InputError, MAX_MANIFEST_BYTES)


def _manifest(data: bytes, name: str, found: Listing) -> Iterator[str]:
    found.manifests[name] = hashlib.sha256(data).hexdigest()
    for number, line in enumerate(data.splitlines(), 1):
        text = os.fsdecode(line).strip()
        if text.startswith("{"):
            text = _named(text, f"{name}:{number}")
        if text:
            yield text


def _named(line: str, where: str) -> str:
    said = strict_json(os.fsencode(line), InputError, where)
    for key in KEYS:
        if isinstance(said.get(key), str):
            return said[key]
    raise InputError(f"the line names no file: one of {', '.join(KEYS)}", source=where, got=line[:80])
