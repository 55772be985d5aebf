"""tubelet: images and videos in, the visual tokens a language model reads out.

Importing does no work. The public names stand in one table, `__init__.pyi` beside this file, which type checkers read
too; each is loaded from its module when it is first used. `tubelet.language`, `.reduce`, `.inspect` and `.errors` hold
what a second look needs.
"""

import importlib
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

__version__ = "0.1.0"

_LINE = re.compile(r"^from (tubelet[\w.]*) import (\w+) as \2$", re.MULTILINE)


@cache
def _names(package: str) -> dict[str, str]:
    """Public name -> the module that defines it, as the package's stub says; modules of their own are left out."""
    table = files(package).joinpath("__init__.pyi").read_text(encoding="utf-8")
    return {name: module for module, name in _LINE.findall(table)}


def face(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names stand in its `__init__.pyi`."""

    def get(name: str) -> Any:
        if name.startswith("__") or name not in _names(package):
            raise AttributeError(_unknown(package, name))
        module = _names(package)[name]
        if module == package:  # the name is a module itself
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(module), name)

    return get, lambda: sorted(_names(package))


def _unknown(package: str, name: str) -> str:
    """What is said of a name that is not there; one of another package's table is told where it is."""
    found = () if name.startswith("_") else (p for p in ("tubelet", *_FACES) if p != package and name in _names(p))
    where = next((f"; it is {p}.{name}" for p in found), "")
    return f"module {package!r} has no attribute {name!r}{where}"


_FACES = ("tubelet.language", "tubelet.reduce", "tubelet.inspect")
__getattr__, __dir__ = face("tubelet")
