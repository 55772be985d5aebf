"""Bad and unusual videos by seed (`--torture N`, a third of N): a typed error, a clip that says what is missing, or all
of it. Nothing silent, nothing foreign, nothing that hangs, and nothing opened but what was given."""

import http.server
import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from tests.reading.video.video_clips import clip, number_of
from tests.torture.torture_harness import attempt, failures, judge, spread
from tests.torture.torture_videos import CUT, FRAMES, KINDS, list_of, make, what_is_wrong_with

from tubelet.errors import InputError, TubeletError
from tubelet.reading.clip import Clip
from tubelet.reading.codec.decode import read_both
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source
from tubelet.reading.video.video import plan_video, probe_video, read_video

LIMITS = Limits(deadline_s=5.0, max_pixels=4_000_000)
EVERY = Sampling(num_frames=8_000)


def in_process(data: bytes) -> Clip:
    """Every frame, in this process: what is judged is the reader and not the child around it."""
    with open_source(data, LIMITS) as source:
        return read_video(source, LIMITS, EVERY)


def sparse(data: bytes) -> Clip:
    """A few frames, by seeking and skipping on two threads."""
    with open_source(data, LIMITS) as source:
        return read_video(source, LIMITS, Sampling(num_frames=7), workers=2)


def watched(data: bytes) -> Clip:
    """Every frame with its codec's signals, which must be finite and as many as there are frames."""
    with open_source(data, LIMITS) as source:
        found, seen = read_both(source, LIMITS, EVERY, "auto")
    assert len(seen) == len(found) and np.isfinite(seen.error_levels).all() and np.isfinite(seen.motion_px).all()
    return found


