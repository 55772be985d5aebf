"""The decoding process: open files in, frames out. What ends it is an error in the caller's process and nothing more.

Started by `reading.isolated.pool`, one input at a time. It has no access to the caller's memory, environment or other
open files; it cannot gain privileges, write a core dump, or use more memory, CPU or wall time than the job's limits.
It imports numpy, Pillow and, for the first video, PyAV; never torch.
"""

import ctypes
import io
import math
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from PIL import Image

from tubelet.errors import DecodeError, LimitError, TubeletError
from tubelet.reading.clip import Clip
from tubelet.reading.codec.signals import pack_maps, signal_fields
from tubelet.reading.isolated.wire import FileAt, SharedFrames, clip_fields, error_fields, receive, send
from tubelet.reading.job import ReadJob, decode_source
from tubelet.reading.limits import Limits
from tubelet.reading.outline import outline_source
from tubelet.reading.source import BinaryFile, Source

_GRACE_S = 5.0  # after the deadline, by which time the caller has killed us anyway
_REUSED_BLOCKS = 8  # of 16 MiB, kept between pictures instead of being given back to the system


def main(fd: int) -> None:
    """Serves jobs from the socket `fd` until the other side closes it."""
    _harden()
    Image.core.set_blocks_max(_REUSED_BLOCKS)
    link = socket.socket(fileno=fd)
    send(link, {"ready": os.getpid()})
    with suppress(EOFError, ConnectionError):  # the caller went away
        while True:
            serve(link)


def serve(link: socket.socket) -> None:
    """One job: a message with an open file in; a message out with frames, with frames and fields, or with an error."""
    request = receive(link)
    frames, maps = SharedFrames(), SharedFrames()
    try:
        if len(request.files) != 1:
            raise EOFError
        answer = _answer(request.values, request.files[0], frames, maps)
        made = () if "error" in answer else (frames, maps)
        send(link, answer, [array.sealed() for array in made if array.fd is not None])
    finally:
        frames.close()
        maps.close()
        request.close()


def _answer(message: dict[str, Any], fd: int, frames: SharedFrames, maps: SharedFrames) -> dict[str, Any]:
    """The reply to one message. The only place of the library that catches everything: it is the end of a process."""
    job = ReadJob()
    what = "decoding" if message.get("kind") != "words" else "the chat template"
    try:
        job = ReadJob.from_dict(message["job"])
        with _Bounded(job.limits):
            if message["kind"] == "words":
                return _words(message, fd)
            file = cast(BinaryFile, io.BufferedReader(FileAt(fd, message["size"])))
            src = Source(message["name"], file, message["size"], message["format"], foreign=True)
            if message["kind"] == "outline":
                return {"outline": outline_source(src, job).as_dict()}
            if message["kind"] == "signals":
                return _signals(src, job, message["signal"], frames, maps)
            if message["kind"] == "grey16":
                return _grey16(src, job, frames)
            return _clip(decode_source(src, job, frames.allocate), frames)
    except TubeletError as error:
        return {"error": error_fields(error)}
    except MemoryError as error:
        failure = LimitError(f"{what} needs more than max_memory_bytes", limit=job.limits.max_memory_bytes)
        failure.__cause__ = error
        return {"error": error_fields(failure)}
    except Exception as error:  # noqa: BLE001
        failure = DecodeError(f"{what} failed in a way that is not known ({type(error).__name__})")
        failure.__cause__ = error
        return {"error": error_fields(failure)}


def _clip(clip: Clip, frames: SharedFrames) -> dict[str, Any]:
    """What is said of a clip, whose frames are in `frames` afterwards if they were not decoded right into it."""
    if frames.shape != clip.frames.shape or frames.fd is None:
        frames.allocate(cast(Any, clip.frames.shape))[...] = clip.frames
    return {"clip": clip_fields(clip), "shape": clip.frames.shape}


def _signals(src: Source, job: ReadJob, signal: Any, frames: SharedFrames, maps: SharedFrames) -> dict[str, Any]:
    """What is said of a clip and of its signals, whose fields are in `maps`."""
    from tubelet.reading.codec.decode import read_both  # loads FFmpeg, which pictures can do without

    clip, seen = read_both(src, job, signal, allocate=frames.allocate)
    packed = pack_maps(seen)
    maps.allocate(cast(Any, packed.shape))[...] = packed
    return _clip(clip, frames) | {"signals": signal_fields(seen), "maps": packed.shape}


def _grey16(src: Source, job: ReadJob, frames: SharedFrames) -> dict[str, Any]:
    """What is said of a map of 16-bit samples, whose bytes are in `frames`."""
    from tubelet.reading.picture.grey16 import decode_grey16

    return {"shape": decode_grey16(src, job.limits, allocate=frames.allocate).shape}


def _words(message: dict[str, Any], fd: int) -> dict[str, Any]:
    """What a chat template writes, and where it says that generations stand."""
    from tubelet.reading.isolated.words import write_words  # loads jinja2, which decoding can do without

    template = os.pread(fd, message["size"], 0).decode("utf-8", "surrogatepass")
    spans: list[list[int]] | None = [] if message["marks"] else None
    return {"words": write_words(template, message["said"], spans), "spans": spans}


class _Bounded:
    """Memory, CPU and wall limits of one job, lifted afterwards. The system ends a process that passes the last two."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def __enter__(self) -> None:
        cpu_s = (os.cpu_count() or 1) * (self.limits.deadline_s + _GRACE_S)  # AVIF and video decode on threads
        _limit("RLIMIT_CPU", math.ceil(time.process_time() + cpu_s))
        _limit("RLIMIT_AS", _address_space() + self.limits.max_memory_bytes)
        signal.setitimer(signal.ITIMER_REAL, self.limits.deadline_s + _GRACE_S)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _limit("RLIMIT_CPU", resource.RLIM_INFINITY)
        _limit("RLIMIT_AS", resource.RLIM_INFINITY)


def _limit(name: str, value: int) -> None:
    kind = getattr(resource, name, None)
    if kind is None:
        return
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard) if value != resource.RLIM_INFINITY else hard
    with suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS; the wall deadline holds there
        resource.setrlimit(kind, (value, hard))


def _address_space() -> int:
    """Bytes of address space in use now, where the system says; 0 elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _harden() -> None:
    """No core dump, no new privileges, no keyboard interrupts meant for the caller; the system's answer to a timer
    and to too much CPU time is the end of the process. Those two also end a child that works on while its caller is
    gone; one that waits reads the end of its socket. (The kernel's parent-death signal is not used: it would end a
    child when the thread that started it ends.)"""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGXCPU, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
