"""How far a command is: a bar on stderr while someone watches."""

from collections.abc import Iterator
from contextlib import contextmanager

from tubelet.cli.terminal import Terminal


class Tick:
    """Tells the person how far it is: `tick(stage, files)`."""

    def __call__(self, stage: str, files: int) -> None:
        """Nobody is watching."""


@contextmanager
def progress(terminal: Terminal, total: int) -> Iterator[Tick]:
    """A progress bar on stderr while the block runs, when someone can see it."""
    if not terminal.lively:
        yield Tick()
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