def plain_av(data: bytes) -> Clip:
    """What most code does: decode until it ends."""
    with av.open(io.BytesIO(data)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return Clip(np.stack(frames), tuple(n / 25 for n in range(len(frames))), source="av")


def cases(torture: int, *prefixes: str) -> list[tuple[str, int]]:
    kinds = [kind for kind in KINDS if kind.startswith(prefixes)]
    return spread(kinds, max(len(kinds), torture))


def ends_between_fragments(data: bytes, length: int) -> bool:
    """Whether a live or fragmented file would be just as whole if it had ended here."""
    return data[length + 4 : length + 8] in (b"moof", b"mfra") or data[length : length + 4] == b"\x1f\x43\xb6\x75"


def silent(target: object, made_by: list[tuple[str, int]]) -> list[str]:
    """One line for each cut clip that was taken for another than it is."""
    lines = []
    for kind, seed in made_by:
        name, data = kind.split("_", 1)[1], make(kind, seed).data
        found = attempt(target, data)
        if isinstance(found, Clip) and not ends_between_fragments(clip(name, FRAMES), len(data)):
            wrong = what_is_wrong_with(name, found)
            if wrong is not None:
                lines.append(f"{kind}, {seed}: {wrong}")
    return lines


def test_every_kind_is_made_the_same_way_twice():
    for kind in KINDS:
        assert make(kind, 3).data == make(kind, 3).data


def test_bad_videos_end_in_an_error_of_ours_or_in_a_clip(torture: int):
    made_by = cases(torture // 3, "vcut_", "vflip_", "vsplice_", "vnone_", "vsize_", "vlist_")
    wrong = failures(make, made_by, in_process)
    assert not wrong, "\n".join(wrong)


def test_sparse_reading_of_bad_videos(torture: int):
    wrong = failures(make, cases(torture // 6, "vcut_", "vflip_", "vsplice_"), sparse)
    assert not wrong, "\n".join(wrong)


def test_signals_of_bad_videos(torture: int):
    wrong = failures(make, cases(torture // 12, "vcut_", "vflip_", "vsplice_", "vsize_"), watched)
    assert not wrong, "\n".join(wrong)


def test_bad_videos_in_the_decoding_process(torture: int):
    wrong = failures(make, cases(torture // 10, "vcut_h264", "vflip_", "vnone_", "vlist_"))
    assert not wrong, "\n".join(wrong)


def test_no_cut_goes_unnoticed(torture: int):
    wrong = silent(in_process, cases(torture // 3, "vcut_", "vtail_"))
    assert not wrong, "\n".join(wrong)


def test_plain_decoding_would_not_notice():
    """The measure must be able to fail: a MKV that is cut anywhere decodes short, without a word."""
    assert len(silent(plain_av, [("vcut_h264_mkv", seed) for seed in range(20)])) > 5


@pytest.mark.parametrize("name", CUT)
def test_cuts_at_every_place_of_the_last_frames(name: str):
    data = clip(name, FRAMES)
    for length in range(len(data) - 1, len(data) - 60, -3):
        found = attempt(in_process, data[:length])
        assert isinstance(found, TubeletError | Clip), (length, found)
        if isinstance(found, Clip):
            assert what_is_wrong_with(name, found) is None, length


@pytest.mark.slow
@pytest.mark.parametrize("name", CUT)
def test_cuts_at_every_byte(name: str):
    data = clip(name, FRAMES)
    for length in range(64, len(data)):
        found = attempt(in_process, data[:length])
        assert isinstance(found, TubeletError | Clip), (length, found)
        if isinstance(found, Clip) and not ends_between_fragments(data, length):
            assert what_is_wrong_with(name, found) is None, length


# --- B9: nothing is opened but what was given


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server that offers a good clip and writes down who asks for it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(clip("h264_fast", FRAMES))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/clip.mp4", asked
        running.shutdown()
        thread.join()


def test_lists_and_addresses_open_nothing(server: tuple[str, list[str]], tmp_path: Path):
    address, asked = server
    (tmp_path / "good.mp4").write_bytes(clip("h264_fast", FRAMES))
    for seed in range(60):
        rng = random.Random(seed)
        data = list_of(rng.choice((address, f"file:{tmp_path}/good.mp4", f"{tmp_path}/good.mp4")), rng)
        listed = tmp_path / rng.choice(("list.m3u8", "list.mpd", "list.txt", "list.mp4", "list.ffconcat"))
        listed.write_bytes(data)
        for given in (data, io.BytesIO(data), listed, str(listed)):
            with pytest.raises(InputError), open_source(given, LIMITS) as source:
                read_video(source, LIMITS, EVERY)
    for given in (address, f"concat:{tmp_path}/good.mp4", f"file:{tmp_path}/good.mp4", f"file://{tmp_path}/good.mp4"):
        with pytest.raises(InputError), open_source(given, LIMITS) as source:
            read_video(source, LIMITS, EVERY)
    assert asked == []


def test_a_list_inside_a_container_header_opens_nothing(server: tuple[str, list[str]]):
    """An MP4 whose data reference is an address, and whose samples are said to lie there."""
    address, asked = server
    data = clip("h264_fast", FRAMES)
    place = data.index(b"url \0\0\0\1")
    refers = data[: place + 4] + b"\0\0\0\0" + data[place + 8 :]  # no longer "in this file"
    for changed in (refers, refers.replace(b"url \0\0\0\0", b"urn \0\0\0\0")):
        found = attempt(in_process, changed)
        assert isinstance(found, TubeletError | Clip)
    name = address.encode()[:60]
    box = (12 + len(name) + 1).to_bytes(4, "big") + b"url \0\0\0\0" + name + b"\0"
    at = data.index(b"dref") + 12
    grown = data[:at] + box + data[at + 12 :]
    found = attempt(in_process, grown)
    assert isinstance(found, TubeletError | Clip)
    assert asked == []


def test_reading_opens_no_file_but_its_own(tmp_path: Path):
    """By the descriptors of this process, while frames come out."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip("h264_b", FRAMES))
    folder = Path("/proc/self/fd")
    if not folder.exists():
        folder = Path("/dev/fd")
    with open_source(path, LIMITS) as source:
        before = {entry.name for entry in folder.iterdir()}
        probe_video(source, LIMITS)
        plan_video(source, LIMITS, EVERY)
        found = read_video(source, LIMITS, EVERY, workers=2)
        after = {entry.name for entry in folder.iterdir()}
    assert [number_of(f) for f in found.frames] == list(range(FRAMES))
    assert len(after) == len(before)


def test_the_judge_knows_a_wrong_clip():
    whole = in_process(clip("h264_b", FRAMES))
    assert what_is_wrong_with("h264_b", whole) is None
    for frames, times in ((whole.frames[:50], whole.times_s[:50]), (whole.frames[1:], whole.times_s[:-1])):
        assert what_is_wrong_with("h264_b", Clip(frames, times, source="s")) is not None
    assert judge(make("vsize_mjpeg", 0), whole) is not None
