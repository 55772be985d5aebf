"""Which family's tensors a checkpoint holds, under which prefix and in which format: read off their names.

model.visual.blocks.0.attn.qkv.weight    prefix "model.visual.", bare name "blocks.0.attn.qkv.weight"
model.language_model.layers.0. ...       outside the prefix: ignored, never read
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache

from tubelet.errors import KeyMismatch
from tubelet.families.family import Family

# Where whole models keep their vision part; a family's own prefixes may follow
WHOLE_MODELS = (
    "",
    "model.",
    "visual.",
    "model.visual.",
    "vision_tower.",
    "model.vision_tower.",
    "model.vision_tower.vision_tower.",  # LLaVA forks, whose tower is itself a wrapper
    "vision_model.",
    "model.vision_model.",
    "vision_tower.vision_model.",
    "model.vision_tower.vision_model.",
    "vision_encoder.",
    "model.vision_encoder.",
)
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Match:
    """A family's tensors in a checkpoint. named: bare name -> key in the file. ignored: keys that are not part of the
    vision encoder by rule (outside the prefix, or named in `Family.ignored`). known: how many names the format's table
    has; absent: how many kinds of tensor it has that are not here."""

    family: Family
    format: str
    prefix: str
    named: dict[str, str]
    ignored: tuple[str, ...]
    known: int
    absent: int


def matches(families: Iterable[Family], keys: Collection[str]) -> tuple[Match, ...]:
    """The families and formats that know most of these keys, the best first; () when none knows any.

    A leading `module.` (data parallel) and any `_orig_mod` (torch.compile) are taken off. Several are given where they
    know equally many; first comes the one of whose table least is absent. One missing or misspelt tensor does not
    change the answer. Raises KeyMismatch when two keys mean the same tensor.
    """
    unwrapped = [(_unwrapped(key), key) for key in keys]
    found: list[tuple[int, int, Family, str, str]] = []
    for prefix, there in _by_prefix(families).items():
        general = [_NUMBER.sub("#", name[len(prefix) :]) for name, _ in unwrapped if name.startswith(prefix)]
        kinds = set(general)
        for family, fmt in there:
            table = _patterns(family, fmt)
            known = sum(name in table for name in general)
            if known:
                found.append((known, len(table - kinds), family, fmt, prefix))
    most = max((known for known, *_ in found), default=0)
    best = sorted((one for one in found if one[0] == most), key=lambda one: one[1])
    out: dict[tuple[str, str], Match] = {}
    for known, absent, family, fmt, prefix in best:
        other = out.get((family.name, fmt))
        if other is not None:
            towers = [f"{name}{next(iter(other.named))}" for name in (other.prefix, prefix)]
            raise KeyMismatch(f"two {family.name} encoders: {' and '.join(towers)}", unexpected=towers)
        out[family.name, fmt] = Match(family, fmt, prefix, *_bare(unwrapped, family, prefix), known, absent)
    return tuple(out.values())


def _unwrapped(key: str) -> str:
    parts = [part for part in key.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def _by_prefix(families: Iterable[Family]) -> dict[str, list[tuple[Family, str]]]:
    """What may stand under each prefix."""
    out: dict[str, list[tuple[Family, str]]] = {}
    for family in families:
        for prefix in {whole + own for own in family.prefixes for whole in WHOLE_MODELS}:
            out.setdefault(prefix, []).extend((family, fmt) for fmt in family.formats)
    return out


def _patterns(family: Family, fmt: str) -> frozenset[str]:
    return _patterns_of(family.name, fmt, tuple(n for line in family.formats[fmt] for n in line.right if n)) | {
        _NUMBER.sub("#", name) for name in family.unused
    }


@cache
def _patterns_of(family: str, fmt: str, names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_NUMBER.sub("#", name) for name in names)


def _bare(unwrapped: list[tuple[str, str]], family: Family, prefix: str) -> tuple[dict[str, str], tuple[str, ...]]:
    named: dict[str, str] = {}
    ignored: list[str] = []
    twice: list[str] = []
    for name, key in unwrapped:
        bare = name.removeprefix(prefix)
        if not name.startswith(prefix) or any(re.fullmatch(rule, bare) for rule in family.ignored):
            ignored.append(key)
            continue
        if bare in named:
            twice += [named[bare], key]
        named[bare] = key
    if twice:
        raise KeyMismatch(f"two keys for one tensor: {' and '.join(twice[:2])}", unexpected=twice)
    return named, tuple(ignored)
