"""Small files that ask for much: what they cost is bounded, here and isolated, by path and by bytes.

No time is asserted: what must come of each is the library's own answer, and never that its clock ran out. The full
ones are read by `python -m tests.torture.measure bombs`, whose result is in docs/record/torture.md.
"""

from functools import partial
from pathlib import Path

import pytest
from tests.reading.video.test_planning import Reads
from tests.torture.torture_bombs import BOMBS
from tests.torture.torture_harness import attempt

from tubelet.errors import LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.read import read
from tubelet.reading.video import mkv, structure
from tubelet.reading.video.boxes import walk
from tubelet.reading.video.file import View


def answers(data: bytes, folder: Path, **options: object) -> set[str]:
    (path := folder / "bomb").write_bytes(data)
    here = partial(read, isolate="never", **options)
    isolated = partial(read, isolate="always", **options)
    found = [attempt(lambda _, o=one, s=source: o(s)[0], b"") for source in (path, data) for one in (here, isolated)]
    assert not any("deadline_s" in str(one) for one in found), found
    return {type(one).__name__ for one in found}


@pytest.mark.parametrize("name", BOMBS)
def test_small_ones(name: str, tmp_path: Path):
    bomb = BOMBS[name]
    assert answers(bomb.make(False), tmp_path, **bomb.options) <= {*bomb.small.split()}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_full_ones(name: str, tmp_path: Path):
    bomb = BOMBS[name]
    assert answers(bomb.make(True), tmp_path, **bomb.options) <= {*bomb.must.split()}


@pytest.mark.parametrize("name", ["MP4, 4 million boxes", "MKV, 16 million elements"])
def test_what_a_container_counts_is_bounded_before_ffmpeg_sees_it(name: str, monkeypatch: pytest.MonkeyPatch):
    def never(*_: object) -> bytes:
        raise AssertionError("FFmpeg read the file")

    for module in (structure, mkv):
        monkeypatch.setattr(module, "MAX_PARTS", 10_000)
    monkeypatch.setattr(View, "read", never)
    with pytest.raises(LimitError, match="more than 10,000"):
        read(BOMBS[name].make(False), isolate="never")


def test_walks_read_a_block_at_a_time():
    reads = Reads(BOMBS["MP4, 4 million boxes"].make(False))
    walk(reads, "MP4", Limits())
    assert reads.count < 10
