"""Bad and unusual videos by seed (`--torture N`, a third of N): a typed error, a clip that says what is missing, or all
of it. Nothing silent, nothing foreign, nothing that hangs, and nothing opened but what was given."""

import http.server
import io
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from tests.reading.video.video_clips import clip, number_of
from tests.torture import torture_claims, torture_videos
from tests.torture.torture_harness import Made, attempt, disagreement, failures, judge, spread
from tests.torture.torture_videos import CUT, FRAMES, list_of, what_is_wrong_with

from tubelet.errors import InputError, TubeletError
from tubelet.reading.clip import Clip
from tubelet.reading.codec.decode import read_both
from tubelet.reading.job import ReadJob
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


def sparse(data: bytes, workers: int = 2) -> Clip:
    """A few frames, by seeking and skipping on some threads."""
    with open_source(data, LIMITS) as source:
        return read_video(source, LIMITS, Sampling(num_frames=7), workers=workers)


def on_threads(data: bytes) -> Clip:
    with open_source(data, LIMITS) as source:
        return read_video(source, LIMITS, EVERY, workers=3)


def content(outcome: object) -> tuple[object, ...]:
    """What must not depend on the number of workers."""
    if isinstance(outcome, Clip):
        o = outcome
        return o.frames.tobytes(), o.times_s, o.complete, o.frames_expected, o.notes
    return type(outcome), str(outcome)


def watched(data: bytes) -> Clip:
    """Every frame with its codec's signals, which must be finite and as many as there are frames."""
    with open_source(data, LIMITS) as source:
        found, seen = read_both(source, ReadJob(LIMITS, EVERY), "auto")
    assert len(seen) == len(found) and np.isfinite(seen.error_levels).all() and np.isfinite(seen.motion_px).all()
    return found


def plain_av(data: bytes) -> Clip:
    """What most code does: decode until it ends."""
    with av.open(io.BytesIO(data)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return Clip(np.stack(frames), tuple(n / 25 for n in range(len(frames))), source="av")


def make(kind: str, seed: int) -> Made:
    return (torture_videos if kind in torture_videos.KINDS else torture_claims).make(kind, seed)


def kinds(*prefixes: str) -> list[str]:
    every = [*torture_videos.KINDS, *torture_claims.KINDS]
    return [kind for kind in every if kind.startswith(prefixes)]


def ends_between_fragments(data: bytes, length: int) -> bool:
    """Whether a live or fragmented file would be just as whole if it had ended here."""
    return data[length + 4 : length + 8] in (b"moof", b"mfra") or data[length : length + 4] == b"\x1f\x43\xb6\x75"


def silent(target: Callable[[bytes], object], made_by: list[tuple[str, int]]) -> list[str]:
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
    for kind in kinds("v"):
        assert make(kind, 3).data == make(kind, 3).data


def problems(kind: str, seed: int) -> list[str]:
    """What is wrong with all that is read of one case: every frame and a few, on one thread and on several."""
    made = make(kind, seed)
    whole, few = attempt(in_process, made.data), attempt(lambda data: sparse(data, 1), made.data)
    found = [judge(made, whole), judge(replace(made, pixels=None), few), disagreement(made.data, whole)]
    if content(few) != content(attempt(sparse, made.data)):
        found.append("a few frames are others on two threads")
    if kind.startswith(("vflip", "vsplice")) and content(whole) != content(attempt(on_threads, made.data)):
        found.append("frames are others on three threads")
    if kind.startswith(("vcut_", "vtail_")):
        found += silent(lambda _: whole, [(kind, seed)])
    elif isinstance(whole, Clip):
        found.append(torture_claims.what_is_wrong_with(kind, whole))
    if kind.startswith("vkeys") and isinstance(few, Clip):
        found.append(torture_claims.what_is_wrong_with_few(kind, few))
    return [f"{kind}, {seed}: {problem}" for problem in found if problem]


def test_bad_videos(torture: int):
    """An error of ours or a clip that says what is missing; the same by probe, plan and reading, on any threads."""
    wrong = [problem for kind, seed in spread(kinds("v"), torture // 3) for problem in problems(kind, seed)]
    assert not wrong, "\n".join(wrong)


def test_signals_of_bad_videos(torture: int):
    chosen = kinds("vcut_", "vflip_", "vsplice_", "vsize_", "vkeys_")
    random.Random(0).shuffle(chosen)
    wrong = failures(make, spread(chosen, torture // 25), watched)
    assert not wrong, "\n".join(wrong)


def test_bad_videos_in_the_decoding_process(torture: int):
    chosen = [kind for kind in kinds("v") if not kind.startswith("vsize")]  # two frames a second miss the second size
    random.Random(0).shuffle(chosen)
    wrong = failures(make, spread(chosen, torture // 10))
    assert not wrong, "\n".join(wrong)


def test_plain_decoding_would_not_notice():
    """The measure must be able to fail: a MKV that is cut anywhere decodes short, without a word."""
    assert len(silent(plain_av, [("vcut_h264_mkv", seed) for seed in range(20)])) > 5


@pytest.mark.parametrize("name", CUT)
def test_cuts_at_every_place_of_the_last_frames(name: str):
    data = clip(name, FRAMES)
    for length in range(len(data) - 1, len(data) - 60, -7):
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
    assert len(after) <= len(before)  # what others left open may be closed meanwhile


def test_the_judge_knows_a_wrong_clip():
    whole = in_process(clip("h264_b", FRAMES))
    assert what_is_wrong_with("h264_b", whole) is None
    for frames, times in ((whole.frames[:50], whole.times_s[:50]), (whole.frames[1:], whole.times_s[:-1])):
        assert what_is_wrong_with("h264_b", Clip(frames, times, source="s")) is not None
    assert judge(make("vsize_mjpeg", 0), whole) is not None
