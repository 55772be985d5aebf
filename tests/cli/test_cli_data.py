"""`tubelet data check`: what it counts, what it calls wrong, the histogram, the exit code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Run
from tests.train.data_sets import archive, lcs558k, lines, llava, picture, picture_bytes

from tubelet.train.data.check import check, describe, histogram
from tubelet.train.data.open import open_dataset


def checked(tubelet: Run, *args: object, code: int = 0) -> dict[str, Any]:
    done = tubelet("data", "check", *args, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_a_whole_data_set(tubelet: Run, tmp_path: Path):
    found = checked(tubelet, lcs558k(tmp_path, 6), "--plot", "lengths.png", "--merge", 2)
    assert (found["samples"], found["read"], found["looked"], found["bad"]) == (6, 6, 6, 0)
    assert found["holds"] == {"image": 6}
    assert found["media"] == {"image": 6}
    assert (found["turns"], found["same_id"], found["same_content"]) == (12, 0, 0)
    assert found["counted"] == "visual tokens"
    assert found["tokens"]["samples"] == sum(found["tokens"]["counts"]) == 6
    with Image.open(tmp_path / "lengths.png") as drawn:
        assert drawn.width > 400


def test_what_is_wrong_is_counted_and_named(tubelet: Run, tmp_path: Path):
    for name in "abcd":
        picture(tmp_path / f"{name}.png", seed=ord(name))
    (tmp_path / "d.png").write_text("text")
    records = [
        llava(0, "a.png", "<image>?", "x"),
        llava(0, "b.png", "<image>?", "x"),  # its id again
        llava(1, "a.png", "<image>?", "x"),  # its content again
        llava(2, "missing.png", "<image>?", "x"),
        llava(3, "c.png", "?", "x"),
        llava(4, "../a.png", "<image>?", "x"),
        llava(5, "d.png", "<image>?", "x"),
        {"id": 6, "conversations": "none"},
        llava(7, ["a.png", "b.png"], "<image><image>?", "x"),
        llava(8, None, "?", "x"),
    ]
    path = lines(tmp_path / "a.jsonl", records)
    with path.open("a") as f:
        f.write("{broken\n")
    found = checked(tubelet, path, "--all", code=1)
    assert found["faults"] == {
        "missing file": 1,
        "placeholders": 1,
        "unsafe name": 1,
        "unreadable file": 1,
        "wrong form": 1,
        "broken JSON": 1,
    }
    assert (found["samples"], found["bad"]) == (11, 6)
    assert (found["same_id"], found["same_content"]) == (1, 1)
    assert found["holds"] == {"image": 5, "several images": 1, "text only": 1}
    told = {one["kind"]: one for one in found["listed"]}
    assert told["broken JSON"]["where"].endswith("a.jsonl:11")
    assert "missing.png" in told["missing file"]["reason"]
    assert told["placeholders"]["reason"] == "0 placeholders for 1 pictures and clips"
    assert told["unreadable file"]["where"].endswith("d.png")
    done = tubelet("data", "check", path)
    assert done.returncode == 1
    for words in (
        "WRONG: missing file",
        "a.jsonl:11: broken JSON",
        "the same id twice",
        "visual tokens a sample",
        "####",
    ):
        assert words in done.stdout, words


def test_other_forms_and_wrong_command_lines(tubelet: Run, tmp_path: Path):
    shard = archive(tmp_path / "a.tar", {"0.png": picture_bytes(40, 40), "0.txt": b"a cat"})
    picture(tmp_path / "folder/b.png")
    (tmp_path / "folder/b.txt").write_text("a bee")
    found = checked(tubelet, shard, tmp_path / "folder")
    assert (found["samples"], found["looked"], found["bad"]) == (2, 2, 0)
    for args, code, words in (
        (("check",), 2, "name at least one data set"),
        (("check", shard, "--merge", 0), 2, "--merge must be at least 1"),
        (("check", "nowhere.json"), 1, "there is no such file or folder"),
        (("check", shard, "--tokenizer", "folder"), 1, "the tokenizer cannot be read"),
        (("mend", shard), 2, ""),
    ):
        done = tubelet("data", *args)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    (tmp_path / "broken.json").write_text('[{"a": 1}')
    assert "broken.json:1: broken JSON: the list breaks off" in tubelet("data", "check", "broken.json").stderr


# ---- the library's part


def test_a_sample_of_a_large_data_set_is_chosen_by_the_seed(tmp_path: Path):
    data = open_dataset(lines(tmp_path / "a.jsonl", [llava(i, None, "?", f"{i}") for i in range(500)]))
    seen: list[int] = []
    told: list[tuple[int, int]] = []

    def measure(sample: Any) -> int:
        seen.append(int(sample.id))
        return int(sample.id)

    found = check(data, records=200, files=50, measure=measure, progress=lambda *n: told.append(n))
    assert (found.samples, found.read, found.looked, len(set(seen))) == (500, 200, 50, 50)
    assert told[-1] == (200, 200)
    again = list(seen)
    seen.clear()
    check(data, records=200, files=50, measure=measure)
    assert seen == again
    seen.clear()
    check(data, records=200, files=50, measure=measure, seed=1)
    assert seen != again
    whole = check(data, records=None, files=None, measure=measure)
    assert (whole.read, whole.looked) == (500, 500)


@pytest.mark.parametrize("values", [[0], [7], [3, 3, 3], [0, 1000], list(range(0, 5000, 7)), [10**12, 10**12 + 3]])
def test_bins_hold_what_lies_between_their_borders(values: list[int]):
    borders, counts = histogram(np.array(values, np.int64))
    assert len(borders) == len(counts) + 1 <= 26
    for low, high, count in zip(borders, borders[1:], counts, strict=False):
        assert count == sum(low <= v < high for v in values)
    assert sum(counts) == len(values)
    said = describe(np.array(values, np.int64))
    assert said is not None
    assert (said["least"], said["most"], said["sum"]) == (min(values), max(values), sum(values))
    assert describe(np.zeros(0, np.int64)) is None
