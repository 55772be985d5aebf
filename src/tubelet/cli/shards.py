"""`tubelet encode ... --out OUT/`: any number of files into a folder or bucket of shards, and what is asked of it."""

import os
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tubelet.cli.options import FrameOptions, ReadingOptions, option
from tubelet.cli.progress import progress
from tubelet.cli.terminal import FAILED, OK, Terminal, UsageError
from tubelet.cli.values import parse_budget, parse_most_bad
from tubelet.errors import ConfigError

if TYPE_CHECKING:
    from tubelet.scale.interpreters import Interpreters
    from tubelet.scale.options import EncodeOptions, Reduction
    from tubelet.scale.plan import Plan
    from tubelet.scale.store import Store
    from tubelet.scale.words import Report

TOO_MANY_BAD, TERMINATED = 3, 143


@dataclass(frozen=True)
class KeepingOptions:
    """What is made of the tokens before they are written."""

    merge: Annotated[int, option("join so many by so many tokens into one (default: 1)", "N")] = 1
    select: Annotated[
        str | None, option("keep --budget tokens of each file, by this method of tubelet select", "METHOD")
    ] = None
    budget: Annotated[str | None, option("with --select: tokens that are kept of each file, or such as 10%", "N")] = (
        None
    )
    pool_only: Annotated[bool, option("with --pool: the pooled vectors alone, no tokens")] = False
    seed: Annotated[int, option("of --select random (default: 0)", "N")] = 0

    def reduction(self, *, pool: bool) -> "Reduction":
        """As a value. Raises UsageError for what means nothing together."""
        from tubelet.scale.options import Reduction

        if (self.select is None) != (self.budget is None):
            raise UsageError("--select and --budget belong together")
        if self.pool_only and not pool:
            raise UsageError("--pool-only belongs to --pool")
        if self.merge > 1 and self.select is not None:
            raise UsageError("--merge and --select are two ways to keep fewer tokens; name one")
        budget = None if self.budget is None else parse_budget(self.budget)
        number, percent = (None, None) if budget is None else (budget.number, budget.percent)
        try:
            return Reduction(pool, not self.pool_only, self.merge, self.select, number, percent, self.seed)
        except ConfigError as e:
            raise UsageError(e.message) from e


@dataclass(frozen=True)
class ShardOptions:
    """Many files: --out OUT/ is a folder or a bucket's address, and the run can be killed and goes on."""

    engine: Annotated[
        Literal["local", "ray"], option("who runs the workers of --out OUT/: this machine, or Ray (default: local)")
    ] = "local"
    rank: Annotated[int, option("of processes that a launcher started: which this is (default: 0)", "R")] = 0
    world: Annotated[int, option("and how many there are (default: 1)", "W")] = 1
    shard_tokens: Annotated[int, option("patches of one written file (default: 262,144)", "N")] = 262_144
    pack_tokens: Annotated[
        int | None, option("patches encoded at once (default: 65,536 on a GPU, 8,192 on a CPU)", "N")
    ] = None
    threads: Annotated[int | None, option("threads of arithmetic of each worker on a CPU (default: torch's)", "N")] = (
        None
    )
    lease: Annotated[float, option("seconds after which a silent worker counts as dead (default: 300)", "S")] = 300.0
    max_bad: Annotated[str, option("stop when more files cannot be read: a number, or such as 1%", "N")] = "100%"
    plan_only: Annotated[bool, option("write the plan of a run and encode nothing, for --resume or another engine")] = (
        False
    )
    resume: Annotated[str | None, option("go on with a run; its options stand in it", "OUT/")] = None
    status: Annotated[str | None, option("how far a run is, while others write", "OUT/")] = None
    verify: Annotated[str | None, option("check every sha256 and every file of a run; exit code 0 or 1", "OUT/")] = None
    retry_bad: Annotated[str | None, option("encode the bad files of a run again, into OUT/retry-1", "OUT/")] = None

    @property
    def place(self) -> str | None:
        """The output that one of the four last options names. Raises UsageError for two of them."""
        given = [one for one in (self.resume, self.status, self.verify, self.retry_bad) if one is not None]
        if len(given) > 1:
            raise UsageError("--resume, --status, --verify and --retry-bad are asked one at a time")
        return given[0] if given else None


