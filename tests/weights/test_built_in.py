"""What comes with the package: found by its name, kept in float32, a whole model and its words, within its size."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tubelet
from tubelet.cli import main
from tubelet.errors import WeightsError
from tubelet.inspect.budget.outline import outline_model
from tubelet.language.project.files import load_projector
from tubelet.reduce.spelled_text import SpelledText
from tubelet.weights.load import load_encoder, report_of
from tubelet.weights.locate import BUILT_IN, find_folder
from tubelet.weights.save import save_encoder

EXAMPLES = Path(__file__).parents[2] / "examples"
RECEIPT = EXAMPLES / "receipt.png"


def test_the_name_leads_into_the_package():
    folder = find_folder("reader")
    assert (folder.name, folder.folder) == ("reader", BUILT_IN["reader"])
    assert folder.fetch is None
    with pytest.raises(WeightsError, match="did you mean reader"):
        find_folder("raeder")


def test_it_is_stored_in_half_precision_and_kept_in_float32_unless_asked():
    assert {entry.dtype for entry in find_folder("reader").checkpoint().entries.values()} == {"F16"}
    for kept, asked in ((torch.float32, None), (torch.bfloat16, torch.bfloat16)):
        encoder = load_encoder("reader", dtype=asked)
        assert {p.dtype for p in encoder.parameters()} == {kept}
        assert {p.dtype for p in load_projector("reader", dtype=asked).parameters()} == {kept}
        vlm = tubelet.VLM.from_pretrained("reader", dtype=asked)
        assert {p.dtype for p in vlm.parameters()} == {kept}
    assert outline_model("reader").stored == "float32"
    report = report_of(load_encoder(BUILT_IN["reader"]))  # the same folder by its path, as it is stored
    assert report is not None and report.dtype == "float16"


def test_what_stands_in_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_encoder("reader").config
    save_encoder(tubelet.untrained("llava_vit_packing_small"), tmp_path / "reader", "packing")
    monkeypatch.chdir(tmp_path)
    found = load_encoder("reader").config
    assert (found.hidden, config.hidden) == (384, 256)
    assert find_folder("reader").dtype is None


def test_it_is_trained_and_says_so():
    encoder = load_encoder("reader")
    assert not encoder.untrained
    assert not tubelet.VLM.from_pretrained("reader").untrained
    card = (BUILT_IN["reader"] / "README.md").read_text(encoding="utf-8")
    for part in ("## Data", "## How it is made again", "## What it reads", "## What it does not read", "apache-2.0"):
        assert part in card


def test_the_readme_says_what_the_card_measured():
    card = (BUILT_IN["reader"] / "README.md").read_text(encoding="utf-8")
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    row = re.search(r"^\| receipts, forms, tables \|(.+)\|$", card, re.M)
    assert row is not None
    exact, _, _, sure, wrong = (float(cell.split("%")[0]) for cell in row[1].split("|"))
    assert f"answers {exact:.0f} % of" in readme
    assert f"{wrong:.0f} % are sure and wrong" in readme
    assert f'says "not sure" to {100 - sure:.0f} %' in readme
    *steps, last = re.findall(r"^\d-\w+: ([\d,]+) steps", card, re.M)
    guide = (EXAMPLES.parent / "docs" / "guides" / "train-a-reader.md").read_text(encoding="utf-8")
    assert f"{', '.join(steps)} and {last} steps" in guide


def test_its_words_are_beside_it():
    side = SpelledText.load("reader")
    assert side.words("What is the total?").shape[0] == 1
    assert side.matrix.in_features == load_encoder("reader").config.out


def test_a_plan_of_it_needs_no_torch():
    code = "import sys; from tubelet.cli import main; code = main(['plan', '--size', '600x900', '--json']); "
    code += "sys.exit(code or ('torch' in sys.modules) * 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [item["tokens"] for item in said["items"]] == [150]


def test_it_reads_the_total_of_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    drawn = tmp_path / "answer.png"
    assert main(["ask", str(RECEIPT), "What is the total?", "--show", str(drawn), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "34.45" in said["answer"]
    assert said["sure"]
    left, top, right, bottom = said["places"][0]["box"]
    assert left < 525 and right > 340 and top < 605 and bottom > 560  # where the script of the example prints it
    assert drawn.stat().st_size > 20_000


def test_it_finds_the_words_of_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the tokens of the receipt, the best 24 of 150 for a word cover the line it is printed in."""
    from tubelet.packed import Packed
    from tubelet.reduce.scores import covered

    monkeypatch.chdir(tmp_path)
    out = tmp_path / "kept.safetensors"
    asked = ("--text", "What is the total?", "--method", "text", "--budget", "24", "--out", str(out), "--quiet")
    assert main(["select", str(RECEIPT), *asked]) == 0
    kept = Packed.load(out)
    word = covered(kept, {0: [(75, 560, 195, 600)]})  # TOTAL, as it is printed
    assert int((word > 0).sum()) >= 2
