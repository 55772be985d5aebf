"""What headers tell is what decoding gives, here and in a child process, and no pixel is decoded for it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from tubelet.errors import LimitError, WorkerDied
from tubelet.reading.isolated.pool import DecodeChild, isolated_outline
from tubelet.reading.isolated.wire import Reply
from tubelet.reading.job import ReadJob, decode_source
from tubelet.reading.limits import Limits
from tubelet.reading.outline import Outline, outline_source
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source
from tubelet.reading.video import video

WALK = (Path(__file__).parents[2] / "examples" / "walk.mp4").read_bytes()
SAMPLINGS = (
    Sampling(),
    Sampling(fps=4.0),
    Sampling(num_frames=3),
    Sampling(num_frames=90),
    Sampling(times_s=(0.1, 0.1)),
)


def moving(file_format: str, frames: int = 7) -> bytes:
    rng = np.random.default_rng(0)
    made = [Image.fromarray(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)) for _ in range(frames)]
    buffer = io.BytesIO()
    durations = [50 * (1 + i % 3) for i in range(frames)]
    made[0].save(buffer, file_format, save_all=True, append_images=made[1:], duration=durations, loop=0)
    return buffer.getvalue()


def never(*_: object) -> None:
    raise AssertionError("a pixel was decoded")


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "walk"])
def test_the_outline_is_the_clip(kind: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch):
    data = WALK if kind == "walk" else moving(kind)
    job = ReadJob(sampling=sampling, animation=True)
    with open_source(data, Limits()) as src:
        clip = decode_source(src, job)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", never)
        patch.setattr(video, "decode_video", never)
        with open_source(data, Limits()) as src:
            seen = outline_source(src, job)
            assert src.file.tell() == 0
    assert (seen.width, seen.height, seen.times_s) == (clip.width, clip.height, clip.times_s)
    assert (seen.exact, seen.moves, seen.duration_s) == (True, True, clip.duration_s)
    with open_source(data, Limits()) as src:
        assert isolated_outline(src, job) == seen


def test_an_animation_is_one_picture_unless_asked_for():
    with open_source(moving("GIF"), Limits()) as src:
        assert outline_source(src, ReadJob()) == Outline(44, 30, (0.0,))


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_an_avif_says_how_many_frames_it_can_promise(sampling: Sampling):
    data, job = moving("AVIF"), ReadJob(sampling=sampling, animation=True)
    with open_source(data, Limits()) as src:
        seen = outline_source(src, job)
        clip = decode_source(src, job)
    assert (len(seen.times_s) == len(clip)) if seen.exact else (1 == len(seen.times_s) <= len(clip))
    assert seen.exact == (sampling.fps is None and sampling.num_frames != 3)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"times_s": []}, WorkerDied),
        ({"times_s": None}, WorkerDied),
        ({"width": "wide"}, WorkerDied),
        ({"width": 10**6}, LimitError),
        ({"times_s": [0.0] * 9000}, LimitError),
    ],
)
def test_a_child_that_lies_is_not_believed(change: dict[str, Any], error: type, monkeypatch: pytest.MonkeyPatch):
    real = DecodeChild._exchange

    def lying(self: DecodeChild, *args: Any) -> Reply:
        return Reply({"outline": real(self, *args).values["outline"] | change})

    monkeypatch.setattr(DecodeChild, "_exchange", lying)
    with open_source(moving("GIF"), Limits()) as src, pytest.raises(error):
        isolated_outline(src, ReadJob(animation=True))
