"""Where results are written: checked before the long work, never onto an input or a device, and whole or not at all."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tubelet.cli.terminal import Terminal, UsageError, file_name, visible
from tubelet.errors import InputError, RunError
from tubelet.writing import file_place, is_png, require_writable

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 16  # pixels between drawings on one page


@dataclass(frozen=True)
class Output:
    """Where one result goes."""

    name: str  # as it was given, for what is said
    path: Path | None  # None: stdout

    @contextmanager
    def file(self) -> Iterator[Path]:
        """The path to write one file to; for stdout a temporary one, which is given out when the block ends well."""
        if self.path is not None:
            yield self.path
            return
        with TemporaryDirectory() as folder:
            beside = Path(folder, "out")
            yield beside
            with beside.open("rb") as made:
                shutil.copyfileobj(made, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def output_file(
    out: str,
    inputs: Sequence[str],
    may_replace: Callable[[Path], bool] = is_png,
    *,
    overwrite: bool,
    suffix: str = ".png",
    option: str = "--out",
    terminal: Terminal | None = None,
) -> Output:
    """The place to write, links followed, after trying that a file can be made beside it.

    may_replace: whether a file that stands there is one of those that are written; with `overwrite` alone it is
    replaced. terminal: of a command whose result may go to stdout, "-"; what else it says goes to stderr then. Raises
    UsageError for another suffix, InputError for a folder, a device or pipe, one of the inputs, a file that stands
    there, or a place that cannot be written to.
    """
    name = file_name(out)
    if out == "-":
        if terminal is None:
            raise InputError("the output is a file; one that is called - is ./-", source=name)
        terminal.give_stdout(option)
        return Output(name, None)
    try:
        for i, one in enumerate(inputs):
            if _same_file(out, one):
                raise InputError("the output is one of the inputs", source=name, item=i)
        path = file_place(out, may_replace)
        if not overwrite and os.path.isfile(path) and os.path.getsize(path):  # noqa: PTH113, PTH202
            raise InputError("the output exists already; --overwrite replaces it", source=name)
        if Path(out).suffix.lower() != suffix:
            raise UsageError(f"{option} is a file that ends with {suffix}, got {visible(name)[:200]}")
        require_writable(path.parent)
    except (OSError, ValueError, RunError) as e:
        raise _unwritable(e, name) from e
    return Output(name, path)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121  takes any text
    except (OSError, ValueError):  # one of them is not there, or no file can be called so
        return False


def _unwritable(error: OSError | ValueError | RunError, name: str) -> InputError:
    if isinstance(error, InputError):
        return error
    cause = error.__cause__ if isinstance(error, RunError) else error
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else "not a path"
    return InputError(f"the output cannot be written: {why}", source=name)


class Drawings:
    """Where each PNG goes: the .png that `option` names, or in the folder it names (by default the current one) a name
    made from the input's. A folder that is not there is made.

    Raises UsageError and, before any work, what `output_file` raises. kind: of every drawing, where it is known before.
    """

    def __init__(
        self,
        out: str | None,
        inputs: Sequence[str],
        terminal: Terminal,
        *,
        overwrite: bool,
        kind: str | None = None,
        option: str = "--out",
    ) -> None:
        self.inputs, self.overwrite = inputs, overwrite
        self.places: dict[tuple[int, str], Output] = {}
        self.file: Output | None = None
        self.folder = Path("." if out is None else out)
        if out is not None and not _names_folder(out):
            if len(inputs) > 1:
                raise UsageError(f"{option} must be a folder when several files are drawn, got {file_name(out)[:200]}")
            self.file = output_file(out, inputs, overwrite=overwrite, option=option, terminal=terminal)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            require_writable(self.folder)
        except (OSError, ValueError, RunError) as e:
            raise _unwritable(e, file_name(str(self.folder))) from e
        for i in range(0 if kind is None else len(inputs)):
            self.place(i, str(kind))

    def place(self, index: int, kind: str) -> Output:
        """The place for input number `index`: STEM.KIND.png, with a number where another input has taken that."""
        if self.file is not None:
            return self.file
        if (index, kind) in self.places:
            return self.places[index, kind]
        taken = {os.path.basename(one.name) for one in self.places.values()}  # noqa: PTH119  it is text
        stem = Path(self.inputs[index]).stem
        path, n = self.folder / f"{stem}.{kind}.png", 1
        while file_name(path.name) in taken:
            n += 1
            path = self.folder / f"{stem}-{n}.{kind}.png"
        place = output_file(str(path), self.inputs, overwrite=self.overwrite)
        self.places[index, kind] = place
        return place


def _names_folder(out: str) -> bool:
    """Whether a name for drawings is a folder's: one that is there, one that ends so, or one without a suffix."""
    if not out or out == "-":
        return False
    return out.endswith("/") or os.path.isdir(out) or (not Path(out).suffix and not os.path.lexists(out))  # noqa: PTH112


def on_one_page(pictures: "Sequence[Image]", columns: int = 1) -> "Image":
    """Pictures beside and under one another, each in the upper left of its place, in rows of `columns`."""
    from PIL import Image

    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [max(p.width for p in pictures[i::columns]) for i in range(min(columns, len(pictures)))]
    heights = [max(p.height for p in row) for row in rows]
    size = (sum(widths) + GAP * (len(widths) - 1), sum(heights) + GAP * (len(heights) - 1))
    page = Image.new("RGB", size, (255, 255, 255))
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            page.paste(picture, (sum(widths[:j]) + GAP * j, sum(heights[:i]) + GAP * i))
    return page
