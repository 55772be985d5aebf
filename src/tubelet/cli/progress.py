"""How far a command is: a bar on stderr while someone watches, else a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from tubelet.cli.terminal import Terminal, seconds

EVERY_S = 30.0  # between two lines where nobody watches a bar


class Tick:
    """Tells the person how far it is: `tick(stage, files)`."""

    def __call__(self, stage: str, files: int) -> None:
        """Nobody is watching."""


@contextmanager
def progress(terminal: Terminal, total: int | None, what: str = "files") -> Iterator[Tick]:
    """A progress bar on stderr while the block runs, when someone can see it; lines for who reads stderr later.
    total: of what is counted, None where nobody knows."""
    if terminal.quiet:
        yield Tick()
        return
    if not terminal.lively:
        with _lines(terminal, total, what) as tick:
            yield tick
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=total)

        class Bar(Tick):
            def __call__(self, stage: str, files: int) -> None:
                bar.update(task, description=stage, completed=files)

        yield Bar()


class _Last(Tick):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told = ("reading", 0)

    def __call__(self, stage: str, files: int) -> None:
        self.told = (stage, files)


@contextmanager
def _lines(terminal: Terminal, total: int | None, what: str) -> Iterator[Tick]:
    """Every EVERY_S seconds a line that says how far it is."""
    last, over, start = _Last(), Event(), time.monotonic()

    def speak() -> None:
        while not over.wait(EVERY_S):
            stage, files = last.told
            of = "" if total is None else f" of {total:,}"
            terminal.say(f"{stage}, {files:,}{of} {what} done, {seconds(time.monotonic() - start)}")

    speaker = Thread(target=speak, name="tubelet-progress", daemon=True)
    speaker.start()
    try:
        yield last
    finally:
        over.set()
        speaker.join()
