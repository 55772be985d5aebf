"""Nothing is lost and nothing doubled, whoever is killed and whenever; a file that kills its worker ends alone."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tests.scale.conftest import Begun
from tests.scale.runs import Fork, bad_of, digests, forked, words_of

from tubelet.encoder.model import Encoder
from tubelet.reading.isolated.wire import send
from tubelet.scale.child import serve
from tubelet.scale.local import run
from tubelet.scale.plan import Plan, shard_name
from tubelet.scale.poison import Attempt, notes_of, take
from tubelet.scale.status import done_shards, finish, verify
from tubelet.scale.store import Store
from tubelet.scale.work import Worker

Digests = dict[int, dict[str, str]]


def slowly(number: int) -> None:
    time.sleep(0.004)


def driver(store: Store, encoder: Encoder) -> Fork:
    """A process of its own that runs two workers."""

    def drive() -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        list(run(store, workers=2, start=forked(store, encoder, slowly)))

    return Fork(drive)


def victims(store: Store) -> list[int]:
    """Workers whose death is not the third of their shard, which would blame the file at work."""
    notes = notes_of(store)
    dead = [name.partition(".")[0] for name, note in notes.items() if not note.live(60.0)]
    return [n.pid for name, n in notes.items() if n.live(60.0) and dead.count(name.partition(".")[0]) < 2]


def working(store: Store) -> bool:
    return any(note.live(60.0) for note in notes_of(store).values())


def kill(store: Store, whole: Fork, draw: random.Random) -> str:
    """SIGKILL the driver, a worker or both."""
    what = draw.choice(("driver", "worker", "both"))
    if what in ("worker", "both"):
        for pid in victims(store)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if what in ("driver", "both"):
        whole.send_signal(signal.SIGKILL)
    return what


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_run_survives_kills(
    kills: int, begun: Begun, encoder: Encoder, expected: Digests, record_property: Callable[[str, object], None]
):
    draw = random.Random(kills)
    done = rounds = at_work = 0
    while done < kills:
        rounds += 1
        plan, store = begun(f"out{rounds}")
        while done < kills and len(done_shards(plan, store)) < plan.shards:
            whole = driver(store, encoder)
            until = time.monotonic() + draw.choice((0.02, 5.0, 5.0, 5.0))
            while not working(store) and whole.poll() is None and time.monotonic() < until:
                time.sleep(0.002)  # else most would die before they have begun anything
            time.sleep(draw.uniform(0.0, 0.1))
            while whole.poll() is None and done < kills:
                done += 1
                at_work += working(store)
                if kill(store, whole, draw) != "worker":
                    break
                time.sleep(draw.uniform(0.0, 0.1))
            if done >= kills:
                break
            whole.wait(60.0)
        list(run(store, workers=2, start=forked(store, encoder)))
        assert digests(plan, store) == expected
        assert verify(plan, store) == []
        assert finish(plan, store) is not None
        root = Path(store.place)
        assert [p for p in root.rglob(".*") if p.is_file()] == []
        assert list(store.list("attempts")) == []
    say = f"{kills} kills, {at_work} of them while a shard was at work, in {rounds} runs: nothing lost, nothing doubled"
    record_property("say", say)


def test_workers_end_with_a_driver_that_is_killed(begun: Begun, encoder: Encoder):
    _, store = begun()
    whole = driver(store, encoder)
    until = time.monotonic() + 60
    while len(pids := [note.pid for note in notes_of(store).values()]) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    assert len(pids) == 2
    whole.send_signal(signal.SIGKILL)
    whole.wait(10.0)
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(store.list("attempts")) == []  # dropped, which is no death


STUCK = """
import signal, socket, sys
from tubelet.scale import child
from tubelet.scale.poison import take
from tubelet.scale.store import open_store

class Stuck:
    encoder = None
    store = open_store(sys.argv[1])

    def run(self, shard):
        take(self.store, shard)
        while True:
            try:
                print("at work", flush=True)
                signal.pause()
            except SystemExit:  # as where it comes while something else is taken down
                pass

