"""Every shell line of the documents is run as it is written, page by page, or stands here with the reason why not."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.cli.cli_inputs import write_clip, write_picture
from tests.forked import Forked
from tests.language.vlm.tiny_speakers import tokenizer, whole_model
from tests.reduce.tiny_siglip import saved
from tests.test_docs import PAGES, ROOT, TRAINING, name
from tests.train.evaluate.benchmark_files import write_benchmark

from tubelet.language.project.projector import build_projector
from tubelet.train.pages.reader import ReaderConfig, build_reader
from tubelet.weights.load import untrained

PROGRAMS = ("tubelet", "python", "pytest", "pip", "torchrun", "pre-commit", "cat")
# What a line begins with -> why it is not run here. That the files and modules it names are there is checked.
NOT_RUN = {
    "pip install": "installs packages from an index",
    "pre-commit install": "changes the clone it is run in",
    "pytest": "this suite itself",
    "python -m pytest": "this suite itself",
    "tubelet serve": "stays until it is interrupted; tests/cli/test_cli_serve.py reads these lines",
    "python -m tests.torture.measure": "thousands of inputs, minutes",
    "python -m tests.golden": "records upstream implementations, which are not here",
    "python -m tools.corpus": "fetches other projects' sources",
    "tubelet pages": "prints in fonts that a machine may lack; tests/cli/test_cli_pages.py runs it with Pillow's own",
    "tubelet eval pages": "asks about those pages; tests/train/evaluate runs it",
    "python -m tubelet.train.pages": "hours, in the same fonts; tests/train/pages runs small stages",
    "python benchmarks/": "minutes of measuring; tests/benchmarks runs their small forms",
}


def shell_lines(text: str) -> list[str]:
    """The commands of indented blocks, in order: comments cut off, continued lines joined, `&&` taken apart."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = re.findall(r"^    (\S.*)$", re.sub(r" *\\\n +", " ", plain), re.M)
    parts = (part.strip() for line in lines for part in re.split(r"\s#", line)[0].split("&&"))
    return [part for part in parts if re.match(rf"(?:{'|'.join(PROGRAMS)})(?: |$)", part)]


def lines_of(page: Path) -> list[str]:
    found = shell_lines(page.read_text(encoding="utf-8"))
    return [line for line in found if page.name not in TRAINING or not line.startswith(("tubelet ", "torchrun "))]


def why_not(line: str) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), None)


WITH_LINES = [page for page in PAGES if any(why_not(line) is None for line in lines_of(page))]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small things under every name that the documents use."""
    folder = tmp_path_factory.mktemp("stocked")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for example in ("receipt.png", "walk.mp4"):
        shutil.copy(ROOT / "examples" / example, folder)
    shutil.copy(folder / "receipt.png", folder / "page.png")
    Image.open(folder / "receipt.png").convert("RGB").save(folder / "page.jpg")
    write_picture(folder / "scroll.jpg", 400, 1800)
    (folder / "scans").mkdir()
    for i in (2, 10):
        write_picture(folder / "scans" / f"{i}.png", 90 + i, 60, i)
    for model in ("models/Qwen2.5-VL-3B-Instruct", "MODEL"):
        whole_model("qwen2_5_vl", seed=7).save_pretrained(folder / model)
        tokenizer().save_pretrained(folder / model)
    saved(folder / "FOLDER", image_size=64)
    for root in ("spdocvqa_images/documents", "test/png", "scannet_clips"):
        (folder / root).mkdir(parents=True)
    for i, picture in enumerate(("pybv0228_81.png", "nkbl0226_1.png")):
        write_picture(folder / "spdocvqa_images" / "documents" / picture, 120, 90 + 10 * i, i)
    write_picture(folder / "test" / "png" / "41699051005347.png", 120, 100)
    for scene in ("scene0011_00", "scene0380_00", "scene0050_00"):
        write_clip(folder / "scannet_clips" / f"{scene}.mp4", frames=4)
    for benchmark in ("docvqa", "chartqa", "sqa3d"):
        for file in write_benchmark(folder, benchmark):
            file.rename(folder / file.name.replace("_val_scannetv2", "_test_scannetv2"))
    write_own_pages(folder)
    encoder = untrained("llava_vit_packing_small", seed=1)
    torch.save(tower_state(encoder), folder / "tower.pt")
    projector = build_projector("spatial_merge", encoder.config.hidden, 64)
    torch.save({f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}, folder / "mm_projector.bin")
    return folder


def write_own_pages(folder: Path) -> None:
    """What train-a-reader.md goes on with: a reader, its file, and three pages of one's own."""
    small = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=1, text_mlp=64, pointing=0)
    build_reader(small).save_pretrained(folder / "my-reader")
    page = (ROOT / "docs" / "guides" / "train-a-reader.md").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)[0])
    (folder / "mine").mkdir()
    asked = {"from": "human", "value": "<image>\nWhat is the badge number?"}
    records = []
    for i in range(3):
        write_picture(folder / "mine" / f"{i}.png", 128, 96, i)
        records.append({"image": f"{i}.png", "conversations": [asked, {"from": "gpt", "value": str(100 + i)}]})
    (folder / "mine.json").write_text(json.dumps(records))


