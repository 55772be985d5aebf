"""Where results are written: checked before the long work, never onto an input or a device, and whole or not at all."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tubelet.cli.terminal import UsageError, file_name
from tubelet.errors import InputError, RunError
from tubelet.writing import file_place, is_png, require_writable

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 16  # pixels between drawings on one page


def output_file(out: str, inputs: Sequence[str], may_replace: Callable[[Path], bool] = is_png) -> Path:
    """The path to write, links followed, after trying that a file can be made beside it.

    may_replace: whether a file that stands there is one of those that are written. Raises InputError for a folder, a
    device or pipe, one of the inputs, a file of another kind, or a place that cannot be written to.
    """
    name = file_name(out)
    if out == "-":  # stdout, to other programs
        raise InputError("the output is a file; one that is called - is ./-", source=name)
    try:
        for i, one in enumerate(inputs):
            if _same_file(out, one):
                raise InputError("the output is one of the inputs", source=name, item=i)
        path = file_place(out, may_replace)
        require_writable(path.parent)
    except (OSError, ValueError, RunError) as e:
        raise _unwritable(e, name) from e
    return path


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
    """Where each PNG goes: what `option` names, or in that folder (by default the current one) a name made from the
    input's.

    Raises UsageError and, before any work, what `output_file` raises.
    """

    def __init__(self, out: str | None, inputs: Sequence[str], *, option: str = "--out") -> None:
        self.inputs = inputs
        self.taken: set[Path] = set()
        self.file: Path | None = None
        self.folder = Path("." if out is None else out)
        if out is not None and not (out.endswith("/") or (out and os.path.isdir(out))):  # noqa: PTH112  a name too long
            if len(inputs) > 1:
                raise UsageError(f"{option} must be a folder when several files are drawn")
            self.file = output_file(out, inputs)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            require_writable(self.folder)
        except (OSError, ValueError, RunError) as e:
            raise _unwritable(e, file_name(str(self.folder))) from e

    def path(self, index: int, kind: str) -> Path:
        """The path for input number `index`: STEM.KIND.png, with a number where another input has taken that."""
        if self.file is not None:
            return self.file
        stem = Path(self.inputs[index]).stem
        path, n = self.folder / f"{stem}.{kind}.png", 1
        while path in self.taken:
            n += 1
            path = self.folder / f"{stem}-{n}.{kind}.png"
        self.taken.add(path)
        output_file(str(path), self.inputs)
        return path


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
