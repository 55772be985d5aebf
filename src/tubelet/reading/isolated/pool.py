"""Decoding in another process, which may die: a pool of children, and what becomes of one that does not answer.

    caller                                   child (tubelet.reading.child)
    open file, job      ── socketpair ──>    memory, CPU and wall limits; decoders
    maps the frames     <── one message ──   frames in anonymous memory, sealed

A child serves one input at a time and stays for the next. The first call, and the call after a death, pay the start of
an interpreter with numpy and Pillow (0.1 to 0.3 s). Children are ended when the program ends: their socket closes.
Each process has its own pool: a fork never talks to the children of its parent.
"""

import atexit
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tubelet.errors import DecodeError, LimitError, RunError, TubeletError, WorkerDied
from tubelet.reading.clip import Clip
from tubelet.reading.codec.signals import CodecSignals, signals_from
from tubelet.reading.isolated.wire import anonymous_file, clip_from, error_from, map_frames, receive, send
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.outline import Outline
from tubelet.reading.source import BinaryFile, Source, file_errors, read_all

SUPPORTED = sys.platform != "win32"  # needs sockets that carry open files

_START_S = 60.0  # an interpreter that is not up by then will not come
_MARGIN_S = 0.5  # past the deadline, for a child that was just about to answer
_MAX_JOBS = 5_000  # after which a child is replaced, so that what decoders leak stays bounded
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "SYSTEMROOT", "GLIBC_TUNABLES")
# One thread for BLAS; memory that a picture used is kept for the next one instead of being faulted in again.
_SET = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "134217728", "MALLOC_MMAP_THRESHOLD_": "33554432"}
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); sys.modules['jaxtyping'] = None; "
    "from tubelet.reading.child import main; main(int(sys.argv[1]))"
)


class DecodeChild:
    """One decoding process and the socket to it. Used by one thread at a time; the pool sees to that."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        places = [*(place for place in sys.path if Path(place).is_absolute()), str(Path(__file__).parents[3])]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, str(theirs.fileno()), json.dumps(places)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | _SET,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise WorkerDied("the decoding process could not be started") from error
        finally:
            theirs.close()
        self.link = ours
        self.jobs = 0
        try:
            self._wait(time.monotonic() + _START_S, Limits())
        except BaseException:
            self.kill()
            raise

    def run(self, src: Source, job: ReadJob) -> Clip:
        """The Clip of one input. Whatever goes wrong with the child, it is dead and reaped when this raises for it."""
        answer, frames_fd = self._ask(src, job, {})
        try:
            return self._result(answer, frames_fd, src, job)
        finally:
            if frames_fd is not None:
                os.close(frames_fd)

    def signals(self, src: Source, job: ReadJob, signal: str) -> tuple[Clip, CodecSignals]:
        """The frames of one clip and what its codec says of them. Raises as `run`."""
        until = time.monotonic() + job.limits.deadline_s + _MARGIN_S
        answer, frames_fd = self._ask(src, job, {"signal": signal})
        maps_fd: int | None = None
        try:
            clip = self._result(answer, frames_fd, src, job)
            second, maps_fd = self._wait(until, job.limits)
            if maps_fd is None:
                raise ValueError("no fields were sent")
            return clip, signals_from(answer["signals"], map_frames(maps_fd, _shape(second["maps"], 4)), clip)
        except (KeyError, TypeError, ValueError, OSError, RunError) as error:
            if isinstance(error, TubeletError) and not isinstance(error, RunError):
                raise
            self.kill()
            raise WorkerDied("the decoding process gave an answer that makes no sense", source=src.name) from error
        finally:
            for fd in (frames_fd, maps_fd):
                if fd is not None:
                    os.close(fd)

    def outline(self, src: Source, job: ReadJob) -> Outline:
        """The Outline of one input, believed only within the limits. Raises as `run`."""
        answer, frames_fd = self._ask(src, job, {"outline": True})
        if frames_fd is not None:
            os.close(frames_fd)
        if "error" in answer and isinstance(answer["error"], dict):
            raise error_from(answer["error"], src.name)
        try:
            return Outline.from_dict(answer["outline"], job.limits)
        except LimitError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            raise WorkerDied("the decoding process gave an answer that makes no sense", source=src.name) from error

    def _ask(self, src: Source, job: ReadJob, wish: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        """The child's answer, and the descriptor beside it."""
        deadline = time.monotonic() + job.limits.deadline_s
        with _descriptor(src, job.limits) as fd:
            request = {"job": job.as_dict(), "name": src.name, "size": src.size, "format": src.format}
            self.jobs += 1
            try:
                self.link.settimeout(job.limits.deadline_s + _MARGIN_S)
                send(self.link, request | wish, fd)
            except OSError as error:
                raise self._died(job.limits, late=isinstance(error, TimeoutError)) from error
            return self._wait(deadline + _MARGIN_S, job.limits)

    def kill(self) -> int:
        """Ends the process, waits for it, and gives its exit code (negative: the signal that ended it)."""
        self.link.close()
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

    def _wait(self, until: float, limits: Limits) -> tuple[dict[str, Any], int | None]:
        try:
            self.link.settimeout(max(until - time.monotonic(), 0.001))
            return receive(self.link)
        except TimeoutError as error:
            raise self._died(limits, late=True) from error
        except (OSError, EOFError, ValueError) as error:
            raise self._died(limits, late=False) from error
        except BaseException:  # a keyboard interrupt: an answer to nobody must not be read by the next caller
            self.kill()
            raise

    def _died(self, limits: Limits, *, late: bool) -> WorkerDied:
        """The error for a child that did not answer. It is killed if it was late, else given a moment to be gone."""
        if not late:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
        code = self.kill()
        if late:
            return WorkerDied(
                f"decoding took longer than deadline_s = {limits.deadline_s:g}", limit=limits.deadline_s, got="deadline"
            )
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            return WorkerDied(
                f"decoding used more time than deadline_s = {limits.deadline_s:g}",
                limit=limits.deadline_s,
                got=signal.Signals(-code).name,
            )
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerDied(f"the decoding process was ended by {ending}", got=ending)

    def _result(self, answer: dict[str, Any], frames_fd: int | None, src: Source, job: ReadJob) -> Clip:
        """A Clip out of a reply that is believed only as far as the limits go."""
        if "error" in answer and isinstance(answer["error"], dict):
            raise error_from(answer["error"], src.name)
        try:
            shape = _shape(answer["shape"])
            job.limits.check_clip(shape[0], shape[2], shape[1])
            if frames_fd is None:
                raise RunError("the decoding process sent no frames")
            return clip_from(answer["clip"], map_frames(frames_fd, shape), src.name)
        except (KeyError, TypeError, ValueError, OSError, RunError) as error:
            if isinstance(error, TubeletError) and not isinstance(error, RunError):
                raise
            self.kill()
            raise WorkerDied("the decoding process gave an answer that makes no sense", source=src.name) from error


