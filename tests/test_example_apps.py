"""The notebook and the Space of examples/: what they compute, without marimo and Gradio, and that they stay small."""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import InputError, TubeletError
from tubelet.reduce.methods import METHODS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RECEIPT = str(EXAMPLES / "receipt.png")
FILES = sorted([*EXAMPLES.glob("space/*"), *EXAMPLES.glob("notebook/*.py")])


@pytest.fixture(scope="module")
def notebook() -> Iterator[ModuleType]:
    yield from imported("notebook/look")


@pytest.fixture(scope="module")
def space() -> Iterator[ModuleType]:
    yield from imported("space/app")


def imported(path: str) -> Iterator[ModuleType]:
    """A file of examples, imported as its neighbours do."""
    folder, _, name = path.rpartition("/")
    sys.path.insert(0, str(EXAMPLES / folder))
    yield import_module(name)
    sys.path.remove(str(EXAMPLES / folder))
    del sys.modules[name]


def test_neither_marimo_nor_gradio_is_needed_to_import_them(notebook: ModuleType, space: ModuleType):
    for module in (notebook, space):
        assert callable(module.look)
        assert not {"marimo", "gradio"} & set(vars(module))


@pytest.mark.parametrize("words", ["", "What is the total?"])
def test_the_notebook_shows_what_a_method_keeps(notebook: ModuleType, words: str):
    names = notebook.methods(words)
    assert ("text" in names) == bool(words)
    assert {"divprune", "attention", "uniform", "tome"} <= set(names) < set(METHODS)
    whole = len(notebook.encoded(RECEIPT, words).inputs.tokens.x)
    pictures = []
    for name in ("text" if words else "attention", "divprune"):
        picture, numbers = notebook.look(RECEIPT, name, 20, words)
        pictures.append(np.asarray(picture))
        assert numbers["tokens"] == f"{whole:,}"
        assert int(numbers["kept"].split()[0].replace(",", "")) == round(0.2 * whole)
        assert "scores" in numbers
    assert pictures[0].shape != pictures[1].shape or not np.array_equal(*pictures)


def test_every_method_that_the_notebook_offers_can_be_drawn(notebook: ModuleType):
    for name in notebook.methods("total"):
        picture, numbers = notebook.look(RECEIPT, name, 30, "total")
        assert picture.mode == "RGB" and numbers["kept"], name


def test_the_space_keeps_answers_and_points(space: ModuleType):
    kept, page, answer = space.look(RECEIPT, "What is the total?", 20)
    assert kept.width > page.width
    with Image.open(RECEIPT) as receipt:
        assert page.size == receipt.size
    said, numbers = answer.rsplit("\n", 1)
    assert said
    whole = len(space.encode_file(RECEIPT, space.reader()[0].encoder, recipe=space.reader()[0].scheme.pixels).patches.x)
    assert int(numbers[1:].split()[0]) == round(0.2 * int(numbers.split(" of ")[1].split()[0]))
    assert int(numbers.split(" of ")[1].split()[0]) <= whole


def test_what_is_wrong_with_a_file_is_one_line_of_ours(space: ModuleType, notebook: ModuleType, tmp_path: Path):
    (tmp_path / "cut.png").write_bytes(Path(RECEIPT).read_bytes()[:2000])
    with pytest.raises(TubeletError):
        space.look(str(tmp_path / "cut.png"), "total", 20)
    with pytest.raises(InputError):
        notebook.look(str(tmp_path / "none.png"), "divprune", 20)


def test_the_notebook_has_cells_that_marimo_reads():
    """Each name that a cell takes is made by one other cell, and what it imports from its neighbour is there."""
    tree = ast.parse((EXAMPLES / "notebook" / "notebook.py").read_text(encoding="utf-8"))
    cells = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert all(ast.unparse(cell.decorator_list[0]) == "app.cell" for cell in cells)
    taken = {arg.arg for cell in cells for arg in cell.args.args}
    returned = [end for cell in cells if isinstance(end := cell.body[-1], ast.Return) and end.value is not None]
    made = [name.id for end in returned for name in ast.walk(end) if isinstance(name, ast.Name)]
    assert len(made) == len(set(made)) and taken <= set(made)
    assert ast.unparse(tree.body[-1]).startswith("if __name__ == '__main__':")


def test_a_space_is_told_what_it_is():
    head = (EXAMPLES / "space" / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    told = dict(line.split(": ", 1) for line in head.splitlines())
    assert (told["sdk"], told["app_file"], told["license"]) == ("gradio", "app.py", "apache-2.0")
    wanted = (EXAMPLES / "space" / "requirements.txt").read_text(encoding="utf-8").split()
    assert wanted == ["tubelet[hf]"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_they_stay_small(path: Path):
    assert path.is_dir() or path.read_text(encoding="utf-8").count("\n") < 90
