"""Our own frozen dataclasses as plain values for a JSON file, and back: one checked writer and reader for all of them.

    EncoderConfig, PixelRecipe, ViewRule, PositionRule, Scheme ...  ->  {"patch": 14, "rule": "square", "size": 336}

What a field may hold is its annotation: whole numbers, numbers, words of a Literal, tuples, dataclasses, None. A field
that may be a Fraction is written as text, "25/3". A file comes from strangers, so what is unknown, of another type or
far too large is refused with the path of the field; finer rules are the dataclass's own.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tubelet.errors import ConfigError, TubeletError
from tubelet.families.fields import LARGEST, refuse_code

T = TypeVar("T")

LARGEST_FLOAT = 1e12
MOST = 1024  # values in a list
# Smallest and largest whole number of a field by its name, where it is not 0 to LARGEST
_PIXELS, _TOKEN = (1, 1 << 40), (-(1 << 31), 1 << 31)
_RANGES: dict[str, tuple[int, int]] = {
    "min_pixels": _PIXELS, "max_pixels": _PIXELS, "max_video_pixels": _PIXELS, "tile": (1, 1 << 16),
    "image": _TOKEN, "video": _TOKEN, "start": _TOKEN, "end": _TOKEN,
}  # fmt: skip


def to_plain(value: Any) -> dict[str, Any]:
    """A dataclass as an object of plain values, with all its fields; `from_plain` gives an equal one back.

    >>> from tubelet.encoder.config import Head
    >>> to_plain(Head("query"))
    {'kind': 'query', 'norm': 'rms', 'bias': True}
    """
    hints = get_type_hints(type(value))
    return {f.name: _plain(getattr(value, f.name), hints[f.name]) for f in fields(value)}


def from_plain(kind: type[T], said: Any, where: str = "") -> T:
    """The dataclass that an object stands for; absent fields have their defaults. where: put before names in messages.

    Raises ConfigError naming the field that is unknown, missing, of the wrong type or out of range; what the dataclass
    itself refuses is its cause.

        >>> from tubelet.encoder.config import Head
        >>> from_plain(Head, {"kind": "query"})
        Head(kind='query', norm='rms', bias=True)
    """
    refuse_code(said, where)
    return _record(kind, said, where)


def _plain(value: Any, hint: Any) -> Any:
    if value is not None and _may_be_fraction(hint):
        return str(Fraction(value) if isinstance(value, (int, Fraction)) else Fraction(float(value)))
    if is_dataclass(value):
        return to_plain(value)
    if isinstance(value, tuple):
        return [_plain(v, None) for v in value]
    return value


def _may_be_fraction(hint: Any) -> bool:
    return hint is Fraction or (get_origin(hint) in (Union, UnionType) and Fraction in get_args(hint))


def checked_fields(kind: type[Any], said: Any, where: str = "") -> dict[str, Any]:
    """The fields of a dataclass that an object has, each checked. Raises ConfigError for any other."""
    if not isinstance(said, Mapping):
        raise ConfigError(f"{where or kind.__name__} is an object", expected=kind.__name__, got=type(said).__name__)
    inner = f"{where}." if where else ""
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    unknown = sorted(str(name) for name in said if name not in known)
    if unknown:
        names = ", ".join(f"{inner}{name:.60}" for name in unknown[:8])
        raise ConfigError(f"unknown field {names}", expected=tuple(known), got=tuple(unknown))
    return {name: checked_value(said[name], hints[name], inner + name) for name in known if name in said}


def _record(kind: Any, said: Any, where: str) -> Any:
    values = checked_fields(kind, said, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if needed:
        name = f"{where}.{needed[0]}" if where else needed[0]
        raise ConfigError(f"{name} is missing", expected=name)
    try:
        return kind(**values)
    except TubeletError as e:
        raise ConfigError(f"{where or kind.__name__} does not fit: {e}", expected=kind.__name__) from e


def checked_value(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` says: lists made tuples, objects dataclasses. Raises ConfigError naming the field."""
    wrong = ConfigError(f"{name} has a value of the wrong type: {value!s:.60}", expected=_shown(hint), got=value)
    if _may_be_fraction(hint):
        return _fraction(value, name)
    if get_origin(hint) in (Union, UnionType):
        return _one_of_several(value, get_args(hint), name, wrong)
    if get_origin(hint) is Literal:
        if isinstance(value, bool) or value not in get_args(hint):
            known = get_args(hint)
            raise ConfigError(f"{name} is one of {', '.join(map(str, known))}", expected=known, got=value)
        return value
    if get_origin(hint) is tuple:
        return _tuple(value, get_args(hint), name, wrong)
    if is_dataclass(hint):
        return _record(hint, value, name)
    if isinstance(value, bool) or hint is bool:
        if not (isinstance(value, bool) and hint is bool):
            raise wrong
        return value
    if hint is int and isinstance(value, int):
        least, most = _RANGES.get(name.rpartition(".")[2], (0, LARGEST))
        if not least <= value <= most:
            raise ConfigError(f"{name} must be {least} to {most}, got {value!s:.40}", limit=(least, most), got=value)
        return value
    if hint is float and isinstance(value, (int, float)):
        if not abs(value) <= LARGEST_FLOAT:  # NaN is not either
            raise ConfigError(f"{name} is no number of use: {value!s:.40}", limit=LARGEST_FLOAT, got=value)
        return value
    if hint is str and isinstance(value, str):
        return value
    raise wrong


def _one_of_several(value: Any, kinds: tuple[Any, ...], name: str, wrong: ConfigError) -> Any:
    """Of the one kind the value can be; what that refuses says why. A number is no bool, a bool no number."""
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, bool) and bool in kinds:
        return value
    rest = [kind for kind in kinds if kind not in (NoneType, bool)]
    if value is None or len(rest) != 1:
        raise wrong
    return checked_value(value, rest[0], name)


def _tuple(value: Any, kinds: tuple[Any, ...], name: str, wrong: ConfigError) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise wrong
    if len(value) > MOST:
        raise ConfigError(f"{name} has {len(value):,} values", limit=MOST, got=len(value))
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise wrong
    each = [kinds[0]] * len(value) if kinds[-1] is Ellipsis else kinds
    return tuple(checked_value(v, kind, name) for v, kind in zip(value, each, strict=True))


def _fraction(value: Any, name: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigError(f"{name} is a number or a fraction in text", expected="25/3", got=value)
    if (isinstance(value, str) and len(value) > 128) or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{name} is no fraction", limit=128, got=str(value)[:40])
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError) as e:
        raise ConfigError(f"{name} is no fraction", expected="25/3", got=value) from e


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
