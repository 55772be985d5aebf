"""Names of files that stand inside of other files: what may be one, and what its suffix says of the content."""

import re
from pathlib import PurePosixPath
from typing import Literal

from tubelet.errors import InputError, UnsafePath

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
CLIP_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
MAX_NAME = 4_096  # bytes of a name


def check_name(name: object, where: str) -> str:
    """A relative or absolute file name without steps up. Raises InputError, UnsafePath."""
    if not isinstance(name, str) or not name or "\0" in name or len(name.encode("utf-8", "replace")) > MAX_NAME:
        shown = name[:200] if isinstance(name, str) else type(name).__name__
        raise InputError(f"a file name is a short text, got {shown!r}", source=where, got=shown)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", name):
        raise InputError(
            f"{name[:80]!r} is an address or holds the data itself; only local files are read",
            source=where,
            got=name[:80],
        )
    if ".." in re.split(r"[/\\]", name):
        raise UnsafePath(f"{name[:200]!r} steps up out of a folder", source=where, got=name[:200])
    return name


def kind_of(name: str) -> Literal["image", "video"] | None:
    """Whether a file name is a picture's or a clip's, by its suffix; the content decides later.

    >>> kind_of("a/b.JPG"), kind_of("walk.mp4"), kind_of("notes.txt")
    ('image', 'video', None)
    """
    suffix = PurePosixPath(name).suffix.lower()
    return "image" if suffix in PICTURE_SUFFIXES else "video" if suffix in CLIP_SUFFIXES else None
