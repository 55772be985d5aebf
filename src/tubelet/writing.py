"""The one way onto the disk: written beside its place, flushed, and put there by one step; whole or not at all.

    PLACE/.tubelet-5f2c90ab41de/lock       held while the writer lives, so one that can be taken is a dead writer's
                                new/NAME   what is being written, a file or a folder
                                old/NAME   what it replaces, where the system cannot exchange two folders in one step
    PLACE/NAME                             the old one until it is the new one

An error or a kill at any moment leaves what was there before; what a killed writer left beside it, and nothing else, is
removed by the next one that writes to the same place. Where a file system has no locks, leftovers stay.
"""

import contextlib
import ctypes
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tubelet.errors import InputError, RunError, TubeletError

if TYPE_CHECKING:
    from PIL.Image import Image

PREFIX = ".tubelet-"
_LOCK, _NEW, _OLD = "lock", "new", "old"
_MOST_TRIES = 100  # to find a name of one's own: each try fails only where another writer cleans in that moment
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2  # of Linux


@contextmanager
def new_file(target: str | os.PathLike[str], may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """A path to write one file to, which becomes `target` when the block ends well. Links are followed.

    may_replace: whether a file that stands there is one of those this writer makes; an empty one always may be.
    Raises InputError for what is no place for a file or holds another one, RunError where it cannot be written.

        >>> with new_file("note.txt", lambda old: old.read_bytes().startswith(b"note")) as beside:
        ...     _ = beside.write_text("note: all of it, or the old one")
    """
    path = file_place(target, may_replace)
    with write_errors(f"{path.name}: the file"), _beside(path) as beside:
        yield beside


def file_place(target: str | os.PathLike[str], may_replace: Callable[[Path], bool]) -> Path:
    """The path that `new_file` would write to, links followed. Raises InputError where it would; writes nothing."""
    path = resolved(target)
    if os.fspath(target).endswith(("/", os.sep)):
        raise InputError("the output is a file, and this names a folder", source=path.name)
    if path.exists():
        if not path.is_file():
            raise InputError("the output is not a regular file", source=path.name)
        if path.stat().st_size and not may_replace(path):
            raise InputError("there is a file of another kind, which is not replaced", source=path.name)
    return path


@contextmanager
def new_folder(
    target: str | os.PathLike[str],
    is_part: Callable[[str], bool],
    *,
    overwrite: bool = False,
    error: type[TubeletError] = InputError,
) -> Iterator[Path]:
    """A new folder to write into, which becomes `target` when the block ends well. Links are followed.

    An empty folder is taken. One with something in it is replaced with `overwrite`, as one, and only where `is_part` is
    true of every name in it. Raises `error` where something stands there, RunError where it cannot be written.
    """
    path = folder_place(target, is_part, overwrite=overwrite, error=error)
    with write_errors(f"{path.name}: the folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as beside:
            beside.mkdir()
            yield beside


def folder_place(
    target: str | os.PathLike[str],
    is_part: Callable[[str], bool],
    *,
    overwrite: bool = False,
    error: type[TubeletError] = InputError,
) -> Path:
    """The path that `new_folder` would write to, links followed. Raises what it raises; writes nothing."""
    path = resolved(target)
    if path.exists() and not path.is_dir():
        raise error("the output exists already and is no folder", source=path.name)
    with write_errors(f"{path.name}: the folder"):
        names = sorted(_names(path)) if path.exists() else []
    if names and not overwrite:
        raise error("the output exists already; overwrite=True (--overwrite) replaces it", source=path.name)
    if strange := [name for name in names if not is_part(name)]:
        raise error(
            f"the output exists already and holds {', '.join(strange[:3])}, which this does not write: not replaced",
            source=path.name,
            got=tuple(strange),
        )
    return path


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A folder of one's own in `place` while the block lasts; those of dead writers are removed. Raises RunError."""
    with contextlib.ExitStack() as stack:
        with write_errors(f"{place.name}: the folder"):
            folder = stack.enter_context(_scratch(place))
        yield folder


def require_writable(place: Path) -> None:
    """Raises RunError where nothing can be written into the folder."""
    with scratch(place):
        pass


def write_json(path: Path, said: Mapping[str, Any]) -> None:
    """A JSON file for people too, into a folder that is being written. Raises OSError."""
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def save_png(picture: "Image", target: str | os.PathLike[str]) -> None:
    """A picture as a PNG, which replaces a PNG and no other file. Raises what `new_file` raises."""
    with new_file(target, is_png) as beside:
        picture.save(beside, format="PNG", compress_level=3)  # half the time of Pillow's 6, of about its size (log)


def starts_with(*magic: bytes) -> Callable[[Path], bool]:
    """Whether a file begins with one of these, for `new_file` and `file_place`."""

    def starts(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(max(map(len, magic))).startswith(magic)

    return starts


is_png = starts_with(b"\x89PNG")


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk. Raises OSError."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def resolved(target: str | os.PathLike[str]) -> Path:
    """The path with its links followed. Raises InputError where there can be none."""
    name = os.fspath(target).rpartition(os.sep)[2][:80]
    if not os.fspath(target):  # which would be the current folder
        raise InputError("the output has an empty name")
    try:
        path = Path(os.path.realpath(target))
        if path.is_symlink():  # what realpath could not follow to its end
            raise InputError("the output is a link to itself", source=name)
        with contextlib.suppress(FileNotFoundError):
            path.lstat()
    except OSError as e:
        raise InputError(f"the output is no place to write to: {e.strerror}", source=name) from e
    except InputError:
        raise
    except ValueError as e:  # NUL, or letters that no name has
        raise InputError("the output is not a path", source=ascii(name)[1:-1]) from e
    return path


@contextmanager
def write_errors(what: str) -> Iterator[None]:
    """Errors of the system told as ours. what: the name and what it is."""
    source, _, kind = what.rpartition(": ")
    try:
        yield
    except OSError as e:
        reason = e.strerror
        raise RunError(f"{kind} could not be written{f': {reason}' if reason else ''}", source=source) from e


# ---- inside


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    for name in _names(place):
        if name.startswith(PREFIX):
            _clean(place / name)
    folder, lock = _claim(place)
    try:
        yield folder
    finally:
        _remove(folder)
        if lock is not None:
            os.close(lock)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    with _scratch(target.parent) as folder:
        new = folder / _NEW / target.name
        new.parent.mkdir()
        yield new
        for inside in (*(sorted(new.rglob("*"), reverse=True) if new.is_dir() else ()), new):
            sync(inside)
        if not (new.is_dir() and target.is_dir() and _names(target)):
            new.replace(target)
        elif not _exchange(new, target):
            old = folder / _OLD / target.name
            old.parent.mkdir()
            target.rename(old)  # killed here, there is neither, until the next writer puts the old one back
            new.rename(target)
        sync(target.parent)


def _names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def _exchange(one: Path, other: Path) -> bool:
    """Whether the system let two paths change places in one step."""
    return _renameat2(one, other, _RENAME_EXCHANGE) == 0


def rename_new(old: Path, new: Path) -> bool:
    """Give a file a name that nothing has; False where something has it. Raises OSError."""
    failure = _renameat2(old, new, _RENAME_NOREPLACE)
    if failure not in (0, errno.EEXIST):
        raise OSError(errno.ENOTSUP, "no hard links here, and no renaming that replaces nothing", str(new))
    return failure == 0


def _renameat2(old: Path, new: Path, flag: int) -> int:
    """0, or the number of what went wrong."""
    try:
        rename: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return errno.ENOSYS
    done = rename(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag) == 0
    return 0 if done else ctypes.get_errno() or errno.EIO


def _claim(place: Path) -> tuple[Path, int | None]:
    """A new folder and the lock in it, which no cleaner took for a dead writer's before it was held."""
    for _ in range(_MOST_TRIES):
        folder = place / f"{PREFIX}{secrets.token_hex(6)}"
        folder.mkdir(0o700)
        try:
            number = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        except FileNotFoundError:
            continue
        except OSError:
            folder.rmdir()
            raise
        held = _hold(number)
        if held is None or (held and os.fstat(number).st_nlink):
            return folder, number
        os.close(number)
    raise OSError(None, "other writers clean all the time", str(place))


def _hold(number: int) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _clean(folder: Path) -> None:
    """Remove what a dead writer left; a living one's, another user's and what only has such a name stay."""
    try:
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or (hasattr(os, "getuid") and info.st_uid != os.getuid()):
            return
        names = _names(folder)
        if not names:
            folder.rmdir()
        if _LOCK not in names or names - {_LOCK, _NEW, _OLD}:
            return
        number = os.open(folder / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:  # gone meanwhile, or not ours to remove
        return
    try:
        if _hold(number):
            _remove(folder)
    finally:
        os.close(number)


def _remove(folder: Path) -> None:
    """The folder and all in it, the lock last. What was moved aside goes back where nothing took its place."""
    old = folder / _OLD
    for one in old.iterdir() if old.is_dir() else ():
        if not os.path.lexists(folder.parent / one.name):
            one.rename(folder.parent / one.name)
    for part in (_NEW, _OLD):
        shutil.rmtree(folder / part, ignore_errors=True)  # what stays keeps the lock beside it, for the next writer
    with contextlib.suppress(OSError):
        if not _names(folder) - {_LOCK}:
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
