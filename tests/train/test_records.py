"""JSON lists and JSON lines: found by offset, read by number, every fault told by file, line and value."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.data_sets import lcs558k, lines, llava, picture

from tubelet.errors import AlignmentError, DecodeError, InputError, UnsafePath
from tubelet.train.data import lines as lines_module
from tubelet.train.data.lines import open_records
from tubelet.train.data.open import open_dataset
from tubelet.train.data.record import parse_json, sample_of
from tubelet.train.data.root import Root
from tubelet.train.data.sample import Media, Sample, Turn

SAID = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def made(record: object) -> Sample:
    return sample_of(record, "a.json:1", lambda name, kind: Media(kind, str(name)))


# ---- the published forms


def test_a_list_as_lcs558k_has_it(tmp_path: Path):
    data = open_dataset(lcs558k(tmp_path, 6))
    assert len(data) == 6
    assert [data[i].id for i in (5, 0)] == ["000000005", "000000000"]
    first, second = data[0], data[1]
    assert first.turns[0].parts == ("Give a brief description of the image.\n", 0)
    assert second.turns[0].parts == (0, "\nGive a brief description of the image.")
    assert second.turns[1] == Turn("assistant", ("picture number 1, \u00e9t\u00e9 \U0001f600",))
    assert second.media == (Media("image", str(tmp_path / "00000/000000001.jpg")),)


def test_chats_with_typed_content(tmp_path: Path):
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "One "}, {"type": "video"}]
    content += [{"type": "text", "text": "and <image>?"}]
    record = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        ],
        "videos": ["b.mp4"],
    }
    sample = made(record)
    assert [t.role for t in sample.turns] == ["system", "user", "assistant"]
    assert sample.turns[1].parts == (0, "One ", 1, "and <image>?")
    assert [(m.kind, m.source) for m in sample.media] == [("image", "a.png"), ("video", "b.mp4")]


def test_spatial_mllm_and_codec_records():
    video = {"conversations": [{"from": "human", "value": "<video>\nHow many?"}, SAID[1]], "video": "scannet/a.mp4"}
    assert made(video).media == (Media("video", "scannet/a.mp4"),)
    eight = {"id": 3, "image": [f"{i}.jpg" for i in range(8)], "conversations": []}
    eight["conversations"] = [{"from": "human", "value": "<image>" * 8 + "Why?"}, SAID[1]]
    assert [m.source for m in made(eight).media] == eight["image"]
    assert made(eight).id == "3"


def test_a_conversation_that_begins_with_the_assistant_loses_that_turn():
    sample = made({"conversations": [{"from": "gpt", "value": "I am here"}, *SAID]})
    assert [t.text for t in sample.turns] == ["Hi", "Hello"]


def test_what_an_assistant_says_about_tags_is_text():
    sample = made({"conversations": [SAID[0], {"from": "gpt", "value": "write <image> there"}]})
    assert sample.turns[1].parts == ("write <image> there",)


# ---- what is wrong


WRONG: list[tuple[object, type[Exception], str]] = [
    (7, InputError, "a sample is a JSON object, got 7"),
    ({}, InputError, "a list `conversations` or `messages`, got None"),
    ({"conversations": {}}, InputError, "got {}"),
    ({"conversations": [3]}, InputError, "turn 0 is an object, got 3"),
    ({"conversations": [{"from": "bot", "value": "x"}]}, InputError, "got 'bot'"),
    ({"conversations": [{"from": ["human"], "value": "x"}]}, InputError, r"got \['human'\]"),
    ({"conversations": [{"from": "human", "value": 1.5}]}, InputError, "got 1.5"),
    ({"conversations": SAID[:1]}, InputError, "nothing to learn"),
    ({"conversations": [SAID[0], SAID[0], SAID[1]]}, InputError, "turn 1 is the user's"),
    ({"conversations": [SAID[0], {"from": "gpt", "value": ""}]}, InputError, "nothing to learn"),
    ({"conversations": SAID, "id": 1.5}, InputError, "an id is a text or a whole number, got 1.5"),
    ({"conversations": SAID, "image": 4}, InputError, "`image` is a file name or a list of them, got 4"),
    ({"conversations": SAID, "image": "a.png"}, AlignmentError, "0 placeholders for 1 pictures and clips"),
    ({"conversations": SAID, "image": ["a"] * 2000}, InputError, "2,000 files, above 1,024"),
    (llava(1, "a.png", "<image><image>", "x"), AlignmentError, "a placeholder <image> and no image left"),
    (llava(1, "a.png", "<video>", "x"), AlignmentError, "a placeholder <video> and no video left"),
    (llava(1, None, "<image>", "x"), AlignmentError, "a placeholder <image> and no image left"),
    ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, InputError, "got 'audio'"),
    ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, InputError, "a part is text, image or video"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, InputError, "got 1"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image"}]}]},
        InputError,
        "stand in the user's turns",
    ),
    ({"messages": [{"role": "user", "content": "x"}] * 5000}, InputError, "5,000 turns are above 4,096"),
]


@pytest.mark.parametrize(("record", "kind", "words"), WRONG)
def test_a_wrong_record_is_told_by_place_and_value(record: object, kind: type[Exception], words: str):
    with pytest.raises(kind, match=words) as caught:
        made(record)
    assert str(caught.value).startswith("a.json:1: ")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["id", "image", "images", "video", "conversations", "messages", "from", "value", "role", "content", "type"]
SHAPED = st.recursive(
    VALUES | st.sampled_from(["human", "gpt", "<image>", "text", "image"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=20,
)


@given(SHAPED)
def test_any_value_is_a_sample_or_an_error_of_ours(value: object):
    try:
        sample = made(value)
    except (InputError, UnsafePath) as e:
        assert len(str(e)) < 400
    else:
        assert sample.turns


BROKEN: list[tuple[bytes, str]] = [
    (b'{"a": NaN}', "a number that JSON does not have"),
    (b'{"a": -Infinity}', "a number that JSON does not have"),
    (b'{"a": "\\ud800"}', "not UTF-8"),
    (b'{"a": "\xff"}', "not UTF-8"),
    (b'{"a": ', "expecting value at letter 7"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "a number that JSON does not have"),
    (b'{"a": 1} x', "extra data at letter 10"),
    (b'{"a": "\x00"}', "invalid control character at letter 8"),
]


@pytest.mark.parametrize(("data", "words"), BROKEN, ids=[w for _, w in BROKEN])
def test_broken_json_is_told(data: bytes, words: str):
    with pytest.raises(DecodeError, match=f"^x:3: broken JSON: {words}$"):
        parse_json(data, "x:3")


def test_a_broken_line_is_one_bad_sample(tmp_path: Path):
    good = json.dumps({"conversations": SAID})
    path = tmp_path / "a.jsonl"
    path.write_bytes(f"\ufeff{good}\r\n\n   \n{{broken\n{good}".encode())
    data = open_records(path, Root(str(tmp_path)))
    assert len(data) == 3
    assert data[0].turns == data[2].turns
    with pytest.raises(DecodeError, match=r"a\.jsonl:4: broken JSON: expecting property name"):
        data[1]
    assert data[2].where == f"{path}:5"
    with pytest.raises(IndexError):
        data[3]


LISTS: list[tuple[str, str]] = [
    ("[]x", "more behind the end of the list"),
    ('[{"a": 1}', "the list breaks off"),
    ('[{"a": 1},]', "a comma before the end"),
    ('[{"a": 1} {"a": 2}]', "no comma between"),
    ("[3]", "a sample is a JSON object, and this begins with '3'"),
    ('[{"a": 1}, \n {"a" 2}]', "expecting ':' delimiter"),
    ('[{"a": 1}, {"a": "]', "unterminated string"),
    ("[" * 100_000, "a sample is a JSON object"),
    ('[{"a":' * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "words"), LISTS, ids=[w for _, w in LISTS])
def test_a_list_that_breaks_off_is_told(text: str, words: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DecodeError, match=words) as caught:
        open_records(path, Root(str(tmp_path)))
    assert str(caught.value).startswith(f"{path}:{2 if 'delimiter' in words else 1}: ")


@pytest.mark.parametrize("text", ["", " \n\t", "\ufeff"])
def test_an_empty_file_is_told(text: str, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="the file is empty"):
        open_records(path, Root(str(tmp_path)))


def test_a_file_without_samples_and_one_of_another_kind_are_told(tmp_path: Path):
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "word.json").write_text("null")
    (tmp_path / "a.parquet").write_text("PAR1")
    with pytest.raises(InputError, match="not one sample"):
        open_dataset(tmp_path / "none.json")
    with pytest.raises(InputError, match="neither a JSON list nor JSON lines"):
        open_dataset(tmp_path / "word.json")
    with pytest.raises(InputError, match=r"\.json, \.jsonl, \.tar or a folder"):
        open_dataset(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(tmp_path / "nothing.json")


@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), VALUES.filter(lambda v: v == v), max_size=4), max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chunk=st.sampled_from([1, 3, 7, 64, 1 << 20]),
)
def test_records_are_found_where_json_finds_them(
    records: list[dict[str, Any]], indent: int | None, ascii_only: bool, chunk: int, tmp_path_factory: Any
):
    """The index against json.loads of the whole, whatever the pieces that the file is read in."""
    try:
        text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        return
    folder = tmp_path_factory.mktemp("lists")
    (folder / "a.json").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "_CHUNK", chunk)
        found = open_records(folder / "a.json", Root(str(folder)))
    raw = [found.raw(i) for i in range(len(found))]
    assert [repr(json.loads(piece)) for piece, _ in raw] == [repr(r) for r in json.loads(text)]
    for (piece, where), start in zip(raw, found.starts.tolist(), strict=True):
        assert piece[:1] == b"{"
        assert where.endswith(f":{1 + data[:start].count(10)}")


def test_a_record_above_the_limit_is_told_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines_module, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(lines_module, "_CHUNK", 256)
    big = {"conversations": SAID, "x": "y" * 5000}
    data = open_records(lines(tmp_path / "a.jsonl", [big, {"conversations": SAID}]), Root(str(tmp_path)))
    with pytest.raises(InputError, match=r"a\.jsonl:1: 5,\d+ bytes of one sample are above 1,000"):
        data[0]
    assert data[1].turns
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": SAID}, big]))
    with pytest.raises(DecodeError, match="broken or above 1,000 bytes"):
        open_records(tmp_path / "a.json", Root(str(tmp_path)))


def test_a_file_that_became_shorter_is_told(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", [{"conversations": SAID}] * 3)
    data = open_records(path, Root(str(tmp_path)))
    path.write_bytes(path.read_bytes()[:-20])
    assert data[0].turns
    with pytest.raises(InputError, match="the file has become shorter"):
        data[2]


# ---- names


OUTSIDE = ["../secret.png", "a/../../secret.png", "/etc/passwd", "a/..", "..\\secret.png"]
NO_NAMES = ["http://x/a.png", "file:///etc/passwd", "data:image/png;base64,AA", "", "a\0b", "a" * 5000]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", [llava(1, name, "<image>", "x")])
    with pytest.raises(UnsafePath) as caught:
        open_dataset(path)[0]
    assert f"{path}:1" in str(caught.value)
    assert name[-10:] in caught.value.message.replace("\\\\", "\\")


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_local_name_is_refused(name: str, tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", [llava(1, [name], "<image>", "x")])
    with pytest.raises(InputError) as caught:
        open_dataset(path)[0]
    assert f"{path}:1" in str(caught.value)


def test_links_lead_out_only_where_that_is_asked_for(tmp_path: Path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    picture(outside / "a.png")
    picture(inside / "b.png")
    (inside / "a.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "c.png").symlink_to("b.png")
    (inside / "loop").symlink_to("loop")
    for name in ("a.png", "folder/a.png"):
        with pytest.raises(UnsafePath, match="leads out"):
            Root(str(inside)).path(name, "x:1")
        assert Path(Root(str(inside), follow_links=True).path(name, "x:1")).is_file()
    for follow in (False, True):
        with pytest.raises(UnsafePath):
            Root(str(inside), follow).path("../out/a.png", "x:1")
    assert Root(str(inside)).path("c.png", "x:1") == str(inside / "c.png")
    assert Root(str(inside)).path(str(inside / "b.png"), "x:1") == str(inside / "b.png")
    with pytest.raises(InputError, match="no such folder"):
        Root(str(tmp_path / "nowhere"))


def test_the_fingerprint_follows_the_file(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", [{"conversations": SAID}])
    before = open_dataset(path).fingerprint
    assert before == open_dataset(path).fingerprint
    lines(path, [{"conversations": SAID}] * 2)
    assert open_dataset(path).fingerprint != before


@pytest.mark.parametrize("name", ["pipe.json", "pipe.jsonl", "pipe.tar"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="not a regular file"):
        open_dataset(tmp_path / name)
