"""Who works on a shard, and what its earlier deaths mean for the next try.

    OUT/attempts/000003.1      {"host", "pid", "started", "seen_s", "id"}: made before work, refreshed while it lasts

A note is live while its process lives, of another machine while it is younger than the lease; dead afterwards. A shard
with a live note is left alone. d dead notes:

    0    packs of many files
    1    packs of one file, each decoded in a process of its own
    2..  the same, and the file at work stands in the note: a file in a dead note is not tried again
    8    every file that is left is given up

So one file that kills its worker costs three deaths and itself. No engine is trusted with this: the notes lie beside
the results, and whoever goes on reads them. A process that does not refresh in time is ended by the system's timer, so
an old note is a dead one. Clocks of machines that share an output must agree within a tenth of the lease.
"""

import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tubelet.errors import StoreError
from tubelet.scale.store import Store

LEASE_S = 300.0
MOST_DEATHS = 8
NOTES = "attempts"
_REFRESH, _PATIENCE = 0.2, 0.7  # of the lease: how often the note is written, and how long one step may take


@dataclass(frozen=True)
class Note:
    """What an attempt says of itself."""

    host: str  # which machine, boot and space of process numbers
    pid: int
    started: int  # by the system's clock of process starts: a number that is used again is told apart
    seen_s: float  # when it was last refreshed, seconds since 1970
    id: int | None = None  # the file at work, in quarantine

    def live(self, lease_s: float) -> bool:
        """Whether somebody still works."""
        if self.host == this_host():
            return process_start(self.pid) == self.started
        return time.time() - self.seen_s <= lease_s


@dataclass
class Attempt:
    """One try of one shard by this process. Use it as a context manager: it goes unless the process is killed."""

    store: Store
    shard: int
    number: int
    dead: tuple[str, ...]  # the notes of earlier attempts
    suspects: frozenset[int]  # files in them
    lease_s: float = LEASE_S
    timer: bool = False  # the system ends this process when a step takes too long
    done: bool = False  # the shard is there: notes of earlier attempts may go, too
    _written_s: float = field(default=0.0, repr=False)

    @property
    def deaths(self) -> int:
        return len(self.dead)

    @property
    def name(self) -> str:
        return _note_name(self.shard, self.number)

    def begin(self) -> bool:
        """Make the note; False where another process has taken this place in the same moment."""
        self._written_s = time.monotonic()
        return self.store.create(self.name, _written(None))

    def beat(self, number: int | None = None) -> None:
        """Another step is about to be made. number: the file it is about, which is written down."""
        if self.timer:
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE * self.lease_s)
        if number is not None or time.monotonic() - self._written_s > _REFRESH * self.lease_s:
            self._written_s = time.monotonic()
            self.store.replace(self.name, _written(number))

    def settle(self) -> None:
        """No file is at work any more: one that was written down has been survived."""
        self.store.replace(self.name, _written(None))

    def __enter__(self) -> "Attempt":
        self.beat()
        return self

    def __exit__(self, *_: object) -> None:
        if self.timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.store.remove(self.name)
        for name in self.dead if self.done else ():
            self.store.remove(name)


def take(store: Store, shard: int, *, lease_s: float = LEASE_S, timer: bool = False) -> Attempt | None:
    """A new attempt of a shard; None while another is live. Raises StoreError."""
    notes = notes_of(store, shard)
    if any(note.live(lease_s) for note in notes.values()):
        return None
    number = max((int(name.rpartition(".")[2]) for name in notes), default=0) + 1
    suspects = frozenset(note.id for note in notes.values() if note.id is not None)
    attempt = Attempt(store, shard, number, tuple(notes), suspects, lease_s, timer)
    return attempt if attempt.begin() else None


def notes_of(store: Store, shard: int | None = None) -> dict[str, Note]:
    """The notes of a shard, or of all, by their names. One that goes meanwhile is not among them."""
    found: dict[str, Note] = {}
    for entry in store.list(NOTES):
        if shard is None or entry.name.startswith(_note_name(shard, "")):
            note = _read(store, entry.name)
            if note is not None:
                found[entry.name] = note
    return found


def drop_own(store: Store, shard: int | None = None) -> None:
    """Remove the notes this process has of a shard, or of all: one is left where a signal came between its making and
    the work."""
    own = this_host(), os.getpid()
    for name, note in notes_of(store, shard).items():
        if (note.host, note.pid) == own:
            store.remove(name)


def at_work(store: Store, lease_s: float = LEASE_S) -> set[int]:
    """The shards that have a live note."""
    return {_shard_of(name) for name, note in notes_of(store).items() if note.live(lease_s)}


@contextmanager
def ended_by_timer() -> Iterator[None]:
    """While the block runs, the system's timer ends this process. In the main thread alone."""
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def this_host() -> str:
    """The machine, its boot and the space of its process numbers, so that a number means one process."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return f"{platform.node()} {boot.read_text().strip()} {space.readlink()}"
    except OSError:  # not Linux
        return platform.node()


def process_start(pid: int) -> int | None:
    """When a process of this machine began, as its system counts; 0 where it does not say, None for no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        state, fields = text.rpartition(")")[2].split()[0], text.rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[19])  # a zombie works no more
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's
        return 0
    return 0


def _note_name(shard: int, number: int | str) -> str:
    return f"{NOTES}/{shard:06d}.{number}"


def _shard_of(name: str) -> int:
    return int(name.rpartition("/")[2].partition(".")[0])


def _written(number: int | None) -> bytes:
    pid = os.getpid()
    said = {"host": this_host(), "pid": pid, "started": process_start(pid), "seen_s": time.time(), "id": number}
    return json.dumps(said).encode()


def _read(store: Store, name: str) -> Note | None:
    try:
        return Note(**json.loads(store.read(name)))
    except StoreError:
        if store.exists(name):
            raise
        return None  # its attempt has ended meanwhile
    except (TypeError, ValueError) as e:
        raise StoreError("a note of an attempt is damaged: remove it if nobody works on its shard", source=name) from e
