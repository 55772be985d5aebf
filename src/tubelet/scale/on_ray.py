"""The engine of a cluster: Ray Data's actors hold the model, take numbers of shards and give reports back.

Files, tokens and checkpoints never pass through Ray. It restarts actors and tries again for ever, as is its default;
the notes in the store end what would go on (`tubelet.scale.poison`).
"""

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from typing import Any

from tubelet.errors import InputError, RunError, TubeletError
from tubelet.reading.isolated.wire import error_fields, error_from
from tubelet.scale.local import PAUSE_S, pending
from tubelet.scale.plan import Plan, read_plan
from tubelet.scale.poison import LEASE_S, at_work
from tubelet.scale.store import Store, open_store
from tubelet.scale.words import Report
from tubelet.scale.work import Worker

AT_ONCE = 10_000  # shards that Ray is told of at a time
_OBJECTS_BYTES = 200 << 20  # of a Ray of our own: reports are small


class Actor:
    """A worker in Ray's hands. options: further arguments of `Worker`."""

    def __init__(self, place: str, options: dict[str, Any]) -> None:
        self.worker = Worker(open_store(place), timer=True, **options)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"said": json.dumps(asdict(self.worker.run(int(row["item"]))))}
        except TubeletError as error:
            return {"said": json.dumps({"error": error_fields(error), "source": error.source})}


WORKER: Any = Actor  # Ray makes it once in each process; its annotations know functions alone


def run(
    store: Store,
    *,
    workers: int = 2,
    gpus: float = 0.0,
    cpus: float = 1.0,
    lease_s: float = LEASE_S,
    on_file: Callable[[int], None] | None = None,
) -> Generator[Report, None, None]:
    """As `tubelet.scale.local.run`, with at most so many actors, each with so many GPUs and CPUs of the cluster.

    A cluster is used that RAY_ADDRESS names or that this process has joined; else a small one is started and ended
    here. The store and the model must be readable from every node. Raises InputError without Ray, and what `Worker.run`
    raises.
    """
    require_ray()
    import ray  # pyright: ignore[reportMissingImports]

    plan = read_plan(store)
    device = "cuda" if gpus else "cpu"
    options = {"device": device, "readers": max(1, int(cpus)), "lease_s": lease_s, "on_file": on_file}
    ours = not ray.is_initialized()
    if ours:
        begin(workers, cpus)
    try:
        while left := _free(plan, store, lease_s):
            yield from _pass(store, left[:AT_ONCE], workers, gpus, cpus, options)
    finally:
        if ours:
            ray.shutdown()


def require_ray() -> None:
    """Raises InputError where Ray Data is not installed."""
    try:
        import ray.data  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as e:
        raise InputError('the engine ray needs Ray: pip install "tubelet[ray]"', expected="ray") from e


def begin(workers: int, cpus: float) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine. None is looked for: one that happens to be
    here may be another run's, or that of a driver that was killed, and ends when it likes. Raises RunError."""
    import ray  # pyright: ignore[reportMissingImports]

    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        how |= {"address": "local", "include_dashboard": False}
        how |= {"num_cpus": int(workers * cpus) + 1, "object_store_memory": _OBJECTS_BYTES}
    try:
        ray.init(**how)
    except Exception as e:  # it raises Exception itself where one of its processes is late
        raise RunError(f"Ray did not start ({type(e).__name__}), as where a machine has too much to do") from e


def silence() -> None:
    """Let Ray say errors alone, in this process: for a command, whose reports say how far it is."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    require_ray()  # it sets its levels when it is imported
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _free(plan: Plan, store: Store, lease_s: float) -> list[int]:
    """Shards that are pending and that nobody works on; waits while there are only others."""
    while left := pending(plan, store):
        taken = at_work(store, lease_s)
        if free := [k for k in left if k not in taken]:
            return free
        time.sleep(PAUSE_S)
    return []


def _rows(data: Any) -> Iterator[dict[str, Any]]:
    """What actors return. Raises RunError where Ray gives up."""
    import ray.exceptions  # pyright: ignore[reportMissingImports]

    try:
        yield from data.iter_rows()
    except ray.exceptions.RayError as e:
        raise RunError(f"Ray ended the run with {type(e).__name__}; the same command goes on") from e


def _pass(
    store: Store, shards: list[int], workers: int, gpus: float, cpus: float, options: dict[str, Any]
) -> Generator[Report, None, None]:
    import ray.data  # pyright: ignore[reportMissingImports]

    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=2)
    how: dict[str, Any] = {"compute": pool, "num_gpus": gpus, "num_cpus": cpus}
    how |= {"fn_constructor_args": (store.place, options)}
    data = ray.data.from_items(shards, override_num_blocks=len(shards)).map(WORKER, **how)
    data.context.enable_progress_bars = data.context.print_on_execution_start = False  # reports say how far it is
    for row in _rows(data):
        said = json.loads(row["said"])
        if "error" in said:
            raise error_from(said["error"], str(said.get("source") or "worker"))
        report = Report(**said)
        if report.state != "busy":
            yield report