@dataclass(frozen=True)
class Asked:
    """What the command line says, as far as it concerns a sharded run."""

    files: tuple[str, ...]
    out: str | None
    model: str
    config: str | None
    pool: bool
    frames: FrameOptions
    dtype: str
    device: str
    overwrite: bool
    reading: ReadingOptions
    workers: int | None
    keeping: KeepingOptions
    shards: ShardOptions
    given: tuple[str, ...]  # names of all options that are not what they are by default


def names_shards(out: str | None) -> bool:
    """Whether an output is a folder or bucket of shards: it ends with a slash, is a folder, or an address.

    >>> names_shards("tokens/"), names_shards("s3://bucket/tokens"), names_shards("tokens.safetensors")
    (True, True, False)
    """
    return out is not None and out != "-" and (out.endswith("/") or "://" in out or os.path.isdir(out))  # noqa: PTH112  that of Path raises where a name is too long


def run_shards(command: Asked, terminal: Terminal) -> int:
    """Do what the command line asks of a sharded run; the exit code."""
    from tubelet.scale.interpreters import Interpreters

    _checked(command)
    if command.shards.place is not None:
        _nothing_else(command)
    with Interpreters(_early(command)) as begun:
        return _run(command, terminal, begun)


def _early(command: Asked) -> int:
    """How many workers are begun before it is known what they have to do."""
    many, workers = command.shards, command.workers or 1
    out = many.place or str(command.out)
    nothing = many.plan_only or many.status is not None or many.verify is not None
    over = many.retry_bad is None and os.path.exists(os.path.join(out, "DONE.json"))  # noqa: PTH110, PTH118
    return 0 if workers == 1 or many.engine == "ray" or nothing or over else min(workers, os.cpu_count() or 1)


def _run(command: Asked, terminal: Terminal, begun: "Interpreters") -> int:
    from tubelet.cli.shards_report import tell_status, tell_verified
    from tubelet.scale.plan import read_plan
    from tubelet.scale.store import open_store

    many = command.shards
    asked = many.place
    terminal.in_lines()
    if asked is None:
        store = open_store(str(command.out))
        plan = _planned(command, store, terminal)
        if many.plan_only:
            return tell_status(plan, store, terminal)
        return _encode(command, plan, store, terminal, begun)
    store = open_store(asked)
    plan = read_plan(store)
    if many.status is not None:
        return tell_status(plan, store, terminal)
    if many.verify is not None:
        return tell_verified(plan, store, terminal)
    if many.retry_bad is not None:
        from tubelet.scale.retry import retry_bad
        from tubelet.scale.status import bad_so_far

        if not bad_so_far(plan, store):
            terminal.say("no file of this run is bad: there is nothing to encode again")
            return tell_status(plan, store, terminal)
        plan, store = retry_bad(plan, store)
    return _encode(command, plan, store, terminal, begun)


def _nothing_else(command: Asked) -> None:
    """Raise UsageError for what stands in the plan of a run and is said again."""
    if command.shards.plan_only:
        raise UsageError("--plan-only is for a run that has no plan yet: name files and --out OUT/")
    if command.files:
        raise UsageError("a run that is there knows its files: name none")
    free = {"device", "workers", "overwrite", "on_error", "shards", "output"}
    if again := [name for name in command.given if name not in free]:
        raise UsageError(f"options of the tokens stand in the plan of the run, and {again[0]} was given again")


