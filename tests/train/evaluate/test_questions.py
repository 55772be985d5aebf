"""Questions of benchmarks, read from the forms their authors publish, and what is no such form."""

import json
from pathlib import Path

import pytest
from tests.train.evaluate.benchmark_files import DOCVQA, SQA3D_QUESTIONS, VSIBENCH, write_benchmark

from tubelet.errors import InputError, UnsafePath
from tubelet.train.evaluate.questions import FRAMES, LETTER, READERS, SHORT, read_questions


def test_docvqa_and_textvqa(tmp_path: Path):
    one, two = read_questions("docvqa", write_benchmark(tmp_path, "docvqa"), str(tmp_path))
    assert (one.id, one.accepted, one.kind) == ("49153", ("0.28",), "figure/diagram/form")
    assert one.prompt == f"What is the actual value per 1000?\n{SHORT}"
    assert one.file == str(tmp_path / "documents" / "pybv0228_81.png")
    assert two.accepted == ("itc limited", "ITC Limited")
    [text] = read_questions("textvqa", write_benchmark(tmp_path, "textvqa"), str(tmp_path))
    assert (text.id, len(text.accepted), text.kind) == ("34602", 10, "")
    (tmp_path / "003a8ae2ef43b901.jpg").touch()
    assert text.file == str(tmp_path / "003a8ae2ef43b901.jpg")
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "003a8ae2ef43b901.jpg").touch()
    assert text.file == str(tmp_path / "train_images" / "003a8ae2ef43b901.jpg")


def test_chartqa_s_files_are_its_kinds(tmp_path: Path):
    read = read_questions("chartqa", write_benchmark(tmp_path, "chartqa"), str(tmp_path))
    assert [(q.id, q.kind, q.accepted) for q in read] == [
        ("test_human/0", "test_human", ("14",)),
        ("test_human/1", "test_human", ("No",)),
        ("test_augmented/0", "test_augmented", ("14",)),
    ]
    assert read[0].file == str(tmp_path / "png" / "41699051005347.png")


def test_scenes(tmp_path: Path):
    [where] = read_questions("scanqa", write_benchmark(tmp_path, "scanqa"), str(tmp_path))
    assert where.prompt == f"{FRAMES}\nWhere is the chair?\n{SHORT}"
    assert where.file == str(tmp_path / "scene0011_00.mp4")
    (tmp_path / "scene0011_00.mkv").touch()
    assert where.file == str(tmp_path / "scene0011_00.mkv")
    brown, behind = read_questions("sqa3d", write_benchmark(tmp_path, "sqa3d"), str(tmp_path))
    assert (brown.accepted, brown.kind, behind.accepted, behind.kind) == (("brown",), "what", ("behind",), "others")
    expected = f"{FRAMES}\nStanding in front of the dustbin. What color is the desk to my right?\n{SHORT}"
    assert brown.prompt == expected


def test_vsibench_asks_for_a_number_or_a_letter(tmp_path: Path):
    read = read_questions("vsibench", write_benchmark(tmp_path, "vsibench"), str(tmp_path))
    assert read[0].prompt == f"{FRAMES}\nQuestion 0?\nPlease answer the question using a single word or phrase."
    assert read[1].prompt == f"{FRAMES}\nQuestion 1?\nOptions:\nA. sofa\nB. chair\n{LETTER}"
    assert [q.kind for q in read[:2]] == ["object_counting", "object_rel_distance"]
    assert read[0].file == str(tmp_path / "scannet" / "scene0050_00.mp4")


@pytest.mark.parametrize(
    ("benchmark", "tree", "told"),
    [
        ("docvqa", {"data": {}}, "no list called data"),
        ("docvqa", [], "no list called data"),
        ("docvqa", {"data": []}, "there is no question"),
        ("docvqa", {"data": [{**DOCVQA["data"][0], "answers": []}]}, "is this a split without answers"),
        ("docvqa", {"data": [{"question": "?"}]}, "not a question of docvqa: questionId"),
        ("docvqa", {"data": [DOCVQA["data"][0]] * 2}, "the id 49153 stands there twice"),
        ("docvqa", {"data": ["text"]}, "a question is an object with names"),
        ("docvqa", {"data": [{**DOCVQA["data"][0], "image": "../../secret.png"}]}, "steps up out of a folder"),
        ("chartqa", {"data": []}, "no list of questions"),
        ("scanqa", {}, "no list of questions"),
        ("sqa3d", SQA3D_QUESTIONS, "two files: questions and annotations"),
        ("sqa3d", [], "two files"),
        ("sqa3d", {"questions": [{}], "annotations": [3]}, "a question is an object with names"),
        ("sqa3d", {"questions": [{}], "annotations": [{}]}, "not a question of sqa3d: question"),
        ("vsibench", [{**VSIBENCH[0], "options": ["A. 1"]}], "object_counting with 1 options"),
    ],
)
def test_what_is_no_file_of_the_benchmark(tmp_path: Path, benchmark: str, tree: object, told: str):
    (tmp_path / "file.json").write_text(json.dumps(tree))
    with pytest.raises((InputError, UnsafePath), match=told):
        read_questions(benchmark, [tmp_path / "file.json"], str(tmp_path))


def test_files_that_are_not_json_and_benchmarks_that_are_not_there(tmp_path: Path):
    (tmp_path / "test.jsonl").write_text('{"id": 1}\n{')
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_questions("vsibench", [tmp_path / "test.jsonl"], str(tmp_path))
    with pytest.raises(InputError, match=f"there are {', '.join(READERS)}"):
        read_questions("gqa", [], str(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        read_questions("docvqa", write_benchmark(tmp_path, "docvqa"), str(tmp_path / "none"))