child._GRACE_S = 0.2
child.serve(socket.socket(fileno=int(sys.argv[2])), Stuck)
"""


def test_a_worker_that_cannot_end_in_order_dies_no_death_of_its_shard(begun: Begun):
    _, store = begun()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-c", STUCK, store.place, str(theirs.fileno())]
        stuck = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True)
        theirs.close()
        send(ours, {"shard": 1})
        assert stuck.stdout is not None
        assert stuck.stdout.readline() == "at work\n"
        assert len(notes_of(store)) == 1
    assert stuck.wait(60.0) == 143
    stuck.stdout.close()
    assert notes_of(store) == {}


class Ending:
    """A store whose process is asked to end in the moment in which it has made a note."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def create(self, name: str, data: bytes) -> bool:
        self._store.create(name, data)
        raise SystemExit(143)


def test_an_end_in_the_moment_of_a_note_is_no_death(begun: Begun, encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    _, store = begun()
    other = Attempt(store, 1, 1, (), frozenset())
    monkeypatch.setattr(os, "getpid", lambda: 1)  # another process, which goes on
    assert other.begin()
    monkeypatch.undo()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, {"shard": 0})
        worker = Fork(lambda: serve(ours, lambda: Worker(Ending(store), encoder=encoder)))  # type: ignore[arg-type]
        worker.wait(60.0)
    assert list(notes_of(store)) == [other.name]


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_two_runs_in_one_folder_do_the_work_once(times: int, begun: Begun, encoder: Encoder, expected: Digests):
    for i in range(times):
        plan, store = begun(f"out{i}")
        runs = [driver(store, encoder) for _ in range(2)]
        assert [one.wait(120.0) for one in runs] == [0, 0]
        assert digests(plan, store) == expected
        assert not any(kind == "WorkerDied" for kind in bad_of(plan, store).values())


class Meeting:
    """A store in which another worker commits the same shard just before."""

    def __init__(self, store: Store, other: Callable[[], object]) -> None:
        self._store, self._other = store, other

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def create(self, name: str, data: bytes) -> bool:
        if name.startswith("shards/"):
            self._other()
        return self._store.create(name, data)


def test_who_comes_second_loses_the_race_and_says_so(begun: Begun, encoder: Encoder, expected: Digests):
    """With a lease of nothing, and as if from another machine: both work on the shard, one is first."""
    _, store = begun()
    said = []

    def other() -> None:
        for name in notes_of(store, 0):
            store.remove(name)  # its lease has passed
        said.append(Worker(store, encoder=encoder).run(0))

    late = Worker(Meeting(store, other), encoder=encoder)  # type: ignore[arg-type]
    report = late.run(0)
    assert [one.state for one in said] == ["done"]
    assert report.state == "lost_race"
    assert words_of(store, 0).sha256 == expected[0]
    assert late.run(0).state == "skipped"
    assert list(store.list("attempts")) == []


# ---- poison


def kills_its_worker(poison: frozenset[int], number: int) -> None:
    if number in poison:
        os.kill(os.getpid(), signal.SIGKILL)


def hangs(poison: frozenset[int], number: int) -> None:
    if number in poison:
        time.sleep(600)


def poisoned(
    plan: Plan,
    store: Store,
    encoder: Encoder,
    act: Callable[[frozenset[int], int], None],
    ids: set[int],
    lease_s: float,
) -> int:
    """Run to the end; how many workers it took."""
    start = forked(store, encoder, partial(act, frozenset(ids)), lease_s)
    begun: list[Fork] = []

    def counted(link: object) -> Fork:
        begun.append(start(link))  # type: ignore[arg-type]
        return begun[-1]

    list(run(store, workers=2, start=counted))
    assert len(done_shards(plan, store)) == plan.shards
    return len(begun)


def good_ids(store: Store, shard: int) -> list[int]:
    words = words_of(store, shard)
    return [words.ids[item["picture"]] for item in words.items]


