"""What names on a command line stand for: files, folders and patterns, as a list of files in natural order."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tubelet.errors import InputError, UnsupportedFormat
from tubelet.reading.sniff import HEAD_BYTES, PICTURES, VIDEOS, Format, looks_like, sniff

_PIECES = re.compile(r"([0-9]*)([^0-9]*)")


@dataclass(frozen=True)
class FileList:
    """The files, and what lay beside them."""

    files: tuple[str, ...]  # in the order of the names that were given, those of one name in natural order
    skipped: tuple[tuple[str, str], ...] = ()  # (path, what it is) of what is no picture or clip
    of: tuple[int, ...] = ()  # for each file, which of the given names it comes from


def expand(names: Iterable[str], *, pictures_only: bool = False) -> FileList:
    """The files that names mean: of folders and patterns what is one by its first bytes, 2.png before 10.png.

    A name of something else is kept as it is, whether it is there or not. A folder's hidden files and the folders in
    it are not looked at; the pattern FOLDER/** takes those below, too. pictures_only: of folders, not of patterns.
    Cost: one read of 64 bytes for each file of a folder or pattern. Raises InputError for a folder or a pattern without
    one picture or clip.

        >>> expand(["walk.mp4", "rec*.png"]).files
        ('walk.mp4', 'receipt.png')
    """
    found: list[str] = []
    skipped: list[tuple[str, str]] = []
    origin: list[int] = []
    for i, name in enumerate(names):
        inside = _inside(name)
        if inside is None:
            own = [name]
        else:
            only = pictures_only and not _magic(name)
            kinds = [(path, content_of(path)) for path in inside]
            own = [path for path, kind in kinds if kind in PICTURES or (kind in VIDEOS and not only)]
            skipped += [(path, kind) for path, kind in kinds if kind not in PICTURES and (only or kind not in VIDEOS)]
            if not own:
                raise _nothing(name, kinds, "picture" if only else "picture or clip", i)
        found += own
        origin += [i] * len(own)
    return FileList(tuple(found), tuple(skipped), tuple(origin))


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which names sort as people count.

    >>> sorted(["b10.png", "b9.png", "a.png"], key=natural)
    ['a.png', 'b9.png', 'b10.png']
    """
    return [(int(number or -1), text) for number, text in _PIECES.findall(name)]


def _inside(name: str) -> list[str] | None:
    """The files of a folder or a pattern, None for any other name."""
    try:
        if os.path.isdir(name):  # noqa: PTH112  that of Path raises where a name is too long
            paths = [os.path.join(name, one) for one in os.listdir(name) if not one.startswith(".")]  # noqa: PTH118, PTH208
        elif _magic(name):
            paths = glob.glob(name, recursive=True)  # noqa: PTH207  that of Path takes no absolute pattern
        else:
            return None
    except PermissionError as e:
        raise InputError("the folder may not be read", source=name) from e
    except (OSError, ValueError, re.error):  # no name that a file system has: reading it says so
        return None
    return sorted((path for path in paths if not os.path.isdir(path)), key=natural)  # noqa: PTH112


def _magic(name: str) -> bool:
    """Whether it is a pattern: a file or folder that is called so is none."""
    return glob.has_magic(name) and not os.path.lexists(name)


def content_of(path: str) -> Format | str:
    """The format in capitals, or in words what else it is."""
    head = b""
    try:
        if not Path(path).is_file():
            return "not a regular file"
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
        return sniff(head)
    except UnsupportedFormat:
        return looks_like(head)
    except OSError:
        return "not to be read"


def _nothing(name: str, kinds: list[tuple[str, str]], what: str, item: int) -> InputError:
    if kinds:
        there = ", ".join(f"{Path(path).name} ({kind})" for path, kind in kinds[:3])
        return InputError(f"no {what} is there, only {there}{' ...' if len(kinds) > 3 else ''}", source=name, item=item)
    if _magic(name):
        return InputError("no file has such a name", source=name, item=item)
    return InputError(
        f"the folder has no {what}; '{Path(name)}/**' takes those of the folders in it", source=name, item=item
    )
