"""A file of tokens with everything that was saved beside them: the names of the inputs, pooled vectors, scores."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from tubelet.doors import doors
from tubelet.errors import ShapeError, UnsafeFile
from tubelet.packed.file import read_pack
from tubelet.packed.header import strict_json
from tubelet.packed.packed import Packed
from tubelet.shapes import Float


@doors
@dataclass(frozen=True, eq=False)
class TokenFile:
    """What `tubelet encode`, `tubelet select` or `Packed.save` wrote, all of it. Nothing in it is believed: a name is a
    word to show, never a file to open.

        >>> import json
        >>> p = tubelet.pack([torch.ones(6, 8)], [tubelet.Item.of(1, 2, 3)])
        >>> p.save("tokens.safetensors", {"pooled": torch.ones(1, 8)}, {"files": json.dumps(["page.png"])})
        >>> found = TokenFile.load("tokens.safetensors")
        >>> found.names, found.pooled.shape, found.tokens.lengths
        (('page.png',), torch.Size([1, 8]), (6,))
    """

    tokens: Packed  # on the host
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # what else was saved: "pooled", "scores", your own
    metadata: Mapping[str, str] = field(default_factory=dict)  # as text: "files", "model", "method", your own
    source: str = "?"  # the name of the file

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "TokenFile":
        """Everything in a file that `Packed.save` wrote, checked, on the host. Raises what `Packed.load` raises, and
        UnsafeFile where the names in it are none."""
        found, name = read_pack(path, everything=True), Path(path).name
        try:
            tokens = Packed(found.x, found.pos, found.items, found.lengths).check()
        except ShapeError as e:
            raise e.placed(source=name) from None
        file = TokenFile(tokens, found.tensors, found.metadata, name)
        _ = file.names
        return file

    @property
    def pooled(self) -> Float[Tensor, "N _"] | None:
        """One vector for each item, where they were saved."""
        return self.tensors.get("pooled")

    @property
    def untrained(self) -> bool:
        """Whether the file says that its encoder had random weights."""
        return self.metadata.get("untrained") == "true"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of the input that each item was cut from; empty where the file says none. An input that was left out
        has no item."""
        files = self._listed("files", list)
        left_out = self._listed("left_out", dict) or {}
        if files is None:
            return ()
        read = [name for i, name in enumerate(files) if str(i) not in left_out]
        pictures = sorted({item.picture for item in self.tokens.items})
        if len(read) != len(pictures) or not all(isinstance(name, str) for name in read):
            message = f"{len(read)} names for the tokens of {len(pictures)} inputs"
            raise UnsafeFile(message, source=self.source, expected=len(pictures), got=len(read))
        name_of = dict(zip(pictures, read, strict=True))
        return tuple(name_of[item.picture] for item in self.tokens.items)

    def _listed(self, key: str, kind: type) -> Any:
        if key not in self.metadata:
            return None
        found = strict_json(self.metadata[key].encode(), UnsafeFile, self.source)
        if not isinstance(found, kind):
            raise UnsafeFile(f"{key} is not a {kind.__name__}", source=self.source, got=type(found).__name__)
        return found

    def __repr__(self) -> str:
        beside = f", beside: {', '.join(self.tensors)}" if self.tensors else ""
        return f"TokenFile({self.source!r}, {self.tokens!r}{beside})"
