"""Inputs of any number as packs of bounded size.

    sources ─> plan_input, a few ahead ─> packs: neighbours that fit together ─> decode, resize, write ─> Loaded ...

Each input is opened twice, for its plan and for its pixels, and one pack is in memory at a time; with `ahead` two, for
the next one is read while the caller works on one.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal

from tubelet.errors import InputError
from tubelet.pixels.inputs import is_one, listed
from tubelet.pixels.load import Counter, Loaded, load_planned
from tubelet.pixels.planned import LoadConfig, Options, PlannedInput, options_of, planned, threads
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.job import ReadJob
from tubelet.reading.read import Isolate

# Of a pack where nothing else is said. Memory grows with them, rows do not change.
MAX_ROWS = 32_768  # 25 MB of patches of 16 x 16: as many as eight pictures of a megapixel have
MAX_INPUTS = 256  # however small they are


def stream(
    sources: Any,
    recipe: PixelRecipe,
    job: ReadJob = ReadJob(),  # noqa: B008
    *,
    max_rows: int = MAX_ROWS,
    max_inputs: int = MAX_INPUTS,
    ahead: bool = False,
    isolate: Isolate = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Iterator[Loaded]:
    """The inputs as packs of neighbours with at most `max_rows` rows and `max_inputs` inputs each, in order.

    sources: as in `load_patches`; an iterable is read as far as it is needed, so it may have no end. An item's
    `picture` and a report's `index` count over the whole stream, as `item` of an error does. job: sampling, limits and
    the rest of what `read` takes. One input with more rows than `max_rows` makes a pack by itself; `max_tokens` of the
    limits is what no input may pass. An input whose rows only decoding can tell is by itself too, see `PlannedInput`.
    Which inputs go together depends on nothing but the inputs and these two numbers, and rows do not depend on it.
    ahead: the next pack is read while the caller works on one, which pays where that work is another device's; on a CPU
    both want the same cores. An iterable is then read by another thread, and to leave waits for the input it is at.

    on_error="skip": the error of an input that cannot be read stands in its report. "raise": an error is raised in
    place of the pack its input belongs to; packs before it have been given. progress: called in the
    caller's thread, while it waits for a pack, after each input with how many are done and the name of this one.
    Cost: as `load_patches`, and the plans of a few inputs ahead. Raises: what `load_patches` raises; InputError at once
    for numbers and words that mean nothing.

        >>> for loaded in stream(["receipt.png", "walk.mp4"], PixelRecipe(patch=16), max_rows=3000):
        ...     print(loaded.packed)
        Packed(T=2072, D=768, uint8, cpu, 1 items: [1x56x37])
        Packed(T=4320, D=768, uint8, cpu, 1 items: [9x16x30])
    """
    _check(max_rows, max_inputs)
    options = options_of(LoadConfig(recipe, job, isolate), on_error, workers)
    named = not is_one(sources)
    inputs = sources if named and isinstance(sources, Iterable) else listed(sources)
    most = min(max_rows, options.config.job.limits.max_tokens)
    loaded = partial(_loaded, inputs=inputs, named=named, options=options, max_rows=most, max_inputs=max_inputs)
    return (_ahead if ahead else _in_turns)(loaded, options.workers, progress)


def _loaded(
    pool: ThreadPoolExecutor,
    tell: Counter,
    *,
    inputs: Iterable[Any],
    named: bool,
    options: Options,
    max_rows: int,
    max_inputs: int,
) -> Iterator[Loaded]:
    first = 0
    for pack in packs(planned(pool, inputs, options, named=named), max_rows=max_rows, max_inputs=max_inputs):
        yield load_planned(pool, pack, options, tell, first=first, named=named)
        first += len(pack)


Reading = Callable[[ThreadPoolExecutor, Counter], Iterator[Loaded]]


def _in_turns(loaded: Reading, workers: int, progress: Callable[[int, str], None] | None) -> Iterator[Loaded]:
    with threads(workers) as pool:
        yield from loaded(pool, Counter(progress))


def _ahead(loaded: Reading, workers: int, progress: Callable[[int, str], None] | None) -> Iterator[Loaded]:
    said: SimpleQueue[tuple[int, str] | Future[Loaded | None]] = SimpleQueue()  # inputs that are done, then their pack
    # The second pool ends first: what waits in it is dropped, and with it the pack that the first one waits for
    with ThreadPoolExecutor(1, thread_name_prefix="tubelet-ahead") as reader, threads(workers) as pool:
        coming = loaded(pool, Counter(lambda done, name: said.put((done, name))))
        reader.submit(next, coming, None).add_done_callback(said.put)
        while True:
            one = said.get()
            if isinstance(one, tuple):
                if progress is not None:
                    progress(*one)
                continue
            pack = one.result()
            if pack is None:
                return
            reader.submit(next, coming, None).add_done_callback(said.put)
            yield pack


def packs(
    plans: Iterable[PlannedInput], *, max_rows: int = MAX_ROWS, max_inputs: int = MAX_INPUTS
) -> Iterator[list[PlannedInput]]:
    """The plans in order, as many neighbours together as fit; `stream` says what fits. Raises InputError."""
    _check(max_rows, max_inputs)
    pack: list[PlannedInput] = []
    rows = 0
    for plan in plans:
        full = rows + plan.rows > max_rows or len(pack) == max_inputs
        if pack and (full or not plan.exact or not pack[-1].exact):
            yield pack
            pack, rows = [], 0
        pack.append(plan)
        rows += plan.rows
    if pack:
        yield pack


def plan_inputs(
    sources: Any,
    recipe: PixelRecipe,
    job: ReadJob = ReadJob(),  # noqa: B008
    *,
    isolate: Isolate = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
) -> list[PlannedInput]:
    """The plan of every input, in order: what `stream` and `load_patches` take in place of the inputs themselves.

    For work that is shared out: `rows` of each is known before a pixel is decoded, and plans of paths and bytes pickle.
    They are loaded with the same recipe, options and limits. Cost: one opening of each input. Raises: as `stream`.

        >>> [plan.rows for plan in plan_inputs(["receipt.png", "walk.mp4"], PixelRecipe(patch=16))]
        [2072, 4320]
    """
    options = options_of(LoadConfig(recipe, job, isolate), on_error, workers)
    with threads(options.workers) as pool:
        return list(planned(pool, listed(sources), options, named=not is_one(sources)))


def _check(max_rows: int, max_inputs: int) -> None:
    if min(max_rows, max_inputs) < 1:
        text = f"max_rows and max_inputs must be at least 1, got {max_rows} and {max_inputs}"
        raise InputError(text, limit=1, got=(max_rows, max_inputs))
