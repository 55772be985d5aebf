"""The house rules that a machine can check: who may import whom, what importing costs, what no file may contain."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tubelet"

# The parts in the order data flows. A file may import its own part and those before it.
ORDER = (
    "errors", "shapes", "doors", "writing", "tables", "packed", "reading", "pixels", "encoder", "families", "weights",
    "reduce", "geometry", "language", "inspect", "train", "scale", "web", "integrations", "cli",
)  # fmt: skip
LEAVES = {"train", "scale", "web", "integrations", "cli"}  # side by side; nothing imports them but cli
ONTO_LEAVES = {("integrations", "train")}  # transformers' Trainer runs the parts of training
CORE = {"torch", "numpy", "PIL", "av", "safetensors", "huggingface_hub", "tyro", "rich"}
OPTIONAL = {"jaxtyping"}  # shapes.py alone, guarded: checked in tests, absent in production
WITHOUT_TORCH = ("errors", "shapes", "doors", "writing", "tables", "reading")


@dataclass(frozen=True)
class Import:
    module: str  # as written, "tubelet.reading.video.video"
    line: int
    at_top: bool  # executed when the file is imported
    typed: bool  # for type checkers only


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def every_import(path: Path) -> tuple[Import, ...]:
    """Every import statement of a file."""

    def walk(node: ast.AST, at_top: bool, typed: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(ast.Module(body=child.body, type_ignores=[]), at_top, True)
                yield from walk(ast.Module(body=child.orelse, type_ignores=[]), at_top, typed)
                continue
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, at_top, typed) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: imports are absolute here"
                assert child.module is not None
                names = (f"{child.module}.{alias.name}" for alias in child.names)
                yield from (Import(name, child.lineno, at_top, typed) for name in names)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, at_top and not inside, typed)

    return tuple(walk(ast.parse(path.read_text(encoding="utf-8")), True, False))


def imports(path: Path, typed: bool = False) -> list[Import]:
    """The import statements of a file; those for type checkers only where `typed`."""
    return [found for found in every_import(path) if typed or not found.typed]


def test_every_part_has_a_place_in_the_order():
    unknown = {part_of(f) for f in files()} - set(ORDER) - {"__init__", "__main__"}
    assert not unknown, f"give {unknown} a place in ORDER, where data flows through it"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_parts_before_its_own(path: Path):
    mine = part_of(path)
    if mine in ("__init__", "__main__"):
        return
    for found in imports(path):
        if not found.module.startswith("tubelet."):
            continue
        other = found.module.split(".")[1]
        if other in ("__version__", "face"):  # of the package itself
            continue
        where = f"{path.relative_to(PACKAGE)}:{found.line} imports {found.module}"
        assert other in ORDER, f"{where}: not a part of the house"
        assert other == mine or ORDER.index(other) < ORDER.index(mine), f"{where}, which comes after {mine}"
        free = mine == "cli" or other not in LEAVES or (mine, other) in ONTO_LEAVES
        assert other == mine or free, f"{where}, which is a leaf"


@cache
def on_demand() -> frozenset[Path]:
    """Files that others import, and only inside functions: importing the library does not run them. What a leaf imports
    at its top runs when that leaf is asked for, which the library never does."""
    names = {".".join(("tubelet", *f.relative_to(PACKAGE).with_suffix("").parts)): f for f in files()}
    wanted: dict[bool, set[str]] = {True: set(), False: set()}
    for path in files():
        leaf = part_of(path) in LEAVES - {"cli"}
        for found in imports(path):
            wanted[found.at_top and not leaf] |= {found.module, found.module.rpartition(".")[0]} & names.keys()
    return frozenset(names[name] for name in wanted[False] - wanted[True])


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_extras_are_imported_only_where_they_are_used(path: Path):
    if part_of(path) in LEAVES - {"cli"} or path in on_demand():
        return
    allowed = CORE | set(sys.stdlib_module_names) | {"tubelet"}
    if part_of(path) == "shapes":
        allowed |= OPTIONAL
    for found in imports(path):
        if found.at_top:
            assert found.module.split(".")[0] in allowed, f"{path.relative_to(PACKAGE)}:{found.line} {found.module}"


def test_there_is_no_circle_between_files():
    """Not even a hidden one, through imports inside functions or for type checkers alone."""
    names = {
        ".".join(("tubelet", *f.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): f
        for f in files()
    }
    graph = {}
    for name, path in names.items():
        parents = (found.module.rpartition(".")[0] for found in imports(path, typed=True))
        targets = {found.module for found in imports(path, typed=True)} | set(parents)
        graph[name] = sorted((targets & set(names)) - {name, "tubelet"})
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


# ---- what importing costs


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


HEAVY = {"torch", "transformers", "timm", "torchvision", "huggingface_hub", "safetensors", "rich", "tyro", "jaxtyping"}


@pytest.mark.parametrize(
    "statement", ["import tubelet", "from tubelet import read, Limits", "from tubelet.reading.clip import Clip"]
)
def test_importing_does_not_load_torch(statement: str):
    assert not loaded_after(statement) & (HEAVY - {"jaxtyping"})


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_what_the_decoding_child_loads_is_free_of_torch(part: str):
    for path in files():
        if part_of(path) == part:
            for found in imports(path):
                assert found.module.split(".")[0] != "torch", f"{path.relative_to(PACKAGE)}:{found.line}"


FACES = ("tubelet", "tubelet.language", "tubelet.reduce", "tubelet.inspect")


EACH = """
import importlib, os, sys, torch
for code in sys.argv[1:]:
    if os.fork() == 0:
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0, code
"""


def test_every_public_name_can_be_had_and_modules_by_their_full_names():
    """Each package first in its interpreter. `import a.b.c as m` walks attributes: a function named as its package or
    module stands in the way."""
    names = "print(p.__name__, *(getattr(p, one).__name__ for one in dir(p) if one != 'METHODS'))"
    modules = ["tubelet.reading.source", "tubelet.reading.read", "tubelet.packed.packed"]
    full = "\n".join(["import tubelet; tubelet.read", *(f"import {m} as m; print(m.__name__)" for m in modules)])
    faces = [f"import importlib; p = importlib.import_module({package!r}); {names}" for package in FACES]
    ran = subprocess.run([sys.executable, "-c", EACH, *faces, full], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    for line, package in zip(lines[: len(FACES)], FACES, strict=True):
        name, *had = line.split()
        assert name == package
        assert had, f"{package} offers nothing"
    assert lines[len(FACES) :] == modules


@pytest.mark.parametrize("package", FACES)
def test_the_table_of_public_names_is_that_of_type_checkers(package: str):
    """The table type checkers read is the one the package loads from, and no name hides a module of the same name."""
    folder = PACKAGE.joinpath(*package.split(".")[1:])
    modules = {f.stem for f in folder.iterdir()} - {"__init__"}
    table = (folder / "__init__.pyi").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(table)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tubelet"):
            for alias in node.names:
                assert alias.asname == alias.name, f"{package}: {alias.name} is not handed on"
                assert alias.name not in modules or node.module == package, f"{package}.{alias.name} hides a module"


def test_the_face_is_small():
    import tubelet

    assert 20 <= len(dir(tubelet)) <= 32
    with pytest.raises(AttributeError, match=r"it is tubelet\.language\.rope_index"):
        _ = tubelet.rope_index  # pyright: ignore


def test_the_root_lists_the_way_of_the_data():
    """What a newcomer sees first. A new part needs a place in ORDER and a line in the tour."""
    entries = {f.name.removesuffix(".py") for f in PACKAGE.iterdir() if not f.name.startswith(("__", "."))}
    assert entries - {"py.typed"} <= set(ORDER)


SIX = (
    "packed/grid",
    "packed/packed",
    "pixels/patchify",
    "encoder/attention",
    "encoder/model",
    "language/placing/place",
)


def test_six_files_explain_the_rest():
    assert sum(len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in SIX) < 1500


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_holds_two_ideas(path: Path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 350, f"{lines} lines: look for the second idea in it"


# ---- what no file may contain


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_opens_a_door(path: Path):
    """Pickle, remote code, addresses and shells. The one exception is the child that converts a pickle on request."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = str(path.relative_to(PACKAGE))
    for found in imports(path):
        assert found.module.split(".")[0] not in ("pickle", "dill", "cloudpickle", "requests", "urllib", "httpx"), (
            f"{name}:{found.line} imports {found.module}"
        )
    for call, function in calls(tree):
        where = f"{name}:{call.lineno} calls {function}"
        assert function not in ("eval", "exec", "os.system", "os.popen", "__import__", "pickle.loads", "pickle.load"), (
            where
        )
        assert function != "torch.hub.load", where
        for keyword in call.keywords:
            assert keyword.arg != "shell", where
            if keyword.arg == "trust_remote_code":
                assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False, where
        if function == "torch.load":
            weights_only = {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only")
            assert name == "weights/unpickle_child.py", where
            assert weights_only == "True", where
        if function == "np.load":
            assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("allow_pickle", "False") == "False", where


# The process borders: a child that handles a stranger's file tells its parent whatever went wrong, and ends. And the
# thread that reads a stream hands on what the stream raised.
BROAD_EXCEPT = {"reading/child.py": 1, "weights/unpickle_child.py": 1, "reading/source.py": 1}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_caught_broadly(path: Path):
    """`except Exception` hides the failure nobody thought of; one that raises it again, or as the cause of ours, does
    not."""
    broad = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            kinds = (
                {"BaseException"}
                if node.type is None
                else {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            )
            last = node.body[-1]
            again = isinstance(last, ast.Raise) and (last.exc is None or ast.unparse(last.cause or last) == node.name)
            if kinds & {"Exception", "BaseException"} and not again:
                broad.append(node.lineno)
        if isinstance(node, ast.Tuple) and {"Exception", "BaseException"} & {ast.unparse(e) for e in node.elts}:
            broad.append(node.lineno)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            assert not {"Exception", "BaseException"} & {ast.unparse(a) for a in node.args}, f"line {node.lineno}"
    name = str(path.relative_to(PACKAGE))
    assert len(broad) <= BROAD_EXCEPT.get(name, 0), f"{name}: lines {broad}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_annotations_are_values_not_strings(path: Path):
    """With postponed annotations jaxtyping would silently check nothing; imported directly it would be a dependency."""
    text = path.read_text(encoding="utf-8")
    assert "from __future__ import annotations" not in text
    if part_of(path) != "shapes":
        assert not [f for f in imports(path) if f.module.split(".")[0] == "jaxtyping"]


def test_no_file_is_a_drawer_for_everything():
    names = {f.stem for f in files()}
    assert not names & {"utils", "util", "misc", "common", "helpers", "helper", "base"}
