"""Decoding in another process: the same clips, and a process that may die without harming the caller."""

import gc
import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import DecodeError, InputError, LimitError, RunError, UnsupportedFormat, WorkerDied
from tubelet.reading.clip import Clip
from tubelet.reading.isolated import pool as isolate
from tubelet.reading.isolated import wire
from tubelet.reading.isolated.pool import DecodeChild, Pool, isolated_read, pool
from tubelet.reading.job import ReadJob, decode_source
from tubelet.reading.limits import MIB, Limits
from tubelet.reading.read import read
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import Source, open_source

OPEN_FILES = Path("/dev/fd")
WALK = Path(__file__).parents[3] / "examples" / "walk.mp4"


def encode(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


SMALL = encode(noise(40))
SLOW = encode(Image.new("RGB", (7_900, 7_900)), "PNG", compress_level=1)  # some hundred milliseconds to decode


@pytest.fixture
def child() -> Iterator[DecodeChild]:
    made = DecodeChild()
    yield made
    made.kill()


def run(child: DecodeChild, data: bytes, job: ReadJob | None = None) -> Clip:
    job = job or ReadJob()
    with open_source(data, job.limits, "it") as src:
        return child.ask({"kind": "clip"}, src, job, lambda reply: reply.clip(src.name, job.limits))


def run_in(children: Pool, src: Source) -> Clip:
    return children.ask({"kind": "clip"}, src, ReadJob(), lambda reply: reply.clip(src.name, Limits()))


def started_children() -> set[int]:
    """Processes whose parent is this one, zombies included."""
    found = set()
    for entry in Path("/proc").iterdir() if Path("/proc/self/stat").exists() else []:
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found


# The same clips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_clip_is_the_same_as_decoded_here(file_format: str, tmp_path: Path):
    data = encode(noise(33), file_format)
    path = tmp_path / "p"
    path.write_bytes(data)
    for source in (data, path, io.BytesIO(data)):
        with open_source(source, Limits(), "it") as src:
            there = isolated_read(src, ReadJob())
            here = decode_source(src, ReadJob())
        assert np.array_equal(there.frames, here.frames)
        assert (there.times_s, there.notes, there.source) == (here.times_s, here.notes, here.source)


def test_a_buffer_may_grow_while_an_error_of_it_is_kept():
    buffer = io.BytesIO(encode(noise(3), "PNG"))
    with open_source(buffer, Limits(), "it") as src:
        buffer.seek(0, io.SEEK_END)
        buffer.write(bytes(10))
        with pytest.raises(DecodeError, match="another length") as kept:
            isolated_read(src, ReadJob())
    buffer.write(bytes(1000))  # BufferError while a view of it lives
    assert kept.value.got == kept.value.expected + 10


def test_animations_notes_and_backgrounds_travel():
    frames = [Image.new("RGBA", (9, 7), (40 * i, 0, 0, 128)) for i in range(4)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=[100, 50, 300, 20])
    job = ReadJob(Limits(), Sampling(times_s=(0.0, 0.2)), (1, 2, 3), animation=True)
    with open_source(data, Limits()) as src:
        there, here = isolated_read(src, job), decode_source(src, job)
    assert np.array_equal(there.frames, here.frames)
    assert there.times_s == here.times_s == (0.0, 0.15)
    assert (there.duration_s, there.is_video, there.notes) == (here.duration_s, here.is_video, here.notes)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(fps=4.0), Sampling(times_s=(0.2, 0.2, 1.0))])
def test_a_video_is_the_same_as_decoded_here(sampling: Sampling):
    for source in (WALK, WALK.read_bytes()):
        with open_source(source, Limits(), "walk") as src:
            there, here = (read_one(src, ReadJob(sampling=sampling)) for read_one in (isolated_read, decode_source))
        assert np.array_equal(there.frames, here.frames)
        for name in ("times_s", "duration_s", "complete", "frames_expected", "notes", "is_video", "source"):
            assert getattr(there, name) == getattr(here, name)


def test_frames_can_be_written_to_and_outlive_the_child(child: DecodeChild):
    first, second = run(child, SMALL), run(child, encode(noise(40, seed=1)))
    child.kill()
    before = second.frames.copy()
    first.frames[...] = 7
    gc.collect()
    assert (first.frames == 7).all()
    assert np.array_equal(second.frames, before)


