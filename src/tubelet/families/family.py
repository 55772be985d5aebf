"""What a family is: which checkpoints are its own, and its configuration, key table and pixel recipe as data.

A key table says, line by line, which of our tensors are which of theirs:

    Line("layers.#.qkv.weight", ("layers.#.attn.q.weight", "layers.#.attn.k.weight", "layers.#.attn.v.weight"))
    Line("patch.weight", "patch_embedding.weight", conv2d)
    Line(("table.prefix", "table.weight"), "position_embedding.weight")

`#` counts our layers (or our deepstack mergers). Several names on a side are one tensor cut along its first axis:
theirs on the right into equal parts unless `rows` says how many each has, ours on the left into their own numbers of
rows. None stands for rows that no file stores: they are zero. A line whose tensors the configured encoder lacks is
not used.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.pixels.recipe import PixelRecipe

if TYPE_CHECKING:
    from torch import Tensor

View = Callable[["Tensor", EncoderConfig], "Tensor"]


@dataclass(frozen=True)
class Line:
    """One line of a key table (see the module). view: our rows in the shape their file has; back: the inverse, None
    where a reshape is. rows: rows of each of `theirs`; a part of 0 rows is not stored."""

    ours: str | tuple[str, ...]
    theirs: str | tuple[str | None, ...]
    view: View | None = None
    back: View | None = None
    rows: Callable[[EncoderConfig], Sequence[int]] | None = None

    @property
    def left(self) -> tuple[str, ...]:
        """Our names."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def right(self) -> tuple[str | None, ...]:
        """Their names."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    def numbered(self, i: int) -> "Line":
        """The line for layer i."""
        left = tuple(n.replace("#", str(i)) for n in self.left)
        right = tuple(n if n is None else n.replace("#", str(i)) for n in self.right)
        return Line(left, right, self.view, self.back, self.rows)


def affine(
    ours: str, *theirs: str | None, rows: Callable[[EncoderConfig], Sequence[int]] | None = None
) -> tuple[Line, Line]:
    """The two lines of a matrix or norm and of its bias: `ours` and each of `theirs` with .weight, then with .bias."""

    def line(leaf: str) -> Line:
        return Line(f"{ours}.{leaf}", tuple(name and f"{name}.{leaf}" for name in theirs), rows=rows)

    return line("weight"), line("bias")


Proof = Literal["outputs", "gradients", "bf16", "pixels", "save_back"]


@dataclass(frozen=True)
class Dialects:
    """How a family tells formats apart whose configurations differ; its config_from and config_to then take the format
    as a second argument.

    format_of: the format a file's configuration (a whole model's, as it stands) is written for, None where it does not
    say. variants: the format each variant is published in. counterpart: (variant, format) -> the variant of the same
    name in that format, None where there is none.
    """

    format_of: Callable[[Mapping[str, Any]], str | None]
    variants: Mapping[str, str]
    counterpart: Callable[[str, str], str | None]


@dataclass(frozen=True)
class Family:
    """One upstream. name: ours. model_types: of the vision part's own configuration; the first is written. holders:
    model types of whole models that keep it under `vision_config`. prefixes: what its keys may begin with; the first is
    written. Those of whole models (`model.visual.`, `vision_tower.` ...) need not be said, see tubelet.families.match.
    architecture: the class name that is written.

    formats: key tables by name, the first is written by default (several where upstream has renamed its tensors).
    config_from: a configuration of the vision part to ours, every field checked; config_to: the inverse, as upstream's
    class reads it. ignored: regular expressions of whole bare names that may be stored and mean nothing (position
    numbers). unused: tensors upstream keeps and inference never reads (mask tokens), with their shapes: optional when
    loading, written as zeros, unless the key table uses them. processor_to: the preprocessor_config.json upstream's
    processor reads; None where the family's own size rule counts, and no such file is read or written. clips_from: how
    clips are sized, from what the video processor's file says ({} without one); None where they are as pictures.
    variants:
    published networks by name. verified: what tests/families proves against upstream's own code. source:
    repo:path@version this was written from.
    """

    name: str
    model_types: tuple[str, ...]
    architecture: str
    formats: Mapping[str, tuple[Line, ...]]
    config_from: Callable[..., EncoderConfig]
    config_to: Callable[..., dict[str, Any]]
    holders: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()
    unused: Mapping[str, Callable[[EncoderConfig], tuple[int, ...]]] = field(default_factory=dict)
    processor_to: Callable[[EncoderConfig], dict[str, Any]] | None = None
    clips_from: Callable[[EncoderConfig, Mapping[str, Any]], PixelRecipe] | None = None
    variants: Mapping[str, EncoderConfig] = field(default_factory=dict)
    verified: tuple[Proof, ...] = ()
    dialects: Dialects | None = None
    source: str = ""

    @property
    def table_id(self) -> str:
        """A name for the key tables as they are, written into saved files; another when any name in them changes."""
        said = repr([(name, [(line.left, line.right) for line in lines]) for name, lines in self.formats.items()])
        return f"{self.name}-keys-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def expand(lines: Sequence[Line], config: EncoderConfig, names: Mapping[str, Any]) -> Iterator[Line]:
    """The lines of one configured encoder, numbers filled in; `names`: of the tensors it has. Raises ConfigError when
    a tensor is in no line."""
    unsaid = set(names)
    for line in lines:
        count = 1
        if "#" in line.left[0]:
            count = config.layers if line.left[0].startswith("layers.") else len(config.deepstack)
        for i in range(count):
            one = line.numbered(i)
            if all(name in names for name in one.left):
                unsaid.difference_update(one.left)
                yield one
    if unsaid:
        raise ConfigError(f"the key table has no line for {', '.join(sorted(unsaid)[:4])}", got=tuple(sorted(unsaid)))


def to_theirs(state: "Mapping[str, Tensor]", lines: Sequence[Line], config: EncoderConfig) -> "dict[str, Tensor]":
    """Our state_dict (or gradients, or meta tensors) under their names and in their shapes; views where possible."""
    import torch  # a configuration is read without

    out: dict[str, Tensor] = {}
    for line in expand(lines, config, state):
        parts = [state[name] for name in line.left]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        for name, part in zip(line.right, whole.split(_rows(line, config, len(whole))), strict=True):
            if name is not None and len(part):
                out[name] = part if line.view is None else line.view(part, config)
    return out


def from_theirs(
    shapes: Mapping[str, Sequence[int]],
    lines: Sequence[Line],
    config: EncoderConfig,
    read: "Callable[[str], Tensor]",
) -> "dict[str, Tensor]":
    """Our state_dict, each tensor read by its name in the file; `shapes` are those of our tensors."""
    import torch

    out: dict[str, Tensor] = {}
    for line in expand(lines, config, shapes):
        wide = [tuple(shapes[name]) for name in line.left]
        total = sum(shape[0] for shape in wide)
        parts: list[Tensor | int] = []
        for name, rows in zip(line.right, _rows(line, config, total), strict=True):
            if name is None or not rows:
                parts.append(rows)
                continue
            tensor = read(name)
            tensor = tensor if line.back is None else line.back(tensor, config)
            parts.append(tensor.reshape(rows, *wide[0][1:]))
        like = next(p for p in parts if not isinstance(p, int))
        filled = [
            like.new_zeros(p, *like.shape[1:]) if isinstance(p, int) else p
            for p in parts
            if not isinstance(p, int) or p
        ]
        whole = filled[0] if len(filled) == 1 else torch.cat(filled)
        for name, shape, part in zip(line.left, wide, whole.split([shape[0] for shape in wide]), strict=True):
            out[name] = part.reshape(shape)
    return out


def _rows(line: Line, config: EncoderConfig, total: int) -> list[int]:
    if line.rows is not None:
        return list(line.rows(config))
    return [total // len(line.right)] * len(line.right)


# ---- shapes of theirs


def conv2d(x: "Tensor", config: EncoderConfig) -> "Tensor":
    """(D, 3 p p) as the kernel (D, 3, p, p) of a convolution."""
    patch = config.pixels.patch
    return x.unflatten(1, (3, patch, patch))


def conv3d(x: "Tensor", config: EncoderConfig) -> "Tensor":
    """(D, 3 t p p) as the kernel (D, 3, t, p, p) of a convolution."""
    patch = config.pixels.patch
    return x.unflatten(1, (3, config.pixels.temporal, patch, patch))


def batched(x: "Tensor", config: EncoderConfig) -> "Tensor":
    """(R, D) as (1, R, D)."""
    return x[None]


def single(x: "Tensor", config: EncoderConfig) -> "Tensor":
    """(D) as (1, 1, D)."""
    return x[None, None]
