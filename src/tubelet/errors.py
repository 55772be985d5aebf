"""Every error the library raises on purpose. A program reads the fields; a person reads the message.

    TubeletError
      InputError (ValueError)     UnsupportedFormat DecodeError LimitError NoVideo NotFinite ShapeError AlignmentError
      WeightsError (ValueError)   KeyMismatch ConfigError UnsafeFile UnsafePath
      RunError (RuntimeError)     CheckpointError DataError WorkerDied PlanMismatch StoreError

Messages are ours: the text of a foreign exception stays in `__cause__`, because Pillow's and FFmpeg's messages can
carry addresses and paths that do not belong in an answer to a client.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


class TubeletError(Exception):
    """The root. `item` is the place in the caller's list, `source` the name of the input, `limit` / `expected` what was
    asked for and `got` what was there; each is None where it does not apply."""

    def __init__(
        self,
        message: str,
        *,
        item: int | None = None,
        source: str | None = None,
        limit: Any = None,
        expected: Any = None,
        got: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.item = item
        self.source = source
        self.limit = limit
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        unnamed = not self.source or self.source.startswith("<")  # <bytes>: only its number tells it from others
        where = [f"item {self.item}"] if self.item is not None and unnamed else []
        if self.source is not None:
            where.append(self.source)
        return f"{', '.join(where)}: {self.message}" if where else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)

    def placed(self, *, item: int | None = None, source: str | None = None) -> "TubeletError":
        """The same error, told where it happened; what it already knows is kept."""
        self.item = self.item if item is None else item
        self.source = self.source if source is None else source
        return self

    def as_dict(self) -> dict[str, Any]:
        """Fields for `--json` and for servers: the class name as `error`, the message, and what is not None."""
        fields = {k: v for k, v in self.__dict__.items() if v is not None and k != "message"}
        return {"error": type(self).__name__, "message": self.message, **fields}


def _rebuild(kind: type[TubeletError], message: str, fields: dict[str, Any]) -> TubeletError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(fields)
    return error


class InputError(TubeletError, ValueError):
    """What was handed in cannot be used."""


class UnsupportedFormat(InputError):
    """The first bytes are not those of a format we read."""


class DecodeError(InputError):
    """The format is right and the content is damaged, truncated or empty."""


@dataclass(frozen=True)
class CountedInput:
    """What one input would have become."""

    name: str
    width: int  # upright, in pixels
    height: int
    frames: int  # that would be taken
    grid: tuple[int, int, int]  # t, h, w in patches; with views, of the first of them
    patches: int  # rows before the encoder, those of all its views
    tokens: int | None = None  # rows at the end; None where nothing behind the patches was planned


@dataclass(frozen=True)
class CountedRows:
    """What was counted before anything was allocated or decoded."""

    inputs: tuple[CountedInput, ...]

    @property
    def patches(self) -> int:
        return sum(one.patches for one in self.inputs)

    @property
    def tokens(self) -> int | None:
        """Rows at the end of all inputs; None where they were not planned."""
        known = [one.tokens for one in self.inputs if one.tokens is not None]
        return sum(known) if len(known) == len(self.inputs) else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"inputs": [asdict(one) for one in self.inputs], "patches": self.patches, "tokens": self.tokens}


class LimitError(InputError):
    """A ceiling of `reading.limits.Limits` would be passed: `limit` is the ceiling, `got` what the input asks for."""

    plan: CountedRows | None = None  # where `load_patches`, `stream` or a plan's `check` refused what it counts

    def as_dict(self) -> dict[str, Any]:
        plain = super().as_dict()
        return plain if self.plan is None else plain | {"plan": self.plan.as_dict()}


class NoVideo(InputError):
    """A container without a video stream that can be shown."""


class NotFinite(InputError):
    """NaN or infinity in the values of `item`."""


class ShapeError(InputError):
    """Sizes, grids, lengths or positions that do not fit together."""


class AlignmentError(InputError):
    """Rows and the places for them differ in number.

    sample: the prompt of the batch in which they do, where one is known."""

    sample: int | None = None


class WeightsError(TubeletError, ValueError):
    """A checkpoint or its configuration cannot be used."""


class KeyMismatch(WeightsError):
    """Tensors that are missing, unexpected or of another shape. Nothing was loaded."""

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshaped: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        source: str | None = None,
    ) -> None:
        super().__init__(message, source=source)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misshaped = tuple(misshaped)  # (key, expected shape, got shape)


class ConfigError(WeightsError):
    """A configuration with a missing, unknown, contradictory or code-naming field."""


class UnsafeFile(WeightsError):
    """A file that could run code when read, or whose header lies about its content."""


class UnsafePath(WeightsError):
    """A path inside a file that leads out of its folder."""


class RunError(TubeletError, RuntimeError):
    """Work that was under way could not go on."""


class CheckpointError(RunError):
    """A checkpoint could not be written whole or verified."""


class DataError(RunError):
    """Too many samples were unusable."""


class WorkerDied(RunError):
    """The process that worked for us died, ran out of its limits or did not answer in time."""


class PlanMismatch(RunError):
    """An output was planned with other options. fields: name -> (value of the plan, value now)."""

    fields: Mapping[str, tuple[Any, Any]] | None = None


class StoreError(RunError):
    """An output could not be read or written. needed_bytes: how much was to be written, where it was."""

    needed_bytes: int | None = None

    @property
    def path(self) -> str | None:
        """The name in the output."""
        return self.source


def near_names(name: object, known: Iterable[str]) -> str:
    """What may have been meant by a name that is none, to stand behind it in a message; empty where nothing is near.

    >>> near_names("siglip2_base_patch16_nafle", ["siglip2_base_patch16_naflex", "clip_vit_base_patch32"])
    ' (did you mean siglip2_base_patch16_naflex?)'
    """
    from difflib import get_close_matches

    by_small = {each.lower(): each for each in known}
    close = get_close_matches(str(name)[:80].lower(), by_small, n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(by_small[each] for each in close)}?)" if close else ""