def test_a_path_is_passed_as_an_open_file_and_its_position_is_kept(tmp_path: Path):
    path = tmp_path / "p.tiff"
    path.write_bytes(encode(noise(90), "TIFF", compression="tiff_lzw"))
    with open_source(path, Limits()) as src:
        head = src.file.read(10)
        isolated_read(src, ReadJob())
        assert src.file.tell() == 10
        assert head + src.file.read() == path.read_bytes()


def test_errors_travel_with_their_fields():
    with pytest.raises(DecodeError) as caught:
        read([SMALL, SMALL[:-60]], isolate="always")
    assert caught.value.item == 1
    assert caught.value.source == "<bytes>"
    with pytest.raises(LimitError) as caught:
        read(SMALL, isolate="always", limits=Limits(max_pixels=100))
    assert (caught.value.limit, caught.value.got) == (100, 1600)
    with pytest.raises(DecodeError) as caught:
        read(encode(noise(9), "BMP")[:-9], isolate="always")
    assert "truncated" in str(caught.value.__cause__)
    assert "truncated" not in str(caught.value)
    with pytest.raises(UnsupportedFormat):
        read(encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), isolate="always")


# Death ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_child_that_dies_in_its_work_is_an_error_and_the_next_call_works(number: signal.Signals):
    children = Pool()
    with open_source(SLOW, Limits(), "big.png") as src:
        child = children._take()
        children._give_back(child)
        killer = threading.Timer(0.1, os.kill, (child.process.pid, number))
        killer.start()
        with pytest.raises(WorkerDied) as caught:
            run_in(children, src)
        killer.join()
    assert caught.value.got == number.name
    assert child.process.returncode == -number
    with open_source(SMALL, Limits()) as src:
        assert run_in(children, src).width == 40
    children.close()


def test_a_child_that_died_while_it_waited_is_not_noticed(child: DecodeChild):
    children = Pool()
    children._give_back(child)
    os.kill(child.process.pid, signal.SIGSEGV)
    child.process.wait()
    with open_source(SMALL, Limits()) as src:
        assert run_in(children, src).width == 40
    children.close()


def test_an_input_is_not_blamed_for_a_child_that_never_heard_of_it():
    """It is asked of another one. Its deaths lie in the moment between being chosen and reading."""
    read(SMALL, isolate="always")
    [*_, chosen] = pool()._idle
    os.kill(chosen.process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.1, os.kill, (chosen.process.pid, signal.SIGKILL))
    killer.start()
    assert read(SMALL, isolate="always")[0].width == 40
    killer.join()
    assert chosen.unheard and chosen.process.returncode == -signal.SIGKILL
    [*_, chosen] = pool()._idle
    os.kill(chosen.process.pid, signal.SIGKILL)
    assert read(SMALL, isolate="always")[0].width == 40


def test_the_pool_names_the_source_of_a_death(monkeypatch: pytest.MonkeyPatch):
    def dies(self: DecodeChild, *args: Any) -> Any:
        os.kill(self.process.pid, signal.SIGKILL)
        return ask_really(self, *args)

    ask_really = DecodeChild.ask
    monkeypatch.setattr(DecodeChild, "ask", dies)
    answers = read([SMALL, SMALL], isolate="always", on_error="skip", workers=1)
    assert [type(answer) for answer in answers] == [WorkerDied, WorkerDied]
    assert [answer.item for answer in answers] == [0, 1]  # type: ignore[union-attr]
    assert answers[1].source == "<bytes>"
    monkeypatch.undo()
    assert read(SMALL, isolate="always")[0].width == 40


def test_many_deaths_leave_nothing_behind():
    read(SMALL, isolate="always")
    pool().close()
    gc.collect()
    files, children = len(list(OPEN_FILES.iterdir())), started_children()
    for _ in range(25):
        died = DecodeChild()
        os.kill(died.process.pid, signal.SIGSEGV)
        with pytest.raises(WorkerDied):
            run(died, SMALL)
    assert len(list(OPEN_FILES.iterdir())) == files
    assert started_children() == children


def test_the_deadline_kills(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolate, "_MARGIN_S", 0.0)
    started = time.monotonic()
    with pytest.raises(WorkerDied, match="deadline_s") as caught:
        read(SLOW, isolate="always", limits=Limits(deadline_s=0.05))
    assert caught.value.limit == 0.05
    assert time.monotonic() - started < 10
    assert read(SMALL, isolate="always")[0].width == 40


