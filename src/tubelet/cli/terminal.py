"""What a command says and to whom: results to stdout, the rest to stderr, and every way to fail as one line."""

import contextlib
import json
import math
import os
import shutil
import sys
import traceback
import unicodedata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tubelet.errors import TubeletError

if TYPE_CHECKING:
    from rich.console import RenderableType

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
PIPED_COLUMNS = 5_000  # a table that goes into a file or a pipe is as wide as it needs to be


class UsageError(Exception):
    """The command line is wrong in a way that only the command can see."""


def visible(text: str) -> str:
    """`text` on one line that cannot move the cursor, reorder its neighbours or break an encoder: control, format and
    private characters and halves of surrogate pairs are written as escapes.

        >>> visible("a\\nb\\x1b[31m.png")
        'a\\\\nb\\\\x1b[31m.png'
    """
    return "".join(c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else _escape(c) for c in text)


def _escape(letter: str) -> str:
    if 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def file_name(text: str) -> str:
    """A file name for JSON and metadata: the same text, bytes that are not UTF-8 as escapes."""
    return "".join(_escape(c) if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def seconds(value: float) -> str:
    """A duration in few letters: "0.8 ms", "12 ms", "1.25 s", "2:05 min"."""
    if value < 0.9995:
        return f"{value * 1e3:.1f} ms" if value < 0.00995 else f"{value * 1e3:.0f} ms"
    if value < 99.995:
        return f"{value:.2f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}:{rest:02d} min"


def megabytes(value: int) -> str:
    """Bytes in binary megabytes, as `top` and `ls -h` mean them."""
    return f"{value / 2**20:,.0f} MiB" if value >= 10 * 2**20 else f"{value / 2**20:.2f} MiB"


class Terminal:
    """The two streams of one run of a command, and how the person wants them: `--json`, `--quiet`, `--debug`."""

    def __init__(self, *, json: bool = False, debug: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.debug = debug
        self.quiet = quiet
        self._documents = 0
        self._in_lines = False
        self._given = False  # stdout carries a file
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # the caller has closed it
                setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (stays open)
            reconfigure = getattr(getattr(sys, name), "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")

    # ---- stdout

    def give_stdout(self, option: str) -> None:
        """Leave stdout to a file that is written there; lines and tables go to stderr from now on.

        Raises UsageError where it cannot carry one.
        """
        if self.json:
            raise UsageError(f"{option} - writes to stdout, and so does --json")
        if self._given:
            raise UsageError(f"{option} - writes to stdout, and so does another option")
        if sys.stdout.isatty():
            raise UsageError(f"{option} - writes to stdout, and stdout is a terminal; name a file or redirect it")
        self._given = True

    def line(self, text: str) -> None:
        """A line of the result."""
        self._write(text + "\n")

    def show(self, what: "RenderableType") -> None:
        """A table or another rich renderable as part of the result; not in JSON mode and not when quiet."""
        if self.json or self.quiet:
            return
        if self._given:
            self.aside(what)
            return
        self._write(_laid_out(what, sys.stdout, self.columns))

    def piece(self, text: str) -> None:
        """A piece of a result that comes bit by bit; its control characters are escaped, but for ends of lines, tabs
        and the joiners that Persian, Hindi and emoji are written with. Not in JSON mode."""
        if not self.json:
            self._write("".join(c if c in "\n\t\u200c\u200d" else visible(c) for c in text))

    @property
    def columns(self) -> int:
        """Letters in a line of stdout."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_COLUMNS

    @property
    def arrows(self) -> bool:
        """Whether stdout can write letters beyond ASCII."""
        return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")

    def document(self, content: dict[str, Any]) -> None:
        """The one JSON document of this run, or its last line; nothing unless `--json`."""
        if self.json and not self._documents:
            self._documents += 1
            indent = None if self._in_lines else 2
            self._write(json.dumps(_plain(content), indent=indent, allow_nan=False) + "\n")

    def in_lines(self) -> None:
        """Of a command that tells of many things as they come: with `--json`, an object a line from here on."""
        self._in_lines = True

    def event(self, content: dict[str, Any]) -> None:
        """One of these things; nothing unless `--json`."""
        if self.json:
            self._write(json.dumps(_plain(content), allow_nan=False) + "\n")

    def _write(self, text: str) -> None:
        if self._given and text:
            with contextlib.suppress(OSError, ValueError):  # nobody is left to tell
                print(text, end="", file=sys.stderr, flush=True)
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            _turn_away()

    def close(self) -> None:
        """Flush stdout now, where a failure can still be told."""
        self._write("")

    # ---- stderr

    def say(self, text: str) -> None:
        """One line for the person, never part of the result. Its control characters are escaped."""
        with contextlib.suppress(OSError, ValueError):  # nobody is left to tell
            print(f"tubelet: {visible(text)}", file=sys.stderr, flush=True)

    def aside(self, what: "RenderableType") -> None:
        """A table for the person on stderr, beside a result that is text; not in JSON mode and not when quiet."""
        if self.json or self.quiet:
            return
        width = shutil.get_terminal_size().columns if sys.stderr.isatty() else PIPED_COLUMNS
        with contextlib.suppress(OSError, ValueError):  # nobody is left to tell
            print(_laid_out(what, sys.stderr, width), end="", file=sys.stderr, flush=True)

    @property
    def lively(self) -> bool:
        """Whether a progress bar has someone to watch it."""
        return not self.quiet and sys.stderr.isatty()


def _laid_out(what: "RenderableType", stream: Any, width: int) -> str:
    """A renderable as the text of a stream, without spaces at the ends of lines and empty lines before the first."""
    from rich.console import Console

    console = Console(file=stream, width=width, highlight=False, emoji=False, markup=False)
    with console.capture() as text:
        console.print(what)
    return "\n".join(row.rstrip() for row in text.get().split("\n")).lstrip("\n")


class Boundary:
    """The one place where exceptions become exit codes, lines and JSON: `with Boundary(terminal) as outcome`.

    `code` is what the process should exit with.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.code = OK

    def __enter__(self) -> "Boundary":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return True
        if self.terminal.debug and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        if isinstance(error, SystemExit):
            self._exit(error)
            return True
        if isinstance(error, BrokenPipeError):  # whoever read our help has seen enough
            _drain()
            return True
        self.code, report = _verdict(error)
        self.terminal.say(report["message"] if error.__class__ is not KeyboardInterrupt else "interrupted")
        if isinstance(error, TubeletError):
            report = error.as_dict()
        with contextlib.suppress(OSError):  # what cannot be written to is what may have failed
            self.terminal.document(report)
        _drain()
        return True

    def _exit(self, error: SystemExit) -> None:
        self.code = error.code if isinstance(error.code, int) else OK if error.code is None else USAGE
        if self.code != OK:
            self.terminal.document({"error": "UsageError", "message": "the command line is wrong; stderr says how"})
        _drain()


def _verdict(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Exit code, and what to say, for anything that can end a command."""
    name, message, code = type(error).__name__, "", FAILED
    if isinstance(error, KeyboardInterrupt):
        name, message, code = "Interrupted", "interrupted", INTERRUPTED
    elif isinstance(error, UsageError):
        message, code = str(error), USAGE
    elif isinstance(error, TubeletError):
        message = str(error)
    elif isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error):
        name, message = "OutOfMemory", "there is not enough memory for this"
    elif isinstance(error, OSError):
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        message = f"{where}{error.strerror or name}"
    else:
        name, message = "InternalError", f"a bug in tubelet ({type(error).__name__}); --debug shows where"
    return code, {"error": name, "message": message}


def _plain(value: Any) -> Any:
    """The same content in what JSON has: no infinity, no tuple, no object."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return file_name(value)
    return value if value is None or isinstance(value, bool | int) else str(value)


def _turn_away() -> None:
    """Point stdout, whose reader has left, to nowhere, so that nothing fails on it again, also not at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _drain() -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _turn_away()