def _shape(sent: Any, values: int = 3) -> tuple[int, int, int, int]:
    frames, height, width, channels = (int(n) for n in sent)
    if min(frames, height, width) < 1 or channels != values:
        raise ValueError("not the shape of frames")
    return frames, height, width, channels


class Pool:
    """The children of this process that wait for work. As many exist as threads have asked at the same time."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._idle: list[DecodeChild] = []
        self._lock = threading.Lock()

    def run(self, src: Source, job: ReadJob) -> Clip:
        """The Clip of one input from a waiting child, or from a new one."""
        with self._child() as child:
            return child.run(src, job)

    def outline(self, src: Source, job: ReadJob) -> Outline:
        """The Outline of one input, likewise."""
        with self._child() as child:
            return child.outline(src, job)

    def signals(self, src: Source, job: ReadJob, signal: str) -> tuple[Clip, CodecSignals]:
        """A clip and its signals, likewise."""
        with self._child() as child:
            return child.signals(src, job, signal)

    @contextlib.contextmanager
    def _child(self) -> Iterator[DecodeChild]:
        child = self._take()
        try:
            yield child
        finally:
            self._give_back(child)

    def close(self) -> None:
        """Ends the waiting children. Those at work end with their job."""
        if self.pid != os.getpid():  # a fork that leaves by the front door
            return self.forget()
        with self._lock:
            children, self._idle = self._idle, []
        for child in children:
            child.kill()
        return None

    def forget(self) -> None:
        """In a fork: closes our copies of the sockets of our parent's children, who are not ours to end or wait for."""
        for child in self._idle:
            child.link.close()
            child.process.returncode = 0
        self._idle = []

    def _take(self) -> DecodeChild:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child
                child.kill()
        return DecodeChild()

    def _give_back(self, child: DecodeChild) -> None:
        if child.process.poll() is None and child.link.fileno() >= 0 and child.jobs < _MAX_JOBS:
            with self._lock:
                self._idle.append(child)
        else:
            child.kill()


_pools: list[Pool] = []  # at most one: the pool of this process


def pool() -> Pool:
    """The pool of this process, made when it is first asked for."""
    if not _pools or _pools[0].pid != os.getpid():
        inherited, _pools[:] = list(_pools), [Pool()]
        for old in inherited:
            old.forget()
        atexit.register(_pools[0].close)
    return _pools[0]


def isolated_read(src: Source, job: ReadJob) -> Clip:
    """The Clip that `decode_source` gives, decoded in a child process under the job's limits.

    The input travels as an open file (a path's own; bytes and file objects are copied into anonymous memory first), the
    frames come back in shared memory that is mapped without a copy on Linux. Thread-safe: each thread gets its child.
    Limits: `max_memory_bytes` of address space (Linux), `deadline_s` of CPU and of wall time.
    Raises: what decoding raises; WorkerDied when the child crashed, was killed or did not answer in time (the next call
    starts another); RunError on Windows, which cannot pass open files.
    """
    if not SUPPORTED:
        raise RunError("decoding in a child process is not available on Windows", source=src.name)
    try:
        return pool().run(src, job)
    except TubeletError as error:
        error.placed(source=src.name)
        raise


def isolated_outline(src: Source, job: ReadJob) -> Outline:
    """The Outline that `outline_source` gives, read in a child process under the job's limits: for headers that this
    process should not read either. Raises: as `isolated_read`."""
    if not SUPPORTED:
        raise RunError("decoding in a child process is not available on Windows", source=src.name)
    try:
        return pool().outline(src, job)
    except TubeletError as error:
        error.placed(source=src.name)
        raise


@contextlib.contextmanager
def _descriptor(src: Source, limits: Limits):
    """A descriptor of the input: of the file itself when it is one that we opened, else of a copy in memory."""
    if not src.foreign and isinstance(src.file, io.BufferedReader):
        fd = src.file.fileno()
        place = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            yield fd
        finally:
            os.lseek(fd, place, os.SEEK_SET)  # the child's position is ours: libtiff moves it
        return
    data = _content(src.file, limits)
    if len(data) != src.size:
        raise DecodeError("the file object has another length than it said", expected=src.size, got=len(data))
    fd = anonymous_file("tubelet-input")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        yield fd
    finally:
        os.close(fd)


def _content(file: BinaryFile, limits: Limits) -> bytes | memoryview:
    if type(file) is io.BytesIO:  # a subclass may read as it likes
        return file.getbuffer()
    with file_errors("read"):
        file.seek(0)
    return read_all(file, limits)
