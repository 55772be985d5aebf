"""Annotations of the package checked at each call, in every test run; free in production.

    source -> annotated functions and dataclasses get a decorator -> checked at their calls

Where an annotation tells a shape, jaxtyping compares it with the others of that call. That takes 0.3 ms a call, a
hundred times beartype's price, so it is asked only there; all other annotations are beartype's alone. Functions inside
functions are not checked: each call would make their checks anew, at 3 ms.
"""

import ast
import functools
import importlib.util
import marshal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import beartype
import jaxtyping

SHAPES = {"Bool", "Float", "Int", "Int32", "Int64", "Num", "Shaped", "UInt8"}  # of tubelet.shapes
PACKAGE = "tubelet"
_check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_VERSION = b"1"  # of what is written here, for compiled files


def install() -> None:
    """From here on the package is imported with its checks. Raises RuntimeError when it was imported before."""
    if PACKAGE in sys.modules:
        raise RuntimeError(f"{PACKAGE} was imported before its annotations could be checked")
    sys.meta_path.insert(0, _Finder())


def checked(fn: Any) -> Any:
    """A function, or the making of a dataclass, with its annotations checked by beartype."""
    return _later(fn, _with_beartype)


def checked_shapes(fn: Any) -> Any:
    """The same with shapes, by jaxtyping."""
    return _later(fn, jaxtyping.jaxtyped(typechecker=_check))


def _later(fn: Any, decorate: Callable[[Any], Any]) -> Any:
    """Decorated at its first call, when all names of its module are known."""
    if isinstance(fn, type):
        if "__init__" in vars(fn):
            fn.__init__ = _later(fn.__init__, decorate)
        return fn
    made = []

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        if not made:
            made.append(decorate(fn))
        return made[0](*args, **kwargs)

    return call


def _with_beartype(fn: Any) -> Any:
    twin = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    twin.__kwdefaults__ = fn.__kwdefaults__
    twin.__qualname__, twin.__module__ = fn.__qualname__, fn.__module__
    twin.__annotations__ = {name: _known(hint, fn.__globals__) for name, hint in fn.__annotations__.items()}
    return _check(twin)


def _known(hint: Any, names: dict[str, Any]) -> Any:
    """The hint without strings; Any where it names what only a type checker imports."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["hint"]
    except (NameError, AttributeError, TypeError):  # the last: subscripts that only type checkers know
        return Any


class _Decorator(ast.NodeTransformer):
    """Of a module: decorators at functions, methods and dataclasses that have annotations."""

    def __init__(self, tree: ast.Module) -> None:
        imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "tubelet.shapes"]
        self.shapes = SHAPES & {alias.name for node in imports for alias in node.names}
        for node in tree.body:  # names given to shapes
            if isinstance(node, ast.Assign) and self._shaped([node.value]):
                self.shapes |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def _shaped(self, annotations: Sequence[ast.AST]) -> bool:
        return any(
            isinstance(node, ast.Name) and node.id in self.shapes for each in annotations for node in ast.walk(each)
        )

    def _decorator(self, annotations: Sequence[ast.AST], at: ast.stmt) -> ast.expr:
        name = "checked_shapes" if self._shaped(annotations) else "checked"
        made = ast.parse(f"__import__('tests.typed', fromlist=['_']).{name}", mode="eval").body
        return ast.copy_location(made, at)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        annotations = [a.annotation for a in every if a is not None and a.annotation is not None]
        annotations += [node.returns] if node.returns is not None else []
        if annotations:
            node.decorator_list.append(self._decorator(annotations, node))  # innermost: it sees the function itself
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            annotations = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign)]
            node.decorator_list.insert(0, self._decorator(annotations, node))
        self.generic_visit(node)
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        kept = Path(importlib.util.cache_from_source(path, optimization="typed"))
        key = importlib.util.source_hash(source + _VERSION)
        if kept.is_file() and (data := kept.read_bytes())[: len(key)] == key:
            return marshal.loads(data[len(key) :])
        tree = ast.parse(source, path)
        tree = ast.fix_missing_locations(_Decorator(tree).visit(tree))
        code = compile(tree, path, "exec", dont_inherit=True)
        if not sys.dont_write_bytecode:
            self.set_data(str(kept), key + marshal.dumps(code))  # beside and renamed
        return code


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name != PACKAGE and not name.startswith(PACKAGE + "."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec
