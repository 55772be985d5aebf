"""The engine of one machine: in this process, or in N processes that are started anew when they die.

for report in run(store, workers=4): ...        every pending shard; other processes may work in the same store
for report in run(store, rank=0, world=8): ...  one of 8 processes that a launcher starts, wherever they are
"""

import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tubelet.errors import InputError, TubeletError, WorkerDied
from tubelet.reading.isolated.wire import error_from, receive, send
from tubelet.scale.interpreters import Interpreters
from tubelet.scale.plan import Plan, read_plan, shard_name
from tubelet.scale.poison import LEASE_S
from tubelet.scale.status import done_shards
from tubelet.scale.store import Store
from tubelet.scale.words import Report

if TYPE_CHECKING:
    from tubelet.scale.work import Worker

PAUSE_S = 0.5  # before a shard that another process has is asked for again
_END_S = 10.0  # for a worker to end by itself
_FALSE_STARTS = 3  # workers that died before they were ready, one after the other


@runtime_checkable
class Process(Protocol):
    """A started worker; subprocess.Popen is one."""

    pid: int

    def send_signal(self, sig: int) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


Start = Callable[[socket.socket], Process]
"""Starts a process that serves this end of a line (`tubelet.scale.child.serve`)."""


def run(
    store: Store,
    *,
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    device: str = "cpu",
    readers: int | None = None,
    lease_s: float = LEASE_S,
    wait: bool | None = None,
    timer: bool = False,
    start: Start | None = None,
    begun: Interpreters | None = None,
) -> Generator[Report, None, None]:
    """Encode what is pending and give a report of each shard, as they come. Close it to stop.

    workers: 1 is this process; more are started, and ended with it. rank, world: which shards come first; others follow
    where nobody works on them. device: as `Worker` takes it; cuda means one device each, in turns, for several workers
    and for the processes of a world, and a worker says where there is none. readers: threads that decode, shared out by
    default. wait: until shards at work elsewhere are there, or their workers dead; by default not with a world.
    timer: the system may end this process, too, where a step takes longer than the lease allows (`ended_by_timer`).
    begun: processes that were begun before, which are taken first.
    Raises InputError for numbers that mean nothing, what `Worker.run` raises, WorkerDied where workers do not start.
    """
    if workers < 1 or not 0 <= rank < world:
        text = f"workers from 1 and rank below world, got {workers}, {rank} of {world}"
        raise InputError(text, limit=1, got=(workers, rank, world))
    wait = world == 1 if wait is None else wait
    if workers == 1 and start is None:
        from tubelet.encoder.device import device_of
        from tubelet.scale.work import Worker

        own = device_of(device, rank if world > 1 else None)
        worker = Worker(store, device=own, readers=readers, lease_s=lease_s, timer=timer)
        return here(worker, rank=rank, world=world, wait=wait)
    share = readers or max(1, (os.cpu_count() or 1) // workers)
    return _Team(store, workers, start or _starter(store, device, lease_s, share, begun), rank, world, wait).reports()


def here(worker: "Worker", *, rank: int = 0, world: int = 1, wait: bool = True) -> Generator[Report, None, None]:
    """The same with one worker in this process."""
    while True:
        busy = moved = False
        for shard in pending(worker.plan, worker.store, rank, world):
            report = worker.run(shard)
            if report.state == "busy":
                busy = True
                continue
            moved = True
            yield report
        if not busy or not wait:
            return
        if not moved:
            time.sleep(PAUSE_S)


def pending(plan: Plan, store: Store, rank: int = 0, world: int = 1) -> list[int]:
    """The shards that are not there, those of the rank first; those of others backwards, where they come last."""
    done = done_shards(plan, store)
    left = [k for k in range(plan.shards) if k not in done]
    own = [k for k in left if k % world == rank]
    return own + [k for k in reversed(left) if k % world != rank]


class _Team:
    """Several workers and what they are at."""

    def __init__(self, store: Store, workers: int, start: Start, rank: int, world: int, wait: bool) -> None:
        self.store = store
        self.queue = deque(pending(read_plan(store), store, rank, world))
        self.size, self.start, self.wait = min(workers, len(self.queue)), start, wait
        self.later: deque[tuple[float, int]] = deque()  # when to ask again, and for what
        self.false_starts = 0
        self.selector = selectors.DefaultSelector()
        self.members: list[_Member] = []

    def reports(self) -> Generator[Report, None, None]:
        """Every report, until nothing is left."""
        try:
            while True:
                self._fill()
                working = any(member.shard is not None for member in self.members)
                if not self.queue and not working and not (self.later and self.wait):
                    return
                for key, _ in self.selector.select(PAUSE_S):
                    report = self._heard(key.data)
                    if report is not None:
                        yield report
        finally:
            for member in self.members:
                member.ask_to_end()
            for member in self.members:
                member.end()
            self.selector.close()

    def _fill(self) -> None:
        """As many workers as there should be, each with something to do."""
        while self.later and self.wait and self.later[0][0] <= time.monotonic():
            self.queue.append(self.later.popleft()[1])
        idle = [member for member in self.members if member.shard is None]
        while len(self.members) < self.size and len(self.queue) > len(idle):
            member = _Member(self.start)
            self.members.append(member)
            idle.append(member)
            self.selector.register(member.link, selectors.EVENT_READ, member)
        for member in idle:
            if self.queue:
                member.give(self.queue.popleft())

    def _heard(self, member: "_Member") -> Report | None:
        """What a worker says: a report, that it is ready, an error; or that it is dead."""
        try:
            said = receive(member.link).values
        except (OSError, EOFError, ValueError):
            self._buried(member)
            return None
        if "error" in said:
            raise _error(said)
        if "ready" in said:
            member.ready, self.false_starts = True, 0
            return None
        report = Report(**said["report"])
        member.shard = None
        if report.state == "busy":
            self.later.append((time.monotonic() + PAUSE_S, report.shard))
            return None
        return report

    def _buried(self, member: "_Member") -> None:
        self.selector.unregister(member.link)
        self.members.remove(member)
        code = member.end()
        if member.shard is not None and not self.store.exists(shard_name(member.shard)):
            self.queue.append(member.shard)
        if not member.ready:
            self.false_starts += 1
            if self.false_starts >= _FALSE_STARTS:
                raise WorkerDied(f"{_FALSE_STARTS} workers died before they were ready; the last with {code}", got=code)


class _Member:
    """One process, and the shard it has."""

    def __init__(self, start: Start) -> None:
        self.link, theirs = socket.socketpair()
        try:
            self.process = start(theirs)
        finally:
            theirs.close()
        self.ready = False
        self.shard: int | None = None

    def give(self, shard: int) -> None:
        self.shard = shard
        with suppress(OSError):  # it is dead: its line is heard next
            send(self.link, {"shard": shard})

    def ask_to_end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Wait for it, killed if it does not end; its exit code."""
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            code = self.process.wait()
        self.link.close()
        return code


def _error(said: dict[str, object]) -> TubeletError:
    fields = said["error"]
    assert isinstance(fields, dict)
    return error_from(fields, str(said.get("source") or "worker"))


def _starter(store: Store, device: str, lease_s: float, readers: int, begun: Interpreters | None) -> Start:
    """Starts interpreters, those first that are begun already, and numbers them."""
    waiting = begun or Interpreters(0)
    numbers = count()

    def start(link: socket.socket) -> Process:
        said = {"place": store.place, "device": device, "number": next(numbers), "lease_s": lease_s, "readers": readers}
        try:
            door, process = waiting.take()
        except OSError as e:
            raise WorkerDied("a worker could not be started") from e
        with door, suppress(OSError):  # of one that is dead: its line is heard next
            send(door, said, [link.fileno()])
        return process

    return start
