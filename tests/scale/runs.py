"""Small runs: generated files of several kinds, a tiny encoder, and workers that begin by a fork."""

import gc
import os
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from tests.cli.cli_inputs import write_clip, write_picture

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.pixels.recipe import PixelRecipe
from tubelet.reading.job import ReadJob
from tubelet.reading.sampling import Sampling
from tubelet.scale.child import serve
from tubelet.scale.options import EncodeOptions, Reduction, weights_digest
from tubelet.scale.plan import Plan, shard_name
from tubelet.scale.store import Store
from tubelet.scale.words import ShardWords, shard_words
from tubelet.scale.work import Worker

TINY = EncoderConfig(hidden=64, layers=2, heads=2, mlp=128, pixels=PixelRecipe(16, size=448))
GOOD, CLIPS = 50, 3
# name -> what opening it says
BROKEN = {
    "half.jpg": "DecodeError",
    "empty.jpg": "UnsupportedFormat",
    "text.jpg": "UnsupportedFormat",
    "cut.mp4": "DecodeError",
    "tables.jpg": "DecodeError",
}


def write_files(folder: Path, good: int = GOOD, clips: int = CLIPS, broken: int = 2) -> Path:
    """Pictures and clips of several sizes, and `broken` files of each of five kinds, in folders."""
    (folder / "a" / "b").mkdir(parents=True)
    for i in range(good - clips):
        where = folder / "a" if i % 3 else folder / "a" / "b"
        write_picture(where / f"{i:03d}.{('jpg', 'png', 'webp')[i % 3]}", 20 + 7 * i % 90, 20 + 11 * i % 70, i)
    for i in range(clips):
        write_clip(folder / f"clip{i}.mp4", 48 + 16 * i, 32, frames=8 + 4 * i)
    picture = write_picture(folder / "whole.jpg", 90, 70).read_bytes()
    clip = write_clip(folder / "whole.mp4").read_bytes()
    for name in ("whole.jpg", "whole.mp4"):
        (folder / name).unlink()
    at = picture.index(b"\xff\xdb")
    contents = {
        "half.jpg": picture[: len(picture) // 3],
        "empty.jpg": b"",
        "text.jpg": b"no picture at all\n" * 9,
        "cut.mp4": clip[: len(clip) // 2],
        "tables.jpg": picture[: at + 4] + bytes(400) + picture[at + 404 :],
    }
    for i in range(broken):
        for name, content in contents.items():
            (folder / f"{i}-{name}").write_bytes(content)
    return folder


def options(model: Path, encoder: Encoder, *, shard_tokens: int = 120, **changes: object) -> EncodeOptions:
    """Small shards of small packs."""
    job = ReadJob(sampling=Sampling(fps=5.0))
    made = {
        "job": job,
        "shard_tokens": shard_tokens,
        "pack_tokens": 64,
        "shard_files": 8,
        "reduction": Reduction(pool=True),
    }
    return EncodeOptions(str(model), weights_digest(str(model)), encoder.pixels, **{**made, **changes})  # type: ignore[arg-type]


class Fork:
    """A forked worker with the face of subprocess.Popen."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                work()
            except Exception:  # noqa: BLE001  shown, where nobody would see it
                traceback.print_exc()
            finally:
                os._exit(0)

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("fork", timeout or 0.0)
            time.sleep(0.002)
        return code


def forked(
    store: Store, encoder: Encoder, on_file: Callable[[int], None] | None = None, lease_s: float = 60.0
) -> Callable[[socket.socket], Fork]:
    """What `local.run` takes as `start`: workers that share this process's encoder."""

    def start(link: socket.socket) -> Fork:
        def make() -> Worker:
            return Worker(store, encoder=encoder, readers=1, lease_s=lease_s, timer=True, on_file=on_file)

        def work() -> None:
            for other in gc.get_objects():  # of the parent, whose end would not be seen while a fork has them open
                if isinstance(other, socket.socket) and other is not link:
                    other.close()
            serve(link, make)

        return Fork(work)

    return start


def words_of(store: Store, shard: int) -> ShardWords:
    from tubelet.packed.header import read_header

    with store.local(shard_name(shard)) as path:
        return shard_words(read_header(path))


def digests(plan: Plan, store: Store) -> dict[int, dict[str, str]]:
    """The sha256 of all tensors of each shard."""
    return {k: words_of(store, k).sha256 for k in range(plan.shards)}


def bad_of(plan: Plan, store: Store) -> dict[str, str]:
    """Source -> kind of error."""
    return {one["source"]: one["error"] for k in range(plan.shards) for one in words_of(store, k).bad}


@contextmanager
def opened(store: Store, shard: int) -> Iterator[object]:
    with store.local(shard_name(shard)) as path, safe_open(str(path), framework="pt") as file:
        yield file
