"""One example to learn from: turns of text with places for pictures and clips, which are named and not yet read.

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", ...}]}

    Sample  turns  user       0  "\\nWhat is it?"      a number is a place: media[0] stands there
                   assistant  "A cat."
            media  image a.png

Whatever a data set looks like on disk, this is what its reader gives (tubelet.train.data.open).
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from tubelet.errors import AlignmentError, InputError
from tubelet.reading.tar import Piece

Kind = Literal["image", "video"]
Role = Literal["system", "user", "assistant"]
Part = str | int  # text, or the number of a picture or clip in `Sample.media`
MAX_MEDIA = 1_024  # pictures and clips of one sample
MAX_TURNS = 4_096
MAX_RECORD_BYTES = 16 << 20  # one sample's JSON or text


@dataclass(frozen=True)
class Media:
    """One picture or clip, by where it is."""

    kind: Kind
    source: str | Piece  # a path, checked to lie in the data set's folder, or a piece of an archive

    @property
    def name(self) -> str:
        return self.source if isinstance(self.source, str) else f"{self.source.archive}:{self.source.name}"

    @contextmanager
    def open(self) -> Iterator[str | io.BufferedIOBase]:
        """What `tubelet.read` and `tubelet.load_patches` take, as long as the block runs."""
        if isinstance(self.source, str):
            yield self.source
        else:
            with self.source.open() as file:
                yield file


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words alone."""
        return "".join(p for p in self.parts if isinstance(p, str))


@dataclass(frozen=True)
class Sample:
    """An example, checked: user and assistant take turns, the assistant says something, and every picture and clip has
    exactly one place, in order. Raises InputError naming the turn, AlignmentError.

        >>> said = Turn("user", (0, "What is it?")), Turn("assistant", ("A cat.",))
        >>> Sample("7", "a.json:1", said, (Media("image", "cat.png"),)).turns[1].text
        'A cat.'
    """

    id: str  # the data set's own name for it, or its number
    where: str  # file and line or member, for messages
    turns: tuple[Turn, ...]
    media: tuple[Media, ...] = field(default=())

    def __post_init__(self) -> None:
        turns = self.turns[1:] if self.turns and self.turns[0].role == "system" else self.turns
        for i, turn in enumerate(turns):
            expected = "assistant" if i % 2 else "user"
            if turn.role != expected:
                raise InputError(
                    f"turn {len(self.turns) - len(turns) + i} is the {turn.role}'s where the {expected}'s belongs",
                    source=self.where,
                    expected=expected,
                    got=turn.role,
                )
        if not any(turn.role == "assistant" and turn.text for turn in turns):
            raise InputError("the assistant says nothing, so there is nothing to learn", source=self.where)
        places = [p for turn in self.turns for p in turn.parts if isinstance(p, int)]
        if places != list(range(len(self.media))):
            raise AlignmentError(
                f"{len(places)} placeholders for {len(self.media)} pictures and clips",
                source=self.where,
                expected=len(self.media),
                got=len(places),
            )
        if any(isinstance(p, int) for turn in self.turns if turn.role != "user" for p in turn.parts):
            raise InputError("pictures and clips stand in the user's turns", source=self.where)


@runtime_checkable
class Dataset(Protocol):
    """Samples by number: what every reader here is. A pure function of its files; nothing is kept open between calls,
    so that it may be copied to other processes.

    name: for messages. fingerprint: hex digest of what decides its samples (files, their sizes and times, choices).
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


def placed(index: int, length: int, name: str) -> int:
    """`index` if it is one of `length` samples. Raises IndexError, which ends a `for` loop over a data set."""
    if not 0 <= index < length:
        raise IndexError(f"sample {index} of {length:,} in {name}")
    return index
