"""Where a run puts its results: a folder or a bucket, in which a name is created once and by one writer.

    store = open_store("tokens/")                  a folder
    store = open_store("s3://bucket/tokens")       a bucket, through obstore (pip install "tubelet[bucket]")

Creating is the only commit there is. No database, no lock: what is listed is there, whole.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tubelet.errors import InputError, StoreError
from tubelet.writing import rename_new, resolved, sync

HEAD_BYTES = 65_536  # of a shard that are asked for first
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
EXTRA = 'a bucket needs obstore: pip install "tubelet[bucket]"'


class Entry(NamedTuple):
    """One name in a store."""

    name: str  # with slashes, from the root of the store
    size: int  # in bytes
    time_s: float  # of its last change, seconds since 1970


@runtime_checkable
class Store(Protocol):
    """Bytes by name. Names are relative, with slashes. Every method raises StoreError for what the system refuses."""

    @property
    def place(self) -> str: ...  # what `open_store` makes the same store of

    def create(self, name: str, data: bytes) -> bool:
        """Whole, and only where there is no such name: False where another writer came first."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Whole, over what was there."""
        ...

    def exists(self, name: str) -> bool: ...
    def list(self, folder: str) -> Iterator[Entry]:
        """Everything below a folder, in no order; what is being written is not there yet."""
        ...

    def read(self, name: str) -> bytes: ...
    def remove(self, name: str) -> None:
        """Gone afterwards, also where it was not there."""
        ...

    def local(self, name: str) -> AbstractContextManager[Path]:
        """The path of a file of this machine with that content, while the block lasts."""
        ...

    def head(self, name: str) -> AbstractContextManager[Path]:
        """The same of a safetensors file, whose header alone need be there; the rest may be zeros."""
        ...

    def tidy(self) -> None:
        """Remove what killed writers left. Only when every shard is there: a living writer would lose its race."""
        ...


def open_store(place: str | os.PathLike[str]) -> Store:
    """The store at a folder's path or a bucket's address. Nothing is made. Raises InputError, StoreError."""
    text = os.fspath(place)
    return Bucket(text) if "://" in text else Folder(text)


