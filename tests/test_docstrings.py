"""Examples in docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import tubelet

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tubelet"
PUBLIC = sorted(name for name in dir(tubelet) if not isinstance(getattr(tubelet, name), ModuleType))
NEEDS_A_DOWNLOAD = {"load_encoder"}


def module_name(path: Path) -> str:
    return ".".join(("tubelet", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


FILES = {module_name(f): f.read_text(encoding="utf-8") for f in sorted(PACKAGE.rglob("*.py")) if f.stem != "__main__"}


def examples(name: str) -> list[doctest.DocTest]:
    return [t for t in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)) if t.examples]


@pytest.mark.parametrize("module", [name for name, text in FILES.items() if ">>>" in text])
def test_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("receipt.png", "walk.mp4"):
        (tmp_path / name).write_bytes((ROOT / "examples" / name).read_bytes())
    Image.open(tmp_path / "receipt.png").convert("RGB").resize((96, 64)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples(module):
        test.globs |= {"tubelet": tubelet, "torch": torch, "np": np, "Path": Path}
        said: list[str] = []
        runner.run(test, out=said.append, clear_globs=False)
        assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented_by_an_example_that_runs(name: str):
    thing = getattr(tubelet, name)
    found = [e for t in doctest.DocTestFinder(recurse=False).find(thing, name) for e in t.examples]
    assert (inspect.getdoc(thing) or "").strip()
    assert found, f"tubelet.{name} has no example"
    assert name in NEEDS_A_DOWNLOAD or not any(doctest.SKIP in e.options for e in found)


@pytest.mark.parametrize(("module", "text"), FILES.items(), ids=list(FILES))
def test_every_file_says_what_it_is(module: str, text: str):
    """A reader opens a file and knows in one line why it is there. An empty package file has nothing to say."""
    assert not text.strip() or (importlib.import_module(module).__doc__ or "").strip()
