"""Registries with percentages, data sets one after the other, spares and the tally of what is bad."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.data_sets import lcs558k, lines, llava

from tubelet.errors import ConfigError, DataError, InputError
from tubelet.train.data.mixture import Mixture, asked, part_of, read_registry
from tubelet.train.data.open import open_dataset
from tubelet.train.data.sample import Dataset
from tubelet.train.data.spare import BadSample, Spares, Tally, planned


def text_only(path: Path, count: int, name: str = "s") -> Path:
    return lines(path, [{**llava(i, None, "?", f"{name} {i}"), "id": f"{name}{i}"} for i in range(count)])


def registry(folder: Path) -> Path:
    text_only(folder / "scanqa.jsonl", 100, "a")
    text_only(folder / "sqa3d.jsonl", 10, "b")
    said = {
        "scanqa": {"annotation_path": "scanqa.jsonl", "data_path": ""},
        "sqa3d": {"annotation_path": str(folder / "sqa3d.jsonl"), "data_path": "."},
    }
    path = folder / "sets.json"
    path.write_text(json.dumps(said))
    return path


def ids(data: Dataset) -> list[str]:
    return [data[i].id for i in range(len(data))]


def test_a_registry_with_percentages(tmp_path: Path):
    path = registry(tmp_path)
    whole = ids(open_dataset(f"{path}:scanqa"))
    half = ids(open_dataset(f"{path}:scanqa%50,sqa3d"))
    assert len(half) == 60
    assert half[50:] == [f"b{i}" for i in range(10)]
    assert half[:50] == [i for i in whole if i in set(half)]  # in the data set's order, none twice
    assert ids(open_dataset(f"{path}:scanqa%50,sqa3d")) == half
    assert ids(open_dataset(f"{path}:scanqa%50", seed=1)) != half[:50]
    assert len(open_dataset(f"{path}:scanqa%29")) == 29  # int(100 * 0.29) is 28
    assert open_dataset(f"{path}:scanqa%50").fingerprint != open_dataset(f"{path}:scanqa").fingerprint


def test_a_choice_is_the_same_in_another_process(tmp_path: Path):
    path = registry(tmp_path)
    code = (
        "import sys; from tubelet.train.data.open import open_dataset as o; d = o(sys.argv[1]); print(d[0].id, d[7].id)"
    )
    asked_for = f"{path}:scanqa%20"
    done = subprocess.run([sys.executable, "-c", code, asked_for], capture_output=True, text=True, check=True)
    data = open_dataset(asked_for)
    assert done.stdout.split() == [data[0].id, data[7].id]


def test_what_is_wrong_with_a_registry_is_told(tmp_path: Path):
    path = registry(tmp_path)
    for text, words in (
        ("scanqa%0", "a percentage is 1 to 100, got 0"),
        ("scanqa%101", "got 101"),
        ("nothing", "no data set 'nothing'; there are scanqa, sqa3d"),
        ("", "no data set ''"),
        ("scanqa%5%5", "no data set 'scanqa%5'"),
    ):
        with pytest.raises(InputError, match=words):
            open_dataset(f"{path}:{text}")
    for said, words in (
        ([], "a registry is an object"),
        ({"a": {"annotation_path": "x"}}, "'a' has the texts annotation_path and data_path"),
        ({"a": {"annotation_path": "x", "data_path": 3}}, "'a' has the texts"),
        ({"a": {"annotation_path": "x", "data_path": "", "code": "y"}}, "'a' has the texts"),
        ({"a%50": {"annotation_path": "x", "data_path": ""}}, "no comma and no percentage"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(said))
        with pytest.raises(ConfigError, match=words):
            read_registry(tmp_path / "bad.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_registry(tmp_path / "nowhere.json")


@given(st.text("ab%5,", max_size=12))
def test_any_words_are_names_or_an_error(text: str):
    try:
        found = asked(text, ["a", "b"])
    except InputError:
        return
    assert all(name in ("a", "b") for name, _ in found)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), percent=st.integers(1, 100))
def test_data_sets_one_after_the_other(sizes: list[int], percent: int, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sets")
    parts = [open_dataset(text_only(folder / f"{i}.jsonl", n, f"{i}-")) for i, n in enumerate(sizes)]
    taken = [part_of(p, percent, seed=3) for p in parts]
    slow = [p[i].id for p in taken for i in range(len(p))]
    assert [len(t) for t in taken] == [n * percent // 100 for n in sizes]
    if slow:
        assert ids(Mixture(tuple(taken))) == slow
    else:
        with pytest.raises(InputError, match="not one sample"):
            Mixture(tuple(taken))


def test_several_paths_are_one_data_set(tmp_path: Path):
    data = open_dataset([lcs558k(tmp_path, 3), text_only(tmp_path / "b.jsonl", 2)])
    assert len(data) == 5
    assert ids(data)[3:] == ["s0", "s1"]


# ---- spares


@given(st.integers(0, 2**32), st.lists(st.integers(-1, 20), min_size=1, max_size=30), st.data())
def test_spares_are_a_pure_function_and_never_longer(seed: int, tokens: list[int], data: st.DataObject):
    counted = np.array(tokens, np.int64)
    index = data.draw(st.integers(0, len(tokens) - 1))
    spares = Spares(len(tokens), seed, counted)
    good = sorted(t for t in tokens if t >= 0)
    if not good:
        with pytest.raises(DataError, match="not one sample"):
            spares.limit(index)
        return
    limit = tokens[index] if tokens[index] >= 0 else good[(len(good) - 1) // 2]
    found = list(spares.of(index))
    assert sorted(found) == [i for i, t in enumerate(tokens) if 0 <= t <= limit and i != index]
    assert found == list(Spares(len(tokens), seed, counted).of(index))
    assert planned(counted)[index] == limit == spares.limit(index)


def test_spares_differ_by_seed_and_sample():
    first = {(seed, i): next(Spares(1000, seed).of(i)) for seed in range(10) for i in range(10)}
    assert len(set(first.values())) > 80
    assert list(Spares(1, 0).of(0)) == []
    with pytest.raises(InputError, match="one sample or more"):
        Spares(0, 0)


def test_the_tally_counts_once_and_stops_above_its_share():
    tally = Tally(200)
    bad = [BadSample(i, f"a.json:{i}", "DecodeError" if i else "InputError", f"reason {i}") for i in range(3)]
    tally.add(bad[:2])
    tally.add(bad[:2])  # the same ones, from another epoch or rank
    assert len(tally.bad) == 2
    assert tally.kinds() == {"DecodeError": 1, "InputError": 1}
    with pytest.raises(
        DataError, match=r"3 of 200 samples cannot be used, more than 1.00% \(2 DecodeError, 1 Inp"
    ) as caught:
        tally.add(bad)
    assert "a.json:0" in str(caught.value)
    assert "reason 0" in str(caught.value)
