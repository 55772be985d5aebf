"""The Ray engine: the same bits, and poison that ends; and an engine changed half way. Needs `ray[data]`."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
from tests.scale.conftest import Begun
from tests.scale.runs import bad_of, digests, words_of
from tests.scale.test_kills import victims

from tubelet.encoder.model import Encoder
from tubelet.scale.local import here
from tubelet.scale.plan import Plan
from tubelet.scale.status import done_shards, finish, verify
from tubelet.scale.store import Store
from tubelet.scale.work import Worker

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
Digests = dict[int, dict[str, str]]


@pytest.fixture(scope="module")
def engine() -> Iterator[object]:
    """A small Ray of our own for all tests."""
    import ray  # pyright: ignore[reportMissingImports]

    from tubelet.scale import on_ray

    on_ray.begin(workers=2, cpus=1.0)
    yield on_ray
    ray.shutdown()


def test_two_actors_write_the_same(engine, begun: Begun, expected: Digests):
    plan, store = begun()
    reports = list(engine.run(store, workers=2))
    assert sorted(r.shard for r in reports) == list(range(plan.shards))
    assert digests(plan, store) == expected
    assert len(bad_of(plan, store)) == 10
    assert verify(plan, store) == []


def test_an_engine_can_be_changed_half_way(engine, begun: Begun, encoder: Encoder, expected: Digests):
    plan, store = begun()
    list(islice(here(Worker(store, encoder=encoder)), 2))
    list(islice(here(Worker(store, encoder=encoder), rank=1, world=2), 2))
    assert len(done_shards(plan, store)) == 4
    list(engine.run(store, workers=2))
    assert digests(plan, store) == expected


def slowly(number: int) -> None:
    time.sleep(0.05)


DRIVER = """
import sys
from tests.scale.test_ray import slowly
from tubelet.scale.on_ray import run
from tubelet.scale.store import open_store
list(run(open_store(sys.argv[1]), workers=2, on_file=slowly))
"""


def test_a_driver_and_actors_may_be_killed(engine, begun: Begun, expected: Digests):
    """SIGKILL of a driver with a Ray of its own, then of three actors, orphans of the first among them."""
    plan, store = begun()
    words = [sys.executable, "-W", "ignore", "-c", DRIVER, store.place]
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    variables["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), variables.get("PYTHONPATH", "")])
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, env=variables, stdout=quiet, stderr=quiet) as driver:
        until = time.monotonic() + 300
        while not done_shards(plan, store) and driver.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        driver.kill()
    assert 0 < len(done_shards(plan, store)) < plan.shards
    killed = 0
    for _ in engine.run(store, workers=2, on_file=slowly):
        for pid in victims(store)[: 1 if killed < 3 else 0]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert killed
    assert digests(plan, store) == expected
    assert verify(plan, store) == []
    assert finish(plan, store) is not None
    assert list(store.list("attempts")) == []


def kills_its_worker(poison: frozenset[int], number: int) -> None:
    if number in poison:
        os.kill(os.getpid(), signal.SIGKILL)


def test_files_that_kill_their_actor_end_alone(engine, begun: Begun, whole: tuple[Plan, Store], expected: Digests):
    words = words_of(whole[1], 1)
    ids = {words.ids[item["picture"]] for item in words.items[1:2]}
    plan, store = begun()
    list(engine.run(store, workers=2, on_file=partial(kills_its_worker, frozenset(ids))))
    died = {one["id"] for k in range(plan.shards) for one in words_of(store, k).bad if one["error"] == "WorkerDied"}
    assert died == ids
    assert list(store.list("attempts")) == []
    untouched = {k: d for k, d in digests(plan, store).items() if k != 1}
    assert untouched == {k: d for k, d in expected.items() if k != 1}
    assert Path(store.place).exists()


def test_the_guide_reads_the_index_without_tubelet(
    begun: Begun, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With pyarrow, which comes with ray[data]."""
    plan, store = begun("tokens")
    list(here(Worker(store, encoder=encoder)))
    said = finish(plan, store)
    assert said is not None
    assert said["index"] == "index.parquet"
    guide = Path(__file__).parents[2] / "docs" / "guides" / "many-files.md"
    blocks = re.findall(r"^```py\n(.*?)^```", guide.read_text(encoding="utf-8"), re.M | re.S)
    block = next(block for block in blocks if "pyarrow" in block)
    monkeypatch.chdir(Path(store.place).parent)
    exec(compile(block, str(guide), "exec"), {})
    assert "torch.Size" in capsys.readouterr().out