def tower_state(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a tower as its upstream saves them."""
    from tubelet.families.catalogue import require_variant
    from tubelet.families.family import to_theirs

    family, config = require_variant("llava_vit_packing_small")
    return {k: v.clone() for k, v in to_theirs(encoder.state_dict(), family.formats["packing"], config).items()}


def in_a_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line with pipes or redirections, `tubelet` and `python` being those of this interpreter."""
    begin = f'tubelet() {{ "{sys.executable}" -m tubelet "$@"; }}; '
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["sh", "-c", begin + line], cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("page", WITH_LINES, ids=name)
def test_the_shell_lines_of_a_page_run_one_after_the_other(page: Path, stocked: Path, tmp_path: Path, forked: Forked):
    place = tmp_path / "place"
    shutil.copytree(stocked, place)
    for line in lines_of(page):
        if why_not(line) is not None:
            continue
        first, *rest = shlex.split(line)
        if set("|<>") & set(rest) or first == "cat":
            done = in_a_shell(line, place)
        else:
            done = forked(rest if first == "python" else ["-m", first, *rest], place)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if page.name == "README.md":
            assert "untrained" not in (done.stdout + done.stderr).lower()
        if line.startswith("tubelet ask examples/receipt.png"):
            assert "34.45" in done.stdout and "not sure" not in done.stdout
            assert (place / "answer.png").stat().st_size > 20_000


def test_lines_that_are_not_run_are_few_and_name_what_is_there():
    left = {start: [] for start in NOT_RUN}
    for page in PAGES:
        for line in lines_of(page):
            for start in NOT_RUN:
                if line.startswith(start):
                    left[start].append(line)
    assert all(left.values()), "a reason without a line"
    for line in (line for lines in left.values() for line in lines):
        words = shlex.split(line)
        for path in (word for word in words[1:] if re.match(r"(?:tests|benchmarks|docs|src)/", word)):
            assert (ROOT / path).exists(), line
        if words[:2] == ["python", "-m"] and words[2] != "pytest":
            assert find_spec(words[2]) is not None, line


def test_commands_of_training_pages_are_followed_elsewhere():
    for page in (page for page in PAGES if page.name in TRAINING):
        assert lines_of(page) == [], page


def test_what_a_shell_line_is():
    text = "a\n\n    tubelet a \\\n        b   # why\n    pip install x && tubelet c\n    x = tubelet\n"
    text += "\n```\n    tubelet d\n```\n"
    assert shell_lines(text) == ["tubelet a b", "pip install x", "tubelet c"]