class Folder:
    """A store in a folder of this machine or of a shared file system.

    >>> store = Folder("out")
    >>> store.create("shards/000/000000.safetensors", b"one"), store.create("shards/000/000000.safetensors", b"two")
    (True, False)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = resolved(path)

    @property
    def place(self) -> str:
        return str(self.root)

    def create(self, name: str, data: bytes) -> bool:
        path = self.root / name
        with _told(name, len(data)):
            path.parent.mkdir(parents=True, exist_ok=True)
            return create_file(path, data)

    def replace(self, name: str, data: bytes) -> None:
        path = self.root / name
        with _told(name, len(data)):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)

    def exists(self, name: str) -> bool:
        with _told(name):
            return (self.root / name).is_file()

    def list(self, folder: str) -> Iterator[Entry]:
        with _told(folder):
            for where, _, files in os.walk(self.root / folder, onerror=_unless_missing):
                for file in (f for f in files if not f.startswith(".")):
                    path = Path(where, file)
                    try:
                        info = path.stat()
                    except FileNotFoundError:  # removed since it was listed
                        continue
                    yield Entry(path.relative_to(self.root).as_posix(), info.st_size, info.st_mtime)

    def read(self, name: str) -> bytes:
        with _told(name):
            return (self.root / name).read_bytes()

    def remove(self, name: str) -> None:
        with _told(name):
            (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        yield self.root / name

    head = local

    def tidy(self) -> None:
        with _told("shards"):
            for path in (self.root / "shards").rglob(".*.safetensors.*"):
                path.unlink(missing_ok=True)


class Bucket:
    """A store in S3, Google Cloud Storage, Azure or whatever obstore opens by its address."""

    def __init__(self, url: str, store: Any = None) -> None:
        """store: one of obstore's own, in place of the one that the address names."""
        try:
            import obstore
        except ModuleNotFoundError as e:
            raise InputError(EXTRA, expected="obstore") from e
        self._obstore, self._url = obstore, url
        with self._told(url):
            self._store = obstore.store.from_url(url) if store is None else store

    @property
    def place(self) -> str:
        return self._url

    def create(self, name: str, data: bytes) -> bool:
        with self._told(name, len(data)):
            try:
                self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
            return True

    def replace(self, name: str, data: bytes) -> None:
        with self._told(name, len(data)):
            self._obstore.put(self._store, name, data)

    def exists(self, name: str) -> bool:
        with self._told(name):
            try:
                self._obstore.head(self._store, name)
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError):
                return False
            return True

    def list(self, folder: str) -> Iterator[Entry]:
        with self._told(folder):
            for chunk in self._obstore.list(self._store, folder):
                for one in chunk:
                    yield Entry(one["path"], one["size"], one["last_modified"].timestamp())

    def read(self, name: str) -> bytes:
        with self._told(name):
            return bytes(self._obstore.get(self._store, name).bytes())

    def remove(self, name: str) -> None:
        with self._told(name):
            try:
                self._obstore.delete(self._store, name)
            except (FileNotFoundError, self._obstore.exceptions.NotFoundError):
                return

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        data = self.read(name)
        with TemporaryDirectory(prefix="tubelet-") as folder:
            path = Path(folder, name.rpartition("/")[2])
            path.write_bytes(data)
            yield path

    @contextmanager
    def head(self, name: str) -> Iterator[Path]:
        with self._told(name):
            size = self._obstore.head(self._store, name)["size"]
            start = self._range(name, min(size, HEAD_BYTES))
            length = 8 + int.from_bytes(start[:8], "little")
            if HEAD_BYTES < length <= size:
                start = self._range(name, length)
        with TemporaryDirectory(prefix="tubelet-") as folder:
            path = Path(folder, name.rpartition("/")[2])
            path.write_bytes(start)
            os.truncate(path, size)
            yield path

    def _range(self, name: str, length: int) -> bytes:
        return bytes(self._obstore.get_range(self._store, name, start=0, length=length))

    def tidy(self) -> None:
        """Nothing: a bucket has no half of an object."""

    @contextmanager
    def _told(self, name: str, needed: int | None = None) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, self._obstore.exceptions.BaseError) as e:
            text = f"the bucket refused {type(e).__name__}"
            raise _failed(text, name, needed) from e


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder that nobody has written to yet has nothing in it
        raise error


def create_file(target: Path, data: bytes) -> bool:
    """A new file, whole, flushed and only where there is none; False where one has come first. Many may try at once.

    What a killed writer leaves is a hidden file beside it, `.NAME.HEX`. Raises OSError; ENOTSUP where the file system
    has neither hard links nor a renaming that replaces nothing.
    """
    beside = _hidden(target)
    try:
        _flushed(beside, data)
        try:
            os.link(beside, target)
        except OSError as e:
            if e.errno == errno.EEXIST or (e.errno == errno.ENOENT and target.exists()):  # or tidied away meanwhile
                return False
            if e.errno not in NO_LINKS:
                raise
            if not rename_new(beside, target):
                return False
    finally:
        beside.unlink(missing_ok=True)
    sync(target.parent)
    return True


def replace_file(target: Path, data: bytes) -> None:
    """A file in one step over an old one, flushed. Raises OSError."""
    beside = _hidden(target)
    try:
        _flushed(beside, data)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}")


def _flushed(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _told(name: str, needed: int | None = None) -> Iterator[None]:
    """Errors of the system as ours."""
    try:
        yield
    except OSError as e:
        what = "read" if needed is None else f"written ({needed:,} bytes)"
        raise _failed(f"it could not be {what}: {e.strerror or e}", name, needed) from e


def _failed(text: str, name: str, needed: int | None) -> StoreError:
    error = StoreError(text, source=name)
    error.needed_bytes = needed
    return error
