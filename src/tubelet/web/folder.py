"""Files and scenes under one folder, by paths that cannot lead out of it: each part is opened below the one before,
never through a link."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tubelet.errors import InputError, LimitError
from tubelet.reading.limits import Limits

MOST_LISTED, MOST_DEEP = 500, 12
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
_CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_PARTS = {"cameras.json": stat.S_ISREG, "points.ply": stat.S_ISREG, "images": stat.S_ISDIR, "depth": stat.S_ISDIR}
_NONE = "no such file below the folder of --root"
SUFFIXES = frozenset((*_PICTURES, *_CLIPS))  # that a listing shows; what a file is, its bytes say when it is opened


def read_below(root: Path, path: str, limits: Limits = Limits()) -> bytes:  # noqa: B008
    """The bytes of a regular file below `root`, which no part of the path, links included, can lead out of.

    Raises InputError for every other path, saying no more than that; LimitError above `limits.max_bytes`.
    """
    with open_below(root, path) as file:
        data = file.read(limits.max_bytes + 1)
    if len(data) > limits.max_bytes:
        raise LimitError(f"a file may have {limits.max_bytes:,} bytes", limit=limits.max_bytes, got=len(data))
    return data


def open_below(root: Path, path: str) -> BinaryIO:
    """That file, open for reading. Raises InputError as `read_below`."""
    fd = _descend(root, path, _FILE)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InputError(_NONE, got=path[:80])
    return os.fdopen(fd, "rb")


def is_folder_below(root: Path, path: str) -> bool:
    """Whether a folder is there, reached through no link. What else there is, or is not, is for `read_below` to say."""
    try:
        os.close(_descend(root, path, _DIRECTORY))
    except InputError:
        return False
    return True


def _descend(root: Path, path: str, last: int) -> int:
    """A descriptor of what is at the path, opened with the flags `last`. Raises InputError."""
    parts = path.split("/")
    if not path or "\0" in path or len(parts) > MOST_DEEP or any(part in ("", ".", "..") for part in parts):
        raise InputError(_NONE, got=path[:80])
    try:
        at = os.open(root, _DIRECTORY & ~getattr(os, "O_NOFOLLOW", 0))  # the person named this one, link or not
        try:
            for part in parts[:-1]:
                below = os.open(part, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
            return os.open(parts[-1], last, dir_fd=at)
        finally:
            os.close(at)
    except (OSError, ValueError) as e:
        raise InputError(_NONE, got=path[:80]) from e


def listed(root: Path) -> list[str]:
    """Paths below `root` of scenes, with a stroke at the end, and of files with the names of pictures and clips, in
    order, at most `MOST_LISTED` of them."""
    return [path for _, path in zip(range(MOST_LISTED), _walk(root, ""), strict=False)]


def _walk(folder: Path, before: str) -> Iterator[str]:
    if before.count("/") >= MOST_DEEP:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # a folder that may not be read holds nothing that could be opened
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            if looks_like_scene(folder / entry.name):
                yield f"{before}{entry.name}/"
            else:
                yield from _walk(folder / entry.name, f"{before}{entry.name}/")
        elif entry.is_file() and Path(entry.name).suffix.lower() in SUFFIXES:
            yield before + entry.name


def looks_like_scene(folder: Path) -> bool:
    """Whether it has the parts of a scene's folder; whether it is one, opening it says."""
    try:
        return all(kind(os.lstat(folder / part).st_mode) for part, kind in _PARTS.items())
    except OSError:
        return False
