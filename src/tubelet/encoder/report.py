"""What an encoder knows of where its weights came from."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class LoadReport:
    """What was loaded."""

    source: str  # the file or folder, as it was named
    family: str | None  # None, as format and variant, for an encoder that is of none
    format: str | None  # of its keys, one of the family's
    variant: str | None  # the published network it is
    tensors: int  # how many were read
    bytes: int  # of the tensors read
    dtype: str  # of the weights, in torch's words
    prefix: str = ""  # what the keys begin with in the file
    ignored: tuple[str, ...] = ()  # keys that are no part of the encoder by rule: rotary buffers, a language model
    initialised: tuple[str, ...] = ()  # upstream names that were allowed to be missing
    untrained: bool = False  # the weights are random

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