def test_memory_is_bounded(child: DecodeChild):
    with pytest.raises(LimitError):
        run(child, SLOW, ReadJob(Limits(max_memory_bytes=64 * MIB)))
    assert run(child, SMALL).width == 40  # it lives, and its limit is lifted
    assert run(child, SLOW).width == 7_900


def test_a_slow_file_object_meets_the_deadline():
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if size is not None and size > 64:
                time.sleep(30)
            return super().read(size)

    with pytest.raises(WorkerDied, match="deadline_s"):
        read(Slow(SMALL), limits=Limits(deadline_s=0.2))


# What the child may do ------------------------------------------------------------------------------------------------


def status(child: DecodeChild) -> dict[str, str]:
    lines = Path(f"/proc/{child.process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_child_has_no_privileges_to_gain_no_core_and_no_files_of_ours(child: DecodeChild, tmp_path: Path):
    with (tmp_path / "secret").open("wb") as secret:
        os.set_inheritable(secret.fileno(), True)
        other = DecodeChild()
        run(other, SMALL)
        links = {str(link.readlink()) for link in Path(f"/proc/{other.process.pid}/fd").iterdir()}
        other.kill()
    links = {link for link in links if "/libffi.so" not in link}  # which a system's libffi keeps open itself
    assert {link.partition(":")[0] for link in links} <= {"/dev/null", "socket", "/memfd"}
    assert status(child)["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{child.process.pid}/limits").read_text()
    assert "Max core file size        0                    0" in limits


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_child_does_not_get_our_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    made = DecodeChild()
    environment = Path(f"/proc/{made.process.pid}/environ").read_bytes()
    made.kill()
    assert b"hunter2" not in environment


def test_the_child_never_imports_torch():
    code = "import tubelet.reading.child, tubelet.reading.video.video, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Threads, forks and the end of the program ----------------------------------------------------------------------------


def test_threads_have_children_of_their_own():
    expected = [noise(40, seed=i) for i in range(12)]
    clips = read([encode(image) for image in expected], isolate="always", workers=4)
    for clip, image in zip(clips, expected, strict=True):
        assert np.array_equal(clip.frames[0], np.asarray(image))


def script(body: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    code = "import io, os, sys, time\nfrom tubelet.reading.read import read\n"
    code += "from tubelet.reading.isolated.pool import pool\n"
    code += f"DATA = {SMALL!r}\n" + textwrap.dedent(body)
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def test_a_fork_has_its_own_children():
    done = script("""
        read(DATA, isolate="always")
        ours = pool()._idle[0].process.pid
        pid = os.fork()
        if pid == 0:
            clip = read(DATA, isolate="always")[0]
            theirs = pool()._idle[0].process.pid
            sys.exit(0 if theirs != ours and clip.width == 40 else 7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert read(DATA, isolate="always")[0].width == 40
        assert pool()._idle[0].process.pid == ours
        print("fine")
    """)
    assert (done.stdout.strip(), done.stderr) == ("fine", "")


def test_children_end_with_the_program():
    done = script("read([DATA] * 4, isolate='always', workers=4); print(*(c.process.pid for c in pool()._idle))")
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert pids
    assert all(gone(pid) for pid in pids)


def test_children_end_when_the_program_is_killed():
    done = script("""
        read(DATA, isolate="always")
        print(pool()._idle[0].process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """)
    assert done.returncode == -9
    assert gone(int(done.stdout))


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.05)
    return False


def test_a_keyboard_interrupt_ends_the_work_and_leaves_a_usable_pool():
    done = script("""
        import signal, threading
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
        from PIL import Image
        Image.new("RGB", (7900, 7900)).save(out := io.BytesIO(), "PNG", compress_level=1)
        read(DATA, isolate="always")
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            read(out.getvalue(), isolate="always")
        except KeyboardInterrupt:
            print(read(DATA, isolate="always")[0].width)
    """)
    assert (done.stdout.strip(), done.stderr) == ("40", "")


def test_a_child_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerDied, match="could not be started"):
        DecodeChild()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerDied, match="exit code 1"):
        DecodeChild()


# Messages -------------------------------------------------------------------------------------------------------------


LIES = [
    ({}, 11),  # fewer bytes than the shape says
    ({}, None),
    ({"shape": [1, 2, 2, 4]}, 16),
    ({"shape": [0, 2, 2, 3]}, 0),
    ({"shape": "huge"}, 12),
    ({"clip": {}}, 12),
    ({"clip": {"frames": 1}}, 12),
    ({"clip": {"times_s": [1.0, 2.0]}}, 12),
    ({"clip": None}, 12),
    ({"shape": None}, 12),
    ({"error": "a text"}, 11),
]


