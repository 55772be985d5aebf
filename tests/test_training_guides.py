"""The guides of training, followed from the top to the end: shell lines and Python blocks, in one place."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from tests.forked import Forked
from tests.test_docs import ROOT, TRAINING
from tests.train.tiny_models import write_all


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_all(folder)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def steps(page: Path) -> list[list[str]]:
    """Arguments of python for every shell line and Python block, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(?P<code>.*?)^```|^    (?P<line>(?:tubelet|torchrun) [^\n]+)$", text, re.M | re.S)
    out: list[list[str]] = []
    for match in found:
        if match["code"]:
            out.append(["-c", match["code"]])
            continue
        first, *rest = shlex.split(match["line"].split("  #")[0])
        out.append(["-m", "tubelet" if first == "tubelet" else "torch.distributed.run", *rest])
    return out


def followed(page: str, launched: bool) -> list[list[str]]:
    return [one for one in steps(ROOT / "docs" / "guides" / page) if ("torch.distributed.run" in one) is launched]


@pytest.mark.parametrize("page", TRAINING)
def test_a_guide_can_be_followed(page: str, place: Path, forked: Forked):
    asked = followed(page, launched=False)
    assert asked
    for arguments in asked:
        done = forked(arguments, place)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_torchrun_lines_run(place: Path, forked: Forked):
    asked = followed("many-gpus.md", launched=True)
    assert len(asked) == 2
    for arguments in asked:
        done = forked(arguments, place, timeout=600)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
        assert "learned projector: 4 tensors, 3,936 of 101,200 (3.9 %)" in done.stderr


def test_what_the_guide_says_of_a_resumed_run_is_what_is_said(place: Path, forked: Forked):
    words = ["--folder", "runs/told", "--schedule.kind", "constant", "--steps"]
    for count in ("3", "6"):
        done = forked(["-m", "tubelet", "train", "examples/train/projector.yaml", *words, count], place)
    said = "goes on from step 3 of runs/told/step-00000003; steps 3 -> 6; same machine, bit-equal"
    assert done.stderr.splitlines()[0] == said
    page = (ROOT / "docs" / "guides" / "resume-after-a-kill.md").read_text(encoding="utf-8")
    assert said.replace("told", "one") in " ".join(page.split())