@pytest.mark.parametrize("together", [True, False], ids=["one shard", "two shards"])
def test_files_that_kill_their_worker_end_alone(
    together: bool, begun: Begun, encoder: Encoder, whole: tuple[Plan, Store], expected: Digests
):
    first = good_ids(whole[1], 1)
    ids = set(first[1:3]) if together else {first[1], good_ids(whole[1], 3)[0]}
    plan, store = begun()
    workers = poisoned(plan, store, encoder, kills_its_worker, ids, 60.0)
    assert workers <= 2 + (2 + 2 if together else 3 + 3)
    died = {one["id"] for k in range(plan.shards) for one in words_of(store, k).bad if one["error"] == "WorkerDied"}
    assert died == ids
    assert len(bad_of(plan, store)) == 10 + 2
    untouched = set(range(plan.shards)) - ({1} if together else {1, 3})
    assert {k: words_of(store, k).sha256 for k in untouched} == {k: expected[k] for k in untouched}
    assert list(store.list("attempts")) == []


@pytest.mark.slow
def test_a_file_that_hangs_ends_alone(begun: Begun, encoder: Encoder, whole: tuple[Plan, Store]):
    ids = {good_ids(whole[1], 1)[1]}
    plan, store = begun()
    assert poisoned(plan, store, encoder, hangs, ids, 4.0) <= 2 + 3
    died = {one["id"] for k in range(plan.shards) for one in words_of(store, k).bad if one["error"] == "WorkerDied"}
    assert died == ids


def dead_notes(store: Store, shard: int, *ids: int | None) -> None:
    """Notes of processes that were killed, with these files at work."""
    for number in ids:

        def die(number: int | None = number) -> None:
            attempt = take(store, shard)
            assert attempt is not None
            attempt.beat(number)
            os.kill(os.getpid(), signal.SIGKILL)

        assert Fork(die).wait(30.0) == -signal.SIGKILL


def test_after_deaths_files_are_taken_one_by_one_and_the_bits_stay(begun: Begun, encoder: Encoder, expected: Digests):
    _, store = begun()
    for shard, deaths in ((0, 1), (1, 2), (2, 7)):
        dead_notes(store, shard, *[None] * deaths)
        report = Worker(store, encoder=encoder).run(shard)
        assert (report.state, report.deaths) == ("done", deaths)
        assert words_of(store, shard).sha256 == expected[shard]
    assert list(store.list("attempts")) == []


def test_after_eight_deaths_the_rest_of_a_shard_is_given_up(begun: Begun, encoder: Encoder):
    _, store = begun()
    dead_notes(store, 0, *[None] * 8)
    report = Worker(store, encoder=encoder).run(0)
    assert report.bad == {"WorkerDied": report.files}
    assert {one["message"] for one in words_of(store, 0).bad} == {"its shard has ended 8 workers"}


def test_a_live_attempt_is_left_alone_and_its_file_is_not_blamed(begun: Begun, encoder: Encoder):
    """Two workers in one shard: the id that a living one has written down is no dead one's."""
    _, store = begun()
    with take(store, 0) or pytest.fail("nobody works on it") as attempt:
        assert isinstance(attempt, Attempt)
        attempt.beat(good_ids(store, 0)[0] if store.exists(shard_name(0)) else 3)
        assert Worker(store, encoder=encoder).run(0).state == "busy"
        assert take(store, 0) is None
    assert list(store.list("attempts")) == []
    assert "WorkerDied" not in Worker(store, encoder=encoder).run(0).bad


def test_another_machines_note_is_dead_when_its_lease_has_passed(begun: Begun):
    _, store = begun()
    said = b'{"host": "elsewhere", "pid": 1, "started": 1, "seen_s": %f, "id": null}'
    store.create("attempts/000000.1", said % time.time())
    assert take(store, 0, lease_s=60.0) is None
    store.replace("attempts/000000.1", said % (time.time() - 61.0))
    attempt = take(store, 0, lease_s=60.0)
    assert attempt is not None
    assert (attempt.number, attempt.deaths) == (2, 1)
