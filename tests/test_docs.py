"""What the documents say is so: their code runs, their links lead somewhere, their numbers are the stored ones."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Followed from the top to the end by tests/test_training_guides.py, because their blocks read what their commands made
TRAINING = ("train-a-projector.md", "adapt-with-lora.md", "resume-after-a-kill.md", "many-gpus.md")
LARGEST = 500_000  # bytes of a file in the repository; golden cases are recorded values and may be larger
WEIGHTS, LARGEST_WEIGHTS = "src/tubelet/weights/built_in/", 20_000_000  # what comes with the package, all of it


def tracked() -> list[Path]:
    """The files of the repository: git's list, or without git everything outside of hidden and built folders."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode == 0 and found.stdout:
        return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]
    skipped = {"__pycache__", "build", "dist", "node_modules"}
    return [
        f
        for f in ROOT.rglob("*")
        if f.is_file() and not any(p in skipped or p.startswith(".") for p in f.relative_to(ROOT).parts)
    ]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder like a fresh clone, in which examples may leave files."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


Run = Callable[[list[str], Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(forked: Forked) -> Run:
    def python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        done = forked(arguments, folder)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    return python


# ---- code in documents


def blocks() -> list[tuple[str, str]]:
    """(page and number, code) of every ```python block."""
    return [
        (f"{name(page)}:{i}", code)
        for page in PAGES
        if page.name not in TRAINING
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
    ]


@pytest.mark.parametrize("code", [pytest.param(code, id=where) for where, code in blocks()])
def test_python_in_the_documents_runs(code: str, workplace: Path, run: Run):
    run(["-c", code], workplace)


def test_the_readme_begins_with_its_two_commands():
    lines = re.findall(r"^    (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert lines[:2] == [
        "pip install -e '.[all]' && tubelet ask examples/receipt.png \"What is the total?\" --show answer.png",
        "pip install -e '.[dev]' && pytest",
    ]


@pytest.mark.parametrize("script", [pytest.param(f, id=f.name) for f in sorted((ROOT / "examples").glob("*.py"))])
def test_examples_run(script: Path, workplace: Path, run: Run):
    run([f"examples/{script.name}"], workplace)


# ---- the example files


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    run([str(ROOT / "examples" / "make_media.py"), str(folder)], folder)
    return folder


def test_the_receipt_is_what_its_script_draws(drawn: Path):
    pictures = (Image.open(folder / "receipt.png").convert("RGB") for folder in (ROOT / "examples", drawn))
    ours, again = (np.asarray(picture, np.int16) for picture in pictures)
    assert ours.shape == again.shape == (900, 600, 3)
    assert np.abs(ours - again).mean() < 2.0  # another version of Pillow may draw letters a little differently


def test_the_clip_is_what_its_script_draws(drawn: Path):
    from tubelet import read

    ours, again = read([ROOT / "examples" / "walk.mp4", drawn / "walk.mp4"], fps=4.0)
    assert ours.times_s == again.times_s
    assert ours.complete
    assert (ours.width, ours.height, ours.duration_s) == (480, 270, 4.5)
    assert np.abs(ours.frames.astype(np.int16) - again.frames).mean() < 2.0


def test_the_example_files_are_small():
    assert (ROOT / "examples" / "receipt.png").stat().st_size < 100_000
    assert (ROOT / "examples" / "walk.mp4").stat().st_size < 300_000


@pytest.mark.parametrize(
    ("script", "names"), [("show", ["show"]), ("commands", ["answer", "select", "compare", "tokens"])]
)
def test_pictures_of_the_documents_are_what_their_script_draws(
    script: str, names: list[str], workplace: Path, run: Run
):
    (workplace / "docs" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "images" / f"make_{script}.py", workplace / "docs" / "images")
    run([f"docs/images/make_{script}.py"], workplace)
    for name in names:
        pictures = (Image.open(folder / f"docs/images/{name}.png").convert("RGB") for folder in (ROOT, workplace))
        ours, again = (np.asarray(picture, np.int16) for picture in pictures)
        assert ours.shape == again.shape
        assert np.abs(ours - again).mean() < 3.0


# ---- numbers and links


def test_numbers_are_the_stored_results(run: Run):
    run([str(ROOT / "benchmarks" / "tables.py"), "--check"], ROOT)


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ +(.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_in_the_documents_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_named_in_the_documents_exist(page: Path):
    """`reading/source.py` and the like, as the tour and the decisions name them."""
    for file in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md|json))`", page.read_text(encoding="utf-8")):
        assert (ROOT / file).exists() or (ROOT / "src" / "tubelet" / file).exists(), f"{name(page)} names {file}"


# ---- the tree


def test_no_file_is_large():
    large = {name(f): f.stat().st_size for f in tracked() if f.stat().st_size > LARGEST}
    assert not {n for n in large if not n.startswith(("tests/golden/", WEIGHTS))}, large
    assert sum(f.stat().st_size for f in tracked() if name(f).startswith(WEIGHTS)) < LARGEST_WEIGHTS


def test_the_golden_cases_stay_together_small():
    cases = [f for f in tracked() if name(f).startswith("tests/golden/") and f.suffix in (".json", ".safetensors")]
    assert 1_000_000 < sum(f.stat().st_size for f in cases) < 16_000_000


def test_no_file_knows_the_machine_it_was_written_on():
    home = re.compile(r"(?<![\w.])/(?:work|root|farm|opt|home|Users|tmp)/[\w.]", re.ASCII)
    allowed = {"tests/test_docs.py"}
    found = {}
    for file in tracked():
        if name(file) in allowed or file.suffix in (".png", ".mp4", ".safetensors"):
            continue
        lines = file.read_text(encoding="utf-8").splitlines()
        hits = [i for i, line in enumerate(lines, 1) if home.search(line)]
        if hits:
            found[name(file)] = hits
    assert not found


def test_the_version_is_said_once():
    """In pyproject.toml for installers and in the package for users: the same."""
    import tomllib

    import tubelet

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == tubelet.__version__
    assert f"## {tubelet.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
