"""A folder of pictures and clips with their words beside them: files that share a name up to its last dot.

cats/a.jpg cats/a.txt      a picture and what is to be said of it
cats/b.mp4 cats/b.json     a clip and its turns (tubelet.train.data.record), or metadata with a "caption"
"""

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tubelet.errors import InputError, LimitError
from tubelet.packed.header import open_regular
from tubelet.reading.names import kind_of
from tubelet.train.data.record import described
from tubelet.train.data.root import Root
from tubelet.train.data.sample import MAX_RECORD_BYTES, Kind, Media, Sample, placed

MAX_FILES = 20_000_000


@dataclass(frozen=True)
class Folder:
    """The samples of one folder and those in it, by name; make it with `open_folder`."""

    root: Root
    stems: tuple[str, ...]  # relative names without their suffixes, sorted
    files: tuple[tuple[str, ...], ...]  # the relative names of each
    fingerprint: str

    @property
    def name(self) -> str:
        return self.root.folder

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Cost: reads of its text files. Raises InputError and UnsafePath telling the file."""
        number = placed(index, len(self), self.name)
        stem, files = self.stems[number], self.files[number]
        where = str(Path(self.name) / stem)
        media = [Media(kind, self.root.path(f, where)) for f in files if (kind := kind_of(f)) is not None]
        record, text = (self._text(stem + end, where) if stem + end in files else None for end in (".json", ".txt"))
        return described(stem, where, media, record, text, partial(self._media, where))

    def _media(self, where: str, name: object, kind: Kind) -> Media:
        return Media(kind, self.root.path(name, where))

    def _text(self, name: str, where: str) -> bytes:
        path = Path(self.root.path(name, where))
        try:
            with open_regular(path, InputError) as f:
                data = f.read(MAX_RECORD_BYTES + 1)
        except OSError as e:
            raise InputError("the file cannot be read", source=str(path)) from e
        if len(data) > MAX_RECORD_BYTES:
            text = f"more than {MAX_RECORD_BYTES:,} bytes of text"
            raise InputError(text, source=str(path), limit=MAX_RECORD_BYTES, got=len(data))
        return data


def open_folder(root: Root) -> Folder:
    """The samples of a folder, those of folders in it too. Links to folders are not entered, hidden files not seen.

    Cost: one listing. Raises InputError for a folder without pictures, clips or texts, LimitError.
    """
    groups: dict[str, list[str]] = {}
    seen, newest = 0, 0
    for folder, folders, names in os.walk(root.folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in names:
            relative = os.path.relpath(Path(folder) / name, root.folder)
            suffix = Path(name).suffix
            stem = relative.removesuffix(suffix)
            if name.startswith(".") or not (kind_of(name) or suffix in (".txt", ".json")):
                continue
            seen += 1
            if seen > MAX_FILES:
                text = f"more than {MAX_FILES:,} files"
                raise LimitError(text, source=root.folder, limit=MAX_FILES, got=seen)
            groups.setdefault(stem, []).append(relative)
            newest = max(newest, (Path(folder) / name).lstat().st_mtime_ns)
    if not groups:
        raise InputError("no picture, clip or text in the folder", source=root.folder)
    stems = sorted(groups)
    files = tuple(tuple(sorted(groups[s])) for s in stems)
    digest = hashlib.sha256(repr((root.folder, files, newest)).encode("utf-8", "replace")).hexdigest()
    return Folder(root, tuple(stems), files, digest)
