"""What travels between the caller and a decoding child: short JSON messages, and open files beside them.

    length 4 bytes, little-endian | JSON of that length | at most MAX_FILES descriptors, sent with the first byte

No pickle, no paths, no code. Pixels never pass through here: they lie in anonymous memory, whose descriptor travels.
"""

import io
import json
import mmap
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tubelet import errors
from tubelet.errors import RunError, TubeletError
from tubelet.reading.clip import Clip
from tubelet.reading.limits import Limits

MAX_FILES = 2  # the frames of a clip, and the fields of its codec
MAX_MESSAGE = 8 << 20  # 8,192 frame times take 200 kB
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALED = 0x2 | 0x4  # may neither shrink nor grow: a mapping of it cannot be pulled away
_CLIP_FIELDS = tuple(f.name for f in fields(Clip) if f.name not in ("frames", "source"))
_KINDS = {k.__name__: k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, TubeletError)}


@dataclass(frozen=True)
class Reply:
    """One message as it was received, and what travelled beside it. Nothing in it has been checked."""

    values: dict[str, Any]  # the JSON object
    files: tuple[int, ...] = ()  # descriptors, ours to close

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in self.files:
            os.close(fd)

    def clip(self, name: str, limits: Limits) -> Clip:
        """The Clip whose frames lie in the first file, within the limits. Raises: KeyError, TypeError, ValueError,
        RunError for what is none; LimitError for one that is too large."""
        shape = shape_of(self.values["shape"], 3)
        limits.check_clip(shape[0], shape[2], shape[1])
        if not self.files:
            raise RunError("the decoding process sent no frames")
        return clip_from(self.values["clip"], map_frames(self.files[0], shape), name)


def send(link: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    body = json.dumps(message).encode()
    packet = struct.pack("<I", len(body)) + body
    sent = socket.send_fds(link, [packet], files) if files else link.send(packet)
    link.sendall(packet[sent:])


def receive(link: socket.socket) -> Reply:
    """The next message and the descriptors beside it. Raises EOFError when the other side is gone."""
    head, files, _, _ = socket.recv_fds(link, 4, MAX_FILES, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    try:
        for fd in files:
            os.set_inheritable(fd, False)  # for systems that know no MSG_CMSG_CLOEXEC
        head += _exactly(link, 4 - len(head)) if head else b""
        if len(head) < 4:
            raise EOFError
        length = struct.unpack("<I", head)[0]
        if length > MAX_MESSAGE:
            raise EOFError
        message = json.loads(_exactly(link, length))
        if not isinstance(message, dict):
            raise EOFError
    except BaseException:
        Reply({}, tuple(files)).close()
        raise
    return Reply(message, tuple(files))


def _exactly(link: socket.socket, length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = link.recv(length - len(pieces))
        if not piece:
            raise EOFError
        pieces += piece
    return bytes(pieces)


def anonymous_file(name: str) -> int:
    """The descriptor of a file without a name: memory on Linux, an unlinked temporary file elsewhere."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedFrames:
    """The child's side: memory for frames that the caller will map. `allocate` is what decoders call."""

    def __init__(self) -> None:
        self.fd: int | None = None
        self.shape: tuple[int, int, int, int] | None = None

    def allocate(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        self.close()
        self.fd, self.shape = anonymous_file("tubelet-frames"), shape
        size = int(np.prod(shape, dtype=np.int64))
        os.ftruncate(self.fd, size)
        return np.frombuffer(mmap.mmap(self.fd, size), np.uint8).reshape(shape)

    def sealed(self) -> int:
        """The descriptor, from now on of a fixed size."""
        if self.fd is None:
            raise RunError("no frames were made")
        if sys.platform == "linux":
            import fcntl

            fcntl.fcntl(self.fd, _F_ADD_SEALS, _SEALED)
        return self.fd

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def shape_of(sent: Any, channels: int) -> tuple[int, int, int, int]:
    """(F, H, W, channels) as it was sent. Raises: TypeError, ValueError for anything that is no such shape."""
    frames, height, width, last = (int(n) for n in sent)
    if min(frames, height, width) < 1 or last != channels:
        raise ValueError("not the shape of frames")
    return frames, height, width, last


def map_frames(fd: int, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The caller's side: the frames in `fd` as a writable array, without a copy where the size is sealed.

    Raises: RunError when the file is not what the shape says.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size < 1 or os.fstat(fd).st_size != size:
        raise RunError("the decoding process sent frames of a wrong size", expected=size, got=os.fstat(fd).st_size)
    if sys.platform == "linux":
        import fcntl

        if fcntl.fcntl(fd, _F_GET_SEALS) & _SEALED != _SEALED:
            raise RunError("the decoding process sent frames that could change their size")
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        return np.frombuffer(mmap.mmap(fd, size, flags=flags), np.uint8).reshape(shape)
    frames = np.empty(size, np.uint8)
    with os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        file.seek(0)
        got = 0
        while got < size and (n := file.readinto(memoryview(frames.data)[got:])):
            got += n
    if got != size:
        raise RunError("the decoding process sent fewer frames than it said", expected=size, got=got)
    return frames.reshape(shape)


def clip_fields(clip: Clip) -> dict[str, Any]:
    """Everything of a Clip but its frames and its name."""
    return {name: getattr(clip, name) for name in _CLIP_FIELDS}


def clip_from(values: dict[str, Any], frames: np.ndarray, source: str) -> Clip:
    """The Clip of frames and the fields that were sent. Raises: TypeError, ValueError for other fields."""
    if set(values) != set(_CLIP_FIELDS):
        raise ValueError("the fields are not those of a Clip")
    expected, duration = values["frames_expected"], values["duration_s"]
    return Clip(
        frames,
        tuple(float(t) for t in values["times_s"]),
        source=source,
        is_video=bool(values["is_video"]),
        duration_s=None if duration is None else float(duration),
        complete=bool(values["complete"]),
        frames_expected=None if expected is None else int(expected),
        notes=tuple(str(note) for note in values["notes"]),
    )


def error_fields(error: TubeletError) -> dict[str, Any]:
    """An error as plain values; what caused it as text, which stays in `__cause__` on the other side too."""
    cause = error.__cause__
    return {
        "kind": type(error).__name__,
        "message": error.message,
        **{name: _plain(getattr(error, name)) for name in ("limit", "expected", "got")},
        "cause": None if cause is None else f"{type(cause).__name__}: {cause}"[:500],
    }


def error_from(values: dict[str, Any], source: str) -> TubeletError:
    """The error that was sent, of one of our classes, with the foreign text as its cause."""
    kind = _KINDS.get(str(values.get("kind")), RunError)
    kept = {name: values.get(name) for name in ("limit", "expected", "got")}
    error = kind(str(values.get("message")), source=source)
    error.__dict__.update(kept)
    if values.get("cause") is not None:
        error.__cause__ = RuntimeError(str(values["cause"]))
    return error


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value[:16]]
    return str(value)[:200]


class FileAt(io.RawIOBase):
    """A read-only file on a descriptor, with a position of its own.

    A descriptor that was passed on shares its position with the sender; reading at explicit offsets does not touch it.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size, self._place = fd, size, 0

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a place before the start of the file")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        got = os.preadv(self._fd, [buffer], self._place)
        self._place += got
        return got