def _checked(command: Asked) -> None:
    many = command.shards
    for name in ("world", "shard_tokens", "pack_tokens", "threads"):
        if (value := getattr(many, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 <= many.rank < many.world:
        raise UsageError(f"--rank counts from 0 to --world - 1, got {many.rank} of {many.world}")
    if not many.lease >= 1:
        raise UsageError(f"--lease is at least 1 second, got {many.lease:g}")
    if command.overwrite:
        raise UsageError(
            "--overwrite does not go with a folder: a run goes on where it stopped; remove OUT to begin anew"
        )
    if command.reading.urls:
        raise UsageError("--urls does not go with a folder: only local files are planned")
    if many.engine == "ray" and many.world > 1:
        raise UsageError("--rank and --world are for --engine local; Ray shares out its shards itself")
    parse_most_bad(many.max_bad, 100)


# ---- the plan


def _planned(command: Asked, store: "Store", terminal: Terminal) -> "Plan":
    """The plan of these files with these options, new or as it is there."""
    from tubelet.cli.shards_report import counted
    from tubelet.scale.plan import make_plan
    from tubelet.scale.status import require_ours

    if not command.files:
        raise UsageError("name at least one file, folder, pattern, list or archive; - reads a list from stdin")
    require_ours(store)
    options = _options(command)
    with progress(terminal, None) as tick:
        plan = make_plan(command.files, options, store, progress=lambda done: tick("planning", done))
    if plan.left_out:
        terminal.say(f"left out, no picture or clip: {counted(plan.left_out, 'file')}")
    return plan


def _options(command: Asked) -> "EncodeOptions":
    from tubelet.cli.options import with_budget
    from tubelet.cli.values import require_named
    from tubelet.families.catalogue import variants
    from tubelet.reading.job import ReadJob
    from tubelet.scale.options import EncodeOptions, planned_recipe, weights_digest
    from tubelet.weights.locate import built_in

    if command.config is not None and (command.model in variants() or built_in(command.model) is not None):
        raise UsageError(f"--config says what stored weights are; {command.model} is known by its name")
    if command.model not in variants():
        require_named(command.model)
    recipe = with_budget(
        planned_recipe(command.model, command.config), command.reading.max_pixels, command.reading.max_tokens
    )
    many = command.shards
    return EncodeOptions(
        command.model,
        weights_digest(command.model),
        recipe,
        config=command.config,
        dtype=command.dtype,
        job=ReadJob(sampling=command.frames.sampling, animation=command.reading.animation),
        isolate=command.reading.isolate,
        reduction=command.keeping.reduction(pool=command.pool),
        shard_tokens=many.shard_tokens,
        pack_tokens=many.pack_tokens,
        threads=many.threads,
    )


# ---- the run


def _encode(command: Asked, plan: "Plan", store: "Store", terminal: Terminal, begun: "Interpreters") -> int:
    """Encode what is pending, and say what was done."""
    from tubelet.cli.shards_report import Tally, counted, tell
    from tubelet.scale.poison import ended_by_timer
    from tubelet.scale.status import finish, status

    many = command.shards
    most = parse_most_bad(many.max_bad, plan.files)
    before = status(plan, store)
    bad = before.bad or 0
    tally = Tally(plan, before, time.monotonic())
    if before.pending and (command.workers or 1) > before.pending:
        few = f"{command.workers} workers and {counted(before.pending, 'shard')} to make"
        terminal.say(f"{few}: some have nothing to do; a smaller --shard-tokens makes more shards")
    try:
        with (
            _terminated(),
            ended_by_timer(),
            closing(_reports(command, store, begun)) as reports,
            progress(terminal, plan.shards, "shards") as tick,
        ):
            for report in reports if before.pending and bad <= most else ():
                tally.add(report)
                bad += report.bad_files if report.state == "done" else 0
                tick(tally.text, tally.done)
                terminal.event({"event": "shard", **asdict(report), "tokens_per_s": tally.rate})
                if bad > most:
                    break
    except _Terminated:
        terminal.say("ended; the same command goes on")
        return TERMINATED
    if bad > most:
        terminal.say(f"stopped: {bad:,} files could not be encoded, and --max-bad allows {most:,}")
        return TOO_MANY_BAD
    finish(plan, store)
    after = status(plan, store)
    made = tally.tokens if before.pending else None
    tell(plan, store, after, terminal, time.monotonic() - tally.began_s, made)
    return FAILED if after.bad or (after.pending and many.world == 1) else OK


def _reports(command: Asked, store: "Store", begun: "Interpreters") -> "Generator[Report, None, None]":
    """Of every shard as it is made; nothing is begun, or asked of the device, before the first is wanted."""
    many = command.shards
    if many.engine == "ray":
        from tubelet.encoder.device import device_of
        from tubelet.scale import on_ray

        on_ray.silence()
        gpus = 1.0 if device_of(command.device) == "cuda" else 0.0
        yield from on_ray.run(store, workers=command.workers or 1, gpus=gpus, lease_s=many.lease)
        return
    from tubelet.scale.local import run

    how: dict[str, Any] = {
        "workers": command.workers or 1,
        "rank": many.rank,
        "world": many.world,
        "lease_s": many.lease,
        "begun": begun,
    }
    yield from run(store, **how, device=command.device, timer=True)


class _Terminated(Exception):
    """The process was asked to end."""


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM as an exception while the block runs, so that notes go and workers end."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
