"""A chat template of a stranger, rendered in the decoding process: it can loop, recurse and grow there as it likes.

The environment is that of transformers: sandboxed, blocks trimmed, `break` and `continue`, `{% generation %}`, tojson,
raise_exception, strftime_now, and a `dict` and a `namespace` that give no way into Python. Imports jinja2 at its top,
and is imported in the decoding process alone.

Source: huggingface/transformers:src/transformers/utils/chat_template_utils.py@v5.24.0 (_compile_jinja_template).
"""

import json
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tubelet.errors import LimitError

MOST_LETTERS = 1 << 21  # of what a template may write, twice the longest prompt of any model


def write_words(template: str, said: dict[str, Any], kept: list[list[int]] | None) -> str:
    """What the template makes of these variables. kept: takes the spans inside `{% generation %}`, where wanted.

    Raises LimitError for more than MOST_LETTERS; what jinja2 and the template raise.
    """
    compiled, marks = _compiled(template)
    pieces: list[str] = []
    length = 0
    marks.begin(pieces, kept)
    for piece in _pieces(compiled, said):
        pieces.append(piece)
        length += len(piece)
        if length > MOST_LETTERS:
            raise LimitError("the template writes too much", limit=MOST_LETTERS, got=length)
    return "".join(pieces)


def _pieces(compiled: jinja2.Template, said: dict[str, Any]) -> Iterator[str]:
    return compiled.generate(**said)


class Marks(Extension):
    """`{% generation %} ... {% endgeneration %}`: its text as it is, and where that stands."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own way to say it

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.pieces: list[str] = []
        self.kept: list[list[int]] | None = None

    def begin(self, pieces: list[str], kept: list[list[int]] | None) -> None:
        """From here on spans are counted in these pieces."""
        self.pieces, self.kept = pieces, kept

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        text = caller()
        if self.kept is not None:
            start = sum(len(piece) for piece in self.pieces)
            self.kept.append([start, start + len(text)])
        return text


class _Dict:
    """`dict` for templates, which the class itself would lead into Python."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """`namespace` for templates, whose names begin with a letter."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        given = dict(*rest, **kwargs)
        for name in given:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError("a namespace has no names that begin with _")


@lru_cache(maxsize=8)
def _compiled(template: str) -> tuple[jinja2.Template, Marks]:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Marks, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    marks = environment.extensions[Marks.identifier]
    assert isinstance(marks, Marks)
    return environment.from_string(template), marks


def _raise_exception(message: Any) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(said: str) -> str:
    return datetime.now().strftime(said)