@pytest.mark.parametrize(("change", "size"), LIES, ids=str)
def test_a_child_that_lies_is_not_believed(
    child: DecodeChild, change: dict[str, Any], size: int | None, monkeypatch: pytest.MonkeyPatch
):
    """A reply that makes no sense is the end of the child, and no descriptor of it stays open."""
    good = wire.clip_fields(Clip(np.zeros((1, 2, 2, 3), np.uint8), (0.0,)))
    reply = {"clip": good, "shape": [1, 2, 2, 3]} | change
    if change.get("clip"):
        reply["clip"] = good | change["clip"]
    files = len(list(OPEN_FILES.iterdir()))

    def lying(*_: object) -> wire.Reply:
        if size is None:
            return wire.Reply(reply)
        fd = wire.anonymous_file("t")
        os.ftruncate(fd, size)
        return wire.Reply(reply, (fd,))

    monkeypatch.setattr(child, "_exchange", lying)
    with pytest.raises(WorkerDied, match="makes no sense"):
        run(child, SMALL)
    assert child.process.returncode == -signal.SIGKILL
    assert len(list(OPEN_FILES.iterdir())) == files - 1  # the socket to the child


def test_a_reply_above_the_limits_is_refused_and_the_child_stays(child: DecodeChild, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(child, "_exchange", lambda *_: wire.Reply({"shape": [1, 200, 200, 3]}))
        with pytest.raises(LimitError):
            run(child, SMALL, ReadJob(Limits(max_clip_pixels=10_000)))
    assert run(child, SMALL).width == 40


@pytest.mark.skipif(sys.platform != "linux", reason="seals are Linux's")
def test_frames_that_could_shrink_are_refused():
    fd = wire.anonymous_file("t")
    os.ftruncate(fd, 12)
    with pytest.raises(RunError, match="size"):
        wire.map_frames(fd, (1, 2, 2, 3))
    os.close(fd)


def test_an_unknown_kind_of_error_is_still_ours():
    for kind in ("KeyError", "object", None, "__class__"):
        error = wire.error_from({"kind": kind, "message": "m"}, "s")
        assert type(error) is RunError
    assert type(wire.error_from({"kind": "DecodeError", "message": "m", "cause": "c"}, "s")) is DecodeError


@pytest.mark.parametrize("raw", [b"", b"\1\0", b"\xff\xff\xff\xff", b"\5\0\0\0hello", b"\2\0\0\0[]", b"\\9\0\0\0{}"])
def test_broken_messages_are_the_end_of_the_line(raw: bytes):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(raw)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises((EOFError, ValueError)):
            wire.receive(ours)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_messages_of_any_size_arrive_with_their_files(count: int):
    ours, theirs = socket.socketpair()
    files = [wire.anonymous_file("t") for _ in range(count)]
    message = {"notes": ["x" * 1000] * 2000}
    with ours, theirs:
        sender = threading.Thread(target=wire.send, args=(theirs, message, files))
        sender.start()
        got = wire.receive(ours)
        sender.join()
    assert got.values == message
    assert [os.fstat(fd).st_ino for fd in got.files] == [os.fstat(fd).st_ino for fd in files]
    assert not any(os.get_inheritable(fd) for fd in got.files)
    got.close()
    for fd in files:
        os.close(fd)


def test_a_job_survives_the_way():
    import json

    job = ReadJob(Limits(max_side=77), Sampling(times_s=(0.0, 1.5)), (1, 2, 3), animation=True, workers=3)
    assert ReadJob.from_dict(json.loads(json.dumps(job.as_dict()))) == job
    with pytest.raises(TypeError):
        ReadJob.from_dict({**job.as_dict(), "code": "print()"})
    with pytest.raises(InputError, match="background"):
        ReadJob(background=(0, 0, 300))


def test_a_file_at_has_a_position_of_its_own(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(bytes(range(100)))
    with path.open("rb") as file:
        first, second = (io.BufferedReader(wire.FileAt(file.fileno(), 100), 16) for _ in range(2))
        first.seek(90)
        assert second.read(3) == bytes((0, 1, 2))
        assert first.read() == bytes(range(90, 100))
        assert second.seek(-1, os.SEEK_END) == 99
        with pytest.raises(OSError, match="before the start"):
            wire.FileAt(file.fileno(), 100).seek(-1)
