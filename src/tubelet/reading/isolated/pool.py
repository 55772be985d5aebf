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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tubelet.errors import DecodeError, RunError, TubeletError, WorkerDied
from tubelet.reading.clip import Clip
from tubelet.reading.isolated.wire import Reply, anonymous_file, error_from, receive, send
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.outline import Outline
from tubelet.reading.source import BinaryFile, Source, file_errors, read_all

T = TypeVar("T")

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
        self.unheard = False  # it ended before it had read what it was asked; Linux tells that by a reset
        try:
            self._wait(time.monotonic() + _START_S, Limits())
        except BaseException:
            self.kill()
            raise

    def ask(self, request: Mapping[str, Any], src: Source, job: ReadJob, made_of: Callable[[Reply], T]) -> T:
        """What `made_of` makes of the child's reply for one input.

        request: `kind` (clip, grey16, outline or signals) and what that kind wants to know. made_of: believes nothing
        beyond the job's limits; a KeyError, TypeError, ValueError, OSError or RunError of it means that the reply makes
        no sense. Raises: the error that was sent; WorkerDied, and then the child is dead and reaped.
        """
        reply = self._exchange(request, src, job)
        try:
            if isinstance(reply.values.get("error"), dict):
                sent = error_from(reply.values["error"], src.name)
            else:
                return made_of(reply)
        except (KeyError, TypeError, ValueError, OSError, RunError) as error:
            if isinstance(error, TubeletError) and not isinstance(error, RunError):
                raise  # a limit, which is an answer
            self.kill()
            raise WorkerDied("the decoding process gave an answer that makes no sense", source=src.name) from error
        finally:
            reply.close()
        raise sent

    def _exchange(self, request: Mapping[str, Any], src: Source, job: ReadJob) -> Reply:
        """Sends one input and waits for the reply, up to the deadline."""
        deadline = time.monotonic() + job.limits.deadline_s
        with _descriptor(src, job.limits) as fd:
            about = {"job": job.as_dict(), "name": src.name, "size": src.size, "format": src.format}
            self.jobs += 1
            try:
                self.link.settimeout(job.limits.deadline_s + _MARGIN_S)
                send(self.link, about | dict(request), [fd])
            except OSError as error:
                self.unheard = isinstance(error, ConnectionError)
                raise self._died(job.limits, late=isinstance(error, TimeoutError)) from error
            return self._wait(deadline + _MARGIN_S, job.limits)

    def kill(self) -> int:
        """Ends the process, waits for it, and gives its exit code (negative: the signal that ended it)."""
        self.link.close()
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

    def _wait(self, until: float, limits: Limits) -> Reply:
        try:
            self.link.settimeout(max(until - time.monotonic(), 0.001))
            return receive(self.link)
        except TimeoutError as error:
            raise self._died(limits, late=True) from error
        except (OSError, EOFError, ValueError) as error:
            self.unheard = isinstance(error, ConnectionError)
            raise self._died(limits, late=False) from error
        except BaseException:  # a keyboard interrupt: the answer on its way would be taken for that of the next input
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


class Pool:
    """The children of this process that wait for work. As many exist as threads have asked at the same time."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._idle: list[DecodeChild] = []
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any], src: Source, job: ReadJob, made_of: Callable[[Reply], T]) -> T:
        """As `DecodeChild.ask`, of a waiting child or of a new one; of another where it died before it heard of it."""
        with self._returned(self._take()) as child:
            try:
                return child.ask(request, src, job, made_of)
            except WorkerDied:
                if not child.unheard:
                    raise
        with self._returned(DecodeChild()) as child:  # the other one died while it waited: not of this input
            return child.ask(request, src, job, made_of)

    @contextlib.contextmanager
    def _returned(self, child: DecodeChild) -> Iterator[DecodeChild]:
        try:
            yield child
        finally:
            self._give_back(child)

    def close(self) -> None:
        """Ends the waiting children. Those at work end with their job."""
        if self.pid != os.getpid():  # in a fork, at its end: the children are the parent's
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


def ask_child(request: Mapping[str, Any], src: Source, job: ReadJob, made_of: Callable[[Reply], T]) -> T:
    """As `DecodeChild.ask`, of this process's pool; errors name the source. Thread-safe: each thread gets its child.

    The input travels as an open file: a path's own; bytes and file objects are copied into anonymous memory first.
    Limits: `max_memory_bytes` of address space (Linux), `deadline_s` of CPU and of wall time.
    Raises: the error that was sent; WorkerDied when the child crashed, was killed or did not answer in time (the next
    call starts another); RunError on Windows, which cannot pass open files.
    """
    if not SUPPORTED:
        raise RunError("decoding in a child process is not available on Windows", source=src.name)
    try:
        return pool().ask(request, src, job, made_of)
    except TubeletError as error:
        error.placed(source=src.name)
        raise


def isolated_read(src: Source, job: ReadJob) -> Clip:
    """The Clip that `decode_source` gives, decoded in a child process under the job's limits.

    The frames come back in shared memory that is mapped without a copy on Linux. Raises: what decoding raises; as
    `ask_child`.
    """
    return ask_child({"kind": "clip"}, src, job, lambda reply: reply.clip(src.name, job.limits))


def isolated_outline(src: Source, job: ReadJob) -> Outline:
    """The Outline that `outline_source` gives, read in a child process under the job's limits: for headers that this
    process should not read either. Raises: what reading headers raises; as `ask_child`."""
    return ask_child(
        {"kind": "outline"}, src, job, lambda reply: Outline.from_dict(reply.values["outline"], job.limits)
    )


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
    fd = anonymous_file("tubelet-input")
    try:
        _copy(src, limits, fd)
        yield fd
    finally:
        os.close(fd)


def _copy(src: Source, limits: Limits, fd: int) -> None:
    """The bytes of a file object into `fd`. No view of the caller's buffer is left, also where this fails: the buffer
    could not grow while one lives, and an error's traceback would keep it."""
    with memoryview(_content(src.file, limits)) as data:
        if len(data) != src.size:
            raise DecodeError("the file object has another length than it said", expected=src.size, got=len(data))
        done = 0
        while done < len(data):
            with data[done:] as rest:
                done += os.write(fd, rest)


def _content(file: BinaryFile, limits: Limits) -> bytes | memoryview:
    if type(file) is io.BytesIO:  # a subclass may read as it likes
        return file.getbuffer()
    with file_errors("read"):
        file.seek(0)
    return read_all(file, limits)
