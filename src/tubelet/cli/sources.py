"""What FILE... of a command stands for: files, folders, patterns, stdin and addresses, as what is read and its name."""

import io
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tubelet.cli.terminal import Terminal, UsageError, file_name
from tubelet.cli.work import MOST_FILES
from tubelet.errors import TubeletError

if TYPE_CHECKING:
    from tubelet.reading.job import ReadJob
    from tubelet.reading.outlined import OutlinedInput
    from tubelet.reading.read import Isolate
    from tubelet.reading.source import BinaryFile

STDIN = "stdin"  # what the input from there is called
SHOWN = 6  # files left out of a folder that are named


@dataclass(frozen=True)
class Inputs:
    """The inputs of one run, in order."""

    names: tuple[str, ...]  # to show, and to name drawings after
    sources: "tuple[str | BinaryFile | OutlinedInput, ...]"  # what `tubelet.read` and its kind take, or that looked at
    unseen: tuple[int, ...] = ()  # which nobody has looked at

    def __len__(self) -> int:
        return len(self.names)

    def look(self, *, skip: bool = False) -> None:
        """Raise what opening the first of them that cannot be a picture or clip raises, before anything long is done.

        Files of folders and patterns were looked at when they were listed, addresses are asked for when they are read.
        skip: what cannot be read is an error of its own, later.
        """
        from tubelet.reading.limits import Limits
        from tubelet.reading.source import open_source

        for i in () if skip else self.unseen:
            try:
                open_source(self.sources[i], Limits()).close()
            except TubeletError as e:
                raise e.placed(item=i) from e.__cause__

    def outlined(
        self, job: "ReadJob", isolate: "Isolate", *, skip: bool = False, beside: Collection[int] = ()
    ) -> "Inputs":
        """The inputs with their files looked at, as `look` does and once for all: what is found, sizes, times and the
        packets of clips, is what plans and decoding go by. Of more than MOST_FILES nothing is kept. beside: which are
        no pictures or clips.

        Cost: a header, of a clip one read. Raises: as `look`, and what reading headers raises.
        """
        from tubelet.reading.outlined import outline_input

        if len(self) > MOST_FILES:
            replace(self, unseen=tuple(i for i in self.unseen if i not in beside)).look(skip=skip)
            return self
        sources: list[str | BinaryFile | OutlinedInput] = []
        for i, source in enumerate(self.sources):
            if i not in beside and (isinstance(source, str) or i in self.unseen):
                source = outline_input(source, job, isolate, name=self.names[i])
                if source.error is not None and not skip:
                    raise source.error.placed(item=i) from source.error.__cause__
            sources.append(source)
        return replace(self, sources=tuple(sources), unseen=())


class StandardInput(io.BytesIO):
    """All bytes of stdin, as a file that can be read more than once."""

    name = STDIN


def inputs_of(files: Sequence[str], terminal: Terminal, *, urls: bool = False, pictures_only: bool = False) -> Inputs:
    """The inputs that the words of a command line mean. What a folder or pattern holds beside pictures and clips is
    said and left out.

    Raises UsageError for nothing, and for stdin twice or from a terminal; InputError for a folder or pattern without
    one picture or clip, for an address that cannot be one, and LimitError for a stdin without end.
    """
    from tubelet.reading.files import expand

    if not files:
        raise UsageError("name at least one file, folder or pattern; - reads stdin")
    if sum(name == "-" for name in files) > 1:
        raise UsageError("stdin, -, can be read once")
    listed = expand(files, pictures_only=pictures_only)
    if listed.skipped:
        shown = ", ".join(f"{file_name(path)} ({kind})" for path, kind in listed.skipped[:SHOWN])
        more = f" and {len(listed.skipped) - SHOWN} more" if len(listed.skipped) > SHOWN else ""
        terminal.say(f"left out, no picture or clip: {shown}{more}")
    sources = tuple(_source(name, urls) for name in listed.files)
    names = tuple(STDIN if name == "-" else name for name in listed.files)
    unseen = (
        i for i, name in enumerate(listed.files) if name == files[listed.of[i]] and (name == "-" or sources[i] is name)
    )
    return Inputs(names, sources, tuple(unseen))


def _source(name: str, urls: bool) -> "str | BinaryFile":
    if name == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("- reads a picture or clip from stdin, and stdin is a terminal")
        from tubelet.reading.limits import Limits

        limits = Limits()
        data = sys.stdin.buffer.read(limits.max_bytes + 1)
        limits.check("max_bytes", len(data), "length of stdin so far")
        return StandardInput(data)
    from tubelet.reading.urls import is_url, open_url

    return open_url(name) if urls and is_url(name) else name
