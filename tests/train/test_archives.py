"""WebDataset tars read by offset, and folders: which files are a sample, and what is refused."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.data_sets import archive, llava, picture, picture_bytes

import tubelet
from tubelet.errors import AlignmentError, DecodeError, InputError, LimitError, TubeletError, UnsafePath
from tubelet.reading import tar as tar_module
from tubelet.reading.limits import Limits
from tubelet.reading.tar import Piece, members
from tubelet.train.data import tar as samples_module
from tubelet.train.data.open import open_dataset
from tubelet.train.data.sample import Media
from tubelet.train.data.tar import open_archive

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "a-long-folder-name/" * 8 + "x" * 120


def encoded(record: object) -> bytes:
    return json.dumps(record).encode()


def shard(path: Path, form: int = tarfile.USTAR_FORMAT) -> Path:
    chat = {"messages": [{"role": "user", "content": "<image><image>Which?"}, {"role": "assistant", "content": "A"}]}
    return archive(
        path,
        {
            "000.jpg": picture_bytes(40, 30, 1, ".jpg"),
            "000.txt": b"a cat\n",
            "sub/001.png": picture_bytes(20, 50, 2),
            "sub/001.json": encoded({"caption": "a dog", "width": 20}),
            "002.0.png": picture_bytes(10, 10, 3),
            "002.1.png": picture_bytes(12, 12, 4),
            "002.json": encoded(chat),
            "003.json": encoded(llava(3, "003.png", "<image>?", "!")),
            "003.png": picture_bytes(14, 14, 5),
            "__index__": b"not a sample",
        },
        form,
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_samples_of_an_archive(form: int, tmp_path: Path):
    data = open_dataset(shard(tmp_path / "a.tar", form))
    assert len(data) == 4
    samples = [data[i] for i in range(4)]
    assert [s.id for s in samples] == ["000", "sub/001", "002", "000000003"]
    assert [s.turns[-1].text for s in samples] == ["a cat", "a dog", "A", "!"]
    assert [len(s.media) for s in samples] == [1, 1, 2, 1]
    assert samples[2].turns[0].parts == (0, 1, "Which?")
    with samples[1].media[0].open() as file:
        [clip] = tubelet.read([file], isolate="never")
    assert (clip.width, clip.height) == (20, 50)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]  # nothing was extracted


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_members_are_where_tarfile_finds_them(form: int, tmp_path: Path):
    names = ["a.txt", "deep/er/b.txt", "deep/er/\u00e9t\u00e9.txt"] + (
        [f"{LONG}.txt"] if form != FORMS["ustar"] else []
    )
    path = archive(tmp_path / "a.tar", {n: n.encode() * 200 for n in names}, form)
    with path.open("rb") as f, tarfile.open(path) as tar:
        found = list(members(f, str(path), path.stat().st_size, Limits()))
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [(p.name, p.offset, p.size) for p in found] == expected
    assert [p.read() for p in found] == [n.encode() * 200 for n in names]


def test_links_devices_and_folders_are_passed_over(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("b.png", tarfile.SYMTYPE), ("c.png", tarfile.LNKTYPE), ("d.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        folder = tarfile.TarInfo("e.png/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        info = tarfile.TarInfo("f.txt")
        tar.addfile(info, io.BytesIO())
    found = open_archive(path)
    assert [m.key for m in found.members] == ["f"]


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "c/.."])
def test_a_member_named_as_if_it_lay_outside_is_refused(name: str, tmp_path: Path):
    path = archive(tmp_path / "a.tar", {name: b"x"})
    with pytest.raises(UnsafePath) as caught:
        open_archive(path)
    assert str(path) in str(caught.value)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = shard(tmp_path / "a.tar")
    with pytest.raises(LimitError, match=r"'000.jpg' has \d[\d,]* bytes, above max_bytes = 10"):
        open_archive(path, Limits(max_bytes=10))
    monkeypatch.setattr(tar_module, "MAX_MEMBERS", 3)
    with pytest.raises(LimitError, match="more than 3 members"):
        open_archive(path)
    monkeypatch.setattr(tar_module, "_MAX_EXTRA", 100)
    with pytest.raises(LimitError, match="a header of"):
        open_archive(archive(tmp_path / "b.tar", {f"{LONG}.txt": b"x"}, tarfile.GNU_FORMAT))
    monkeypatch.setattr(samples_module, "MAX_RECORD_BYTES", 4)
    monkeypatch.setattr(tar_module, "MAX_MEMBERS", 100)
    with pytest.raises(InputError, match=r"000.txt: 6 bytes of text are above 4"):
        open_archive(path)[0]


def test_what_is_no_archive_or_breaks_off_is_told(tmp_path: Path):
    for name, content, words in (
        ("empty.tar", b"", "the archive is empty"),
        ("gz.tar", b"\x1f\x8b" + bytes(range(256)) * 4, "a compressed archive is not read"),
        ("text.tar", b"hello " * 200, "no tar header at byte 0"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            open_archive(tmp_path / name)
    path = shard(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"'000.jpg' has .* the archive breaks off"):
        open_archive(path)


def test_a_size_below_zero_or_beyond_the_file_is_told(tmp_path: Path):
    """GNU writes large sizes in base 256, which can be negative; the checksum is right."""
    for number in (b"\xff" * 12, b"\x80\0\0\0\x7f" + b"\xff" * 7):
        block = bytearray(archive(tmp_path / "a.tar", {"a.png": b"x"}).read_bytes())
        block[124:136] = number
        block[148:156] = b" " * 8
        block[148:156] = f"{sum(block[:512]):06o}\0 ".encode()
        (tmp_path / "b.tar").write_bytes(block)
        with pytest.raises(InputError, match="breaks off"):
            open_archive(tmp_path / "b.tar")


def test_bad_samples_of_an_archive_are_told_by_member(tmp_path: Path):
    chat = {"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A"}]}
    cases: dict[str, tuple[dict[str, bytes], type[Exception], str]] = {
        "a": ({"a.png": b"x"}, InputError, "neither turns nor a text"),
        "b": ({"b.txt": b"x"}, InputError, "neither picture nor clip"),
        "c": ({"c.png": b"x", "c.txt": b"\xff"}, InputError, "not UTF-8"),
        "d": ({"d.png": b"x", "d.json": b"{"}, DecodeError, "broken JSON"),
        "e": ({"e.json": encoded(chat)}, AlignmentError, "no image left"),
        "f": ({"f.png": b"x", "f.json": encoded({**chat, "image": "g.png"})}, InputError, "'g.png' is no member"),
        "g": ({"g.png": b"x", "g.json": encoded({**chat, "image": "../g.png"})}, UnsafePath, "steps up"),
        "h": ({"h.png": b"x", "h.txt": b"  \n"}, InputError, "nothing to learn"),
    }
    path = archive(tmp_path / "a.tar", {n: c for content, _, _ in cases.values() for n, c in content.items()})
    data = open_archive(path)
    for i, (key, (_, kind, words)) in enumerate(cases.items()):
        with pytest.raises(kind, match=words) as caught:
            data[i]
        assert f"{path}:{key}" in str(caught.value)


@given(noise=st.binary(max_size=2000), at=st.integers(0, 3000))
def test_a_damaged_archive_is_an_error_of_ours(noise: bytes, at: int, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(shard(folder / "a.tar", tarfile.PAX_FORMAT).read_bytes())
    whole[at : at + len(noise)] = noise
    (folder / "a.tar").write_bytes(whole)
    try:
        data = open_archive(folder / "a.tar")
    except TubeletError:
        return
    for i in range(len(data)):
        try:
            data[i]
        except TubeletError as e:
            assert "a.tar" in str(e)


@given(steps=st.lists(st.tuples(st.integers(-5, 40), st.sampled_from([0, 1, 2]), st.integers(0, 50)), max_size=12))
def test_a_piece_reads_as_its_bytes_do(steps: list[tuple[int, int, int]], tmp_path_factory: pytest.TempPathFactory):
    """Against BytesIO of the same bytes, whatever is sought and read."""
    path = tmp_path_factory.mktemp("piece") / "a"
    path.write_bytes(bytes(range(100)))
    twin = io.BytesIO(bytes(range(30, 57)))
    with Piece(str(path), "a", 30, 27).open() as file:
        for offset, whence, count in steps:
            place = {0: 0, 1: twin.tell(), 2: 27}[whence] + offset
            if place >= 0:
                assert file.seek(offset, whence) == twin.seek(offset, whence)
            assert file.read(count) == twin.read(count)
        with pytest.raises((OSError, ValueError)):
            file.fileno()
    assert Piece(str(path), "a", 30, 27).read() == bytes(range(30, 57))
    with pytest.raises(InputError, match="the archive has changed"):
        Piece(str(path), "a", 90, 27).read()
    with pytest.raises(InputError, match="cannot be opened"):
        Piece(str(path) + "x", "a", 90, 27).read()


def test_a_folder_of_archives_is_all_of_them(tmp_path: Path):
    shard(tmp_path / "b.tar")
    shard(tmp_path / "a.tar")
    data = open_dataset(tmp_path)
    assert len(data) == 8
    assert [data[0].where, data[4].where] == [f"{tmp_path / 'a.tar'}:000", f"{tmp_path / 'b.tar'}:000"]


# ---- folders


def test_a_folder_of_pictures_with_their_words(tmp_path: Path):
    picture(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a bee\n")
    picture(tmp_path / "sub.dir/a.v2.jpg")
    (tmp_path / "sub.dir/a.v2.json").write_text(json.dumps(llava(9, None, "<image>?", "an ant")))
    picture(tmp_path / "c.png")
    (tmp_path / "c.json").write_text(json.dumps({"caption": "a cow"}))
    picture(tmp_path / ".hidden.png")
    (tmp_path / "readme.md").write_text("x")
    data = open_dataset(tmp_path)
    assert [data[i].id for i in range(3)] == ["b", "c", "000000009"]
    assert [data[i].turns[-1].text for i in range(3)] == ["a bee", "a cow", "an ant"]
    assert data[2].media == (Media("image", str(tmp_path / "sub.dir/a.v2.jpg")),)


def test_bad_samples_of_a_folder_are_told_by_file(tmp_path: Path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("words")
    picture(tmp_path / "c.png")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.txt").symlink_to("/etc/hostname")
    picture(tmp_path / "d.png")
    (tmp_path / "e").symlink_to("/")
    data = open_dataset(tmp_path)
    assert len(data) == 4
    for i, (kind, words) in enumerate(
        [
            (InputError, "neither turns nor a text"),
            (InputError, "neither picture nor clip"),
            (DecodeError, r"c\.json: broken JSON"),
            (UnsafePath, "leads out"),
        ]
    ):
        with pytest.raises(kind, match=words) as caught:
            data[i]
        assert str(tmp_path) in str(caught.value)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no picture, clip or text"):
        open_dataset(tmp_path / "none")
