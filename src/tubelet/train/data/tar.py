"""WebDataset archives by an index of offsets: members that share a name up to its first dot are one sample.

    000.jpg 000.txt | 001.mp4 001.json | 002.0.png 002.1.png 002.json      three samples, in the archive's order

A sample has pictures or clips and a text: .json in a form of `tubelet.train.data.record`, whose names are members of
the sample, or .txt, what is to be said of them; a .json without turns (metadata) gives its "caption" where there is no
.txt. Members are read where they lie. Nothing is extracted, links and devices are not followed, sizes are bounded.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tubelet.errors import InputError
from tubelet.packed.header import open_regular
from tubelet.reading.limits import Limits
from tubelet.reading.names import check_name, kind_of
from tubelet.reading.tar import Piece, members
from tubelet.train.data.record import described
from tubelet.train.data.sample import MAX_RECORD_BYTES, Kind, Media, Sample, placed

_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Members:
    """The members of one sample."""

    key: str  # their name up to its first dot, folders included
    pieces: tuple[Piece, ...]  # in the archive's order

    def one(self, suffix: str) -> Piece | None:
        """The member whose name ends so, if there is one."""
        return next((p for p in self.pieces if p.name.lower().endswith(suffix)), None)


@dataclass(frozen=True)
class Archive:
    """The samples of one tar file; make it with `open_archive`."""

    file: str
    members: tuple[Members, ...]
    fingerprint: str

    @property
    def name(self) -> str:
        return self.file

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Cost: reads of its text members. Raises InputError telling archive and member."""
        found = self.members[placed(index, len(self), self.file)]
        where = f"{self.file}:{found.key}"
        media = [Media(kind, p) for p in found.pieces if (kind := kind_of(p.name)) is not None]
        record, text = (_small(found.one(suffix), where) for suffix in (".json", ".txt"))
        return described(found.key, where, media, record, text, partial(_named, found, where))


def _named(found: Members, where: str, name: object, kind: Kind) -> Media:
    """The member that a record means: by its whole name, the name without folders, or what follows the key."""
    text = check_name(name, where)
    for piece in found.pieces:
        if text in (piece.name, Path(piece.name).name, piece.name.removeprefix(f"{found.key}.")):
            return Media(kind, piece)
    raise InputError(f"{text[:200]!r} is no member of this sample", source=where, got=text[:200])


def _small(piece: Piece | None, where: str) -> bytes | None:
    if piece is None:
        return None
    if piece.size > MAX_RECORD_BYTES:
        text = f"{piece.name}: {piece.size:,} bytes of text are above {MAX_RECORD_BYTES:,}"
        raise InputError(text, source=where, limit=MAX_RECORD_BYTES, got=piece.size)
    return piece.read()


def open_archive(file: str | os.PathLike[str], limits: Limits = Limits()) -> Archive:  # noqa: B008
    """The index of a tar file: one read of 512 bytes a member, nothing of what they hold.

    limits: `max_bytes` bounds a member. Raises InputError for what is no plain tar file or breaks off, UnsafePath for
    a member named as if it lay outside, LimitError.
    """
    name = os.fsdecode(file)
    groups: dict[str, list[Piece]] = {}
    try:
        with open_regular(Path(name), InputError) as f:
            status = os.fstat(f.fileno())
            for piece in members(f, name, status.st_size, limits):
                key = _KEY.fullmatch(piece.name)
                if key is not None and not Path(piece.name).name.startswith("."):
                    groups.setdefault(key[1], []).append(piece)
    except OSError as e:
        raise InputError(f"the archive cannot be read: {e.strerror or type(e).__name__}", source=name) from e
    said = f"{name} {status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
    return Archive(name, tuple(Members(k, tuple(p)) for k, p in groups.items()), digest)
