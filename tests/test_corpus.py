"""The comparison with other projects' test files: it must call what is equal equal, and find what is not."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tools.corpus import judge as judging
from tools.corpus import peers
from tools.corpus.__main__ import files_of
from tools.corpus.fetch import Package, fetch
from tools.corpus.judge import judge
from tools.corpus.report import BEGIN, END, differences, into_page, table
from tools.corpus.worker import Judge

from tubelet import Clip

WALK = Path(__file__).parents[1] / "examples" / "walk.mp4"


def shades(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)


def saved(folder: Path, name: str, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rgb.png", shades()[..., :3]),
        ("alpha.png", shades()),
        ("grey_alpha.png", shades()[..., :2]),
        ("deep.png", shades()[..., 0].astype(np.uint16) * 257 + 9),
        ("deep.tif", shades()[..., 0].astype(np.uint16) * 255),
        ("rgb.jpg", shades()[..., :3]),
        ("alpha.webp", shades()),
    ],
)
def test_what_both_read_alike_is_equal(tmp_path: Path, name: str, array: np.ndarray):
    found = judge(saved(tmp_path, name, array), name)
    assert (found.verdict, found.reason, found.faults) == ("equal", "", [])


def test_a_turned_picture_is_equal(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert judge(saved(tmp_path, "turned.jpg", shades()[..., :3], exif=exif), "turned.jpg").verdict == "equal"


def test_a_clip_of_uneven_times_is_equal():
    found = judge(WALK, "walk.mp4")
    assert (found.input_class, found.verdict, found.reason, found.faults) == ("MP4", "equal", "", [])


def test_other_pixels_are_a_difference_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path, "a.png", shades()[..., :3])
    honest = peers.picture
    monkeypatch.setattr(peers, "picture", lambda p, *, profile=True, turn=True: honest(p)[:: 1 if not turn else -1])
    found = judge(path, "a.png")
    assert found.verdict == "different"
    assert found.reason.endswith("equal to Pillow's as stored, not turned")


def test_another_frame_of_a_clip_is_a_difference(monkeypatch: pytest.MonkeyPatch):
    honest = peers.clip

    def late(path: Path, wanted_s: tuple[float, ...]) -> peers.PeerClip:
        found = honest(path, wanted_s)
        found.kept[wanted_s[3]] = found.kept[wanted_s[6]]
        return found

    monkeypatch.setattr(peers, "clip", late)
    found = judge(WALK, "walk.mp4")
    assert found.verdict == "different"
    assert "frame at 1.5" in found.reason


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = saved(tmp_path, "a.png", shades()[..., :3]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:200])
    (tmp_path / "text.png").write_text("no picture at all\n", encoding="utf-8")
    assert judge(tmp_path / "cut.png", "cut.png").verdict == "refused by both"
    assert judge(tmp_path / "text.png", "text.png").input_class == judging.OTHER
    long = saved(tmp_path, "long.png", np.zeros((1, 70_000), np.uint8))
    found = judge(long, "long.png")
    assert found.verdict == "refused by us only"
    assert found.reason.startswith("LimitError: ")
    assert str(tmp_path) not in found.reason
    monkeypatch.setattr(peers, "picture", lambda path: Image.open(tmp_path / "text.png"))
    assert judge(tmp_path / "a.png", "a.png").verdict == "read by us only"


def test_readings_that_disagree_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read(path: Path, *, isolate: str, workers: int | None = None) -> list[Clip]:
        if isolate == "always":
            raise KeyError("a foreign one")
        return [Clip(np.zeros((1, 20, 31, 3), np.uint8), (0.0,))]

    monkeypatch.setattr(judging.tubelet, "read", read)
    found = judge(saved(tmp_path, "a.png", shades()[..., :3]), "a.png")
    assert found.verdict == "different"
    foreign, isolated, probed = found.faults
    assert "foreign exception leaves read" in foreign
    assert "isolated, it is another thing" in isolated
    assert probed == "probe says 30 x 20, read 31 x 20"


def test_what_takes_too_long_is_given_up(tmp_path: Path):
    path = saved(tmp_path, "a.png", shades()[..., :3])
    one = Judge(seconds=0.0)
    assert one(path, "a.png")["verdict"] == "given up"
    one.seconds = 120.0
    assert one(path, "a.png")["verdict"] == "equal"  # by the process in its place
    one.close()


def test_media_are_copied_out_of_an_archive_and_nothing_else(tmp_path: Path):
    archives = tmp_path / "archives" / "made"
    archives.mkdir(parents=True)
    picture = saved(tmp_path, "a.png", shades()[..., :3]).read_bytes()
    with tarfile.open(archives / "made_1.orig.tar.gz", "w:gz") as tar:
        for name, data in (
            ("made-1/test/a.png", picture),
            ("made-1/test/same.dat", picture),  # media by its first bytes
            ("made-1/test/cut.PNG", b"\x89PNG"),  # media by its name
            ("made-1/test/readme.txt", b"text"),
            ("made-1/doc/b.png", picture),
            ("made-1/test/../../../../c.png", picture),
            ("made-1/test/empty.png", b""),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("made-1/test/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert fetch(Package("made", "debian", ("test",)), tmp_path) == 3
    copied = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "files").rglob("*") if not p.is_dir())
    assert copied == [f"files/made/test/{name}" for name in ("a.png", "cut.PNG", "same.dat")]
    assert [name for _, name in files_of(tmp_path, ["made"])] == ["made/test/a.png", "made/test/cut.PNG"]  # one of two


def test_the_table_counts():
    found: list[dict[str, Any]] = [
        {"file": "a", "input_class": "PNG", "verdict": "equal", "reason": "", "faults": []},
        {"file": "b", "input_class": "PNG", "verdict": "different", "reason": "turned", "faults": ["slow"]},
        {"file": "c", "input_class": judging.OTHER, "verdict": "refused by us only", "reason": "", "faults": []},
    ]
    lines = table(found).splitlines()
    assert lines[2] == "| PNG | 2 | 1 | 1 | 0 | 0 | 0 | 0 |"
    assert lines[-1] == "| all | 3 | 1 | 1 | 0 | 1 | 0 | 0 |"
    assert differences(found) == [
        *("\ndifferent: 1", "  b: turned", "\nrefused by us only: 0", "\nfaults: 1", "  b: slow"),
    ]


def test_the_page_gets_the_result_and_keeps_the_rest():
    found = [
        {"file": f, "input_class": "PNG", "verdict": "refused by us only", "reason": f"a ratio of {r}", "faults": []}
        for f, r in (("a", 256.0), ("b", 300.0))
    ]
    result = {"when": "2026-01-01", "versions": "av 1", "sources": ["made.tar.gz"], "files": found}
    page = into_page(f"# Title\n\n{BEGIN}\nold\n{END}\n\nwhat was found\n", result)
    assert page.startswith("# Title\n")
    assert page.endswith(f"{END}\n\nwhat was found\n")
    assert "old" not in page
    assert "- `a`, `b`: a ratio of 256.0\n" in page
    assert into_page(page, result) == page
    with pytest.raises(ValueError, match="no place"):
        into_page("# Title\n", result)
