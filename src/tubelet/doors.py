"""What a public function says of arguments that do not fit, where without it a foreign exception would come out.

Nothing is checked before the work: a call that works costs one frame more. Only when something foreign was raised are
the arguments held against the annotations. Where one does not fit, the error says so, the foreign one as its cause;
where all fit, the foreign one goes on as it is: then the fault is ours, or of a function that was handed in.
"""

import inspect
import io
import math
import os
import types
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from numbers import Integral, Real
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_overloads

from tubelet.errors import InputError, ShapeError, TubeletError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_NUMBERS: dict[Any, type] = {int: Integral, float: Real}
_MADE_BY = {"Packed": ": tubelet.patchify(tubelet.read(files), encoder.pixels) makes one"}
_MOST_SHOWN = 80  # letters
_MOST = 2**62  # a whole number beyond it fits no tensor, file or clock


def door(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises TypeError for an argument of a wrong type and InputError for an impossible value,
    where it would raise what is neither a TypeError nor a TubeletError. Of a dataclass, its `__post_init__`.

        >>> @door
        ... def first(rows: list) -> int:
        ...     return rows.first
        >>> first(7)
        Traceback (most recent call last):
        TypeError: rows is int, expected list
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (TubeletError, TypeError):
            raise
        except Exception as e:
            given = list(_arguments(function, args, kwargs))
            for name, value, hint in given:
                if not _fits(value, hint):
                    raise TypeError(f"{name} is {type(value).__name__}, expected {_said(hint)}") from e
            for name, value, hint in given:
                if error := _impossible(name, value, hint, e):
                    raise error from e
            raise

    return call


def doors(cls: type[T]) -> type[T]:
    """The class, whose public methods are doors, and what checks it when it is made."""
    made = "__post_init__" if "__post_init__" in vars(cls) else "__init__"
    for name, method in list(vars(cls).items()):
        if name != made and name.startswith("_"):
            continue
        if isinstance(method, (staticmethod, classmethod)):
            setattr(cls, name, type(method)(door(method.__func__)))
        elif isinstance(method, types.FunctionType):
            setattr(cls, name, door(method))
    return cls


def _arguments(function: Callable[..., Any], args: Any, kwargs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and annotation of each argument that was given; Any for an annotation that only checkers resolve."""
    if function.__name__ == "__post_init__":
        fields: dict[str, Any] = getattr(type(args[0]), "__annotations__", {})
        given = {name: vars(args[0])[name] for name in fields if name in vars(args[0])}
        hints = fields
    else:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        told = [one.__annotations__ for one in get_overloads(function)] or [function.__annotations__]
        hints = {name: Union[tuple(_resolved(one.get(name), function) for one in told)] for name in given}  # noqa: UP007
    for name, value in given.items():
        yield name, value, _resolved(hints[name], function)


def _resolved(hint: Any, function: Callable[..., Any]) -> Any:
    """An annotation; Any where there is none, or one that only checkers resolve."""
    known = getattr(function, "__globals__", {}).get(hint, Any) if isinstance(hint, str) else hint
    return Any if hint is None else known


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, elements included. Asks nothing of the value itself."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is None or hint is types.NoneType:
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in args)
    if origin is Annotated:
        return _fits(value, args[0])
    kind = getattr(hint, "array_type", origin or hint)  # jaxtyping's annotation of an array, or a plain one
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if not issubclass(type(value), _NUMBERS.get(kind, kind)):
        return False
    if not args or not issubclass(type(value), (Mapping, list, tuple)):
        several = issubclass(type(value), (str, bytes, bytearray, io.IOBase)) or getattr(type(value), "ndim", None)
        return not (args and several and getattr(value, "ndim", 0) != 1)  # text, a file, a table: not these elements
    if issubclass(type(value), Mapping):
        return all(_fits(key, args[0]) and _fits(one, args[-1]) for key, one in value.items())
    if kind is not tuple or args[-1] is ...:
        return all(_fits(one, args[0]) for one in value)
    return len(value) == len(args) and all(_fits(one, of) for one, of in zip(value, args, strict=True))


def _impossible(name: str, value: Any, hint: Any, cause: Exception) -> TubeletError | None:
    """What is wrong with a value that no use of its type could take."""
    kind = type(value)
    try:
        value.__class__  # noqa: B018
    except Exception as e:
        raise InputError(f"{name} is a {kind.__name__} that raises when it is looked at", got=kind.__name__) from e
    if isinstance(cause, OSError) and (issubclass(kind, str) or hasattr(kind, "__fspath__")):
        return InputError(f"{name} is no path to use: {cause.strerror}", got=os.fspath(value)[:_MOST_SHOWN])
    if name == "device" and issubclass(kind, str) and isinstance(cause, RuntimeError):
        return InputError(f"there is no device {value[:_MOST_SHOWN]!r}", got=value[:_MOST_SHOWN])
    if hasattr(kind, "is_meta"):  # a tensor, without importing torch here
        dims, dtypes = getattr(hint, "dim_str", "..."), getattr(hint, "dtypes", ())
        kept = str(value.dtype).removeprefix("torch.")
        if value.is_meta:
            return ShapeError(f"{name} is a tensor without values", got="meta")
        if str(value.layout) != "torch.strided" or value.is_complex():
            return ShapeError(f"{name} is a tensor of {value.dtype}, {value.layout}", got=str(value.layout))
        if "*" not in dims and "..." not in dims and len(dims.split()) != value.ndim:
            return ShapeError(f"{name} has the shape {tuple(value.shape)}", expected=dims, got=tuple(value.shape))
        if isinstance(dtypes, (list, tuple)) and dtypes and kept not in dtypes:
            return ShapeError(f"{name} is of {kept}", expected=tuple(dtypes), got=kept)
    elif issubclass(kind, Real) and not issubclass(kind, bool):
        if not math.isfinite(value) or abs(value) > _MOST:
            return InputError(f"{name} is {value:.9g}", limit=_MOST, got=value)
    elif issubclass(kind, (list, tuple)):
        found = (_impossible(f"{name}[{i}]", one, None, cause) for i, one in enumerate(value))
        return next((error for error in found if error), None)
    return None


def _said(hint: Any) -> str:
    """An annotation in words, with how one is made where that is what people ask next."""
    if not isinstance(hint, type) or get_args(hint):
        return str(hint)
    return hint.__name__ + _MADE_BY.get(hint.__name__, "")
